"""Columns of texts as the kernels see them: offsets, UTF-8 bytes, code points.

In: Arrow columns. Out: numpy views of their buffers, and compiled functions that read and write one
character. Arrow guarantees valid UTF-8, so only `is_utf8` checks anything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray


def buffers(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets (int64 [texts + 1]) and UTF-8 bytes of a column of texts, without copying them."""
    texts = texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(len(texts) + 1, np.int64), np.zeros(1, np.uint8)
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return ends, np.frombuffer(data, np.uint8)


def lengths(texts: pa.Array) -> NDArray[np.int64]:
    """Characters of each text, int64 [texts]; five times as fast as Arrow's utf8_length."""
    offsets, data = buffers(texts)
    out = np.empty(len(texts), np.int64)
    _lengths(offsets, data, out)
    return out


@njit(nogil=True, cache=True)
def _lengths(offsets, data, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        own = data[offsets[row] : offsets[row + 1]]
        count = 0
        for i in range(len(own)):
            count += own[i] & 0xC0 != 0x80
        out[row] = count


def column(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> pa.LargeStringArray:
    """The column that `buffers` would take apart; offsets start at 0, the bytes are not copied."""
    return pa.LargeStringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data)
    )


def longest(offsets: NDArray[np.int64]) -> int:
    """Bytes of the longest text: room enough for the code points of any."""
    return int(np.diff(offsets).max(initial=0))


def table(value: Callable[[int], int]) -> NDArray[np.uint8]:
    """`value` of every code point up to U+FFFF, asked once for each block whose characters are alike.

    Which are 54,000 of 65,536: asking for each would make a tenth of a second of every import.
    """
    alike = (
        (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xD800, 0xE000), (0xE000, 0xF900)
    )  # fmt: skip  # ideographs, their extension A, syllables, surrogates, private use
    values = np.zeros(0x10000, np.uint8)
    at = 0
    for first, last in (*alike, (0x10000, 0x10000)):
        values[at:first] = [value(code) for code in range(at, first)]
        if first < last:
            values[first:last] = value(first)
        at = last
    return values


@njit(nogil=True, cache=True)
def _unlike_utf8(third, second, before, bytes_):  # type: ignore[no-untyped-def]
    """Whether a byte, with the three before it, is none of valid UTF-8 (RFC 3629: shortest forms, no
    surrogates, to U+10FFFF). Compares without a branch, of which LLVM makes vectors."""
    bad = np.uint8(0)
    for i in range(len(bytes_)):
        byte, first = bytes_[i], before[i]
        inside = np.uint8(byte & np.uint8(0xC0) == 0x80)
        wanted = np.uint8(first >= 0xC0) | np.uint8(second[i] >= 0xE0) | np.uint8(third[i] >= 0xF0)
        wrong = (
            (inside ^ wanted)
            | np.uint8(byte & np.uint8(0xFE) == 0xC0)
            | np.uint8(byte >= 0xF5)
            | (np.uint8(first == 0xE0) & np.uint8(byte < 0xA0))
            | (np.uint8(first == 0xED) & np.uint8(byte >= 0xA0))
            | (np.uint8(first == 0xF0) & np.uint8(byte < 0x90))
            | (np.uint8(first == 0xF4) & np.uint8(byte >= 0x90))
        )
        bad = np.uint8(bad | wrong)
    return bad


@njit(nogil=True, cache=True)
def is_utf8(data: NDArray[np.uint8]) -> bool:
    """Whether bytes are valid UTF-8. Three times as fast on Korean text as a loop with branches,
    which was four times as fast as Arrow's validation."""
    size = len(data)
    edge = np.zeros(9, np.uint8)  # the first bytes behind, and the last before, three of ASCII
    head = min(size, 3)
    edge[3 : 3 + head] = data[:head]
    if _unlike_utf8(edge[:head], edge[1 : 1 + head], edge[2 : 2 + head], edge[3 : 3 + head]):
        return False
    edge[:] = 0
    edge[3 - head : 3] = data[size - head :]
    if _unlike_utf8(edge[:3], edge[1:4], edge[2:5], edge[3:6]):
        return False
    for at in range(3, size, 1 << 14):
        end = min(at + (1 << 14), size)
        if _unlike_utf8(
            data[at - 3 : end - 3], data[at - 2 : end - 2], data[at - 1 : end - 1], data[at:end]
        ):
            return False
    return True


@njit(nogil=True, cache=True)
def decode(data, at):  # type: ignore[no-untyped-def]
    """The code point at a byte of valid UTF-8, and the bytes it takes."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    second = np.int64(data[at + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(data[at + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    fourth = np.int64(data[at + 3]) & 0x3F
    return (first & 0x07) << 18 | second << 12 | third << 6 | fourth, 4


_BLOCK = 512
"""Bytes decoded at a time: what stands between the two walks of `decode_all` stays in the cache."""


@njit(nogil=True, cache=True)
def _decode_block(zero, one, two, codes, lead):  # type: ignore[no-untyped-def]
    """For every byte the code point that it would begin, one of four bytes excepted; and whether it
    begins one. Without a branch, so LLVM makes vectors of it. Returns whether one has four bytes."""
    four = np.uint8(0)
    for i in range(len(zero)):
        byte = np.uint32(zero[i])
        second = np.uint32(one[i] & np.uint8(0x3F))
        third = np.uint32(two[i] & np.uint8(0x3F))
        long = np.uint32(second << np.uint32(6)) | third
        of_three = np.uint32(np.uint32(byte << np.uint32(12)) & np.uint32(0xF000)) | long
        of_two = np.uint32(np.uint32(byte << np.uint32(6)) & np.uint32(0x07C0)) | second
        code = np.uint32(of_three if byte >= np.uint32(0xE0) else of_two)
        codes[i] = byte if byte < np.uint32(0x80) else code
    for i in range(len(zero)):
        byte = zero[i]
        lead[i] = np.uint8(byte < 0x80) | np.uint8(byte >= 0xC0)
        four = np.uint8(four | np.uint8(byte >= 0xF0))
    return four


@njit(nogil=True, cache=True)
def decode_all(data, start, end, points):  # type: ignore[no-untyped-def]
    """The code points of data[start:end], valid UTF-8, to the front of `points`; returns how many.

    points: room for one more than there are. Decodes without branches, first every byte as if a
    character began there and then those where one does: Korean text changes between one byte and three
    at every word, which no processor foresees, so that decoding one by one took nearly twice as long.
    Numba's cache looks at the file of the caller alone: who changes this touches copies/minhash.py and
    text/points.py too, or they go on with the old one.
    """
    codes = np.empty(_BLOCK, np.uint32)
    lead = np.empty(_BLOCK, np.uint8)
    to = np.uint64(0)  # unsigned, so that an index is not asked whether it is negative
    at = start
    safe = min(end, len(data) - 3)  # three bytes behind each are read
    while at < safe:
        size = min(_BLOCK, safe - at)
        four = _decode_block(
            data[at : at + size], data[at + 1 : at + 1 + size], data[at + 2 : at + 2 + size], codes,
            lead,
        )  # fmt: skip
        if four:
            for i in range(size):
                if data[at + i] >= 0xF0:
                    codes[i] = decode(data, at + i)[0]
        for i in range(size):
            points[to] = codes[i]
            to += np.uint64(lead[i])
        at += size
    while at < end and data[at] & 0xC0 == 0x80:
        at += 1  # of a character that is decoded
    while at < end:
        code, width = decode(data, at)
        points[to] = code
        to += np.uint64(1)
        at += width
    return np.int64(to)


@njit(nogil=True, cache=True)
def plain_run(odd, odd_words, at, end):  # type: ignore[no-untyped-def]
    """Where a run of bytes without a mark ends. odd_words: the marks, eight at a time."""
    while at < end and at & 7:
        if odd[at]:
            return at
        at += 1
    while at + 8 <= end and odd_words[at >> 3] == 0:
        at += 8
    while at < end and not odd[at]:
        at += 1
    return at


@njit(nogil=True, cache=True)
def encode(code, out, at):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8; the byte after it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | code >> 6
        out[at + 1] = 0x80 | code & 0x3F
        return at + 2
    if code < 0x10000:
        out[at] = 0xE0 | code >> 12
        out[at + 1] = 0x80 | code >> 6 & 0x3F
        out[at + 2] = 0x80 | code & 0x3F
        return at + 3
    out[at] = 0xF0 | code >> 18
    out[at + 1] = 0x80 | code >> 12 & 0x3F
    out[at + 2] = 0x80 | code >> 6 & 0x3F
    out[at + 3] = 0x80 | code & 0x3F
    return at + 4


def mended(texts: pa.Array) -> pa.LargeStringArray:
    """Texts with U+FFFD for what is not UTF-8, such as lone surrogates in a file that others wrote."""
    texts = texts.cast(pa.large_string())
    offsets, data = buffers(texts)
    if is_utf8(data[offsets[0] : offsets[-1]]):
        return texts
    raw = texts.cast(pa.large_binary()).to_pylist()
    return pa.array(
        [None if text is None else text.decode("utf-8", "replace") for text in raw],
        pa.large_string(),
    )
