"""Which copy stays: a document is removed only because of a document that is kept.

In: documents in their order of worth (number 0 is the best), the buckets they share, their sets of
shingles. Out: for each the document it is removed because of, or −1, and their exact similarity.

The rule. Documents are walked in order. One is removed if a document *already kept* shares a bucket
with it and is at least `threshold` alike; else it is kept. What comes out is the first maximal
independent set, in that order, of the graph of verified pairs. So no two kept documents share a bucket
and are that much alike; every removal points at a document that stays; and nobody is removed because
of a chain of likenesses, which is how connected components once merged 859,092 documents into two.

The walk is cut into blocks of constant size. First each document of a block is compared with those
kept in earlier blocks, on any number of threads, since nothing changes meanwhile; then the ones left
over with those kept in this block, one after the other. The block's size never depends on the number
of threads, so neither does the result, down to which document is named as the reason.

The cost: buckets of documents that are all kept (a template at similarity 0.6–0.8) are scanned over
and over. `Selection.crowded` counts buckets with more than 10,000 kept documents.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dedup.bands import Buckets
from dedup.verify import Sets, jaccard, least_agreement

BLOCK = 10_000
"""Documents in a block. A change of it may name another kept document as a removal's reason."""

CROWD = 10_000
"""Kept documents in one bucket from which it is reported."""


class Selection(NamedTuple):
    """reason: int32 [documents], the kept document, or −1; similarity: float64 [documents].

    compared and verified count pairs: met in a bucket, and compared shingle by shingle.
    """

    reason: NDArray[np.int32]
    similarity: NDArray[np.float64]
    compared: int
    verified: int
    crowded: int


def select(
    buckets: Buckets,
    sets: Sets,
    sketches: NDArray[np.uint8],
    thresholds: NDArray[np.float64],
    setting: NDArray[np.uint8],
    *,
    workers: int = 1,
    block: int = BLOCK,
    on_block: Callable[[int, int], None] | None = None,
) -> Selection:
    """Choose what stays.

    sketches: the low byte of each minimum, uint8 [documents, permutations]: a cheap test before the
    exact one. thresholds[setting[d]]: the similarity at which document d goes. on_block is told how
    many documents of how many are done.
    """
    documents = len(buckets.start) - 1
    least = np.array([least_agreement(sketches.shape[1], t) for t in thresholds], np.int64)
    reason = np.full(documents, -1, np.int32)
    similarity = np.zeros(documents, np.float64)
    kept = np.zeros(len(buckets.room), np.int64)
    slots = np.empty(len(buckets.of), np.int32)
    active = buckets.documents
    state = (
        *buckets, *sets, sketches, thresholds, least, setting, reason, similarity, kept, slots
    )  # fmt: skip
    seen: queue.SimpleQueue[NDArray[np.int32]] = queue.SimpleQueue()
    for _ in range(workers):
        seen.put(np.zeros(documents, np.int32))
    counts = np.zeros(2, np.int64)

    def against_earlier(part: NDArray[np.int64]) -> NDArray[np.int64]:
        mine = seen.get()
        try:
            return np.array(_against_earlier(part, mine, *state), np.int64)
        finally:
            seen.put(mine)

    with ThreadPoolExecutor(workers) as threads:
        for begin in range(0, len(active), block):
            part = active[begin : begin + block]
            if begin:
                pieces = np.array_split(part, workers * 8) if workers > 1 else [part]
                counts += sum(threads.map(against_earlier, pieces))
            mine = seen.get()
            counts += _among_themselves(part, mine, *state)
            seen.put(mine)
            if on_block is not None:
                on_block(begin + len(part), len(active))
    crowded = int((kept > CROWD).sum())
    return Selection(reason, similarity, int(counts[0]), int(counts[1]), crowded)


@njit(nogil=True, cache=True)
def _alike(document, leader, begin, size, hashes, sketches, threshold, least):  # type: ignore[no-untyped-def]
    """(similarity or −1, 1 if the sets were compared)."""
    if size[leader] * threshold > size[document] or size[document] * threshold > size[leader]:
        return -1.0, 0
    equal = 0
    for k in range(sketches.shape[1]):
        equal += sketches[document, k] == sketches[leader, k]
    if equal < least:
        return -1.0, 0
    value = jaccard(
        hashes,
        begin[document],
        begin[document] + size[document],
        begin[leader],
        begin[leader] + size[leader],
        threshold,
    )
    return value, 1


@njit(nogil=True, cache=True)
def _against_earlier(  # type: ignore[no-untyped-def]
    part, seen, start, of, room, begin, size, hashes, sketches, thresholds, least, setting,
    reason, similarity, kept, slots,
):  # fmt: skip
    """Compare each document with those kept before this block; only its own entries change."""
    compared = 0
    verified = 0
    for document in part:
        tag = np.int32(2 * document + 1)
        which = setting[document]
        for entry in range(start[document], start[document + 1]):
            bucket = of[entry]
            for slot in range(room[bucket], room[bucket] + kept[bucket]):
                leader = slots[slot]
                if seen[leader] == tag:
                    continue
                seen[leader] = tag
                compared += 1
                value, exact = _alike(
                    document, leader, begin, size, hashes, sketches, thresholds[which], least[which]
                )
                verified += exact
                if value >= 0:
                    reason[document] = leader
                    similarity[document] = value
                    break
            if reason[document] >= 0:
                break
    return compared, verified


@njit(nogil=True, cache=True)
def _among_themselves(  # type: ignore[no-untyped-def]
    part, seen, start, of, room, begin, size, hashes, sketches, thresholds, least, setting,
    reason, similarity, kept, slots,
):  # fmt: skip
    """Compare what is left of a block with those kept in it, in order; the rest is kept."""
    compared = 0
    verified = 0
    first = part[0]
    for document in part:
        if reason[document] >= 0:
            continue
        tag = np.int32(2 * document + 2)
        which = setting[document]
        for entry in range(start[document], start[document + 1]):
            bucket = of[entry]
            last = room[bucket] + kept[bucket]
            slot = last
            while slot > room[bucket] and slots[slot - 1] >= first:
                slot -= 1
            while slot < last:
                leader = slots[slot]
                slot += 1
                if seen[leader] == tag:
                    continue
                seen[leader] = tag
                compared += 1
                value, exact = _alike(
                    document, leader, begin, size, hashes, sketches, thresholds[which], least[which]
                )
                verified += exact
                if value >= 0:
                    reason[document] = leader
                    similarity[document] = value
                    break
            if reason[document] >= 0:
                break
        if reason[document] < 0:
            for entry in range(start[document], start[document + 1]):
                bucket = of[entry]
                slots[room[bucket] + kept[bucket]] = np.int32(document)
                kept[bucket] += 1
    return compared, verified
