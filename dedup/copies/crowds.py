"""Crowded buckets: kept documents found by their rare shingles instead of one after the other.

In: documents that are kept although they share buckets with very many kept ones (pages of one
template, 0.6–0.8 alike). Out: for a later document, the few of them it can be alike to at all.

The bound. If x and y are at least t alike, they share at least α = t / (1 + t) · (|x| + |y|) shingles,
so of any |y| − α + 1 shingles of y at least one is in x. Let r shingles of y be posted here, rare ones
before common ones. Then every x with |y| − α + 1 ≤ r that is alike to y is found by looking x's own
shingles up; it need not scan the bucket in which y stands. Pages of one template share the template
and little else, so their posted shingles are met by hardly anyone, and a page costs its own
length, however many pages are kept. No true pair is lost: what is not covered is scanned as before.

The decision: "rare" is what few documents have posted so far (`COMMON`), so no pass over all sets has
to count first. The cost: 12 bytes per posted shingle (about a fifth of a document's) and 4 to 8 for
the table; beyond `MOST` postings nobody is posted any more and documents are scanned again. A family
whose members each drop another part of one text has no rare shingles, and stays quadratic.

Sources: the pigeonhole behind prefix filtering (S. Chaudhuri, V. Ganti, R. Kaushik, "A primitive
operator for similarity joins in data cleaning", 2006; C. Xiao et al., "Efficient similarity joins for
near-duplicate detection", 2008), used on one side only, so that no common order of shingles is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

COMMON = 4
"""Documents that may post the same shingle; a shingle of more is common and says nothing."""

MOST = 60_000_000
"""Postings in all: a bound on the memory, about 1 GB."""

UNREACHED = np.int64(2**62)
"""The reach of a document that is not posted, or that too few of its shingles are."""


class Postings(NamedTuple):
    """A chained hash table: shingle → the documents that posted it, the latest first.

    heads: int32 [power of two], the latest posting of a slot, or −1. chained: int32 [room, 3], a
    posting's shingle (the high bits of its hash), its document and the posting before it in the
    chain, beside each other because each is a cache miss away. used[0] of them are there.
    """

    heads: NDArray[np.int32]
    chained: NDArray[np.int32]
    used: NDArray[np.int64]


def postings(room: int) -> Postings:
    """An empty table for at most `room` postings."""
    slots = 1 << max(4, int(room - 1).bit_length())
    return Postings(
        np.full(slots, -1, np.int32),
        np.empty((room, 3), np.int32),
        np.zeros(1, np.int64),
    )


def grown(old: Postings, room: int) -> Postings:
    """The same postings with room for more; the order in each chain stays."""
    new = postings(room)
    _copy(old, new)
    return new


@njit(nogil=True, cache=True)
def word_of(shingle):  # type: ignore[no-untyped-def]
    """The part of a 64-bit hash that is posted."""
    return np.int32(np.int64(shingle >> np.uint64(32)) - 2**31)


@njit(nogil=True, cache=True)
def slot_of(word, slots):  # type: ignore[no-untyped-def]
    """Where the chain of a posted word begins."""
    mixed = np.uint64(np.int64(word) + 2**31) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(32)) & (slots - 1)


@njit(nogil=True, cache=True)
def post(table, document, shingles, wanted):  # type: ignore[no-untyped-def]
    """Post up to `wanted` shingles of a document, those first that nobody has; returns how many.

    The table must have room for `wanted` more, and documents must come in ascending order.
    """
    posted = 0
    for common in (1, COMMON):
        for i in range(len(shingles)):
            if posted == wanted:
                return posted
            word = word_of(shingles[i])
            slot = slot_of(word, len(table.heads))
            count = 0
            at = table.heads[slot]
            while at >= 0 and count < common:
                if table.chained[at, 0] == word:
                    count += common if table.chained[at, 1] == document else 1
                at = table.chained[at, 2]
            if count < common:
                new = table.used[0]
                table.chained[new, 0] = word
                table.chained[new, 1] = document
                table.chained[new, 2] = table.heads[slot]
                table.heads[slot] = np.int32(new)
                table.used[0] = new + 1
                posted += 1
    return posted


@njit(nogil=True, cache=True)
def most_wanted(size, threshold):  # type: ignore[no-untyped-def]
    """Shingles of a document of `size` with which everything alike to it is found."""
    return min(size, np.int64((1.0 - threshold) * size + 1e-6) + 1)


@njit(nogil=True, cache=True)
def reach_of(size, posted, threshold):  # type: ignore[no-untyped-def]
    """The least size of a document that, if alike to this one, has one of the `posted` shingles.

    That is |x| with α > |y| − posted. 0 where it holds for every size that can be alike at all.
    """
    if posted == 0:
        return UNREACHED
    bound = (size - posted) * (1.0 + threshold) / threshold - size
    reach = np.int64(np.floor(bound + 1e-6)) + 1
    return np.int64(0) if reach <= np.ceil(threshold * size - 1e-6) else reach


@njit(nogil=True, cache=True)
def _copy(old, new):  # type: ignore[no-untyped-def]
    for at in range(old.used[0]):
        slot = slot_of(old.chained[at, 0], len(new.heads))
        new.chained[at, 0] = old.chained[at, 0]
        new.chained[at, 1] = old.chained[at, 1]
        new.chained[at, 2] = new.heads[slot]
        new.heads[slot] = np.int32(at)
    new.used[0] = old.used[0]
