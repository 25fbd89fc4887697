"""What the words cost with the first k new tokens, for every k, from one learning run.

In: words as the base cuts them, how often each occurs (a column for each source), and what was
learned. Out: tokens [new + 1, columns]. Continued BPE is nested: the first k tokens of a +64k run are
the +k tokenizer. So one pass over the words is enough: a word is merged as a tokenizer would do it,
lowest rank first, and each merge counts for the smallest size that has it and all before it. No
tokenizer is built, and every size is exact, not only the ones somebody asked for. (For a base that came
from ranks the stage adds the other splits of the new tokens, `ranks.in_rank_order`, which cuts one or
two words in a million otherwise.)

The decision: words are cut after `WINDOW` tokens. Looking for the lowest rank is quadratic in the
length of a word, and text without spaces makes words of any length; what would merge across such a
cut is not counted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from numba import njit

from tokenizer.base import Base
from tokenizer.bpe import Ids, Learned, Longs, has_hangul_lead

WINDOW = 256

_NONE = np.int64(1 << 40)  # rank of a pair that never merges


def first_tokens(learned: Learned, size: int) -> Learned:
    """The tokenizer of the first `size` new tokens: what a run that asked for them had learned."""
    if size >= len(learned.tokens):
        return learned
    ends = np.flatnonzero(_makes_token(learned)) + 1
    return replace(
        learned,
        merges=learned.merges[: int(ends[size - 1])] if size else [],
        tokens=learned.tokens[:size],
        weights=learned.weights[:size],
        exhausted=False,
    )


def tokens_by_size(
    base: Base, learned: Learned, ids: Ids, ends: Longs, counts: Longs
) -> npt.NDArray[np.int64]:
    """Tokens that the words cost at every size, int64 [new + 1, columns]; row 0 is the base.

    ids [N], ends [words]: the words (`bpe.encode_words`). counts [words, columns]: occurrences.
    Row k less row k + 1 is how often token k + 1 occurs when it is the last: each use of it is one
    token less.
    """
    older = _base_merges(base, learned)
    merges = np.array([*older, *learned.merges], np.int64).reshape(-1, 3)
    # A merge that leads to a token that exists belongs to the size of the next new token.
    made = _makes_token(learned)
    sizes = np.minimum(np.cumsum(made) + ~made, len(learned.tokens))
    saved = np.zeros((len(learned.tokens) + 1, counts.shape[1]), np.int64)
    keys, ranks = _table(merges)
    starts = np.concatenate([np.zeros(1, np.int64), ends])
    _replay(ids, starts, counts, keys, ranks, merges, len(older), sizes, saved)
    at_base = counts.T @ np.diff(starts)
    return at_base - np.cumsum(saved, axis=0)


def _makes_token(learned: Learned) -> npt.NDArray[np.bool_]:
    results = np.array([merged for _, _, merged in learned.merges], np.int64)
    made = np.zeros(len(results), np.bool_)
    new, at = np.unique(results, return_index=True)  # a second way to a token makes none
    made[at[new >= learned.first_id]] = True
    return made


def _base_merges(base: Base, learned: Learned) -> list[tuple[int, int, int]]:
    """The base's merges of Hangul, where a new merge leads to a token that one of them goes on with."""
    if all(merged >= learned.first_id for _, _, merged in learned.merges):
        return []
    vocab, content = base.definition["model"]["vocab"], base.tokens()
    hangul = {index for index, data in enumerate(content) if has_hangul_lead(data)}
    found = []
    for left, right in base.definition["model"]["merges"]:
        merged = vocab[left + right]
        if merged in hangul:
            found.append((vocab[left], vocab[right], merged))
    return found


def _table(merges: npt.NDArray[np.int64]) -> tuple[Longs, Longs]:
    """Hash table of pairs: keys (−1 where free) and their ranks."""
    size = 1 << (2 * len(merges) + 16).bit_length()
    keys, ranks = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    _fill(merges, keys, ranks)
    return keys, ranks


@njit(cache=True, nogil=True)
def _slot(key: int, keys: Longs) -> int:
    mask = len(keys) - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(20)) & mask
    while keys[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return int(slot)


@njit(cache=True, nogil=True)
def _fill(merges: npt.NDArray[np.int64], keys: Longs, ranks: Longs) -> None:
    for rank in range(len(merges)):
        key = (merges[rank, 0] << 32) | merges[rank, 1]
        slot = _slot(key, keys)
        if keys[slot] < 0:
            keys[slot] = key
            ranks[slot] = rank


@njit(cache=True, nogil=True)
def _replay(
    ids: Ids,
    starts: Longs,
    counts: Longs,
    keys: Longs,
    ranks: Longs,
    merges: npt.NDArray[np.int64],
    older: int,
    sizes: Longs,
    saved: npt.NDArray[np.int64],
) -> None:
    """Merge every word; what a merge saves goes to saved[the smallest size that gets as far]."""
    part = np.empty(WINDOW, np.int64)
    for word in range(len(starts) - 1):
        for start in range(starts[word], starts[word + 1], WINDOW):
            length = min(WINDOW, starts[word + 1] - start)
            for index in range(length):
                part[index] = ids[start + index]
            highest = np.int64(-1)
            while length > 1:
                lowest = _NONE
                for index in range(length - 1):
                    key = (part[index] << 32) | part[index + 1]
                    slot = _slot(key, keys)
                    if keys[slot] == key and ranks[slot] < lowest:
                        lowest = ranks[slot]
                if lowest == _NONE:
                    break
                left, right, merged = merges[lowest, 0], merges[lowest, 1], merges[lowest, 2]
                kept = 0
                index = 0
                while index < length:
                    if index + 1 < length and part[index] == left and part[index + 1] == right:
                        part[kept] = merged
                        index += 2
                    else:
                        part[kept] = part[index]
                        index += 1
                    kept += 1
                if lowest - older > highest:
                    highest = lowest - older
                if highest >= 0:
                    for column in range(counts.shape[1]):
                        saved[sizes[highest], column] += counts[word, column] * (length - kept)
                length = kept
