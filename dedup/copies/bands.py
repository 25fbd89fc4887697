"""Locality-sensitive hashing: signatures → buckets of documents that may be alike.

A signature is cut into `bands` of `rows` minima; documents that agree on a whole band share a bucket.
Two documents of Jaccard similarity s share at least one with probability 1 − (1 − s^rows)^bands: with
25 × 5 that is 0.9999 at 0.8 and 0.988 at 0.7 … 0.36 at 0.4. Buckets only propose: `verify` decides.

The decision: a bucket is a run of equal keys after a sort, band by band, so the memory is one band's
keys beyond the entries themselves (one per document and shared bucket), and no hash table is built.
A key and its document are sorted as one 64-bit word, the document in the low bits, because numpy
sorts plain words many times faster than pairs. For n documents only 64 − log₂ n bits of the key take
part in the sort, so the whole keys are compared inside each run. Two unequal bands then fall together
n² / 2⁶⁵ times (less than once in the 25 bands of a billion documents), which proposes a pair too many
and never removes a document.

Source: J. Leskovec, A. Rajaraman, J. Ullman, "Mining of Massive Datasets", chapter 3.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Buckets(NamedTuple):
    """Who shares a bucket with whom, seen from the documents.

    The buckets of document d are of[start[d] : start[d + 1]], in band order. Bucket b has
    room[b + 1] − room[b] ≥ 2 documents.
    """

    start: NDArray[np.int64]
    of: NDArray[np.int32]
    room: NDArray[np.int64]

    def compact(self) -> tuple[NDArray[np.int64], Buckets]:
        """The documents that are in any bucket, ascending, and the buckets seen from these alone.

        Document k of the new buckets is documents[k]: what is held per document need not be held
        for the others, which are most of a corpus.
        """
        inside = self.documents
        start = np.append(self.start[inside], self.start[-1:])
        return inside, Buckets(start, self.of, self.room)

    @property
    def documents(self) -> NDArray[np.int64]:
        """The documents that are in any bucket, ascending."""
        return np.flatnonzero(np.diff(self.start))

    @property
    def largest(self) -> int:
        """Documents in the largest bucket."""
        return int(np.diff(self.room).max(initial=0))


def band_keys(
    signatures: NDArray[np.uint32], bands: int, rows: int, out: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64]:
    """One 64-bit key per band and document: uint64 [bands, documents]."""
    keys = np.empty((bands, len(signatures)), np.uint64) if out is None else out
    _keys(signatures, bands, rows, keys)
    return keys


def group(keys: Iterable[NDArray[np.uint64]], documents: int, *, workers: int = 1) -> Buckets:
    """Buckets of `documents` documents from the keys of one band after the other.

    The position of a document in a band's keys is its number. `workers` bands are sorted at a time.
    Memory beyond the result: 22 bytes per document for each of those, and four bytes per entry and
    per bucket. Raises OverflowError for more than 2³¹ buckets.
    """
    found: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    waiting: deque[Future[tuple[NDArray[np.int32], NDArray[np.int32]]]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        for band in keys:
            if len(waiting) == workers:
                found.append(waiting.popleft().result())
            waiting.append(threads.submit(_in_one_band, band))
            del band
        while waiting:
            found.append(waiting.popleft().result())
    buckets = sum(len(sizes) for _, sizes in found)
    if buckets >= 2**31:
        raise OverflowError("more than 2³¹ buckets; split the corpus")
    start = np.zeros(documents + 1, np.int64)
    for members, _ in found:
        _count(members, start)
    np.cumsum(start, out=start)
    of = np.empty(int(start[-1]), np.int32)
    room = np.zeros(buckets + 1, np.int64)
    fill = start[:-1].copy()
    first = 0
    while found:
        members, sizes = found.pop(0)
        np.cumsum(sizes, out=room[first + 1 : first + len(sizes) + 1])
        room[first + 1 : first + len(sizes) + 1] += room[first]
        _place(members, sizes, first, fill, of)
        first += len(sizes)
    return Buckets(start, of, room)


def _in_one_band(band: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The documents of each of a band's buckets, one bucket after the other, and how many."""
    shift = np.uint64(max(1, len(band).bit_length()))
    packed = np.empty_like(band)
    _pack(band, shift, packed)
    packed.sort()
    members, sizes, entries, runs = _runs(band, packed, shift)
    return members[:entries].copy(), sizes[:runs].copy()


@njit(nogil=True, cache=True)
def _keys(signatures, bands, rows, out):  # type: ignore[no-untyped-def]
    for document in range(len(signatures)):
        for band in range(bands):
            key = np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(band)
            for row in range(rows):
                minimum = np.uint64(signatures[document, band * rows + row])
                key = (key ^ minimum) * np.uint64(0xFF51AFD7ED558CCD)
                key ^= key >> np.uint64(32)
            out[band, document] = key * np.uint64(0xC4CEB9FE1A85EC53)


@njit(nogil=True, cache=True)
def _pack(band, shift, packed):  # type: ignore[no-untyped-def]
    """The high bits of each key over the number of its document."""
    for document in range(len(packed)):
        packed[document] = ((band[document] >> shift) << shift) | np.uint64(document)


@njit(nogil=True, cache=True)
def _runs(band, packed, shift):  # type: ignore[no-untyped-def]
    """Members of every two or more equal keys, one bucket after the other, and the buckets' sizes.

    Returns (members, sizes, entries, runs), the arrays longer than what is in them. Within a bucket
    the documents ascend. `packed` is used up.
    """
    low = (np.uint64(1) << shift) - np.uint64(1)
    total = len(packed)
    members = np.empty(total, np.int32)
    sizes = np.empty(total // 2, np.int32)
    entry = 0
    run = 0
    begin = 0
    while begin < total:
        end = begin + 1
        high = packed[begin] >> shift
        while end < total and packed[end] >> shift == high:
            end += 1
        left = end
        while left - begin > 1:  # once, unless keys agree in their high bits only
            key = band[packed[begin] & low]
            size = 0
            others = begin
            for i in range(begin, left):
                member = packed[i] & low
                if band[member] == key:
                    members[entry + size] = np.int32(member)
                    size += 1
                else:
                    packed[others] = packed[i]
                    others += 1
            if size > 1:
                sizes[run] = size
                run += 1
                entry += size
            left = others
        begin = end
    return members, sizes, entry, run


@njit(nogil=True, cache=True)
def _count(members, start):  # type: ignore[no-untyped-def]
    for member in members:
        start[member + 1] += 1


@njit(nogil=True, cache=True)
def _place(members, sizes, first, fill, of):  # type: ignore[no-untyped-def]
    entry = 0
    for run in range(len(sizes)):
        for _ in range(sizes[run]):
            member = members[entry]
            of[fill[member]] = np.int32(first + run)
            fill[member] += 1
            entry += 1
