"""Bands and rows of a MinHash signature: what they find, which fit, which datasketch proposes.

In: a similarity threshold and a number of permutations. Out: the chance that a pair is found, pairs
of numbers that fit, and a proposal. Two documents of Jaccard similarity s agree on at least one of b
bands of r minima with probability 1 − (1 − s^r)^b.

The decision: a proposal weighs a missed pair 999 times a needless one (datasketch weighs them
alike, and would miss 60 % of the pairs at a threshold of 0.8). A needless candidate costs one exact
comparison here and never a document; a missed one stays in the corpus twice.

Source: J. Leskovec, A. Rajaraman, J. Ullman, "Mining of Massive Datasets", chapter 3.4.
"""

from __future__ import annotations

import math
from functools import cache

WEIGHTS = (0.001, 0.999)
"""Of false positives and false negatives in datasketch's optimisation, for `bands: auto`."""


def recall(similarity: float, bands: int, rows: int) -> float:
    """Probability that two documents of this Jaccard similarity share a band."""
    return float(1 - (1 - similarity**rows) ** bands)


def recall_curve(threshold: float, bands: int, rows: int) -> str:
    """Recall at the threshold and above it in steps of 0.05, for a sentence."""
    points = [threshold + 0.05 * step for step in range(4)]
    shown = [point for point in points if point < 1 - 1e-9] or [1.0]
    return ", ".join(f"{_share(recall(point, bands, rows))} at {point:.3g}" for point in shown)


def _share(value: float) -> str:
    """Never rounded up to all of them."""
    return "1" if value == 1 else f"{math.floor(10_000 * value) / 10_000:.4f}"


def fitting(bands: int, rows: int, permutations: int) -> list[tuple[int, int]]:
    """The pairs nearest to one that does not fit: fewer bands, fewer rows, and in between."""
    found = {(permutations // least, least) for least in range(1, permutations + 1)}
    keep_rows = (permutations // rows, rows) if rows <= permutations else None
    keep_bands = (bands, permutations // bands) if bands <= permutations else None
    ordered = sorted(found, key=lambda pair: (_distance(pair, (bands, rows)), pair))
    chosen = [pair for pair in (keep_rows, keep_bands) if pair is not None]
    return list(dict.fromkeys([*chosen, *ordered]))[:3]


def _distance(pair: tuple[int, int], wanted: tuple[int, int]) -> float:
    """How far two pairs are apart, as factors."""
    return max(max(one, other) / min(one, other) for one, other in zip(pair, wanted, strict=True))


@cache
def proposed(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows) of datasketch's optimiser under `WEIGHTS`. Imports scipy: half a second."""
    from datasketch import MinHashLSH

    best = MinHashLSH(threshold=threshold, num_perm=permutations, weights=WEIGHTS)
    return int(best.b), int(best.r)
