"""What makes two documents exact copies: the same 16 bytes.

In: texts, or the roles and texts of their segments. Out: BLAKE2b of 16 bytes each, over the text with
every run of white space taken as one space and the ends stripped, as `" ".join(text.split())` would
do, so that copies that differ in layout alone are copies.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from dedup.utf8 import buffers, plain_run

SIZE = 16


def digest(text: str) -> bytes:
    """The digest of one text."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=SIZE).digest()


def digests(texts: pa.Array) -> pa.FixedSizeBinaryArray:
    """The digest of every text of a column without nulls."""
    offsets, data = buffers(texts)
    out = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint8)
    ends = np.zeros(len(texts) + 1, np.int64)
    first = int(offsets[0])
    odd = np.zeros(len(out) + 16, np.uint8)
    _find_odd(data[first : int(offsets[-1])], odd)
    _collapse(offsets, data, first, odd, odd[: len(odd) // 8 * 8].view(np.uint64), out, ends)
    return _hashed(out, ends)


def dialogue_digests(segments: pa.ListArray) -> pa.FixedSizeBinaryArray:
    """The digest of every list of segments: roles and texts, with marks between that no text holds."""
    written = [
        "\x1e".join(
            f"{turn['role']}\x1f{' '.join(turn['text'].split())}" for turn in turns
        ).encode()
        for turns in segments.to_pylist()
    ]
    ends = np.cumsum([0, *map(len, written)])
    return _hashed(np.frombuffer(b"".join(written), np.uint8), ends)


def _hashed(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> pa.FixedSizeBinaryArray:
    blake2b, view = hashlib.blake2b, memoryview(data.data)
    places = ends.tolist()
    whole = b"".join(
        blake2b(view[start:end], digest_size=SIZE).digest() for start, end in pairwise(places)
    )
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(SIZE), len(places) - 1, [None, pa.py_buffer(whole)]
    )


@njit(nogil=True, cache=True)
def _find_odd(data, odd):  # type: ignore[no-untyped-def]
    """Mark every byte but those of words and of single spaces and newlines between them.

    Compares without a branch, of which LLVM makes vectors.
    """
    for i in range(1, len(data)):
        byte, before = data[i], data[i - 1]
        odd[i] = (
            np.uint8(byte == 0xC2)
            | (np.uint8(byte >= 0xE1) & np.uint8(byte <= 0xE3))
            | (
                np.uint8(byte < 33)
                & (np.uint8(before < 33) | (np.uint8(byte != 32) & np.uint8(byte != 10)))
            )
        )


@njit(nogil=True, cache=True)
def _collapse(offsets, data, first, odd, odd_words, out, ends):  # type: ignore[no-untyped-def]
    to = 0
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        start = to
        while at < end:
            byte = data[at]
            if byte > 32 and to > start:
                run = plain_run(odd, odd_words, at - first, end - first) + first
                if run > at:
                    source, target = data[at:run], out[to : to + run - at]
                    for i in range(len(source)):
                        target[i] = np.uint8(32) if source[i] == 10 else source[i]
                    to += run - at
                    at = run
                    continue
            if byte > 32 and (byte < 0xC2 or byte > 0xE3):  # begins no white space
                out[to] = byte
                to += 1
                at += 1
                continue
            size = np.int64(0)  # bytes of the white space here
            if byte <= 32:
                size = np.int64(byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31)
            elif byte == 0xC2:
                size = 2 * np.int64(data[at + 1] == 0x85 or data[at + 1] == 0xA0)
            elif 0xE1 <= byte <= 0xE3:
                second, third = data[at + 1], data[at + 2]
                size = 3 * np.int64(
                    (byte == 0xE1 and second == 0x9A and third == 0x80)
                    or (byte == 0xE3 and second == 0x80 and third == 0x80)
                    or (byte == 0xE2 and second == 0x81 and third == 0x9F)
                    or (
                        byte == 0xE2
                        and second == 0x80
                        and (third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF)
                    )
                )
            if size:
                if to > start and out[to - 1] != 32:
                    out[to] = 32
                    to += 1
                at += size
            else:
                out[to] = byte
                to += 1
                at += 1
        if to > start and out[to - 1] == 32:
            to -= 1
        ends[row + 1] = to
