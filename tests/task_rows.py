"""Local copies of datasets as the hub has them: real columns and layouts, rows written for the tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.evaluation.klue.entities import TAGS

Row = dict[str, Any]

SEASONS = ["봄", "여름", "가을", "겨울", "장마"]
BOOLQ = [
    {
        "paragraph": f"{s}에는 강가에 사람이 많다.",
        "question": f"{s}에 강가가 비는가?",
        "label": n % 2,
    }
    for n, s in enumerate(SEASONS)
]
COPA = [
    {
        "premise": f"{s}이 왔다.",
        "question": ["원인", "결과"][n % 2],
        "alternative_1": "바람이 분다.",
        "alternative_2": "시장이 열린다.",
        "label": n % 2,
    }
    for n, s in enumerate(SEASONS)
]
SENTINEG = [
    {"sentence": f"{s} 나들이는 참 좋았다.", "label": (n + 1) % 2} for n, s in enumerate(SEASONS)
]
HELLASWAG = [
    {
        "context": f"{s} 아침에 길을 걷는다.",
        **{f"ending_{k + 1}": f"{word} 산은 높다." for k, word in enumerate(SEASONS[:4])},
        "label": n % 4,
    }
    for n, s in enumerate(SEASONS)
]
WIC = [
    {
        "word": "배",
        "context_1": f"{s}에 [배]를 먹었다.",
        "context_2": "강에 [배]가 떠 있다.",
        "label": n % 2,
    }
    for n, s in enumerate(SEASONS)
]
HAERAE = [
    {
        "query": f"다음 중 {s}과 가까운 말은?\n(A) 비 (B) 눈 (C) 꽃 (D) 단풍 (E) 안개\n정답:",
        "answer": f"({a})",
    }
    for s, a in zip(SEASONS, "CADBE", strict=True)
]
MMLU = [
    {
        "question": f"Which wind blows in month {n}?",
        "subject": "anatomy",
        "choices": ["north", "south", "east", "west"],
        "answer": n % 4,
    }
    for n in range(5)
]
KMMLU = [
    {
        "question": f"{s}에 피는 꽃은?",
        "answer": n % 4 + 1,
        "A": "국화",
        "B": "매화",
        "C": "연꽃",
        "D": "동백",
        "Category": "Biology",
        "Human Accuracy": 0.5,
    }
    for n, s in enumerate(SEASONS)
]
GSM8K = [
    {
        "question": f"A boat carries {n + 2} people. How many do three boats carry?",
        "answer": f"Three boats carry 3*{n + 2}=<<3*{n + 2}={3 * (n + 2)}>>{3 * (n + 2)}.\n#### {3 * (n + 2)}",
    }
    for n in range(6)
]
NLI = [
    {
        "guid": f"own-nli-{n}",
        "source": "own",
        "premise": f"{s}이면 마을 사람들이 강가로 나간다.",
        "hypothesis": "마을 사람들은 집에만 있다.",
        "label": n % 3,
    }
    for n, s in enumerate(SEASONS)
]
STS = [
    {
        "guid": f"own-sts-{n}",
        "source": "own",
        "sentence1": f"{s}에 시장이 열린다.",
        "sentence2": f"시장은 {s}에 문을 연다.",
        "labels": {"label": 0.8 * n, "real-label": 0.83 * n, "binary-label": int(0.8 * n >= 3)},
    }
    for n, s in enumerate(SEASONS)
]


def tagged(*parts: tuple[str, str]) -> Row:
    """A row of KLUE-NER from (text, kind) parts; kind "" for what is no entity."""
    tokens = [letter for text, _ in parts for letter in text]
    tags = [
        TAGS.index(f"{'I' if at else 'B'}-{kind}" if kind else "O")
        for text, kind in parts
        for at in range(len(text))
    ]
    sentence = "".join(f"<{text}:{kind}>" if kind else text for text, kind in parts)
    return {"sentence": sentence, "tokens": tokens, "ner_tags": tags}


NER = [
    tagged((s, "DT"), ("에 ", ""), (who, "PS"), ("가 ", ""), ("새별시", "LC"), ("에 왔다.", ""))
    for s, who in zip(SEASONS, ("가람", "나래", "다솜", "라온", "마루"), strict=True)
]

SHOWN = [  # lm-eval draws one example more than it shows, and none that is the question
    tagged((who, "PS"), ("가 ", ""), (s, "DT"), ("에 떠났다.", ""))
    for s, who in zip([*SEASONS, "한봄", "초겨울"], "해달별솔숲샘꽃", strict=True)
]


def jsonl(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def parquet(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_copies(data: Path) -> Path:
    """Every layout that a copy comes in: see pretrain/evaluation/local_datasets.py."""
    kobest = {
        "boolq": BOOLQ,
        "copa": COPA,
        "sentineg": SENTINEG,
        "hellaswag": HELLASWAG,
        "wic": WIC,
    }
    for config, rows in kobest.items():  # the parquet branch
        for split in ("train", "validation", "test"):
            parquet(data / "skt" / "kobest_v1" / config / split / "0000.parquet", rows)
    haerae = data / "HAERAE-HUB" / "HAE_RAE_BENCH"  # files that only the card tells apart
    configs = ("general_knowledge", "history", "loan_words", "rare_words", "standard_nomenclature")
    card = "---\nconfigs:\n"
    for number, config in enumerate(configs):
        jsonl(haerae / f"part{number}.jsonl", HAERAE)
        card += (
            f"- config_name: {config}\n  data_files:\n  - split: test\n    path: part{number}.*\n"
        )
    (haerae / "README.md").write_text(f"{card}---\n# A card\n", encoding="utf-8")
    for split in ("test", "validation", "dev"):
        parquet(data / "cais/mmlu/anatomy" / f"{split}-00000-of-00001.parquet", MMLU)
    for split in ("test", "dev"):
        path = data / "HAERAE-HUB/KMMLU/data" / f"Biology-{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, KMMLU[0])
            writer.writeheader()
            writer.writerows(KMMLU)
    for split in ("train", "test"):
        jsonl(data / "gsm8k" / f"{split}.jsonl", GSM8K)  # by hand: no owner, no config
    for config, rows in {"nli": NLI, "sts": STS, "ner": NER}.items():
        for split in ("train", "validation"):
            path = data / "klue/klue" / config / f"{split}-00000-of-00001.parquet"
            parquet(path, SHOWN if (config, split) == ("ner", "train") else rows)
    return data
