"""How often each word occurs, by source: a hash table over bytes, filled by compiled code.

In: words as byte ranges of Arrow buffers, with a number of occurrences. Out: Arrow columns, cut into
`PARTITIONS` by a hash of the word, so that tables made apart can be merged part by part.

The decision: no Python object per word. A word is 32 bytes of numbers, its own bytes in one long
array, and 8 to 16 bytes of hash slots: 50 to 60 bytes in all, where a dictionary takes 170. The hash
is over code points, one multiplication for each, since the kernel that cuts words (`cutting.py`)
has just decoded them.

`prune` bounds a table by dropping its rarest words, as lossy counting does (Manku & Motwani 2002),
but by rank: the threshold is the smallest that halves the table. A word that is dropped at threshold
t had occurred at most t times since it was last dropped, so a count is never too high, and too low by
the sum of the thresholds at most: `undercount`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from dedup.utf8 import buffers, column, decode

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

COUNTS = pa.schema([("source", pa.string()), ("word", pa.string()), ("count", pa.int64())])

PARTITIONS = 16
_SHIFT = np.uint64(60)  # the partition is the four highest bits of the hash
_BYTES, _WORDS = 0, 1
_HASH, _BEGIN, _NAMED, _COUNT = 0, 1, 2, 3

SEED = np.uint64(0xCBF29CE484222325)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF, _LOW, _ONE = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)


class Table(NamedTuple):
    """Open addressing; numba takes it as it is. What is looked at together lies together: a look-up
    goes to memory three times (slot, row, bytes)."""

    slots: npt.NDArray[np.uint64]  # a power of two of: half of the hash, word number + 1; 0: free
    rows: Longs  # [words, 4] hash, first byte, bytes << 32 | source, count
    arena: Bytes
    used: Longs  # [2] bytes of the arena, words


def _table(words: int, letters: int) -> Table:
    return Table(
        slots=np.zeros(1 << max(4, (2 * words - 1).bit_length()), np.uint64),
        rows=np.empty((words, 4), np.int64),
        arena=np.empty(letters, np.uint8),
        used=np.zeros(2, np.int64),
    )


def _room(now: int, wanted: int) -> int:
    return now if wanted <= now else max(2 * now, wanted)


@njit(nogil=True, cache=True)
def step(state, code):  # type: ignore[no-untyped-def]
    """The hash of a word, one code point further; it begins with SEED."""
    return (state ^ np.uint64(code)) * _STEP


@njit(nogil=True, cache=True)
def put(table, state, source, count, data, begin, end):  # type: ignore[no-untyped-def]
    """Count a word `count` times more; `state` is its hash so far. The table must have room."""
    mixed = (state ^ (state >> _HALF)) * _MIX
    mixed ^= mixed >> _HALF
    mask = np.uint64(len(table.slots) - 1)
    slot = (mixed + np.uint64(source) * _STEP) & mask
    length = end - begin
    named = np.int64(length) << 32 | np.int64(source)
    tag = mixed >> _HALF << _HALF
    while table.slots[slot] != 0:
        found = table.slots[slot]
        if found >> _HALF << _HALF == tag:
            word = np.int64(found & _LOW) - 1
            if table.rows[word, _HASH] == np.int64(mixed) and table.rows[word, _NAMED] == named:
                at = table.rows[word, _BEGIN]
                same = True
                for i in range(length):
                    if table.arena[at + i] != data[begin + i]:
                        same = False
                        break
                if same:
                    table.rows[word, _COUNT] += count
                    return
        slot = (slot + _ONE) & mask
    word = table.used[_WORDS]
    at = table.used[_BYTES]
    table.slots[slot] = tag | np.uint64(word + 1)
    table.rows[word, _HASH] = np.int64(mixed)
    table.rows[word, _BEGIN] = at
    table.rows[word, _NAMED] = named
    table.rows[word, _COUNT] = count
    for i in range(length):
        table.arena[at + i] = data[begin + i]
    table.used[_BYTES] += length
    table.used[_WORDS] += 1


@njit(nogil=True, cache=True)
def _put_words(table, offsets, data, sources, counts):  # type: ignore[no-untyped-def]
    for row in range(len(counts)):
        state = SEED
        at = offsets[row]
        while at < offsets[row + 1]:
            code, size = decode(data, at)
            state = step(state, code)
            at += size
        put(table, state, sources[row], counts[row], data, offsets[row], offsets[row + 1])


@njit(nogil=True, cache=True)
def _copy(old, new, least):  # type: ignore[no-untyped-def]
    """Words of `old` that occur `least` times or more, in their order, into an empty `new`."""
    mask = np.uint64(len(new.slots) - 1)
    for word in range(old.used[_WORDS]):
        if old.rows[word, _COUNT] < least:
            continue
        mixed = np.uint64(old.rows[word, _HASH])
        source = old.rows[word, _NAMED] & 0xFFFFFFFF
        slot = (mixed + np.uint64(source) * _STEP) & mask
        while new.slots[slot] != 0:
            slot = (slot + _ONE) & mask
        number, into = new.used[_WORDS], new.used[_BYTES]
        new.slots[slot] = mixed >> _HALF << _HALF | np.uint64(number + 1)
        at, length = old.rows[word, _BEGIN], old.rows[word, _NAMED] >> 32
        new.rows[number] = old.rows[word]
        new.rows[number, _BEGIN] = into
        for i in range(length):
            new.arena[into + i] = old.arena[at + i]
        new.used[_BYTES] += length
        new.used[_WORDS] += 1


@njit(nogil=True, cache=True)
def _gather(table, words, offsets, data):  # type: ignore[no-untyped-def]
    into = np.int64(0)
    offsets[0] = 0
    for row in range(len(words)):
        at, length = table.rows[words[row], _BEGIN], table.rows[words[row], _NAMED] >> 32
        for i in range(length):
            data[into + i] = table.arena[at + i]
        into += length
        offsets[row + 1] = into


class Tally:
    """Counts by source and word. sources: their names, by number."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.undercount = 0
        self.table = _table(1 << 12, 1 << 15)

    def __len__(self) -> int:
        """Distinct words, those of each source by themselves."""
        return int(self.table.used[_WORDS])

    def number(self, source: str) -> int:
        """The number of a source, given to it at its first appearance."""
        if source not in self.sources:
            self.sources.append(source)
        return self.sources.index(source)

    def reserve(self, words: int, letters: int) -> None:
        """Make room for so many more words, of so many bytes in all."""
        words += len(self)
        letters += int(self.table.used[_BYTES])
        if words > len(self.table.rows) or letters > len(self.table.arena):
            bigger = _table(
                _room(len(self.table.rows), words), _room(len(self.table.arena), letters)
            )
            _copy(self.table, bigger, np.iinfo(np.int64).min)
            self.table = bigger

    def add(self, words: pa.Array, sources: npt.NDArray[np.int32], counts: Longs) -> None:
        """Add words [N], each with the number of its source and its occurrences, int64."""
        offsets, data = buffers(words)
        self.reserve(len(words), int(offsets[-1] - offsets[0]))
        _put_words(self.table, offsets, data, sources, counts)

    def add_table(self, counts: pa.Table) -> None:
        """Add a table of `COUNTS`."""
        for batch in counts.combine_chunks().to_batches():
            named = batch["source"].dictionary_encode()
            numbers = np.array(
                [self.number(name) for name in named.dictionary.to_pylist()], np.int32
            )
            self.add(batch["word"], numbers[named.indices.to_numpy()], batch["count"].to_numpy())

    def prune(self, most: int) -> None:
        """Where there are more words than `most`, keep at most half as many, the most frequent."""
        if len(self) <= most:
            return
        counts = self.table.rows[: len(self), _COUNT]
        threshold = int(np.partition(counts, len(self) - most // 2 - 1)[len(self) - most // 2 - 1])
        self.undercount += threshold
        smaller = _table(len(self.table.rows), len(self.table.arena))
        _copy(self.table, smaller, threshold + 1)
        self.table = smaller

    def clear(self) -> None:
        """Forget the words; the sources keep their numbers, the table its room."""
        self.table.slots.fill(0)
        self.table.used.fill(0)

    def totals(self) -> Longs:
        """Occurrences of all words by source [sources], int64."""
        totals = np.zeros(len(self.sources), np.int64)
        rows = self.table.rows[: len(self)]
        np.add.at(totals, rows[:, _NAMED] & 0xFFFFFFFF, rows[:, _COUNT])
        return totals

    def partition(self, number: int) -> pa.Table:
        """Source, word and count (`COUNTS`) of one partition, in the order of their appearance."""
        hashes = self.table.rows[: len(self), _HASH].view(np.uint64)
        return self._rows(np.flatnonzero(hashes >> _SHIFT == np.uint64(number)))

    def rows(self) -> pa.Table:
        """As `partition`, of all words."""
        return self._rows(np.arange(len(self)))

    def _rows(self, chosen: npt.NDArray[np.intp]) -> pa.Table:
        named = self.table.rows[chosen, _NAMED]
        offsets = np.empty(len(chosen) + 1, np.int64)
        data = np.empty(int((named >> 32).sum()) + 1, np.uint8)
        _gather(self.table, chosen, offsets, data)
        sources = pa.DictionaryArray.from_arrays(
            pa.array((named & 0xFFFFFFFF).astype(np.int32)), pa.array(self.sources, pa.string())
        )
        columns = [sources, column(offsets, data), pa.array(self.table.rows[chosen, _COUNT])]
        return pa.table(columns, names=COUNTS.names).cast(COUNTS)
