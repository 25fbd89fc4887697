"""A small base model that is trained well enough to tell methods apart, and what grows it.

    python tests/benchmarks/small_base.py DIR [--tokens 4.2M] [--threads 1] [--documents-only]

Writes to DIR, each part once, so that every experiment starts from the same place:

    documents/base, documents/korean   Parquet of the data stage's form, split train and heldout; the
                                       Korean of `korean` is no part of what the base is trained on
    base/                              12,032 tokens of byte-level BPE learned from English and some
                                       Korean (as Llama-3's), a Llama of 256 × 6 with a head of its
                                       own, trained on 70 % English and 30 % Korean
    grown/tokenizer/                   base + 4,096 Korean tokens, by the tokenizer stage itself

The text is ../shared/data: documentation, prose, reviews, comments and petitions. A killed training
goes on at its last save. One thread, fp32: 1,800 tokens/s, so 40 minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from configs.schema import Config, NewRows
from dedup.documents import SCHEMA, read_documents
from pretrain.data.encode import begin_id, end_id
from pretrain.evaluation.evaluate import bits_per_byte, texts_as_documents
from pretrain.loss import SummedLoss
from pretrain.weights.model import write_base
from tokenizer import stage
from tokenizer.base import LLAMA3_PATTERN
from tokenizer.load import load_tokenizer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ENGLISH = ("ms_docs_en", "oss_docs_en", "help_en", "public_domain_prose")
KOREAN = (
    "petitions",
    "movie_review_pages",
    "news_comments",
    "oss_docs_ko",
    "ms_docs_ko",
    "mixed_prose",
)
VOCABULARY, NEW_TOKENS = 12_032, 4_096
SOURCE_BYTES = 6_000_000  # of one source, so that none drowns the rest
HELDOUT = 0.02
LENGTH = 256
STEP_TOKENS = (
    4_096,
    2_048,
)  # in the first 1.6 M tokens, and after them: few tokens, many steps
FIRST_SEQUENCES = 6_400
MICRO_BATCH = 8
LEARNING_RATE = 2e-3
SHAPE = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "max_position_embeddings": LENGTH,
}
CONTROL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


def chance(name: str) -> float:
    """A number in [0, 1) that belongs to a name."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def write_documents(folder: Path) -> None:
    """documents/base: English, and half of the Korean; documents/korean: its other half."""
    made: dict[str, list[dict[str, Any]]] = {"base": [], "korean": []}
    for place, names in (("en", ENGLISH), ("ko_web", KOREAN)):
        for source in names:
            used = 0
            path = DATA / place / f"{source}.jsonl.zst"
            rows = [
                (chance(f"order {row['id']}"), row["id"], row["text"])
                for batch in read_documents(path, columns=["id", "text"])
                for row in batch.to_pylist()
            ]
            for _, name, text in sorted(rows):
                if used > SOURCE_BYTES:
                    break
                used += len(text.encode())
                row = dict.fromkeys(SCHEMA.names) | {
                    "id": f"{source}/{name}",
                    "kind": "text",
                    "text": text,
                    "source": source,
                    "language": place[:2],
                    "split": "heldout" if chance(f"split {name}") < HELDOUT else "train",
                    "quality": 1.0,
                    "cluster_id": f"{source}/{name}",
                    "cluster_size": 1,
                }
                korean = place == "ko_web" and chance(f"half {name}") < 0.5
                made["korean" if korean else "base"].append(row)
    for part, rows in made.items():
        target = folder / "documents" / part / "00000.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")
        partial.rename(target)


def texts(folder: Path, part: str, split: str, language: str) -> Iterator[tuple[str, str]]:
    """(source, text) of documents/`part`, in the order of a hash."""
    rows = [
        row
        for batch in read_documents(
            folder / "documents" / part, split=split, columns=["id", "source", "language", "text"]
        )
        for row in batch.to_pylist()
        if row["language"] == language
    ]
    for row in sorted(rows, key=lambda row: chance(row["id"])):
        yield row["source"], row["text"]


def make_tokenizer(folder: Path) -> None:
    """base/tokenizer.json: all the English of the base and an eighth of its Korean."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    english = [text for _, text in texts(folder, "base", "train", "en")]
    korean = [text for _, text in texts(folder, "base", "train", "ko")]
    tokenizer.train_from_iterator([*english, *korean[::8]], trainer)
    tokenizer.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in CONTROL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=CONTROL[0], eos_token=CONTROL[1]
    )
    wrapped.save_pretrained(str(folder / "base-tokenizer"))


def sequences(
    found: Iterator[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, most: int
) -> Tensor:
    """int64 [n, LENGTH + 1]: documents one after another, cut; at most `most` tokens."""
    begin, end = begin_id(tokenizer), end_id(tokenizer)
    ids: list[int] = []
    for _, text in found:
        ids += [begin, *tokenizer.encode(text, add_special_tokens=False), end]
        if len(ids) > most:
            break
    count = min(len(ids), most) // (LENGTH + 1)
    return torch.tensor(ids[: count * (LENGTH + 1)]).reshape(count, LENGTH + 1)


def loss_of(loss: SummedLoss, batch: Tensor) -> Tensor:
    positions = torch.arange(LENGTH).expand(len(batch), -1)
    return loss(batch[:, :-1], positions, batch[:, 1:])


def judged(
    folder: Path, tokenizer: PreTrainedTokenizerFast, language: str, most: int
) -> dict[str, list[Any]]:
    """Held-out documents by source, `most` bytes of each, whole documents of up to 8,000 characters."""
    part = "korean" if language == "ko" else "base"
    chosen: dict[str, list[str]] = {}
    used: dict[str, int] = {}
    for source, text in texts(folder, part, "heldout", language):
        cut = text[:8_000]
        if used.get(source, 0) < most:
            chosen.setdefault(source, []).append(cut)
            used[source] = used.get(source, 0) + len(cut.encode())
    return {source: texts_as_documents(tokenizer, own) for source, own in chosen.items()}


def score(model: Any, documents: dict[str, list[Any]]) -> float:
    """Bits per byte: the mean over sources."""
    found = bits_per_byte(model, documents, sequence_length=LENGTH, micro_batch=8)
    return sum(found.values()) / len(found)


def optimizer_of(model: Any, rate: float) -> torch.optim.AdamW:
    layers = [p for n, p in model.named_parameters() if p.dim() > 1 and "layers" in n]
    rest = [p for n, p in model.named_parameters() if not (p.dim() > 1 and "layers" in n)]
    groups = [{"params": layers, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def train_base(folder: Path, tokens: int) -> None:
    tokenizer = load_tokenizer(folder / "base-tokenizer")
    if not (folder / "start" / "config.json").is_file():
        write_base(SHAPE, tokenizer, folder / "base-tokenizer", NewRows(), 17, folder / "start")
    model = AutoModelForCausalLM.from_pretrained(folder / "start", dtype=torch.float32)
    english = sequences(texts(folder, "base", "train", "en"), tokenizer, round(tokens * 0.7))
    korean = sequences(texts(folder, "base", "train", "ko"), tokenizer, round(tokens * 0.3))
    data = torch.cat([english, korean])
    data = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(17))]
    print(
        f"base: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
        f"{len(english) * LENGTH:,} English and {len(korean) * LENGTH:,} Korean tokens",
        flush=True,
    )
    optimizer = optimizer_of(model, LEARNING_RATE)
    loss = SummedLoss(model, "chunked")
    state = folder / "training.pt"
    at = 0  # sequences trained on
    if state.is_file():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        at = saved["sequences"]
    started, first, told, stored = time.monotonic(), at, at, at
    while at < len(data):
        warm = min(1.0, (at + 16) / 800)
        rate = LEARNING_RATE * warm * (0.05 + 0.475 * (1 + math.cos(math.pi * at / len(data))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = data[at : at + STEP_TOKENS[at >= FIRST_SEQUENCES] // LENGTH]
        total = 0.0
        for part in batch.split(MICRO_BATCH):
            found = loss_of(loss, part) / (len(batch) * LENGTH)
            found.backward()
            total += found.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        at += len(batch)
        if at - told >= 400:
            told = at
            speed = (at - first) * LENGTH / (time.monotonic() - started)
            tokens_seen = at * LENGTH / 1e6
            print(
                f"{tokens_seen:.2f} M tokens  loss {total:.3f}  {speed:,.0f} tokens/s", flush=True
            )
        if at - stored >= 1600:
            stored = at
            values = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "sequences": at,
            }
            torch.save(values, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)
    model.save_pretrained(folder / "base.tmp")
    tokenizer.save_pretrained(str(folder / "base.tmp"))
    (folder / "base.tmp").rename(folder / "base")
    for language in ("ko", "en"):
        documents = judged(folder, tokenizer, language, 40_000)
        print(f"base: {score(model, documents):.3f} bits per byte on {language}", flush=True)


def make(folder: Path, tokens: int = 4_200_000) -> None:
    """Write what is not in DIR yet."""
    if not (folder / "documents" / "korean" / "00000.parquet").is_file():
        if not DATA.is_dir():
            sys.exit(f"skipped: {DATA} is not there")
        write_documents(folder)
    if not (folder / "base-tokenizer" / "tokenizer.json").is_file():
        make_tokenizer(folder)
    grown = {
        "base": str(folder / "base-tokenizer"),
        "new_tokens": NEW_TOKENS,
        "documents": [str(folder / "documents" / "korean")],
        "workers": 1,
    }
    report = stage.run(
        Config.model_validate({"name": "grown", "tokenizer": grown}), folder / "grown"
    )
    print(
        f"tokenizer: {report.base_vocab_size:,} + {report.new_tokens:,} tokens, {report.tokens_saved:.1%} "
        f"fewer on words with Hangul, {report.all_tokens_saved:.1%} of all",
        flush=True,
    )
    if tokens and not (folder / "base" / "config.json").is_file():
        train_base(folder, tokens)


def count(text: str) -> int:
    return round(float(text.rstrip("Mm")) * (1e6 if text[-1] in "Mm" else 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=count, default=4_200_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--documents-only", action="store_true", help="no training")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    disable_progress_bar()
    make(options.folder.resolve(), 0 if options.documents_only else options.tokens)


if __name__ == "__main__":
    main()
