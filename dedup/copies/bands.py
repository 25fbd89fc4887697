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

Keys come in the order in which signatures lie in files, and documents are named by their order of
worth: so keys are written one after the other, not scattered, which on a disk is the difference
between minutes and days.

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

from dedup.copies.room import Room


class Buckets(NamedTuple):
    """Who shares a bucket with whom, seen from the documents.

    The buckets of document d are of[start[d] : start[d + 1]], in band order. Bucket b has
    room[b + 1] − room[b] ≥ 2 documents.
    """

    start: NDArray[np.int64]
    of: NDArray[np.int32]
    room: NDArray[np.int64]

    @property
    def largest(self) -> int:
        """Documents in the largest bucket."""
        return int(_largest(self.room))


class Grouped(NamedTuple):
    """The documents that are in any bucket, and the buckets seen from these alone.

    Most of a corpus is in none: what is held per document need not be held for those. inside: the
    documents, ascending; document k of the buckets is inside[k]. number: k by document, or −1.
    """

    inside: NDArray[np.int32]
    number: NDArray[np.int32]
    buckets: Buckets


def band_keys(
    signatures: NDArray[np.uint32], bands: int, rows: int, out: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64]:
    """One 64-bit key per band and document: uint64 [bands, documents]."""
    keys = np.empty((bands, len(signatures)), np.uint64) if out is None else out
    _keys(signatures, bands, rows, keys)
    return keys


def group(
    keys: Iterable[NDArray[np.uint64]],
    documents: int,
    *,
    document_of: NDArray[np.int32] | None = None,
    workers: int = 1,
    room: Room | None = None,
) -> Grouped:
    """Buckets of `documents` documents from the keys of one band after the other.

    document_of: whose key is at each place, a permutation; None: document d's is at place d.
    `workers` bands are sorted at a time. Memory beyond the result: 8 bytes per document for each of
    those, 4 for the places and 4 more where `document_of` is None, and in `room` four bytes per entry and
    bucket. Raises OverflowError for more than 2³¹ buckets.
    """
    room = room or Room()
    if document_of is None:
        document_of = np.arange(documents, dtype=np.int32)
    place_of = room.empty(documents, np.int32)
    _invert(document_of, place_of)
    found: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    waiting: deque[Future[tuple[NDArray[np.int32], NDArray[np.int32]]]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        for band in keys:
            if len(waiting) == workers:
                found.append(waiting.popleft().result())
            waiting.append(threads.submit(_in_one_band, band, document_of, place_of, room))
            del band
        while waiting:
            found.append(waiting.popleft().result())
    del place_of
    buckets = sum(len(sizes) for _, sizes in found)
    if buckets >= 2**31:
        raise OverflowError("more than 2³¹ buckets; split the corpus")
    number = room.full(documents, 0, np.int32)
    for members, _ in found:
        _mark(members, number)
    inside = room.empty(_count(number), np.int32)
    _enumerate(number, inside)
    start = room.full(len(inside) + 1, 0, np.int64)
    for members, _ in found:
        _entries(members, number, start)
    np.cumsum(start, out=start)
    of = room.empty(int(start[-1]), np.int32)
    size = room.full(buckets + 1, 0, np.int64)
    fill = room.empty(len(inside), np.int64)
    fill[:] = start[:-1]
    first = 0
    while found:
        members, sizes = found.pop(0)
        np.cumsum(sizes, out=size[first + 1 : first + len(sizes) + 1])
        size[first + 1 : first + len(sizes) + 1] += size[first]
        _place(members, sizes, first, number, fill, of)
        first += len(sizes)
    return Grouped(inside, number, Buckets(start, of, size))


def _in_one_band(
    band: NDArray[np.uint64],
    document_of: NDArray[np.int32],
    place_of: NDArray[np.int32],
    room: Room,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The documents of each of a band's buckets, one bucket after the other, and how many."""
    shift = np.uint64(max(1, len(band).bit_length()))
    packed = np.empty(len(band), np.uint64)
    _pack(band, document_of, shift, packed)
    packed.sort()
    entries, runs = _sizes(packed, shift)
    members, sizes = room.empty(entries, np.int32), room.empty(runs, np.int32)
    entries, runs = _runs(band, place_of, packed, shift, members, sizes)
    return members[:entries], sizes[:runs]


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
def _pack(band, document_of, shift, packed):  # type: ignore[no-untyped-def]
    """The high bits of each key over the number of its document."""
    for place in range(len(packed)):
        packed[place] = ((band[place] >> shift) << shift) | np.uint64(document_of[place])


@njit(nogil=True, cache=True)
def _sizes(packed, shift):  # type: ignore[no-untyped-def]
    """At most so many (entries, buckets) are there."""
    total = len(packed)
    entries = 0
    runs = 0
    begin = 0
    while begin < total:
        end = begin + 1
        while end < total and packed[end] >> shift == packed[begin] >> shift:
            end += 1
        if end - begin > 1:
            entries += end - begin
            runs += (end - begin) // 2
        begin = end
    return entries, runs


@njit(nogil=True, cache=True)
def _runs(band, place_of, packed, shift, members, sizes):  # type: ignore[no-untyped-def]
    """Members of every two or more equal keys, one bucket after the other, and the buckets' sizes.

    Returns (entries, runs): what is used of members and sizes. Within a bucket the documents ascend.
    `packed` is used up.
    """
    low = (np.uint64(1) << shift) - np.uint64(1)
    total = len(packed)
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
            key = band[place_of[packed[begin] & low]]
            size = 0
            others = begin
            for i in range(begin, left):
                member = packed[i] & low
                if band[place_of[member]] == key:
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
    return entry, run


@njit(nogil=True, cache=True)
def _invert(document_of, place_of):  # type: ignore[no-untyped-def]
    for place in range(len(document_of)):
        place_of[document_of[place]] = np.int32(place)


@njit(nogil=True, cache=True)
def _mark(members, number):  # type: ignore[no-untyped-def]
    for member in members:
        number[member] = 1


@njit(nogil=True, cache=True)
def _count(number):  # type: ignore[no-untyped-def]
    count = 0
    for one in number:
        count += one
    return count


@njit(nogil=True, cache=True)
def _enumerate(number, inside):  # type: ignore[no-untyped-def]
    """From 1 and 0 to the place among the ones, and −1."""
    at = 0
    for document in range(len(number)):
        if number[document]:
            number[document] = np.int32(at)
            inside[at] = np.int32(document)
            at += 1
        else:
            number[document] = np.int32(-1)


@njit(nogil=True, cache=True)
def _entries(members, number, start):  # type: ignore[no-untyped-def]
    for member in members:
        start[number[member] + 1] += 1


@njit(nogil=True, cache=True)
def _place(members, sizes, first, number, fill, of):  # type: ignore[no-untyped-def]
    entry = 0
    for run in range(len(sizes)):
        for _ in range(sizes[run]):
            member = number[members[entry]]
            of[fill[member]] = np.int32(first + run)
            fill[member] += 1
            entry += 1


@njit(nogil=True, cache=True)
def _largest(room):  # type: ignore[no-untyped-def]
    most = 0
    for i in range(1, len(room)):
        most = max(most, room[i] - room[i - 1])
    return most
