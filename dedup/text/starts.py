"""What phrases begin with, as tables that a compiled walk over characters can ask.

In: phrases. Out: two tables of pairs of characters, in which a walk looks up the two or three
characters it has just seen. A beginning of no phrase may be found too; one of a phrase is never missed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numba import njit

PAIRS = 1 << 18
"""Size of a table of pairs of characters."""


@njit(nogil=True, cache=True)
def pair_place(first, second):  # type: ignore[no-untyped-def]
    """Where a table of `PAIRS` has this pair of characters; different pairs may share a place."""
    return ((np.int64(first) * 0x9E3779B1 + np.int64(second)) * 0x85EBCA77 >> 14) & 0x3FFFF


class Starts:
    """What phrases begin with: their first three characters, or both of a phrase of two.

    firsts: by first character (of the BMP), asked before the others. Spaces are not counted. Different beginnings may share a place, so no phrase is missed and a few
    places are found too many.
    """

    def __init__(self, phrases: Iterable[str] = ()) -> None:
        self.firsts = np.zeros(1 << 16, np.bool_)
        self.pairs = np.zeros(PAIRS, np.bool_)
        self.triples = np.zeros(PAIRS, np.bool_)
        for phrase in phrases:
            self.firsts[ord(phrase[0])] = True
            place = pair_place(ord(phrase[0]), ord(phrase[1]))
            if len(phrase) == 2:
                self.pairs[place] = True
            else:
                self.triples[pair_place(place, ord(phrase[2]))] = True
