"""MinHash signatures of documents, straight from Arrow buffers.

In: a column of texts. Out: `permutations` 32-bit minima per document and the number of its shingles;
or, for the documents that have to be compared exactly, their sets of hashed shingles.

A shingle is `shingle` consecutive characters of the text with every run of white space taken as one
space and the ends stripped, as `" ".join(text.split())` would do; a shorter document is one shingle.

The decision: signatures come from a kernel of our own, bit-exact with `datasketch.MinHash` of scheme
"affine32" fed with `hash_shingle`. Splitting into shingles as Python strings bounds every Python
implementation (11 thousand documents a second for the strings alone); the kernel never makes one.
What it costs: this file. What stays: datasketch's LSH, LeanMinHash and storage read the signatures.

How wide a hash is exact enough: sets are compared as 64-bit hashes. In a union of n shingles two
differ and collide with probability n² / 2⁶⁵, so a similarity of two documents of 100,000 characters
is wrong (by 1/n) once in 10⁹ pairs. With 32 bits, which the signature itself uses, it would be off
in every such pair.

Sources: A. Broder, "On the resemblance and containment of documents" (1997), for shingles and
minima; D. Lemire and O. Kaser, "Strongly universal string hashing is fast" (2014), for the
multilinear hash; the finaliser of MurmurHash3 (A. Appleby), as datasketch 2 applies it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from dedup.utf8 import decode_all, lengths

LONGEST_SHINGLE = 32
"""Characters; one odd 64-bit coefficient is drawn for each."""

_SEED = 1
"""datasketch's default seed, so that a MinHash() made without one has the same permutations."""

_COEFFICIENTS: NDArray[np.uint64] = np.random.Generator(np.random.PCG64(20_201_120)).integers(
    0, 2**63, LONGEST_SHINGLE, dtype=np.uint64
) * np.uint64(2) + np.uint64(1)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


class Signatures(NamedTuple):
    """values: uint32 [documents, permutations]; shingles: int64 [documents], repeats included.

    Telling repeats apart costs a third of the kernel's time, and only documents that share a bucket
    need it: `shingle_sets` does.
    """

    values: NDArray[np.uint32]
    shingles: NDArray[np.int64]


@lru_cache(maxsize=8)
def permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Multipliers and increments of datasketch's "affine32": h → a·h + b (mod 2³²), a odd.

    Drawn as datasketch 2 draws them, from numpy's frozen RandomState, and tested to be the same;
    importing it for two arrays costs every worker 1.4 seconds (it imports scipy).
    """
    draw = np.random.RandomState(_SEED)
    multiplier = draw.randint(0, 2**31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return multiplier, draw.randint(0, 2**32, count, dtype=np.uint32)


def hash_shingle(shingle: str | bytes) -> int:
    """The 32-bit hash of one shingle: datasketch's `hashfunc` for signatures made here."""
    return hash_shingle_64(shingle) >> 32


def hash_shingle_64(shingle: str | bytes) -> int:
    """The 64-bit hash of one shingle in plain Python; the kernel is tested against it."""
    text = shingle.decode("utf-8") if isinstance(shingle, bytes) else shingle
    total = 0
    for character, coefficient in zip(text, _COEFFICIENTS.tolist(), strict=False):
        total = (total + ord(character) * coefficient) % 2**64
    total ^= total >> 32
    total = total * int(_MIX) % 2**64
    return total or 1


def sign(texts: pa.LargeStringArray, *, shingle: int, count: int) -> Signatures:
    """Signatures of a column of texts without nulls; `count` permutations, a multiple of four.

    An empty document has no shingle and the signature of the empty set (all 2³² − 1).
    Releases the GIL; one thread.
    """
    offsets, data = _buffers(texts)
    multiplier, increment = permutations(count)
    values = np.empty((len(texts), count), np.uint32)
    shingles = np.empty(len(texts), np.int64)
    longest = _longest(texts)
    _sign(offsets, data, longest, shingle, _COEFFICIENTS, multiplier, increment, values, shingles)
    return Signatures(values, shingles)


def shingle_sets(
    texts: pa.LargeStringArray, rows: NDArray[np.int64], *, shingle: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The sets of hashed shingles of some `rows`, each ascending, one after the other.

    Returns (ends, hashes): the set of rows[i] is hashes[ends[i]:ends[i + 1]]; ends[0] is 0.
    """
    offsets, data = _buffers(texts)
    longest = _longest(texts)
    ends = np.zeros(len(rows) + 1, np.int64)
    room = int((offsets[rows + 1] - offsets[rows]).sum()) + len(rows) if len(rows) else 0
    hashes = np.empty(room, np.uint64)
    _sets(offsets, data, longest, shingle, _COEFFICIENTS, rows, ends, hashes)
    hashes = hashes[: ends[-1]].copy()
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        hashes[start:end].sort()
    return ends, hashes


def _buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    if texts.null_count:
        raise ValueError("texts must not be null")
    _, offsets, data = texts.buffers()
    if not len(texts):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return ends, np.frombuffer(data if data is not None else b"", np.uint8)


def _longest(texts: pa.LargeStringArray) -> int:
    return int(lengths(texts).max(initial=0))


@njit(nogil=True, cache=True)
def _plain_spaces(points):  # type: ignore[no-untyped-def]
    """Make a plain space of what str.split() splits at. Compares without a branch, as vectors."""
    for i in range(len(points)):
        point = points[i]
        space = (
            np.uint8(np.uint32(point - np.uint32(9)) <= np.uint32(4))
            | np.uint8(np.uint32(point - np.uint32(28)) <= np.uint32(3))
            | np.uint8(point == np.uint32(0x85))
            | np.uint8(point == np.uint32(0xA0))
            | np.uint8(point == np.uint32(0x1680))
            | np.uint8(np.uint32(point - np.uint32(0x2000)) <= np.uint32(0x0A))
            | np.uint8(np.uint32(point - np.uint32(0x2028)) <= np.uint32(1))
            | np.uint8(point == np.uint32(0x202F))
            | np.uint8(point == np.uint32(0x205F))
            | np.uint8(point == np.uint32(0x3000))
        )
        points[i] = np.uint32(32) if space else point


@njit(nogil=True, cache=True)
def _code_points(data, start, end, points):  # type: ignore[no-untyped-def]
    """UTF-8 bytes → code points, white space collapsed; returns how many."""
    length = decode_all(data, start, end, points)
    _plain_spaces(points[:length])
    to, one = np.uint64(0), np.uint64(1)  # unsigned: an index is not asked whether it is negative
    before = one  # whether white space stands before, or nothing
    for i in range(length):
        point = points[i]
        space = np.uint64(point == np.uint32(32))
        points[to] = point
        to += one - (space & before)
        before = space
    length = np.int64(to)
    if length > 0 and points[length - 1] == 32:
        length -= 1
    return length


@njit(nogil=True, cache=True)
def _hashes(points, length, shingle, coefficients, out):  # type: ignore[no-untyped-def]
    """64-bit hash of every shingle of the code points; returns how many (0 for no text)."""
    if length == 0:
        return 0
    count = length - shingle + 1
    if count < 1:
        for i in range(length, shingle):
            points[i] = 0
        count = 1
    if shingle == 5:
        k0, k1, k2 = coefficients[0], coefficients[1], coefficients[2]
        k3, k4 = coefficients[3], coefficients[4]
        for i in range(count):
            out[i] = (
                np.uint64(points[i]) * k0
                + np.uint64(points[i + 1]) * k1
                + np.uint64(points[i + 2]) * k2
                + np.uint64(points[i + 3]) * k3
                + np.uint64(points[i + 4]) * k4
            )
    else:
        for i in range(count):
            out[i] = np.uint64(0)
        for j in range(shingle):
            factor = coefficients[j]
            for i in range(count):
                out[i] += np.uint64(points[i + j]) * factor
    for i in range(count):
        value = out[i]
        value ^= value >> np.uint64(32)
        out[i] = max(value * _MIX, np.uint64(1))
    return count


@njit(nogil=True, cache=True)
def _distinct(hashes, count, table):  # type: ignore[no-untyped-def]
    """Move the distinct values of hashes[:count] to the front; returns how many.

    table: scratch of a power of two above 2 · count slots; 0 marks a free one (no hash is 0).
    """
    size = 64
    while size < 2 * count:
        size *= 2
    mask = np.uint64(size - 1)
    for i in range(size):
        table[i] = 0
    kept = 0
    for i in range(count):
        value = hashes[i]
        slot = (value >> np.uint64(20)) & mask
        while True:
            seen = table[slot]
            if seen == 0:
                table[slot] = value
                hashes[kept] = value
                kept += 1
                break
            if seen == value:
                break
            slot = (slot + np.uint64(1)) & mask
    return kept


_RECENT_BITS = 12
_MANY = 512  # shingles from which looking for repeats pays for clearing the table


@njit(nogil=True, cache=True)
def _minima(hashes, count, words, multiplier, increment, row, recent):  # type: ignore[no-untyped-def]
    """Minimum over the shingles of every permutation: permutations outside, four at a time.

    A repeated shingle changes no minimum. A table of recent ones finds most repeats (12 % of
    petitions, 45 % of documentation) for a tenth of what the permutations of one cost.
    """
    if count >= _MANY:
        recent[:] = 0
        recent[0] = 0xFFFFFFFF  # of another place: no word looks seen before it was
        kept = 0
        for i in range(count):
            word = np.uint32(hashes[i] >> np.uint64(32))
            place = word >> np.uint32(32 - _RECENT_BITS)
            words[kept] = word
            kept += recent[place] != word
            recent[place] = word
        count = kept
    else:
        for i in range(count):
            words[i] = np.uint32(hashes[i] >> np.uint64(32))
    for i in range(count):
        word = words[i]
        word ^= word >> np.uint32(16)
        word = np.uint32(word * np.uint32(0x85EBCA6B))
        word ^= word >> np.uint32(13)
        word = np.uint32(word * np.uint32(0xC2B2AE35))
        words[i] = word ^ (word >> np.uint32(16))
    for k in range(0, len(row), 4):
        a0, a1, a2, a3 = multiplier[k], multiplier[k + 1], multiplier[k + 2], multiplier[k + 3]
        b0, b1, b2, b3 = increment[k], increment[k + 1], increment[k + 2], increment[k + 3]
        m0 = np.uint32(0xFFFFFFFF)
        m1 = m0
        m2 = m0
        m3 = m0
        for i in range(count):
            word = words[i]
            m0 = min(m0, np.uint32(a0 * word + b0))
            m1 = min(m1, np.uint32(a1 * word + b1))
            m2 = min(m2, np.uint32(a2 * word + b2))
            m3 = min(m3, np.uint32(a3 * word + b3))
        row[k] = m0
        row[k + 1] = m1
        row[k + 2] = m2
        row[k + 3] = m3


@njit(nogil=True, cache=True)
def _sign(  # type: ignore[no-untyped-def]
    offsets, data, longest, shingle, coefficients, multiplier, increment, values, shingles
):
    points = np.empty(longest + LONGEST_SHINGLE, np.uint32)
    hashes = np.empty(longest + 1, np.uint64)
    words = np.empty(longest + 1, np.uint32)
    recent = np.empty(1 << _RECENT_BITS, np.uint32)
    for row in range(len(shingles)):
        length = _code_points(data, offsets[row], offsets[row + 1], points)
        count = _hashes(points, length, shingle, coefficients, hashes)
        _minima(hashes, count, words, multiplier, increment, values[row], recent)
        shingles[row] = count


@njit(nogil=True, cache=True)
def _sets(offsets, data, longest, shingle, coefficients, rows, ends, out):  # type: ignore[no-untyped-def]
    size = 64
    while size < 2 * longest:
        size *= 2
    table = np.empty(size, np.uint64)
    points = np.empty(longest + LONGEST_SHINGLE, np.uint32)
    hashes = np.empty(longest + 1, np.uint64)
    end = 0
    for i in range(len(rows)):
        row = rows[i]
        length = _code_points(data, offsets[row], offsets[row + 1], points)
        count = _hashes(points, length, shingle, coefficients, hashes)
        count = _distinct(hashes, count, table)
        out[end : end + count] = hashes[:count]
        end += count
        ends[i + 1] = end
