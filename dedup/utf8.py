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
def is_utf8(data: NDArray[np.uint8]) -> bool:
    """Whether bytes are valid UTF-8 (RFC 3629: shortest forms, no surrogates, to U+10FFFF).

    Four times as fast as Arrow's validation on Korean text.
    """
    at, size = 0, len(data)
    while at < size:
        first = data[at]
        if first < 0x80:
            at += 1
        elif 0xE1 <= first <= 0xEF:
            if at + 2 >= size or data[at + 1] & 0xC0 != 0x80 or data[at + 2] & 0xC0 != 0x80:
                return False
            if first == 0xED and data[at + 1] >= 0xA0:
                return False
            at += 3
        elif 0xC2 <= first <= 0xDF:
            if at + 1 >= size or data[at + 1] & 0xC0 != 0x80:
                return False
            at += 2
        elif first == 0xE0:
            if at + 2 >= size or not 0xA0 <= data[at + 1] <= 0xBF or data[at + 2] & 0xC0 != 0x80:
                return False
            at += 3
        elif 0xF0 <= first <= 0xF4:
            if at + 3 >= size or data[at + 1] & 0xC0 != 0x80 or data[at + 2] & 0xC0 != 0x80:
                return False
            if data[at + 3] & 0xC0 != 0x80:
                return False
            if (first == 0xF0 and data[at + 1] < 0x90) or (first == 0xF4 and data[at + 1] > 0x8F):
                return False
            at += 4
        else:
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
