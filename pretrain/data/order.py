"""The order of data: sequence i of a phase as a pure function of (seed, phase, mixture, i).

In: a mixture (share of the sequences from each source) and how many sequences each source has. Out:
for any i, which source and which of its sequences, in O(1) time and memory, with no state: ranks take
their slices of it, a resumed run goes on at i, and the number of ranks may change in between.

Two ideas. The source of i comes from a pattern of 10,000 slots that repeats: each source has its
share of the slots (largest remainder), spread evenly, so every window of 10,000 holds the mixture
exactly and short ones nearly so; shares finer than 1/10,000 are rounded. The sequence within the
source comes from a permutation keyed by seed, phase, source and epoch, computed per index by a
Feistel network with cycle walking (Black & Rogaway 2002), so an epoch visits each sequence once and
the next in another order, without a shuffled list in memory.

A source may have several renderings (pairs have two, one the reverse of the other): its epochs read
them in turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SLOTS = 10_000
ROUNDS = 4
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sequence comes from: `index` is its bin in the packing plan of that rendering."""

    source: str
    index: int
    epoch: int
    rendering: int = 0


def _mix(value: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def permute(index: int, size: int, key: int) -> int:
    """Where a pseudo-random permutation of range(size), chosen by a 64-bit `key`, sends `index`."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for turn in range(ROUNDS):
            left, right = (
                right,
                left ^ (_mix(right + key + turn * 0x9E3779B97F4A7C15 & _MASK) & low),
            )
        index = (left << half) | right
        if index < size:
            return index


def _key(*parts: object) -> int:
    text = "/".join(map(str, parts)).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def unpermute(index: int, size: int, key: int) -> int:
    """What `permute` sends to `index`."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for turn in reversed(range(ROUNDS)):
            left, right = (
                right ^ (_mix(left + key + turn * 0x9E3779B97F4A7C15 & _MASK) & low),
                left,
            )
        index = (left << half) | right
        if index < size:
            return index


class Order:
    """Sequence i of one phase.

    sizes: sequences (bins of the plan) each source has, or each of its renderings; a source of the
    mixture with none raises ValueError. Sources of weight 0 never occur.
    """

    def __init__(
        self,
        seed: int,
        phase: str,
        mixture: Mapping[str, float],
        sizes: Mapping[str, int | Sequence[int]],
    ) -> None:
        self._sources = sorted(source for source, share in mixture.items() if share > 0)
        self._sizes = [_as_tuple(sizes.get(source, 0)) for source in self._sources]
        empty = [s for s, found in zip(self._sources, self._sizes, strict=True) if min(found) < 1]
        if empty:
            raise ValueError(f"no sequence in {', '.join(empty)}")
        self._seed, self._phase = seed, phase
        shares = np.array([mixture[source] for source in self._sources], dtype=np.float64)
        self.counts = _largest_remainder(shares / shares.sum())
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        rank = np.concatenate([np.arange(count) for count in self.counts])
        position = (rank + 0.5) / self.counts[owner]
        by_position = np.lexsort((owner, position))
        self._owner, self._rank = owner[by_position], rank[by_position]

    def __call__(self, i: int) -> Place:
        """The place of sequence i ≥ 0 of the phase."""
        block, slot = divmod(i, SLOTS)
        source = int(self._owner[slot])
        nth = block * int(self.counts[source]) + int(self._rank[slot])
        epoch, rendering, index = _in_turn(nth, self._sizes[source])
        name = self._sources[source]
        key = _key(self._seed, self._phase, name, epoch)
        index = permute(index, self._sizes[source][rendering], key)
        return Place(name, index, epoch, rendering)

    def numbers(self, place: Place, total: int) -> Iterator[int]:
        """The i < total, rising, whose place has this source, rendering and index, in any epoch."""
        if place.source not in self._sources:
            return
        source = self._sources.index(place.source)
        sizes, count = self._sizes[source], int(self.counts[source])
        slots = np.flatnonzero(self._owner == source)
        slots = slots[np.argsort(self._rank[slots])]
        epoch = place.rendering
        while True:
            turn = epoch // len(sizes)
            key = _key(self._seed, self._phase, place.source, epoch)
            nth = turn * sum(sizes) + sum(sizes[: place.rendering])
            nth += unpermute(place.index, sizes[place.rendering], key)
            block, rank = divmod(nth, count)
            if block * SLOTS >= total:
                return
            if (number := block * SLOTS + int(slots[rank])) < total:
                yield number
            epoch += len(sizes)

    def epochs(self, total: int) -> dict[str, float]:
        """How often each source is gone through in the first `total` sequences of the phase."""
        blocks, rest = divmod(total, SLOTS)
        partly = np.bincount(self._owner[:rest], minlength=len(self._sources))
        passes = {}
        for source, name in enumerate(self._sources):
            nth = blocks * int(self.counts[source]) + int(partly[source])
            epoch, rendering, index = _in_turn(nth, self._sizes[source])
            passes[name] = epoch + index / self._sizes[source][rendering]
        return passes

    def digest(self, first: int, count: int) -> str:
        """A short digest of which sequences lie in [first, first + count): equal data, equal text."""
        state = hashlib.blake2b(digest_size=8)
        for i in range(first, first + count):
            place = self(i)
            which = f"/{place.rendering}" if place.rendering else ""
            state.update(f"{place.source}/{place.index}{which}\n".encode())
        return state.hexdigest()


def _as_tuple(sizes: int | Sequence[int]) -> tuple[int, ...]:
    return (int(sizes),) if isinstance(sizes, int | np.integer) else tuple(map(int, sizes))


def _in_turn(nth: int, sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """Epoch, rendering and index of the nth sequence of a source whose epochs have these sizes."""
    turns, index = divmod(nth, sum(sizes))
    rendering = 0
    while index >= sizes[rendering]:
        index -= sizes[rendering]
        rendering += 1
    return turns * len(sizes) + rendering, rendering, index


def _largest_remainder(shares: np.ndarray) -> np.ndarray:
    """Whole slots by share, at least one each, that sum to SLOTS."""
    exact = shares * SLOTS
    counts = np.maximum(1, np.floor(exact)).astype(np.int64)
    while counts.sum() < SLOTS:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > SLOTS:
        counts[np.argmin(exact - counts)] -= 1
    return counts
