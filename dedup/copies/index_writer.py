"""The last pass: what a run keeps → dedup/index/, described in index.py.

In: work files and outcomes, task by task. Out: the index folder, by one rename, whole or not at all.

The decision: signatures and band keys are copied by as many processes as there are workers, each into
its own stretch of files whose sizes are known before; then each band is sorted, in threads. So the
bytes do not depend on the workers, and the memory is a band's keys per thread plus forty bytes per
document for the order of the digests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.files import sync, write_json
from configs.schema import Dedup
from dedup.clean import read_work
from dedup.copies.bands import band_keys
from dedup.copies.corpus import one_array, words
from dedup.copies.index import FORMAT, Signing, packing, probe
from dedup.copies.set_file import write_at
from dedup.executor import Cluster, Tell, run_tasks
from dedup.read import Task
from dedup.text.filters import near_for

Say = Callable[[str, float, float], None]


def write_index(
    tasks: Sequence[Task],
    dedup: Dedup,
    work: Path,
    target: Path,
    against: dict[str, str],
    *,
    workers: int,
    say: Say,
    cluster: Cluster | None = None,
) -> None:
    """Write the index of what the outcomes keep; nothing where `target` has one already.

    against: label and folder of the earlier runs that the audit trail names.
    """
    if (target / "manifest.json").exists():
        return
    folder = work / "index"
    for place in (folder, target):
        shutil.rmtree(place, ignore_errors=True)
    folder.mkdir()
    kept = _Kept(tasks, dedup, work, folder)
    pools = []
    for number, (signing, threshold) in enumerate(_signings(dedup).items()):
        place = folder / f"near-{number}"
        place.mkdir()
        members = _write_near(signing, kept.signed[signing], place, work, workers, say, cluster)
        pools.append(
            {
                **asdict(signing),
                "threshold": threshold,
                "documents": members,
                "probe": probe(signing),
            }
        )
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "documents": kept.documents,
        "content": kept.content,
        "digest_probe": probe(None),
        "near": pools,
        "against": against,
        "files": kept.files,
        "sizes": {str(path.relative_to(folder)): path.stat().st_size for path in written},
    }
    write_json(folder / "manifest.json", manifest)
    for path in [*written, *{path.parent for path in written}]:
        sync(path)
    folder.rename(target)
    sync(target.parent)


def _signings(dedup: Dedup) -> dict[Signing, float]:
    """How the sources sign, and the lowest threshold of each way; also where none was signed."""
    found: dict[Signing, float] = {}
    for source in dedup.sources:
        near = near_for(source, dedup)
        if near is not None:
            signing = Signing.of(near)
            found[signing] = min(near.threshold, found.get(signing, 1.0))
    return found


class _Part(NamedTuple):
    """Where the signed, kept documents of a task are: in its work file, and in the index."""

    task: int
    rows: NDArray[np.int64]  # in the work file
    members: NDArray[np.uint32]  # rows of the index
    shingles: NDArray[np.uint32]


class _Kept:
    """The kept documents; writes ids and digests, and remembers which of them are signed how."""

    def __init__(self, tasks: Sequence[Task], dedup: Dedup, work: Path, folder: Path) -> None:
        self.documents = 0
        self.files: list[dict[str, Any]] = []
        self.signed: dict[Signing, list[_Part]] = {signing: [] for signing in _signings(dedup)}
        content = hashlib.sha256()
        digests: list[NDArray[np.uint64]] = [np.zeros((0, 2), np.uint64)]
        schema = pa.schema([pa.field("id", pa.large_string(), nullable=False)])
        with (
            pa.OSFile(str(folder / "ids.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, schema) as ids,
        ):
            for task in tasks:
                name = f"{task.index:05}"
                outcome = pq.read_table(
                    work / f"{name}.outcome.parquet", columns=["id", "step"], use_threads=False
                )
                rows = np.flatnonzero(one_array(outcome["step"]).is_null().to_numpy(False))
                if not len(rows):
                    continue
                names = one_array(outcome["id"]).take(pa.array(rows)).cast(pa.large_string())
                ids.write_batch(pa.record_batch([names], schema=schema))
                table = pq.read_table(
                    work / f"{name}.parquet", columns=["digest", "shingles"], use_threads=False
                )
                digests.append(words(one_array(table["digest"]), 2, "<u8")[rows])
                content.update("\0".join(names.to_pylist()).encode("utf-8", "surrogatepass"))
                content.update(digests[-1].tobytes())
                self.files.append({"file": f"{name}.parquet", "documents": len(rows)})
                shingles = one_array(table["shingles"]).to_numpy()[rows]
                self._note(task, dedup, rows, shingles)
                self.documents += len(rows)
        self.content = content.hexdigest()
        whole = np.concatenate(digests)
        digests.clear()
        order = np.lexsort((whole[:, 1], whole[:, 0]))
        np.save(folder / "digests.npy", whole[order])
        np.save(folder / "digest_rows.npy", order.astype(np.uint32))

    def _note(
        self, task: Task, dedup: Dedup, rows: NDArray[np.int64], shingles: NDArray[np.int64]
    ) -> None:
        near = near_for(dedup.sources[task.source], dedup)
        at = np.flatnonzero(shingles > 0)
        if near is None or not len(at):
            return
        self.signed[Signing.of(near)].append(
            _Part(
                task.index,
                rows[at],
                (self.documents + at).astype(np.uint32),
                shingles[at].astype(np.uint32),
            )
        )


# ── the signatures ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Copying:
    """The signatures of a task's kept documents, from member number `first` of `members` on."""

    task: int
    rows: NDArray[np.int64]
    first: int
    members: int
    signing: Signing
    work: Path
    place: Path
    headers: tuple[int, int]

    def __str__(self) -> str:
        return str(self.work / f"{self.task:05}.parquet")


def _write_near(
    signing: Signing,
    parts: list[_Part],
    place: Path,
    work: Path,
    workers: int,
    say: Say,
    cluster: Cluster | None,
) -> int:
    """Returns how many documents are signed like this."""
    members = sum(len(part.rows) for part in parts)
    empty = np.zeros(0, np.uint32)
    np.save(place / "members.npy", np.concatenate([empty, *(part.members for part in parts)]))
    np.save(place / "shingles.npy", np.concatenate([empty, *(part.shingles for part in parts)]))
    headers = (
        _header(place / "signatures.npy", "<u4", (members, signing.permutations)),
        _header(place / "bands.npy", "<u8", (signing.bands, members)),
    )
    items = []
    first = 0
    for part in parts:
        items.append(_Copying(part.task, part.rows, first, members, signing, work, place, headers))
        first += len(part.rows)
    finished = 0

    def note(item: _Copying, result: None) -> None:
        nonlocal finished
        finished += 1
        say("index", finished, len(items))

    run_tasks(_copy_signatures, items, workers, cluster=cluster, on_done=note)

    def sort(band: int) -> None:
        offset = headers[1] + 8 * band * members
        keys = np.fromfile(place / "bands.npy", np.uint64, count=members, offset=offset)
        keys.sort()
        with _open(place / "bands.npy") as handle:
            write_at(handle, keys, offset)

    with ThreadPoolExecutor(workers) as threads:
        for _ in threads.map(sort, range(signing.bands)):
            pass
    return members


def _header(path: Path, kind: str, shape: tuple[int, ...]) -> int:
    """Start a .npy file of that shape; returns where its values begin."""
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(
            handle, {"descr": kind, "fortran_order": False, "shape": shape}
        )
        return handle.tell()


@contextmanager
def _open(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_WRONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _copy_signatures(item: _Copying, tell: Tell) -> None:
    signing, members = item.signing, item.members
    _, mask = packing(members)
    at, row = item.first, 0
    with (
        _open(item.place / "signatures.npy") as signatures,
        _open(item.place / "bands.npy") as bands,
    ):
        for batch in read_work(item.work, item.task, ["signature"]):
            inside = item.rows[(item.rows >= row) & (item.rows < row + batch.num_rows)] - row
            row += batch.num_rows
            if not len(inside):
                continue
            values = words(batch["signature"], signing.permutations, "<u4")[inside]
            write_at(signatures, values, item.headers[0] + 4 * signing.permutations * at)
            numbers = np.arange(at, at + len(inside), dtype=np.uint64)
            keys = (band_keys(values, signing.bands, signing.rows) & ~mask) | numbers
            for band in range(signing.bands):
                write_at(bands, keys[band], item.headers[1] + 8 * (band * members + at))
            at += len(inside)
