"""Locality-sensitive hashing: signatures → buckets of documents that may be alike.

A signature is cut into `bands` of `rows` minima; documents that agree on a whole band share a bucket.
Two documents of Jaccard similarity s share at least one with probability 1 − (1 − s^rows)^bands: with
25 × 5 that is 0.9999 at 0.8 and 0.988 at 0.7 … 0.36 at 0.4. Buckets only propose: `verify` decides.

The decision: a bucket is a run of equal keys after a sort, band by band, so the memory is one band's
keys beyond the entries themselves (one per document and shared bucket), and no hash table is built.
A key and its document are sorted as one 64-bit word, the document in the low bits; for n documents
64 − log₂ n bits of the key remain, so two unequal keys fall together n² / 2^(65 − log₂ n) times
(45 times in ten million documents). That proposes a pair too many and never removes a document.

Source: J. Leskovec, A. Rajaraman, J. Ullman, "Mining of Massive Datasets", chapter 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def group(keys: Iterable[NDArray[np.uint64]], documents: int) -> Buckets:
    """Buckets of `documents` documents from the keys of one band after the other.

    The position of a document in a band's keys is its number. Memory beyond the result: two words
    per document for the sort, and eight bytes per entry.
    """
    shift = np.uint64(max(1, int(documents).bit_length()))
    low = (np.uint64(1) << shift) - np.uint64(1)
    numbers = np.arange(documents, dtype=np.uint64)
    entries: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    sizes: list[NDArray[np.int64]] = []
    buckets = 0
    for band in keys:
        packed = (band & ~low) | numbers
        packed.sort()
        members, numbered, size = _runs(packed, shift, low, buckets)
        buckets += len(size)
        entries.append((members, numbered))
        sizes.append(size)
    if buckets >= 2**31:
        raise OverflowError("more than 2³¹ buckets; split the corpus")
    start = np.zeros(documents + 1, np.int64)
    for members, _ in entries:
        _count(members, start)
    np.cumsum(start, out=start)
    of = np.empty(int(start[-1]), np.int32)
    fill = start[:-1].copy()
    while entries:
        members, numbered = entries.pop(0)
        _place(members, numbered, fill, of)
    room = np.zeros(buckets + 1, np.int64)
    if sizes:
        np.cumsum(np.concatenate(sizes), out=room[1:])
    return Buckets(start, of, room)


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
def _runs(packed, shift, low, first):  # type: ignore[no-untyped-def]
    """Entries (document, bucket) of every run of two or more equal keys, and the runs' lengths."""
    entries = 0
    runs = 0
    begin = 0
    total = len(packed)
    while begin < total:
        end = begin + 1
        while end < total and packed[end] >> shift == packed[begin] >> shift:
            end += 1
        if end - begin > 1:
            entries += end - begin
            runs += 1
        begin = end
    members = np.empty(entries, np.int32)
    numbered = np.empty(entries, np.int32)
    sizes = np.empty(runs, np.int64)
    entry = 0
    run = 0
    begin = 0
    while begin < total:
        end = begin + 1
        while end < total and packed[end] >> shift == packed[begin] >> shift:
            end += 1
        if end - begin > 1:
            for i in range(begin, end):
                members[entry] = np.int32(packed[i] & low)
                numbered[entry] = np.int32(first + run)
                entry += 1
            sizes[run] = end - begin
            run += 1
        begin = end
    return members, numbered, sizes


@njit(nogil=True, cache=True)
def _count(members, start):  # type: ignore[no-untyped-def]
    for member in members:
        start[member + 1] += 1


@njit(nogil=True, cache=True)
def _place(members, numbered, fill, of):  # type: ignore[no-untyped-def]
    for i in range(len(members)):
        member = members[i]
        of[fill[member]] = numbered[i]
        fill[member] += 1
