"""Banding and selection at the size of a crawl, on documents whose likeness is known by construction.

    python tests/benchmarks/synthetic_corpus.py corpus [--documents 10M] [--shingles 64] [--workers N]
    python tests/benchmarks/synthetic_corpus.py family [--pages 50000] [--likeness 0.70] [--threshold 0.8]
    python tests/benchmarks/synthetic_corpus.py memory [--sizes 1M,3M] [--on-disk] [--workers N]

corpus and family: no text is made: band keys, sketches and sets of shingles are, as the first pass would leave them, and
the stage's own `group` and `select` run on them. Prints seconds by step, peak memory, pairs met and
compared, and checks every removal, and everything kept, against the construction.

corpus: clusters of Zipf sizes, one of 50,000; a member keeps the first k of its cluster's n shingles
and has n − k of its own. So two members share min(k, k') shingles exactly, and a cluster's members with
k ≥ 2 n t / (1 + t) are all alike while the others are like nobody. Half of the members lie above
0.94 and half anywhere from 0.33 up; the rest of the corpus is in no cluster. Signatures of members are
real minima of their sets; those of the rest are random (no bucket to share).

family: pages of one template that are all kept: every two share the same `shingles` but for their own.

memory: work files as the first pass leaves them (short texts, a tenth of them exact and a tenth near
copies), over which the whole second pass and the writing of the index run, a process for each size;
prints their own memory, mapped files apart, and the bytes of it that each further document takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from configs.files import write_json
from configs.schema import Config, Dedup
from dedup.clean import REMOVED_WORK_SCHEMA, work_schema
from dedup.copies.against import Earlier
from dedup.copies.bands import Grouped, band_keys, group
from dedup.copies.digest import digests
from dedup.copies.duplicates import find_duplicates
from dedup.copies.index_writer import write_index
from dedup.copies.keep import Selection, select
from dedup.copies.minhash import permutations, sign
from dedup.copies.verify import Sets
from dedup.documents import as_batch, parquet_writer
from dedup.read import Task

BANDS, ROWS, PERMUTATIONS = 25, 5, 128


class Made(NamedTuple):
    """members: documents in clusters, ascending; cluster and common (k) of each; their sets."""

    documents: int
    members: NDArray[np.int64]
    cluster: NDArray[np.int32]
    common: NDArray[np.int32]
    shingles: int
    hashes: NDArray[np.uint64]


def zipf_sizes(rng: np.random.Generator, total: int, largest: int) -> NDArray[np.int64]:
    """Cluster sizes of 2 and more that sum to `total`, the first of them `largest`."""
    sizes = [np.array([largest])]
    left = total - largest
    while left > 1:
        drawn = np.minimum(rng.zipf(2.0, 1 << 18) + 1, max(2, largest // 2))
        drawn = drawn[: np.searchsorted(np.cumsum(drawn), left, side="right")]
        if not len(drawn):
            drawn = np.array([left])
        sizes.append(drawn)
        left -= int(drawn.sum())
    return np.concatenate(sizes)


def make_corpus(documents: int, shingles: int, folder: Path, workers: int) -> Made:
    rng = np.random.default_rng(20_261_121)
    sizes = zipf_sizes(rng, round(0.3 * documents), max(2, documents // 200))
    count = int(sizes.sum())
    members = rng.permutation(documents)[:count]
    cluster = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    order = np.argsort(members)
    members, cluster = members[order], cluster[order]
    close = rng.random(count) < 0.5
    share = np.where(close, rng.uniform(0.97, 1, count), rng.uniform(0.5, 1, count))
    common = np.round(share * shingles).astype(np.int32)
    return _sign(documents, members, cluster, common, shingles, folder, workers)


def make_family(pages: int, likeness: float, shingles: int, folder: Path, workers: int) -> Made:
    common = round(shingles * 2 * likeness / (1 + likeness))
    each = np.arange(pages)
    same = np.full(pages, common, np.int32)
    return _sign(pages, each, np.zeros(pages, np.int32), same, shingles, folder, workers)


def _sign(
    documents: int,
    members: NDArray[np.int64],
    cluster: NDArray[np.int64],
    common: NDArray[np.int64],
    shingles: int,
    folder: Path,
    workers: int,
) -> Made:
    count = len(members)
    hashes = np.memmap(folder / "sets.u64", np.uint64, "w+", shape=(count, shingles))
    signatures = np.memmap(folder / "signatures.u32", np.uint32, "w+", shape=(count, PERMUTATIONS))
    multiplier, increment = permutations(PERMUTATIONS)
    step = 20_000

    def fill(begin: int) -> None:
        part = slice(begin, begin + step)
        inside = np.empty((len(members[part]), shingles), np.uint64)
        minima = np.empty((len(inside), PERMUTATIONS), np.uint32)
        _fill(members[part], cluster[part], common[part], multiplier, increment, inside, minima)
        inside.sort(axis=1)
        hashes[part] = inside
        signatures[part] = minima

    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(fill, range(0, count, step)))
    return Made(
        documents,
        members,
        cluster,
        common,
        shingles,
        np.memmap(folder / "sets.u64", np.uint64, "r"),
    )


@njit(nogil=True, cache=True)
def _mix(x):  # type: ignore[no-untyped-def]
    x = np.uint64(x)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@njit(nogil=True, cache=True)
def _fill(members, cluster, common, multiplier, increment, hashes, minima):  # type: ignore[no-untyped-def]
    words = np.empty(hashes.shape[1], np.uint32)
    for row in range(len(members)):
        for i in range(hashes.shape[1]):
            owner = np.uint64(cluster[row]) if i < common[row] else np.uint64(members[row] + 2**40)
            value = _mix(_mix(owner) + np.uint64(i))
            hashes[row, i] = value
            words[i] = np.uint32(_mix(value) >> np.uint64(32))
        for k in range(len(multiplier)):
            least = np.uint32(0xFFFFFFFF)
            for i in range(len(words)):
                least = min(least, np.uint32(multiplier[k] * words[i] + increment[k]))
            minima[row, k] = least


@njit(nogil=True, cache=True)
def _random_keys(band, keys):  # type: ignore[no-untyped-def]
    for document in range(len(keys)):
        keys[document] = _mix(_mix(np.uint64(document)) + np.uint64(2**50 + band))


def write_keys(made: Made, folder: Path) -> None:
    """keys-<band>.u64, as they would lie on disk after the first pass."""
    keys = np.empty((BANDS, len(made.members)), np.uint64)
    signatures = np.memmap(folder / "signatures.u32", np.uint32, "r").reshape(-1, PERMUTATIONS)
    band_keys(signatures, BANDS, ROWS, keys)
    whole = np.empty(made.documents, np.uint64)
    for band in range(BANDS):
        _random_keys(band, whole)
        whole[made.members] = keys[band]
        whole.tofile(folder / f"keys-{band}.u64")


def keys_from(folder: Path) -> Iterator[NDArray[np.uint64]]:
    for band in range(BANDS):
        yield np.fromfile(folder / f"keys-{band}.u64", np.uint64)


class Memory(threading.Thread):
    """Samples what is resident, in GB, twenty times a second: in all, and without mapped files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.whole = self.own = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
            self.whole = max(self.whole, int(sizes["VmRSS"]) * 1024 / 1e9)
            self.own = max(self.own, int(sizes["RssAnon"]) * 1024 / 1e9)


def warm_up(workers: int) -> float:
    """Compile the kernels on two documents; returns the seconds that took."""
    begin = time.perf_counter()
    keys = [np.zeros(2, np.uint64) for _ in range(BANDS)]
    buckets = group(keys, 2).buckets
    sets = Sets(np.array([0, 2]), np.array([2, 2]), np.array([1, 2, 1, 3], np.uint64))
    select(buckets, sets, np.zeros((2, PERMUTATIONS), np.uint8), np.array([0.8]), np.zeros(2, np.uint8), workers=workers)  # fmt: skip
    return time.perf_counter() - begin


def band_and_select(
    made: Made, folder: Path, threshold: float, workers: int
) -> tuple[NDArray[np.int64], Selection, Grouped, dict[str, float]]:
    """Run the stage's own steps on what lies in `folder`; returns them with the seconds of each."""
    seconds = {}
    begin = time.perf_counter()
    grouped = group(keys_from(folder), made.documents, workers=workers)
    seconds["group"] = time.perf_counter() - begin
    begin = time.perf_counter()
    inside, buckets = grouped.inside, grouped.buckets
    place = np.searchsorted(made.members, inside)
    sketches = np.empty((len(inside), PERMUTATIONS), np.uint8)
    with (folder / "signatures.u32").open("rb") as file:
        row = 0
        while row < len(made.members):
            part = np.fromfile(file, np.uint32, PERMUTATIONS << 16).reshape(-1, PERMUTATIONS)
            low, high = np.searchsorted(place, [row, row + len(part)])
            sketches[low:high] = part[place[low:high] - row]  # the low byte of each minimum
            row += len(part)
    size = np.full(len(inside), made.shingles, np.int64)
    sets = Sets(place * made.shingles, size, np.asarray(made.hashes))
    seconds["sketches"] = time.perf_counter() - begin
    begin = time.perf_counter()
    chosen = select(
        buckets,
        sets,
        sketches,
        np.array([threshold]),
        np.zeros(len(inside), np.uint8),
        workers=workers,
    )
    seconds["select"] = time.perf_counter() - begin
    return place, chosen, grouped, seconds


def check(
    made: Made, place: NDArray[np.int64], chosen: Selection, threshold: float
) -> tuple[int, int]:
    """Raise AssertionError for a wrong removal; returns (alike by construction, of them left).

    By construction the best member of a cluster with k ≥ k* stays, its later ones with k ≥ k* go,
    and all others stay.
    """
    n = made.shingles
    reason = np.full(len(made.members), -1, np.int64)
    similarity = np.zeros(len(made.members))
    gone = np.flatnonzero(chosen.reason >= 0)
    reason[place[gone]] = place[chosen.reason[gone]]
    similarity[place[gone]] = chosen.similarity[gone]
    removed = np.flatnonzero(reason >= 0)
    kept = reason[removed]
    assert (reason[kept] < 0).all(), "a reason was itself removed"
    assert (kept < removed).all(), "a better copy went for a worse one"
    assert (made.cluster[removed] == made.cluster[kept]).all(), "unlike documents"
    shared = np.minimum(made.common[removed], made.common[kept])
    assert np.array_equal(similarity[removed], shared / (2 * n - shared)), "wrong similarity"
    assert (similarity[removed] >= threshold).all(), "under the threshold"
    alike = made.common / (2 * n - made.common) >= threshold
    assert alike[removed].all()
    first = np.full(int(made.cluster.max()) + 1, len(alike))
    positions = np.flatnonzero(alike)
    np.minimum.at(first, made.cluster[positions], positions)
    expected = alike & (np.arange(len(alike)) != first[made.cluster])
    return int(expected.sum()), int((expected & (reason < 0)).sum())


# ── memory of the whole second pass ─────────────────────────────────────────────────────────────

_TASK = 20_000
_WORDS = 24


def make_work(folder: Path, documents: int, task: int = _TASK) -> None:
    """Work files of `task` documents each, as the first pass leaves them; the same for every size."""
    syllables = [chr(point) for point in range(0xAC00, 0xD7A4, 37)]
    draw = np.random.default_rng(1)
    vocabulary = pa.array(["".join(draw.choice(syllables, 3)) for _ in range(2_000)])
    schema = work_schema(PERMUTATIONS)
    tasks = -(-documents // task)
    for index in range(tasks):
        rows = min(task, documents - index * task)
        draw = np.random.default_rng(index)
        words = draw.integers(0, len(vocabulary), (rows, _WORDS))
        kind = draw.random(rows)
        older = draw.integers(0, max(1, rows // 2), rows)
        copies = (kind < 0.2) & (np.arange(rows) > rows // 2)
        words[copies] = words[older[copies]]
        near = copies & (kind < 0.1)
        words[near, draw.integers(0, _WORDS, int(near.sum()))] = 7
        ends = pa.array(np.arange(0, rows * _WORDS + 1, _WORDS, dtype=np.int32))
        lists = pa.ListArray.from_arrays(ends, vocabulary.take(pa.array(words.reshape(-1))))
        texts = pc.binary_join(lists, " ").cast(pa.large_string())
        signed = sign(texts, shingle=5, count=PERMUTATIONS)
        minima = pa.py_buffer(signed.values.astype("<u4"))
        numbers = np.arange(rows)
        columns = {
            "record": numbers,
            "id": [f"web/part-{index:05}.jsonl#{number}" for number in numbers],
            "kind": ["text"] * rows,
            "text": texts,
            "segments": [None] * rows,
            "url": [None] * rows,
            "meta": [None] * rows,
            "quality": np.round(draw.random(rows), 2).astype(np.float32),
            "characters": pc.utf8_length(texts).cast(pa.int64()),
            "digest": digests(texts),
            "shingles": signed.shingles,
            "signature": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(4 * PERMUTATIONS), rows, [None, minima]
            ),
        }
        with parquet_writer(folder / f"{index:05}.parquet", schema, scratch=True) as file:
            whole = as_batch(columns, schema)
            for begin in range(0, rows, 1_000):
                file.write_batch(whole.slice(begin, 1_000))
        with parquet_writer(folder / f"{index:05}.removed.parquet", REMOVED_WORK_SCHEMA) as file:
            pass
    write_json(folder / "tasks.json", tasks)


def second_pass(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run it over what `make_work` left; seconds and bytes of it."""
    dedup = Config.model_validate(
        {
            "name": "memory",
            "dedup": {
                "sources": [{"name": "web", "paths": ["none"]}],
                "on_disk": options.on_disk,
                "workers": options.workers,
            },
        }
    ).dedup
    assert isinstance(dedup, Dedup)
    tasks = [
        Task(index, 0, (), 0) for index in range(json.loads((folder / "tasks.json").read_text()))
    ]
    warm_up(options.workers)
    memory = Memory()
    memory.start()
    begin = time.perf_counter()
    earlier = Earlier.open(dedup, folder)

    def unsaid(step: str, done: float, total: float) -> None:
        """Nobody follows the progress."""

    find_duplicates(tasks, dedup, folder, earlier, workers=options.workers, say=unsaid)
    middle, own = time.perf_counter(), memory.own
    write_index(tasks, dedup, folder, folder / "made", {}, workers=options.workers, say=unsaid)
    memory.over.set()
    return {
        "seconds": middle - begin,
        "index": time.perf_counter() - middle,
        "own": own,
        "index_own": memory.own,
        "whole": memory.whole,
    }


def measure_memory(sizes: list[int], options: argparse.Namespace) -> None:
    """A process for each size, and what each further document takes."""
    before: tuple[int, float] | None = None
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="malmoi-synthetic-") as name:
            begin = time.perf_counter()
            make_work(Path(name), size)
            made = time.perf_counter() - begin
            command = [
                sys.executable, __file__, "second-pass", "--folder", name,
                "--workers", str(options.workers), *(["--on-disk"] if options.on_disk else []),
            ]  # fmt: skip
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures = json.loads(said.splitlines()[-1])
        own = max(figures["own"], figures["index_own"]) * 1e9
        line = (
            f"{size:,} documents (made in {made:.1f} s): second pass {figures['seconds']:.1f} s, index "
            f"{figures['index']:.1f} s; own memory {own / 1e6:,.0f} MB "
            f"({figures['whole'] * 1e3:,.0f} MB with mapped files)"
        )
        if before is not None:
            line += (
                f"; {(own - before[1]) / (size - before[0]):.0f} bytes for each further document"
            )
        print(line, flush=True)
        before = (size, own)


def count(text: str) -> int:
    scale = {"K": 10**3, "M": 10**6}.get(text[-1].upper(), 1)
    return round(float(text.rstrip("kKmM")) * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["corpus", "family", "memory", "second-pass"])
    parser.add_argument("--documents", type=count, default=10_000_000)
    parser.add_argument("--pages", type=count, default=50_000)
    parser.add_argument("--likeness", type=float, default=0.70)
    parser.add_argument("--shingles", type=int)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sizes", default="1M,3M", help="documents, ascending")
    parser.add_argument("--on-disk", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode == "memory":
        measure_memory([count(size) for size in options.sizes.split(",")], options)
        return
    if options.mode == "second-pass":  # the process of one size
        print(json.dumps(second_pass(options.folder, options)))
        return
    with tempfile.TemporaryDirectory(prefix="malmoi-synthetic-") as name:
        folder = Path(name)
        begin = time.perf_counter()
        if options.mode == "corpus":
            shingles = options.shingles or 64
            made = make_corpus(options.documents, shingles, folder, options.workers)
        else:
            shingles = options.shingles or 1_500
            made = make_family(options.pages, options.likeness, shingles, folder, options.workers)
        write_keys(made, folder)
        print(
            f"made {made.documents:,} documents, {len(made.members):,} of them in "
            f"{int(made.cluster.max()) + 1:,} clusters, the largest "
            f"{int(np.bincount(made.cluster).max()):,}: {time.perf_counter() - begin:.1f} s",
            flush=True,
        )
        print(f"kernels compiled or read: {warm_up(options.workers):.1f} s", flush=True)
        memory = Memory()
        memory.start()
        place, chosen, grouped, seconds = band_and_select(
            made, folder, options.threshold, options.workers
        )
        memory.over.set()
        total = sum(seconds.values())
        removed = int((chosen.reason >= 0).sum())
        alike, left = check(made, place, chosen, options.threshold)
    steps = ", ".join(f"{step} {value:.1f}" for step, value in seconds.items())
    print(f"{steps}: {total:.1f} s with {options.workers} threads")
    print(
        f"peak memory {memory.whole:.2f} GB with the mapped file of sets, {memory.own:.2f} without"
    )
    buckets = grouped.buckets
    print(
        f"in buckets {len(place):,}; buckets {len(buckets.room) - 1:,}, entries {len(buckets.of):,}, "
        f"largest {buckets.largest:,}"
    )
    print(
        f"pairs met {chosen.compared:,}, compared exactly {chosen.verified:,}; posted "
        f"{chosen.posted:,}, crowded buckets {chosen.crowded:,}"
    )
    print(
        f"removed {removed:,} ({100 * removed / made.documents:.1f} %), each justified; alike by "
        f"construction {alike:,}, of them left {left:,} ({100 * left / max(1, alike):.4f} %)"
    )
    if left > 0.001 * alike:
        sys.exit("more than 0.1 % of the duplicates are left")


if __name__ == "__main__":
    main()
