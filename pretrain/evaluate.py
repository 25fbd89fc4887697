"""Bits per byte on held-out text: how many bits the model needs for a byte of a source.

In: a model and held-out documents. Out: Σ −log2 p(token) / UTF-8 bytes, by source, and by language
over its plain-text sources. Bytes, not tokens, so that models with different tokenizers compare.

It is the measure of lm-eval's rolling log-likelihood (Gao et al.): every token of the text is
predicted once, BOS stands before the first and EOS is not judged; a text longer than the window is
read in windows of full length whose last one reaches back. Of a dialogue only what the assistant says
is judged. Documents are taken whole, in a fixed order, until the wanted number of sequences is full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from configs.errors import InputError
from configs.progress import Log, Progress, silent
from dedup.documents import read_documents
from pretrain.batches import IGNORED, Batch
from pretrain.loss import SummedLoss
from pretrain.order import permute
from pretrain.packing import PIECE, pack
from pretrain.tokens import Tokens, begin_id, encode_rows, trained_bytes
from tokenizer.load import load_tokenizer


@dataclass(frozen=True)
class Judged:
    """A held-out document. ids: BOS and text, without EOS; said: which of them count (None: all)."""

    ids: NDArray[np.int64]
    bytes: int
    said: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Row:
    """One sequence of windows: int64 [length] each."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]


def windows(length: int, sequence_length: int) -> list[tuple[int, int, int]]:
    """(start, stop, judged) of the inputs that predict tokens 1 … length − 1 of a document.

    Inputs start … stop − 1 predict the token after each; the last `judged` of them are counted.
    """
    found, done = [], 0
    while done < length - 1:
        judged = min(sequence_length, length - 1 - done)
        stop = done + judged
        found.append((max(0, stop - sequence_length) if done else 0, stop, judged))
        done += judged
    return found


def rows(documents: Sequence[Judged], sequence_length: int, filler: int) -> list[Row]:
    """The documents' windows, packed without sight of one another."""
    pieces, judged = [], []
    for number, document in enumerate(documents):
        for start, stop, count in windows(len(document.ids), sequence_length):
            pieces.append((number, start, stop - start))
            judged.append(count)
    table = np.array(pieces, PIECE)
    counts = {
        (int(p["document"]), int(p["start"]), int(p["length"])): count
        for p, count in zip(table, judged, strict=True)
    }
    plan = pack(table, sequence_length)
    made = []
    for index in range(len(plan)):
        row = Row(
            np.full(sequence_length, filler, np.int64),
            np.arange(sequence_length),
            np.full(sequence_length, IGNORED, np.int64),
        )
        at = 0
        for number, start, length in plan[index].tolist():
            document, end = documents[number], at + length
            targets = document.ids[start + 1 : start + length + 1].copy()
            targets[: length - counts[number, start, length]] = IGNORED
            if document.said is not None:
                targets[~document.said[start + 1 : start + length + 1]] = IGNORED
            row.ids[at:end] = document.ids[start : start + length]
            row.targets[at:end] = targets
            row.positions[at:end] = np.arange(length)
            at = end
        row.positions[at:] = np.arange(sequence_length - at)
        made.append(row)
    return made


def batched(made: Sequence[Row], size: int, length: int, filler: int) -> Batch:
    """Rows as a micro-batch of `size`, filled up with rows that judge nothing."""
    empty = Row(
        np.full(length, filler, np.int64), np.arange(length), np.full(length, IGNORED, np.int64)
    )
    full = [*made, *[empty] * (size - len(made))]
    columns = (
        [row.ids for row in full],
        [row.positions for row in full],
        [row.targets for row in full],
    )
    return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))


Loss = Callable[..., Tensor]  # SummedLoss, or an engine around it


@torch.no_grad()
def judge(
    loss: Loss,
    sources: dict[str, list[Row]],
    *,
    micro_batch: int,
    device: torch.device,
    filler: int,
    rank: int = 0,
    world_size: int = 1,
    log: Log = silent,
) -> dict[str, float]:
    """Σ −log2 p by source, over this rank's rows. Every rank runs the same number of batches."""
    bits = {}
    for number, (source, made) in enumerate(sources.items()):
        log(Progress("pretrain", "evaluate", number, len(sources), "sources", source))
        total = 0.0
        size = max(1, min(micro_batch, -(-len(made) // world_size)))  # filled-up rows cost as much
        for start in range(0, len(made), size * world_size):
            low = start + rank * size
            mine = made[low : low + size]
            batch = batched(mine, size, len(made[0].ids), filler).to(device)
            total += float(loss(batch.input_ids, batch.position_ids, batch.targets))
        bits[source] = total / math.log(2)
    return bits


def by_language(
    bits: dict[str, float], sizes: dict[str, int], languages: dict[str, str]
) -> dict[str, float]:
    """Bits per byte by source, then by language (over the sources in `languages`, by bytes)."""
    result = {source: bits[source] / sizes[source] for source in bits}
    for language in sorted(set(languages.values())):
        members = [source for source in bits if languages.get(source) == language]
        total = sum(sizes[source] for source in members)
        if total and language not in result:
            result[language] = sum(bits[source] for source in members) / total
    return result


def heldout(tokens: Tokens, source: str, budget: int) -> list[Judged]:
    """Held-out documents of a source, in a fixed random order, until `budget` tokens are full."""
    documents = tokens.sets.get((source, "heldout"))
    if documents is None:
        return []
    lengths, sizes = documents.lengths(), documents.byte_counts()
    chosen: list[Judged] = []
    used = 0
    for place in range(documents.documents):
        number = permute(place, documents.documents, 0)
        length = int(lengths[number]) - 1  # without EOS
        if length < 2 or sizes[number] == 0:
            continue
        if chosen and used + length > budget:
            break
        ids = documents.ids(number, 0, length).astype(np.int64)
        said = documents.mask(number, 0, length).astype(bool) if documents.kind == "chat" else None
        chosen.append(Judged(ids, int(sizes[number]), said))
        used += length
    return chosen


def bits_per_byte(
    model: torch.nn.Module,
    documents: dict[str, list[Judged]],
    *,
    sequence_length: int,
    filler: int = 0,
    micro_batch: int = 1,
    languages: dict[str, str] | None = None,
    log: Log = silent,
) -> dict[str, float]:
    """Bits per byte of each source (and language) under a transformers model, in this process."""
    device = next(model.parameters()).device
    made = {
        source: rows(found, sequence_length, filler) for source, found in documents.items() if found
    }
    was_training = model.training
    model.eval()
    bits = judge(
        SummedLoss(model, "auto"),
        made,
        micro_batch=micro_batch,
        device=device,
        filler=filler,
        log=log,
    )
    model.train(was_training)
    sizes = {source: sum(d.bytes for d in documents[source]) for source in made}
    return by_language(bits, sizes, languages or {})


def encode_documents(
    documents: Path | str | Sequence[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    *,
    split: str | None,
    most: int | None = None,
) -> tuple[dict[str, list[Judged]], dict[str, str]]:
    """Documents by source, ready to be judged, and the language of each plain-text source.

    most: tokens per source at which its further documents are left out.
    """
    found: dict[str, list[Judged]] = {}
    used: dict[str, int] = {}
    languages: dict[str, dict[str, int]] = {}
    for batch in read_documents(documents, split=split, kinds=("text", "parallel", "chat")):
        for row, ids, mask in encode_rows(batch.to_pylist(), tokenizer):
            source, size = row["source"], trained_bytes(row)
            if not size or (most is not None and used.get(source, 0) >= most):
                continue
            said = None if mask is None else np.array(mask[:-1], bool)
            found.setdefault(source, []).append(Judged(np.array(ids[:-1], np.int64), size, said))
            used[source] = used.get(source, 0) + len(ids)
            if row["kind"] == "text" and row["language"]:
                counts = languages.setdefault(source, {})
                counts[row["language"]] = counts.get(row["language"], 0) + 1
    return found, {s: max(sorted(c), key=lambda name: c[name]) for s, c in languages.items()}


def evaluate_model(
    model_folder: Path | str,
    documents: Path | str | Sequence[str | Path],
    *,
    split: str | None = "heldout",
    sequence_length: int | None = None,
    tokens_per_source: int | None = None,
    log: Log = silent,
) -> dict[str, float]:
    """Bits per byte of a saved model on documents, by source and language.

    split: "heldout" (what training never read) or None for all. sequence_length: the window; default:
    the model's longest, at most 2,048. Raises InputError where there is nothing to judge.
    """
    tokenizer = load_tokenizer(model_folder)
    found, languages = encode_documents(documents, tokenizer, split=split, most=tokens_per_source)
    if not found:
        raise InputError(f"{documents}: no held-out document to judge by; name other documents")
    model = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype="auto")
    if torch.cuda.is_available():
        model = model.to("cuda")
    elif model.dtype == torch.bfloat16:
        model = model.float()  # exact, and faster than emulated bf16
    length = sequence_length or min(2048, model.config.get_text_config().max_position_embeddings)
    return bits_per_byte(
        model,
        found,
        sequence_length=length,
        filler=begin_id(tokenizer),
        languages=languages,
        log=log,
    )


def texts_as_documents(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[Judged]:
    """Plain texts, ready for `bits_per_byte`."""
    made = [{"kind": "text", "text": text, "segments": None} for text in texts if text]
    return [
        Judged(np.array(ids[:-1], np.int64), len(row["text"].encode("utf-8")))
        for row, ids, _ in encode_rows(made, tokenizer)
    ]
