"""Long arrays in order, without a copy of them: who is best, who is equal.

In: keys by document. Out: the documents in order. Numpy sorts plain 64-bit words in place many times
faster than anything else sorts anything, so every step packs a key's bits over a document's number
and sorts words. Where a key has more bits than there is room, or several keys decide one after the
other, the words that are equal so far are packed again with the next key: a sort from the most
significant key on, in which each document is moved as often as there is doubt about its place.

The decision: eight bytes and one per document, nothing else, however many keys there are. An index
sort of a table (Arrow's) was as fast and took five times that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dedup.copies.names import Names
from dedup.copies.room import Room

_SMALL = 4_096
"""Equal words up to which they are sorted in the kernel; more are left to numpy."""

_BYTES = 3
"""Of an id, that are looked at at a time: nine bits each, so that what ends comes first."""


def shift_of(documents: int) -> np.uint64:
    """Bits that the number of a document takes in a word."""
    return np.uint64(max(1, int(documents).bit_length()))


def in_order(
    keys: Sequence[NDArray[np.uint32]], names: Names, documents: int, room: Room
) -> NDArray[np.int32]:
    """The documents, ascending by the keys one after the other (33 bits at most), then by id.

    Memory: nine bytes per document beside the result.
    """
    shift = shift_of(documents)
    words = np.arange(documents, dtype=np.uint64)
    fresh = np.zeros(documents + 1, np.bool_)  # where a new word begins; at the end one does
    if documents:
        fresh[0] = fresh[documents] = True
    for key in keys:
        _sort(words, fresh, shift, key)
        _part(words, fresh, shift)
    while _prefixed(words, fresh, shift, names.data, names.begin, names.size):
        _sort(words, fresh, shift, None)
        _part(words, fresh, shift)
    order = room.empty(documents, np.int32)
    _numbers(words, shift, order)
    return order


def first_of_equals(
    digest: NDArray[np.uint64],
    rank_of: NDArray[np.int32],
    number_of: NDArray[np.int32],
    room: Room,
) -> NDArray[np.int32]:
    """For each rank the first with the same digest (uint64 [documents, 2], by number)."""
    documents = len(digest)
    shift = shift_of(documents)
    words = np.empty(documents, np.uint64)
    _pack_digests(digest, rank_of, shift, words)
    words.sort()
    survivor = room.empty(documents, np.int32)
    _first_of_equals(words, shift, digest, number_of, survivor)
    return survivor


def digests_in_order(digest: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Rows of digests (uint64 [documents, 2]) in ascending order, equal ones as they come."""
    shift = shift_of(len(digest))
    words = np.empty(len(digest), np.uint64)
    _pack_digests(digest, np.zeros(0, np.int32), shift, words)
    words.sort()
    _settle_digests(words, shift, digest)
    return words


def _sort(
    words: NDArray[np.uint64],
    fresh: NDArray[np.bool_],
    shift: np.uint64,
    key: NDArray[np.uint32] | None,
) -> None:
    """Sort every run of equals by a key, or by what is packed already; the runs stay marked."""
    packed = key is None
    none = np.zeros(0, np.uint32)
    at = 0
    while True:
        begin, end = _sort_small(words, fresh, shift, none if key is None else key, packed, at)
        if begin == end:
            return
        words[begin:end].sort()
        at = end


@njit(nogil=True, cache=True)
def _sort_small(words, fresh, shift, key, packed, at):  # type: ignore[no-untyped-def]
    """Sort the runs from `at` on, up to the first large one, which is only packed: (begin, end)."""
    low = (np.uint64(1) << shift) - np.uint64(1)
    total = len(words)
    begin = at
    while begin < total:
        end = begin + 1
        while not fresh[end]:
            end += 1
        if not packed:
            for i in range(begin, end):
                number = words[i] & low
                words[i] = (np.uint64(key[number]) << shift) | number
        if end - begin > _SMALL:
            return begin, end
        if end - begin > 16:
            words[begin:end].sort()
        else:
            for i in range(begin + 1, end):
                word = words[i]
                j = i
                while j > begin and words[j - 1] > word:
                    words[j] = words[j - 1]
                    j -= 1
                words[j] = word
        begin = end
    return total, total


@njit(nogil=True, cache=True)
def _part(words, fresh, shift):  # type: ignore[no-untyped-def]
    """Mark where the keys of two words that were equal so far differ."""
    for i in range(1, len(words)):
        if not fresh[i] and words[i] >> shift != words[i - 1] >> shift:
            fresh[i] = True


@njit(nogil=True, cache=True)
def _prefixed(words, fresh, shift, data, begin, size):  # type: ignore[no-untyped-def]
    """Pack into every run the bytes of the ids from where they first differ; False: none is left."""
    low = (np.uint64(1) << shift) - np.uint64(1)
    total = len(words)
    left = False
    start = 0
    while start < total:
        end = start + 1
        while not fresh[end]:
            end += 1
        if end - start > 1:
            first = words[start] & low
            same = np.int64(size[first])
            for i in range(start + 1, end):
                number = words[i] & low
                most = min(same, np.int64(size[number]))
                at = 0
                while at < most and data[begin[first] + at] == data[begin[number] + at]:
                    at += 1
                if at < most:
                    most = np.int64(at)
                if most < same:
                    same = most
            differ = False
            for i in range(start, end):
                number = words[i] & low
                key = np.uint64(0)
                for k in range(_BYTES):
                    value = np.uint64(0)
                    if same + k < size[number]:
                        value = np.uint64(data[begin[number] + same + k]) + np.uint64(1)
                    key = (key << np.uint64(9)) | value
                words[i] = (key << shift) | number
                differ = differ or key != 0
            if differ:
                left = True
            else:  # the same id: as they come
                for i in range(start + 1, end):
                    fresh[i] = True
        start = end
    return left


@njit(nogil=True, cache=True)
def _numbers(words, shift, order):  # type: ignore[no-untyped-def]
    low = (np.uint64(1) << shift) - np.uint64(1)
    for i in range(len(words)):
        order[i] = np.int32(words[i] & low)


@njit(nogil=True, cache=True)
def _pack_digests(digest, rank_of, shift, words):  # type: ignore[no-untyped-def]
    ranked = len(rank_of) > 0
    for number in range(len(words)):
        name = np.uint64(rank_of[number]) if ranked else np.uint64(number)
        words[number] = ((digest[number, 0] >> shift) << shift) | name


@njit(nogil=True, cache=True)
def _first_of_equals(words, shift, digest, number_of, survivor):  # type: ignore[no-untyped-def]
    """Split runs of equal high bits by whole digests; within a run the ranks ascend."""
    low = (np.uint64(1) << shift) - np.uint64(1)
    total = len(words)
    begin = 0
    while begin < total:
        end = begin + 1
        while end < total and words[end] >> shift == words[begin] >> shift:
            end += 1
        left = end
        while left > begin:
            first = words[begin] & low
            one = number_of[first]
            others = begin
            for i in range(begin, left):
                rank = words[i] & low
                other = number_of[rank]
                if digest[other, 0] == digest[one, 0] and digest[other, 1] == digest[one, 1]:
                    survivor[rank] = np.int32(first)
                else:
                    words[others] = words[i]
                    others += 1
            left = others
        begin = end


@njit(nogil=True, cache=True)
def _settle_digests(words, shift, digest):  # type: ignore[no-untyped-def]
    """Put words of equal high bits, which are few, in the order of their whole digests."""
    low = (np.uint64(1) << shift) - np.uint64(1)
    total = len(words)
    for i in range(total):
        word = words[i]
        number = word & low
        j = i
        while j > 0 and words[j - 1] >> shift == word >> shift:
            other = words[j - 1] & low
            if digest[other, 0] < digest[number, 0]:
                break
            if digest[other, 0] == digest[number, 0]:
                if digest[other, 1] < digest[number, 1]:
                    break
                if digest[other, 1] == digest[number, 1] and other < number:
                    break
            words[j] = words[j - 1]
            j -= 1
        words[j] = word
    for i in range(total):
        words[i] &= low
