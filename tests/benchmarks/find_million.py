"""`malmoi find` on a million documents, and what the second pass and the index cost to get there.

    python tests/benchmarks/find_million.py FOLDER [--documents 1000000]

Makes the first pass's output for distinct synthetic documents (a tenth of them with a near copy), runs
the second pass, publishing and the index on it, and prints seconds, bytes per document on the disk and
anonymous memory per document at the peak of the second pass; then asks the index, cold in the process
and again, for texts that are there, near, and absent. A folder that is made is asked again.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import write_json
from configs.schema import Dedup
from dedup.clean import work_schema
from dedup.copies.against import Earlier
from dedup.copies.digest import digest
from dedup.copies.duplicates import find_duplicates
from dedup.copies.find import find_id, find_text, find_url
from dedup.copies.index_writer import write_index
from dedup.copies.minhash import sign
from dedup.documents import as_batch, parquet_writer
from dedup.publish import REMOVED, Publishing, publish_task
from dedup.read import Task

TASK = 50_000  # documents
SYLLABLES = 120  # of a document: some 400 bytes


def texts(rng: np.random.Generator, count: int) -> list[str]:
    """Random syllables, a space after every third; every tenth text is near to the one before."""
    points = rng.integers(0xAC00, 0xD7A4, (count, SYLLABLES), dtype=np.uint32)
    near = np.arange(1, count, 10)
    points[near] = points[near - 1]
    points[near, 50:53] = 0xAC00
    spaced = np.full((count, SYLLABLES // 3, 4), 0x20, np.uint32)
    spaced[:, :, :3] = points.reshape(count, -1, 3)
    whole = spaced.tobytes().decode("utf-32-le")
    length = SYLLABLES // 3 * 4
    return [whole[at : at + length - 1] for at in range(0, len(whole), length)]


def first_pass(work: Path, documents: int) -> list[Task]:
    rng = np.random.default_rng(3)
    tasks = []
    empty = work_schema(128).empty_table()
    for index, begin in enumerate(range(0, documents, TASK)):
        count = min(TASK, documents - begin)
        with parquet_writer(work / f"{index:05}.parquet", work_schema(128)) as writer:
            for at in range(begin, begin + count, 1000):
                rows = min(1000, begin + count - at)
                column = pa.array(texts(rng, rows), pa.large_string())
                signed = sign(column, shingle=5, count=128)
                ids = [f"synthetic-{number:09}" for number in range(at, at + rows)]
                columns = {
                    "record": np.arange(at - begin, at - begin + rows),
                    "id": ids,
                    "kind": ["text"] * rows,
                    "text": column,
                    "segments": [None] * rows,
                    "url": [f"https://example.org/{name}.html" for name in ids],
                    "meta": [None] * rows,
                    "quality": rng.random(rows).round(2).astype(np.float32),
                    "characters": np.full(rows, len(column[0].as_py())),
                    "digest": pa.array([digest(t.as_py()) for t in column], pa.binary(16)),
                    "shingles": signed.shingles,
                    "signature": pa.FixedSizeBinaryArray.from_buffers(
                        pa.binary(512), rows, [None, pa.py_buffer(signed.values)]
                    ),
                }
                writer.write_batch(as_batch(columns, work_schema(128)))
        pq.write_table(
            empty.select(["record", "id"]).append_column("source", pa.array([], pa.string())),
            work / f"{index:05}.removed.parquet",
        )
        tasks.append(Task(index, 0, (), 0))
    return tasks


class Peak:
    """The most anonymous memory of this process while a block runs, in bytes above its start."""

    def __enter__(self) -> Peak:
        self.start = self.peak = anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def grown(self) -> int:
        return self.peak - self.start


def anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def build(folder: Path, documents: int, workers: int, *, on_disk: bool) -> None:
    work = folder / "dedup" / ".work"
    work.mkdir(parents=True)
    source = {"name": "synthetic", "paths": ["none"]}
    dedup = Dedup.model_validate({"sources": [source], "filters": "none", "on_disk": on_disk})
    begin = time.perf_counter()
    tasks = first_pass(work, documents)
    print(f"made {documents:,} documents in {time.perf_counter() - begin:.1f} s")
    nothing = Earlier.open(dedup, folder)

    def silent(step: str, done: float, total: float) -> None:
        pass

    begin = time.perf_counter()
    with Peak() as peak:
        found = find_duplicates(tasks, dedup, work, nothing, workers=workers, say=silent)
    print(
        f"second pass {time.perf_counter() - begin:.1f} s ({found.seconds}), "
        f"{peak.grown / documents:.0f} bytes of memory per document at the peak"
    )
    begin = time.perf_counter()
    for task in tasks:
        removed = work / f"{task.index:05}.removed.parquet"
        fields = [field for field in REMOVED if field.name != "url"]
        schema = pa.schema([*fields, pa.field("record", pa.int64())])
        pq.write_table(schema.empty_table(), removed)
        publish_task(Publishing(task, dedup, work, folder / "dedup"), lambda amount: None)
    print(f"publish {time.perf_counter() - begin:.1f} s")
    begin = time.perf_counter()
    target = folder / "dedup" / "index"
    with Peak() as peak:
        write_index(tasks, dedup, work, target, {}, workers=workers, say=silent)
    kept = sum(pq.read_metadata(p).num_rows for p in (folder / "dedup/documents").iterdir())
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(
        f"index of {kept:,} documents {time.perf_counter() - begin:.1f} s, {size / kept:.0f} bytes "
        f"per document on the disk, {peak.grown / documents:.0f} of memory"
    )
    write_json(folder / "dedup" / "report.json", {"documents_out": kept})


def ask(folder: Path) -> None:
    path = sorted((folder / "dedup" / "documents").glob("*.parquet"))[-1]
    row = pq.ParquetFile(path).read_row_group(0, columns=["id", "text", "url"]).slice(5, 1)
    known = row.to_pylist()[0]
    near = known["text"].replace(known["text"][100:103], "다른말", 1)
    absent = texts(np.random.default_rng(99), 1)[0]
    for name, question in {
        "the same text": lambda: find_text(folder, known["text"]),
        "a near text": lambda: find_text(folder, near),
        "an absent text": lambda: find_text(folder, absent),
        "an id": lambda: find_id(folder, known["id"]),
        "an address": lambda: find_url(folder, known["url"]),
    }.items():
        first = question()
        again = [question().seconds for _ in range(5)]
        print(
            f"{name:<15} {len(first.answers)} found of {first.searched:,}: first {first.seconds:.3f} s, "
            f"again {statistics.median(again):.3f} s"
        )
    begin = time.perf_counter()
    command = [sys.executable, "-m", "launch.cli", "find", str(folder), near]
    done = subprocess.run(command, capture_output=True, text=True)
    print(
        f"`malmoi find` as a process: {time.perf_counter() - begin:.2f} s, of which "
        f"{done.stdout.splitlines()[-1]}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--documents", type=int, default=1_000_000)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--on-disk", action="store_true")
    given = options.parse_args()
    if not (given.folder / "dedup" / "report.json").exists():
        build(given.folder, given.documents, given.workers, on_disk=given.on_disk)
    ask(given.folder)


if __name__ == "__main__":
    main()
