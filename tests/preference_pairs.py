"""A small corpus of chosen and rejected answers beside tiny_run's documents: Korean is chosen, English not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tiny_run import ENGLISH, WORDS, document, sentence

from dedup.documents import SCHEMA

PHASE = {
    "name": "preference",
    "objective": "preference",
    "epochs": 1,
    "lr": 1e-3,
    "mixture": {"choices": 1.0},
}


def pair(
    number: int, chance: random.Random, source: str = "choices", words: int = 6
) -> dict[str, Any]:
    turns = [{"role": "user", "text": sentence(chance, WORDS, 5)}]
    if number % 3 == 0:  # a prompt may be a dialogue already
        turns.append({"role": "assistant", "text": sentence(chance, WORDS, 3)})
        turns.append({"role": "user", "text": sentence(chance, WORDS, 3)})
    turns.append({"role": "chosen", "text": sentence(chance, WORDS, words)})
    turns.append({"role": "rejected", "text": sentence(chance, ENGLISH, words)})
    text = "\n".join(turn["text"] for turn in turns)
    return document(number, source, text, kind="preference", segments=turns)


def write_pairs(file: Path, count: int = 60, **how: Any) -> Path:
    """A Parquet file of pairs, a tenth of them held out."""
    chance = random.Random(9)
    rows = [pair(number, chance, **how) for number in range(count)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file)
    return file
