"""A small Llama-3-shaped tokenizer, a small corpus in the documents contract, and tiny configs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from configs.schema import Config
from dedup.documents import SCHEMA
from tokenizer.chat import CHAT_TEMPLATE

WORDS = [
    "봄",
    "여름",
    "가을",
    "겨울",
    "바람이",
    "분다",
    "강물은",
    "흐르고",
    "산은",
    "높다",
    "우리는",
    "길을",
    "걷는다",
    "작은",
    "마을",
    "시장",
    "사람들",
]
ENGLISH = [
    "spring",
    "summer",
    "wind",
    "blows",
    "the",
    "river",
    "runs",
    "and",
    "hills",
    "are",
    "high",
    "we",
    "walk",
    "a",
    "small",
    "road",
    "home",
]
CONTROL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


def sentence(chance: random.Random, words: Sequence[str], most: int = 60) -> str:
    return " ".join(chance.choice(words) for _ in range(chance.randint(3, most)))


def make_tokenizer(folder: Path, vocabulary: int = 500) -> Path:
    """A byte-level BPE with Llama-3's control tokens last in the vocabulary."""
    chance = random.Random(1)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [sentence(chance, words) for words in (WORDS, ENGLISH) for _ in range(200)]
    tokenizer.train_from_iterator([*texts, "system user assistant"], trainer)
    tokenizer.add_special_tokens(list(CONTROL))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL[0], eos_token=CONTROL[1]
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(str(folder))
    return folder


def document(number: int, source: str, text: str, **fields: Any) -> dict[str, Any]:
    row = dict.fromkeys(SCHEMA.names)
    row |= {"id": f"{source}/{number}", "kind": "text", "text": text, "source": source}
    row |= {"language": "ko", "split": "heldout" if number % 10 == 9 else "train"}
    row |= {"quality": 1.0, "cluster_id": f"{source}/{number}", "cluster_size": 1}
    return row | fields


def dialogue(number: int, chance: random.Random) -> dict[str, Any]:
    turns = [{"role": "system", "text": "짧게 답한다"}]
    for _ in range(chance.randint(1, 3)):
        turns.append({"role": "user", "text": sentence(chance, WORDS, 8)})
        turns.append({"role": "assistant", "text": sentence(chance, WORDS, 8)})
    text = "\n".join(turn["text"] for turn in turns)
    return document(number, "dialogue", text, kind="chat", segments=turns)


def make_documents(folder: Path, count: int = 120) -> Path:
    """Two Parquet files: Korean and English text, and dialogues."""
    chance = random.Random(2)
    folder.mkdir(parents=True)
    rows = [document(n, "ko", sentence(chance, WORDS)) for n in range(count)]
    rows += [document(n, "en", sentence(chance, ENGLISH), language="en") for n in range(count // 2)]
    talks = [dialogue(n, chance) for n in range(count // 2)]
    for name, part in (("00000", rows), ("00001", talks)):
        pq.write_table(pa.Table.from_pylist(part, SCHEMA), folder / f"{name}.parquet")
    return folder


BASE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
}


def make_config(**fields: Any) -> Config:
    """A config that trains for a few seconds; `fields` replace keys of the pretrain section."""
    pretrain = {
        "base": BASE,
        "sequence_length": 64,
        "global_batch_tokens": 512,
        "micro_batch": 2,
        "zero_stage": 2,
        "threads": 1,
        "dtype": "fp32",
        "checkpoint": {"every_steps": 4, "keep": 2},
        "evaluate": {"every_steps": 6, "sequences": 4},
        "phases": [
            {"name": "text", "tokens": 6144, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}}
        ],
    }
    return Config.model_validate({"name": "tiny", "seed": 7, "pretrain": pretrain | fields})


def twin(folder: Path, name: str) -> Path:
    """Another run folder over the same documents and tokenizer."""
    other = folder.parent / name
    (other / "dedup").mkdir(parents=True)
    (other / "dedup" / "documents").symlink_to((folder / "dedup" / "documents").resolve())
    (other / "tokenizer").symlink_to((folder / "tokenizer").resolve())
    return other
