"""A small Korean corpus in the data stage's form, a small base, and Llama-3's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from configs.schema import Config
from dedup.documents import SCHEMA
from tokenizer.base import LLAMA3_PATTERN, Base, load_base

_NOUNS = [
    "도서관",
    "강아지",
    "버스",
    "시장",
    "바다",
    "날씨",
    "선생님",
    "친구",
    "점심",
    "사진",
    "영화",
    "음악",
    "전화기",
    "자전거",
    "골목",
    "우산",
]
_PARTICLES = ["은", "는", "이", "가", "을", "를", "에서", "까지", "보다", "하고"]
_VERBS = [
    "기다렸다",
    "지나갔다",
    "좋아합니다",
    "알려",
    "주세요",
    "괜찮았어요",
    "바뀌었네요",
    "찾고",
    "있습니다",
    "모르겠다",
]
_ENGLISH = [
    "the",
    "bus",
    "was",
    "late",
    "again",
    "and",
    "nobody",
    "at",
    "the",
    "market",
    "had",
    "told",
    "us",
    "why",
    "it",
    "rained",
]

CONTROLS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]


def korean(draw: random.Random, sentences: int) -> str:
    """Made-up sentences, no two documents alike."""
    out = []
    for _ in range(sentences):
        words = [draw.choice(_NOUNS) + draw.choice(_PARTICLES) for _ in range(draw.randrange(2, 6))]
        out.append(" ".join([*words, draw.choice(_VERBS)]) + draw.choice([".", "!", "?", " ㅋㅋ"]))
    return " ".join(out)


def english(draw: random.Random, sentences: int) -> str:
    return " ".join(" ".join(draw.sample(_ENGLISH, 8)).capitalize() + "." for _ in range(sentences))


def row(identity: str, source: str, text: str, split: str = "train") -> dict[str, object]:
    return {
        "id": identity,
        "kind": "text",
        "text": text,
        "source": source,
        "split": split,
        "quality": 1.0,
        "cluster_id": identity,
        "cluster_size": 1,
    }


def write_documents(folder: Path, shards: list[list[dict[str, object]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, rows in enumerate(shards):
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"{index:05d}.parquet")
    return folder


def corpus_rows(documents: int = 60) -> list[list[dict[str, object]]]:
    """Three shards; every tenth document is held out; one document holds control token text."""
    draw = random.Random(5)
    shards: list[list[dict[str, object]]] = [[], [], []]
    for index in range(documents):
        split = "heldout" if index % 10 == 0 else "train"
        source = ("notices", "talk", "english")[index % 3] if index % 4 else "notices"
        text = english(draw, 6) if source == "english" else korean(draw, 8)
        shards[index % 3].append(row(f"d{index}", source, text, split))
    shards[0].append(
        row("odd", "talk", "누가 <|eot_id|> 라고 썼다. 누가 <|eot_id|> 라고 썼다.\n가가가가")
    )
    return shards


@pytest.fixture
def documents(tmp_path: Path) -> Callable[[list[tuple[str, str]]], Path]:
    """Write (source, text) pairs as training documents; returns their folder."""

    def make(texts: list[tuple[str, str]]) -> Path:
        rows = [row(str(index), source, text) for index, (source, text) in enumerate(texts)]
        return write_documents(tmp_path / "documents", [rows])

    return make


@pytest.fixture
def korean_text() -> str:
    return korean(random.Random(2), 100)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder whose data stage is done."""
    write_documents(tmp_path / "run" / "dedup" / "documents", corpus_rows())
    return tmp_path / "run"


@pytest.fixture(scope="session")
def shared_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents of `run_folder`, for runs that several tests look at."""
    return write_documents(tmp_path_factory.mktemp("shared-documents"), corpus_rows())


@pytest.fixture(scope="session")
def corpus_texts() -> list[str]:
    return [str(row["text"]) for shard in corpus_rows() for row in shard]


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a small byte-level BPE with Llama-3's regex and control tokens."""
    folder = tmp_path_factory.mktemp("small-base")
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw = random.Random(1)
    texts = [english(draw, 20) for _ in range(20)] + [korean(draw, 1) for _ in range(3)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in CONTROLS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": CONTROLS[0], "eos_token": CONTROLS[1], "pad_token": CONTROLS[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="session")
def small_base(small_folder: Path) -> Base:
    return load_base(str(small_folder))


@pytest.fixture(scope="session")
def llama3() -> Base:
    pytest.importorskip("llama_models", reason="needs malmoi[llama3]")
    return load_base("llama3")


@pytest.fixture
def config(small_folder: Path) -> Callable[..., Config]:
    """A config of the tokenizer stage over the small base; keywords override its keys."""

    def make(**keys: object) -> Config:
        settings = {"base": str(small_folder), "new_tokens": 120, "workers": 1, **keys}
        return Config.model_validate({"name": "test", "tokenizer": settings})

    return make
