"""Small corpora of Korean sentences, a config over them, and what a run of the data stage left."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.schema import Config

ROOT = Path(__file__).resolve().parent.parent

NOUNS = [
    "바다",
    "산길",
    "시장",
    "학교",
    "강가",
    "마을",
    "도서관",
    "기차역",
    "골목",
    "밭둑",
    "항구",
    "언덕",
    "부엌",
    "공원",
    "다리",
    "우체국",
]
VERBS = [
    "걸었다",
    "보았다",
    "들었다",
    "만났다",
    "지나갔다",
    "기다렸다",
    "돌아왔다",
    "남았다",
    "떠났다",
    "웃었다",
]
WORDS = [
    "오래된",
    "낡은",
    "조용한",
    "따뜻한",
    "커다란",
    "작은",
    "푸른",
    "이른",
    "늦은",
    "낯선",
    "반가운",
    "서툰",
]


def prose(rng: random.Random, sentences: int) -> str:
    """Plain Korean sentences that no filter minds."""
    return " ".join(
        f"{rng.choice(WORDS)} {rng.choice(NOUNS)}에서 {rng.randint(2, 99)}번째 "
        f"{rng.choice(WORDS)} {rng.choice(NOUNS)}까지 {rng.choice(WORDS)} 사람들과 함께 {rng.choice(VERBS)}."
        for _ in range(sentences)
    )


def corpus(folder: Path, seed: int = 3, files: int = 6, each: int = 30) -> dict[str, str]:
    """JSONL files with exact copies, near copies, white-space copies, short ones and broken lines."""
    rng = random.Random(seed)
    texts: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for file in range(files):
        with (folder / f"part{file}.jsonl").open("w") as handle:
            for number in range(each):
                text = prose(rng, rng.randint(8, 25))
                if texts and number % 5 == 1:
                    text = rng.choice(texts)
                elif texts and number % 5 == 2:
                    words = rng.choice(texts).split()
                    words[rng.randrange(len(words))] = "고친말"
                    text = " ".join(words)
                elif texts and number % 5 == 3:
                    text = "\n".join(rng.choice(texts).split())
                elif number == 4:
                    text = "짧다"
                texts.append(text)
                name = f"f{file}-{number:03}"
                written[name] = text
                handle.write(json.dumps({"id": name, "text": text}, ensure_ascii=False) + "\n")
            handle.write("{broken\n")
    return written


def config(folder: Path, **dedup: Any) -> Config:
    settings = {
        "sources": [{"name": "web", "paths": [str(folder / "*.jsonl")]}],
        "shard": 20_000,
        "workers": 1,
        "heldout": 0.1,
        "filters": {"min_characters": 40},
        **dedup,
    }
    return Config.model_validate({"name": "test", "dedup": settings})


def digests(folder: Path) -> dict[str, str]:
    """Of every file the stage wrote; of its report without the times."""
    found = {}
    for path in sorted((folder / "dedup").rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "report.json":
                report = json.loads(content)
                del report["seconds"], report["wall_seconds"]
                content = json.dumps(report).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted((folder / "dedup" / name).glob("*.parquet")):
        found += pq.read_table(path).to_pylist()
    return found


def put(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
