"""Which documents share a sequence."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np

from pretrain.data.packing import cut, pack


def test_no_document_that_fits_is_cut_and_the_waste_is_under_one_percent() -> None:
    chance = np.random.default_rng(3)
    lengths = np.exp(chance.normal(5.5, 1.2, 20_000)).astype(np.int64) + 2
    plan = pack(cut(lengths, 1024), 1024)
    pieces = plan.pieces
    assert int(pieces["length"].sum()) == int(lengths.sum())
    assert Counter(pieces["document"].tolist()) == Counter(
        {n: max(1, -(-int(size) // 1024)) for n, size in enumerate(lengths)}
    )
    assert max(int(plan[k]["length"].sum()) for k in range(len(plan))) <= 1024
    assert 1 - plan.tokens / (len(plan) * 1024) < 0.01


def test_the_packing_of_random_lengths_never_loses_a_token() -> None:
    chance = random.Random(5)
    for _ in range(30):
        lengths = np.array([chance.randint(1, 90) for _ in range(chance.randint(1, 60))])
        plan = pack(cut(lengths, 32), 32)
        covered = np.zeros(int(lengths.sum()), int)
        starts = np.cumsum(lengths) - lengths
        for document, start, length in plan.pieces.tolist():
            covered[starts[document] + start : starts[document] + start + length] += 1
        assert (covered == 1).all()
