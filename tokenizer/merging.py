"""Words → ids under the base's merges, compiled: a million words in a few seconds.

In: a byte-level BPE base and words. Out: what `tokenizers` makes of each of them, id for id. It works
as that library does: of all neighbours that merge, those of the lowest rank first, the leftmost of
equal ones, one at a time; a word that is a token is taken whole where the base says `ignore_merges`.

The decision: only the rank of each pair of neighbours is kept, and the lowest is looked for by walking
over them, which is quadratic in the length of a word. Words of more than `LONGEST` bytes, and bases
with anything that this file does not know (dropout, prefixes, byte fallback), go through the library,
whose Python objects cost ten times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from tokenizer.base import Base, byte_level, token_bytes

Ids = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

LONGEST = 256
"""Bytes of the longest word that is merged here."""

_NONE = np.int64(1 << 40)  # rank of a pair that never merges
_UNKNOWN = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
)


class Merges(NamedTuple):
    """The base's merges as a hash table. letters [256]: id of each byte."""

    letters: Ids
    keys: Longs  # left << 32 | right, −1 where free
    ranks: Longs
    results: Longs
    whole: dict[bytes, int]  # tokens that are taken whole


def merges_of(base: Base) -> Merges | None:
    """The base's merges; None where the base has something that this file does not know."""
    model: dict[str, Any] = base.definition["model"]
    vocab: dict[str, int] = model["vocab"]
    letters = [vocab.get(byte_level(bytes([byte])), -1) for byte in range(256)]
    if base.by_pieces or any(model.get(name) for name in _UNKNOWN) or -1 in letters:
        return None
    pairs = [(vocab[a], vocab[b], vocab[a + b]) for a, b in model["merges"]]
    merges = np.array(pairs, np.int64).reshape(-1, 3)
    size = 1 << (2 * len(merges) + 16).bit_length()
    keys, ranks = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    results = np.zeros(size, np.int64)
    _fill(merges, keys, ranks, results)
    whole = {}
    if model.get("ignore_merges"):
        for token, index in vocab.items():
            try:
                whole[token_bytes(token)] = index
            except KeyError:  # an added token is its own text, and no word
                continue
    return Merges(np.array(letters, np.int32), keys, ranks, results, whole)


def merge_words(base: Base, merges: Merges, words: Sequence[str]) -> tuple[Ids, Longs]:
    """Ids of every word [N], int32, and where each word ends in them [words]."""
    raw = [word.encode() for word in words]
    ends = np.cumsum([0, *map(len, raw)], dtype=np.int64)
    # What is decided already: the whole words, and those too long; −1 means "merge".
    given = {
        index: [merges.whole[data]] if data in merges.whole else base.cut(words[index])
        for index, data in enumerate(raw)
        if len(data) > LONGEST or data in merges.whole
    }
    skip = np.zeros(len(raw), np.bool_)
    skip[list(given)] = True
    data = np.frombuffer(b"".join(raw), np.uint8)
    ids = np.empty(len(data), np.int32)
    lengths = np.zeros(len(raw), np.int64)
    _merge_all(data, ends, skip, merges.letters, merges.keys, merges.ranks, merges.results,
               ids, lengths)  # fmt: skip
    for index, own in given.items():  # never more ids than bytes
        ids[ends[index] : ends[index] + len(own)] = own
        lengths[index] = len(own)
    _close_up(ids, ends, lengths)
    total = np.cumsum(lengths)
    return ids[: int(total[-1]) if len(total) else 0].copy(), total


@njit(cache=True, nogil=True)
def _slot(key: int, keys: Longs) -> np.int64:
    mask = len(keys) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(20)) & mask
    while keys[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def _fill(merges: npt.NDArray[np.int64], keys: Longs, ranks: Longs, results: Longs) -> None:
    for rank in range(len(merges)):
        slot = _slot((merges[rank, 0] << 32) | merges[rank, 1], keys)
        keys[slot] = (merges[rank, 0] << 32) | merges[rank, 1]
        ranks[slot] = rank
        results[slot] = merges[rank, 2]


@njit(cache=True, nogil=True)
def _merge_all(data, ends, skip, letters, keys, ranks, results, ids, lengths):  # type: ignore[no-untyped-def]
    part = np.empty(LONGEST, np.int64)
    found = np.empty(LONGEST, np.int64)  # slot of the pair that begins here
    rank = np.empty(LONGEST, np.int64)
    for word in range(len(skip)):
        if skip[word]:
            continue
        start, length = ends[word], ends[word + 1] - ends[word]
        for index in range(length):
            part[index] = letters[data[start + index]]
        for index in range(length - 1):
            _look_up(index, part, found, rank, keys, ranks)
        while length > 1:
            lowest = 0
            for index in range(1, length - 1):
                if rank[index] < rank[lowest]:
                    lowest = index
            if rank[lowest] == _NONE:
                break
            part[lowest] = results[found[lowest]]
            length -= 1
            for index in range(lowest + 1, length):
                part[index] = part[index + 1]
            for index in range(lowest + 1, length - 1):
                found[index], rank[index] = found[index + 1], rank[index + 1]
            if lowest > 0:
                _look_up(lowest - 1, part, found, rank, keys, ranks)
            if lowest < length - 1:
                _look_up(lowest, part, found, rank, keys, ranks)
        for index in range(length):
            ids[start + index] = part[index]
        lengths[word] = length


@njit(cache=True, nogil=True)
def _look_up(index, part, found, rank, keys, ranks):  # type: ignore[no-untyped-def]
    key = (part[index] << 32) | part[index + 1]
    slot = _slot(key, keys)
    found[index] = slot
    rank[index] = ranks[slot] if keys[slot] == key else _NONE


@njit(cache=True, nogil=True)
def _close_up(ids: Ids, ends: Longs, lengths: Longs) -> None:
    """Move the ids of each word down to where those of the word before it end."""
    into = 0
    for word in range(len(lengths)):
        for index in range(lengths[word]):
            ids[into] = ids[ends[word] + index]
            into += 1
