"""Banding and selection at the size of a crawl, on documents whose likeness is known by construction.

    python tests/benchmarks/synthetic_corpus.py corpus [--documents 10M] [--shingles 64] [--workers N]
    python tests/benchmarks/synthetic_corpus.py family [--pages 50000] [--likeness 0.70] [--threshold 0.8]

No text is made: band keys, sketches and sets of shingles are, as the first pass would leave them, and
the stage's own `group` and `select` run on them. Prints seconds by step, peak memory, pairs met and
compared, and checks every removal, and everything kept, against the construction.

corpus: clusters of Zipf sizes, one of 50,000; a member keeps the first k of its cluster's n shingles
and has n − k of its own. So two members share min(k, k') shingles exactly, and a cluster's members with
k ≥ 2 n t / (1 + t) are all alike while the others are like nobody. Half of the members lie above
0.94 and half anywhere from 0.33 up; the rest of the corpus is in no cluster. Signatures of members are
real minima of their sets; those of the rest are random (no bucket to share).

family: pages of one template that are all kept: every two share the same `shingles` but for their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dedup.copies.bands import Buckets, band_keys, group
from dedup.copies.keep import Selection, select
from dedup.copies.minhash import permutations
from dedup.copies.verify import Sets

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
    buckets = group(keys, 2)
    sets = Sets(np.array([0, 2]), np.array([2, 2]), np.array([1, 2, 1, 3], np.uint64))
    select(buckets, sets, np.zeros((2, PERMUTATIONS), np.uint8), np.array([0.8]), np.zeros(2, np.uint8), workers=workers)  # fmt: skip
    return time.perf_counter() - begin


def band_and_select(
    made: Made, folder: Path, threshold: float, workers: int
) -> tuple[NDArray[np.int64], Selection, Buckets, dict[str, float]]:
    """Run the stage's own steps on what lies in `folder`; returns them with the seconds of each."""
    seconds = {}
    begin = time.perf_counter()
    buckets = group(keys_from(folder), made.documents, workers=workers)
    seconds["group"] = time.perf_counter() - begin
    begin = time.perf_counter()
    inside, buckets = buckets.compact()
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
    return place, chosen, buckets, seconds


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


def count(text: str) -> int:
    scale = {"K": 10**3, "M": 10**6}.get(text[-1].upper(), 1)
    return round(float(text.rstrip("kKmM")) * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["corpus", "family"])
    parser.add_argument("--documents", type=count, default=10_000_000)
    parser.add_argument("--pages", type=count, default=50_000)
    parser.add_argument("--likeness", type=float, default=0.70)
    parser.add_argument("--shingles", type=int)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
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
        place, chosen, buckets, seconds = band_and_select(
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
