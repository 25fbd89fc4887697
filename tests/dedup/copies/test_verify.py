"""The exact similarity of two documents against Python's own sets."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dedup.copies.verify import jaccard, least_agreement, similarity


def both(one: set[int], other: set[int], threshold: float) -> float:
    hashes = np.array(sorted(one) + sorted(other), np.uint64)
    return float(jaccard(hashes, 0, len(one), len(one), len(one) + len(other), threshold))


def test_the_similarity_is_that_of_python_sets_or_minus_one_below_the_threshold() -> None:
    rng = random.Random(4)
    for _ in range(3000):
        universe = rng.randint(1, 400)
        one = set(rng.choices(range(1, universe + 1), k=rng.randint(1, 400)))
        other = set(one)
        for _ in range(rng.randint(0, 60)):
            other.add(rng.randint(1, 2 * universe))
            if len(other) > 1 and rng.random() < 0.5:
                other.discard(rng.choice(sorted(other)))
        true = len(one & other) / len(one | other)
        for threshold in (0.0, 0.5, 0.8, true, 1.0):
            assert both(one, other, threshold) == (true if true >= threshold else -1.0)


def test_a_similarity_of_exactly_the_threshold_counts_as_alike() -> None:
    assert both({1, 2, 3, 4}, {1, 2, 3, 4, 5}, 0.8) == 0.8
    assert both({1, 2, 3, 4, 5, 6, 7}, set(range(1, 11)), 0.7) == 0.7


@pytest.mark.parametrize("shingle", [2, 5])
def test_two_texts_compare_by_their_shingles_with_white_space_collapsed(shingle: int) -> None:
    one, other = "말모이는 말을 모은 것이다", "말모이는  말을\n모은 책이다"
    first = {s[i : i + shingle] for s in [one] for i in range(len(s) - shingle + 1)}
    collapsed = " ".join(other.split())
    second = {collapsed[i : i + shingle] for i in range(len(collapsed) - shingle + 1)}
    assert similarity(one, other, shingle) == len(first & second) / len(first | second)
    assert similarity(one, one.replace(" ", "\n"), shingle) == 1.0


def test_the_cheap_test_passes_over_a_pair_at_the_threshold_once_in_a_million() -> None:
    rng = np.random.default_rng(0)
    for threshold in (0.5, 0.8, 0.95):
        least = least_agreement(128, threshold)
        agreement = rng.binomial(128, threshold, 1_000_000)
        assert (agreement < least).sum() <= 10
    assert least_agreement(128, 1.0) == 128
    assert least_agreement(4, 0.5) == 0
