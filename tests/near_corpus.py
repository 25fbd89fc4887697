"""Small Korean corpora with copies of every kind, and the runs the index tests ask."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.schema import Config

_SYLLABLES = [chr(point) for point in range(0xAC00, 0xD7A4, 13)]


def passage(rng: random.Random, words: int = 60) -> str:
    """Made-up words: two passages have nearly no shingle in common."""
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 5))) for _ in range(words))


def edited(rng: random.Random, text: str, words: int = 1) -> str:
    """The text with some words replaced."""
    parts = text.split()
    for at in rng.sample(range(len(parts)), words):
        parts[at] = "고친말"
    return " ".join(parts)


def put(path: Path, texts: dict[str, str], **fields: Any) -> None:
    """JSONL of {id: text}; every record has a url."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = (
        {"id": name, "text": text, "url": f"https://example.org/{name}", **fields}
        for name, text in texts.items()
    )
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def settings(*paths: Path, **dedup: Any) -> Config:
    """A config without filters, one source of several small tasks."""
    source = {"name": "web", "paths": [str(path) for path in paths]}
    return Config.model_validate(
        {
            "name": "test",
            "dedup": {
                "sources": [source], "filters": "none", "shard": 6_000, "workers": 1, **dedup,
            },
        }
    )  # fmt: skip


def rows(run: Path, folder: str) -> dict[str, dict[str, Any]]:
    """{id: row} of documents or removed."""
    return {
        row["id"]: row
        for path in sorted((run / "dedup" / folder).glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }


def jaccard(one: str, other: str) -> float:
    """Exact, over sets of five characters."""
    sets = [
        {text[at : at + 5] for at in range(max(1, len(text) - 4))}
        for text in (" ".join(one.split()), " ".join(other.split()))
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])
