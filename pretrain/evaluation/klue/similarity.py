"""KLUE-STS: are two sentences of one meaning, and how alike are they?

In: a row and the log-likelihoods of "아니오" and "예". Out: accuracy and F1 against `binary-label`
(similarity of 3 or more), and the probability of "예" against the similarity from 0 to 5 that people
gave, for Pearson's r. A model is asked one question, so r judges how its confidence goes with theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def results(
    row: dict[str, Any], answers: Sequence[tuple[float, bool]]
) -> dict[str, float | tuple[float, float]]:
    """What a row adds to each metric; answers: (log-likelihood, greedy) of "아니오" and "예"."""
    no, yes = (float(likelihood) for likelihood, _ in answers[:2])
    labels = row["labels"]
    gold, said = int(labels["binary-label"]), int(yes > no)
    probability = 1 / (1 + math.exp(min(no - yes, 700.0)))
    return {
        "acc": float(gold == said),
        "f1": (gold, said),
        "pearson": (float(labels["label"]), probability),
    }


def pearson(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's r of (label, probability) pairs; 0.0 where either never varies."""
    golds, said = zip(*pairs, strict=True)
    means = sum(golds) / len(golds), sum(said) / len(said)
    products = sum((g - means[0]) * (s - means[1]) for g, s in pairs)
    spread = sum((g - means[0]) ** 2 for g in golds) * sum((s - means[1]) ** 2 for s in said)
    return products / math.sqrt(spread) if spread > 0 else 0.0
