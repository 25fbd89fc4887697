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

The cost: kept documents that share a bucket are compared, pair by pair. Where more than `CROWD` of
them share one (a template at similarity 0.6–0.8), further ones are posted under their rare shingles
(`crowds.py`) and found by those; `Selection.crowded` counts the buckets in which that does not help.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dedup.copies.bands import Buckets
from dedup.copies.crowds import (
    MOST,
    UNREACHED,
    Postings,
    grown,
    most_wanted,
    post,
    postings,
    reach_of,
    slot_of,
    word_of,
)
from dedup.copies.room import Room
from dedup.copies.verify import Sets, jaccard, least_agreement

BLOCK = 10_000
"""Documents in a block. A change of it may name another kept document as a removal's reason."""

CROWD = 64
"""Kept documents in a bucket from which further ones are posted. Like BLOCK, it may name another."""

REPORTED = 10_000
"""Documents of one bucket that are compared one after the other, from which it is reported."""


class Selection(NamedTuple):
    """reason: int32 [documents], the kept document, or −1; similarity: float64 [documents].

    compared and verified count pairs: met in a bucket, and compared shingle by shingle. posted:
    documents found by their rare shingles. crowded: buckets of too many that are not.
    """

    reason: NDArray[np.int32]
    similarity: NDArray[np.float64]
    compared: int
    verified: int
    posted: int
    crowded: int


class _State(NamedTuple):
    """What the kernels read and write. d counts documents, b buckets, e entries.

    sketches [d, permutations]; thresholds and least by setting[d]; lowest: of the thresholds;
    kept[b]: documents in slots[room[b] : room[b] + kept[b]], ascending; hidden[b]: those posted;
    reach[d]: size from which a document finds d by its shingles.
    """

    sketches: NDArray[np.uint8]
    thresholds: NDArray[np.float64]
    least: NDArray[np.int64]
    setting: NDArray[np.uint8]
    lowest: float
    reason: NDArray[np.int32]
    similarity: NDArray[np.float64]
    kept: NDArray[np.int32]
    hidden: NDArray[np.int32]
    slots: NDArray[np.int32]
    reach: NDArray[np.int64]


def select(
    buckets: Buckets,
    sets: Sets,
    sketches: NDArray[np.uint8],
    thresholds: NDArray[np.float64],
    setting: NDArray[np.uint8],
    *,
    workers: int = 1,
    block: int = BLOCK,
    crowd: int = CROWD,
    room: Room | None = None,
    on_block: Callable[[int, int], None] | None = None,
) -> Selection:
    """Choose what stays.

    sketches: the low byte of each minimum, uint8 [documents, permutations]: a cheap test before the
    exact one. thresholds[setting[d]]: the similarity at which document d goes. on_block is told how
    many documents of how many are done. Memory beyond the arguments, in `room`: 20 bytes per document
    (and 4 per worker), 8 per bucket, 4 per entry; and the postings of crowds (at most about 1 GB).
    """
    room = room or Room()
    documents = len(buckets.start) - 1
    of_buckets = len(buckets.room) - 1
    state = _State(
        sketches,
        thresholds,
        np.array([least_agreement(sketches.shape[1], t) for t in thresholds], np.int64),
        setting,
        float(thresholds.min(initial=1.0)),
        room.full(documents, -1, np.int32),
        room.full(documents, 0, np.float64),
        room.full(of_buckets, 0, np.int32),
        room.full(of_buckets, 0, np.int32),
        room.empty(len(buckets.of), np.int32),
        room.full(documents, int(UNREACHED), np.int64),
    )
    table = postings(1 << 16)
    seen: queue.SimpleQueue[NDArray[np.int32]] = queue.SimpleQueue()
    for _ in range(workers):
        seen.put(room.full(documents, 0, np.int32))
    counts = np.zeros(2, np.int64)

    def against_earlier(part: NDArray[np.int64]) -> NDArray[np.int64]:
        mine = seen.get()
        try:
            return np.array(_against_earlier(part, mine, buckets, sets, state, table), np.int64)
        finally:
            seen.put(mine)

    with ThreadPoolExecutor(workers) as threads:
        for begin in range(0, documents, block):
            part = np.arange(begin, min(begin + block, documents))
            if begin:
                pieces = (
                    np.array_split(part, min(8 * workers, len(part))) if workers > 1 else [part]
                )
                counts += sum(threads.map(against_earlier, pieces))
            mine = seen.get()
            done = 0
            while True:
                at, *met = _among_themselves(part, done, mine, buckets, sets, state, table, crowd)
                counts += np.array(met, np.int64)
                if at == len(part):
                    break
                done = at
                table = _more_room(table, int(sets.size[part[at]]))
            seen.put(mine)
            if on_block is not None:
                on_block(begin + len(part), documents)
    posted = int(_posted(state.reach))
    met, exact = (int(count) for count in counts)
    return Selection(
        state.reason, state.similarity, met, exact, posted, _crowded(buckets, sets, state)
    )


def _crowded(buckets: Buckets, sets: Sets, state: _State) -> int:
    """Buckets with too many documents that one of their own size has to be compared with."""
    crowded = 0
    for bucket in _large(state.kept).tolist():
        first = buckets.room[bucket]
        inside = state.slots[first : first + state.kept[bucket]]
        crowded += int((state.reach[inside] > sets.size[inside]).sum()) > REPORTED
    return crowded


@njit(nogil=True, cache=True)
def _large(kept):  # type: ignore[no-untyped-def]
    """The buckets of more than REPORTED documents."""
    found = np.empty(len(kept) // REPORTED + 1, np.int64)
    count = 0
    for bucket in range(len(kept)):
        if kept[bucket] > REPORTED:
            if count == len(found):
                found = np.concatenate((found, np.empty_like(found)))
            found[count] = bucket
            count += 1
    return found[:count]


@njit(nogil=True, cache=True)
def _posted(reach):  # type: ignore[no-untyped-def]
    count = 0
    for one in reach:
        count += one < UNREACHED
    return count


def _more_room(table: Postings, needed: int) -> Postings:
    """At least twice as much; what cannot be had leaves the table as it is, and nobody is posted."""
    room = max(2 * len(table.chained), int(table.used[0]) + needed + 2)
    return grown(table, min(room, MOST))


@njit(nogil=True, cache=True)
def _alike(document, leader, sets, state):  # type: ignore[no-untyped-def]
    """(similarity or −1, 1 if the sets were compared)."""
    which = state.setting[document]
    threshold = state.thresholds[which]
    equal = 0
    for k in range(state.sketches.shape[1]):
        equal += state.sketches[document, k] == state.sketches[leader, k]
    if equal < state.least[which]:
        return -1.0, 0
    begin, other = sets.begin[document], sets.begin[leader]
    end, other_end = begin + sets.size[document], other + sets.size[leader]
    return jaccard(sets.hashes, begin, end, other, other_end, threshold), 1


@njit(nogil=True, cache=True)
def _share(document, other, buckets):  # type: ignore[no-untyped-def]
    """Whether two documents share a bucket; those of each ascend."""
    i, last = buckets.start[document], buckets.start[document + 1]
    j, other_last = buckets.start[other], buckets.start[other + 1]
    while i < last and j < other_last:
        if buckets.of[i] == buckets.of[j]:
            return True
        if buckets.of[i] < buckets.of[j]:
            i += 1
        else:
            j += 1
    return False


@njit(nogil=True, cache=True)
def _find(document, tag, first, seen, buckets, sets, state, table):  # type: ignore[no-untyped-def]
    """The first document alike among those kept that are numbered `first` or more.

    seen[d] == tag marks those compared already. Returns (document or −1, similarity, pairs met,
    pairs compared shingle by shingle).
    """
    compared = 0
    verified = 0
    posted = False
    size = sets.size[document]
    for entry in range(buckets.start[document], buckets.start[document + 1]):
        bucket = buckets.of[entry]
        some_posted = state.hidden[bucket] > 0
        posted = posted or some_posted
        end = buckets.room[bucket] + state.kept[bucket]
        slot = buckets.room[bucket]
        if first > 0:
            slot += np.searchsorted(state.slots[slot:end], first)
        while slot < end:
            leader = state.slots[slot]
            slot += 1
            if seen[leader] == tag or (some_posted and size >= state.reach[leader]):
                continue
            seen[leader] = tag
            compared += 1
            value, exact = _alike(document, leader, sets, state)
            verified += exact
            if value >= 0:
                return leader, value, compared, verified
    if not posted:
        return np.int32(-1), 0.0, compared, verified
    for i in range(sets.begin[document], sets.begin[document] + size):
        word = word_of(sets.hashes[i])
        at = table.heads[slot_of(word, len(table.heads))]
        while at >= 0:
            leader = table.chained[at, 1]
            if leader < first:  # the latest come first
                break
            if table.chained[at, 0] == word and seen[leader] != tag:
                seen[leader] = tag
                if _share(document, leader, buckets):
                    compared += 1
                    value, exact = _alike(document, leader, sets, state)
                    verified += exact
                    if value >= 0:
                        return leader, value, compared, verified
            at = table.chained[at, 2]
    return np.int32(-1), 0.0, compared, verified


@njit(nogil=True, cache=True)
def _against_earlier(part, seen, buckets, sets, state, table):  # type: ignore[no-untyped-def]
    """Compare each document with those kept before this block; only its own entries change."""
    compared = 0
    verified = 0
    for document in part:
        tag = np.int32(2 * document + 1)
        leader, value, met, exact = _find(document, tag, 0, seen, buckets, sets, state, table)
        compared += met
        verified += exact
        state.reason[document] = leader
        state.similarity[document] = value
    return compared, verified


@njit(nogil=True, cache=True)
def _among_themselves(part, done, seen, buckets, sets, state, table, crowd):  # type: ignore[no-untyped-def]
    """Compare what is left of a block with those kept in it, in order; the rest is kept.

    Goes on at part[done]. Stops early where the table is too full for the next document; returns
    (where it stands, pairs met, pairs compared shingle by shingle).
    """
    compared = 0
    verified = 0
    first = part[0]
    for at in range(done, len(part)):
        document = part[at]
        if state.reason[document] >= 0:
            continue
        size = sets.size[document]
        wanted = most_wanted(size, state.lowest)
        room = len(table.chained)
        full = table.used[0] + wanted > room
        if full and room < MOST:
            return at, compared, verified
        tag = np.int32(2 * document + 2)
        leader, value, met, exact = _find(document, tag, first, seen, buckets, sets, state, table)
        compared += met
        verified += exact
        state.reason[document] = leader
        state.similarity[document] = value
        if leader < 0:
            _keep(document, wanted, full, buckets, sets, state, table, crowd)
    return len(part), compared, verified


@njit(nogil=True, cache=True)
def _keep(document, wanted, full, buckets, sets, state, table, crowd):  # type: ignore[no-untyped-def]
    """Add a document to those kept: to its buckets, to the postings, or to both."""
    most = 0
    for entry in range(buckets.start[document], buckets.start[document + 1]):
        bucket = buckets.of[entry]
        most = max(most, state.kept[bucket] + state.hidden[bucket])
    posted = False
    if most >= crowd and not full:
        begin, size = sets.begin[document], sets.size[document]
        count = post(table, document, sets.hashes[begin : begin + size], wanted)
        state.reach[document] = reach_of(size, count, state.lowest)
        posted = True
    for entry in range(buckets.start[document], buckets.start[document + 1]):
        bucket = buckets.of[entry]
        state.hidden[bucket] += posted
        if state.reach[document] > 0:
            state.slots[buckets.room[bucket] + state.kept[bucket]] = np.int32(document)
            state.kept[bucket] += 1
