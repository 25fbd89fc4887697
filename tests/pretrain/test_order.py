"""Sequence i of a phase as a function of seed, mixture and i."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import pytest

from pretrain.data.order import SLOTS, Order, permute


def test_an_epoch_visits_every_sequence_once_and_the_next_in_another_order() -> None:
    order = Order(7, "full", {"ko": 1.0}, {"ko": 1000})
    epochs = [[order(i).index for i in range(k * 1000, (k + 1) * 1000)] for k in range(3)]
    assert all(sorted(epoch) == list(range(1000)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_permutations_are_bijections_of_any_size() -> None:
    for size in (1, 2, 3, 5, 17, 64, 1000, 4097):
        assert sorted(permute(i, size, 42) for i in range(size)) == list(range(size))


def test_any_window_of_ten_thousand_holds_the_mixture_exactly() -> None:
    mixture = {"ko": 0.73, "en": 0.2, "pairs": 0.07}
    order = Order(7, "full", mixture, {"ko": 900, "en": 50_000, "pairs": 31})
    for start in (0, 1, 12_345):
        seen = Counter(order(i).source for i in range(start, start + SLOTS))
        assert seen == {name: round(share * SLOTS) for name, share in mixture.items()}
    short = Counter(order(i).source for i in range(100))
    assert abs(short["ko"] - 73) <= 1


def test_seeking_to_the_trillionth_sequence_takes_no_time() -> None:
    order = Order(7, "full", {"ko": 0.5, "en": 0.5}, {"ko": 10**10, "en": 3})
    begun = time.monotonic()
    assert order(10**12) == Order(7, "full", {"ko": 0.5, "en": 0.5}, {"ko": 10**10, "en": 3})(
        10**12
    )
    assert time.monotonic() - begun < 1


def test_a_place_far_away_costs_what_the_first_one_costs_in_time_and_memory() -> None:
    import tracemalloc

    mixture = {"ko": 0.6, "en": 0.3, "pairs": 0.1}
    order = Order(7, "full", mixture, {"ko": 10**10, "en": 12_345, "pairs": [70, 71]})
    tracemalloc.start()
    seen = Counter(order(i).source for i in range(10**12, 10**12 + SLOTS))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == {name: round(share * SLOTS) for name, share in mixture.items()}
    assert peak < 1_000_000


def test_the_epochs_of_a_source_with_two_renderings_read_them_in_turn() -> None:
    order = Order(7, "full", {"pairs": 1.0}, {"pairs": [40, 43]})
    places = [order(i) for i in range(2 * 83)]
    epochs = [[p for p in places if p.epoch == epoch] for epoch in range(4)]
    assert [len(epoch) for epoch in epochs] == [40, 43, 40, 43]
    for epoch, size, rendering in zip(epochs, (40, 43, 40, 43), (0, 1, 0, 1), strict=True):
        assert sorted(place.index for place in epoch) == list(range(size))
        assert {place.rendering for place in epoch} == {rendering}
    assert all(a != b for a, b in pairwise([p.index for p in epoch] for epoch in epochs))


def test_the_passes_over_each_source_are_counted_without_going_through_them() -> None:
    mixture = {"ko": 0.7, "en": 0.2, "pairs": 0.1}
    sizes = {"ko": 900, "en": 50_000, "pairs": [30, 33]}
    order = Order(7, "full", mixture, sizes)
    total = 23_456
    seen = Counter(order(i).source for i in range(total))
    passes = order.epochs(total)
    assert passes["ko"] == pytest.approx(seen["ko"] / 900)
    assert passes["en"] == pytest.approx(seen["en"] / 50_000)
    assert passes["pairs"] == pytest.approx(seen["pairs"] / 31.5, rel=0.02)
    assert order.epochs(10**12)["ko"] == pytest.approx(0.7 * 10**12 / 900)
