"""A saved model on held-out documents: bits per byte by source and by language.

In: a model folder and documents of any form that `read_documents` reads. Out: a `Measured` for each
language and each source. `choose` takes the same documents for every model, by a hash of their ids
and by their bytes, so that two models with different tokenizers are judged on the same text.

What N bytes a source cost is one forward pass over their tokens (windows are packed, so padding costs
nothing), after all held-out documents were read once to draw the sample. The default of 300 KB a source
is about 100,000 tokens of Korean.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import InputError
from configs.progress import Log, Progress, silent
from dedup.documents import read_documents
from pretrain.data.encode import begin_id, encode_rows, trained_bytes
from pretrain.evaluation.evaluate import bits_per_byte
from pretrain.evaluation.windows import Judged
from tokenizer.chat import HEADER
from tokenizer.load import load_tokenizer

WINDOW = 2048
"""Tokens of context at most, unless told otherwise: a longer one costs more and changes little."""

BYTES_PER_SOURCE = 300_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """A source, or all plain-text sources of a language.

    source: None for a language. language: None for sources that are not plain text. bytes: UTF-8 bytes
    judged; tokens: predictions made.
    """

    source: str | None
    language: str | None
    documents: int
    bytes: int
    tokens: int
    bits_per_byte: float

    @property
    def name(self) -> str:
        return self.source or self.language or ""


def choose(
    documents: Path | str | Sequence[str | Path],
    *,
    split: str | None = "heldout",
    most: int | None = BYTES_PER_SOURCE,
    kinds: Sequence[str] = ("text", "parallel", "chat"),
) -> list[Row]:
    """Whole documents of each source, drawn by a hash of their ids until `most` bytes are full.

    split: "heldout" (what training never read) or None for all. most: UTF-8 bytes per source; None for
    every document. The document that passes the limit is the last. Raises InputError where there is
    nothing to judge by.
    """
    heaps: dict[
        str, list[tuple[int, int, int, Row]]
    ] = {}  # farthest first: (−key, number, bytes, row)
    full: dict[str, int] = {}
    columns = ("id", "kind", "text", "segments", "source", "language")
    number = 0
    for batch in read_documents(documents, split=split, kinds=kinds, columns=columns):
        for row in batch.to_pylist():
            size = trained_bytes(row)
            if not size:
                continue
            key = int.from_bytes(blake2b(row["id"].encode(), digest_size=8).digest(), "big")
            heap = heaps.setdefault(row["source"], [])
            number += 1
            heapq.heappush(heap, (-key, number, size, row))
            full[row["source"]] = full.get(row["source"], 0) + size
            while most is not None and full[row["source"]] - heap[0][2] >= most:
                full[row["source"]] -= heapq.heappop(heap)[2]
    if not heaps:
        where = documents if isinstance(documents, str | Path) else ", ".join(map(str, documents))
        raise InputError(f"{where}: no held-out document to judge by; name other documents")
    return [
        row
        for source in sorted(heaps)
        for _, _, _, row in sorted(heaps[source], key=lambda one: (-one[0], one[1]))
    ]


def window_of(model_folder: Path | str, wanted: int | None = None) -> int:
    """Tokens of context a model is judged with: `wanted`, or its longest, at most 2,048.

    Raises InputError where there is no such model, or it has fewer positions than `wanted`.
    """
    try:
        config = AutoConfig.from_pretrained(str(model_folder)).get_text_config()
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"{model_folder}: cannot be loaded as a model ({first}); give a model's folder or its hub id"
        ) from error
    positions = getattr(config, "max_position_embeddings", None)
    if wanted is not None and positions is not None and wanted > positions:
        raise InputError(
            f"--window: {wanted} tokens are more than the {positions} positions of {model_folder}; "
            f"make it {positions} or less"
        )
    return wanted or min(WINDOW, positions or WINDOW)


def measure(
    model_folder: Path | str,
    chosen: Sequence[Row],
    *,
    sequence_length: int | None = None,
    micro_batch: int | None = None,
    log: Log = silent,
) -> list[Measured]:
    """Languages, then sources, by name. Dialogues only if the tokenizer has tokens for their roles.

    sequence_length: the window in tokens; default: the model's longest, at most 2,048. micro_batch:
    windows at a time; default 1 on a CPU, 8 on a GPU.
    """
    log(Progress("evaluate", "load", message=str(model_folder)))
    tokenizer = load_tokenizer(model_folder)
    talks = HEADER in tokenizer.get_vocab()
    found: dict[str, list[Judged]] = {}
    spoken: dict[str, dict[str, int]] = {}
    for row, ids, mask in encode_rows(
        [row for row in chosen if talks or row["kind"] != "chat"], tokenizer
    ):
        said = None if mask is None else np.array(mask[:-1], bool)
        judged = Judged(np.array(ids[:-1], np.int64), trained_bytes(row), said)
        found.setdefault(row["source"], []).append(judged)
        if row["kind"] == "text" and row["language"]:
            counts = spoken.setdefault(row["source"], {})
            counts[row["language"]] = counts.get(row["language"], 0) + 1
    languages = {source: _commonest(counts) for source, counts in spoken.items()}
    model = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype="auto")
    gpu = torch.cuda.is_available()
    if gpu:
        model = model.to("cuda")
    elif model.dtype != torch.float32:
        model = model.float()  # exact, and faster than emulated bf16
    bits = bits_per_byte(
        model,
        found,
        sequence_length=window_of(model_folder, sequence_length),
        filler=begin_id(tokenizer),
        micro_batch=micro_batch or (8 if gpu else 1),
        log=log,
    )
    sources = [
        _of_source(name, languages.get(name), found[name], bits[name]) for name in sorted(bits)
    ]
    return [*_of_languages(sources), *sources]


def _commonest(counts: dict[str, int]) -> str:
    return max(sorted(counts), key=lambda name: counts[name])


def _of_source(
    name: str, language: str | None, documents: Sequence[Judged], bits: float
) -> Measured:
    tokens = sum(
        len(one.ids) - 1 if one.said is None else int(one.said[1:].sum()) for one in documents
    )
    return Measured(
        name, language, len(documents), sum(one.bytes for one in documents), tokens, bits
    )


def _of_languages(sources: Sequence[Measured]) -> list[Measured]:
    """Each language over its sources, by bytes."""
    made = []
    for language in sorted({one.language for one in sources if one.language}):
        own = [one for one in sources if one.language == language]
        size = sum(one.bytes for one in own)
        made.append(
            Measured(
                None,
                language,
                sum(one.documents for one in own),
                size,
                sum(one.tokens for one in own),
                sum(one.bits_per_byte * one.bytes for one in own) / size,
            )
        )
    return made


def evaluate_model(
    model_folder: Path | str,
    documents: Path | str | Sequence[str | Path],
    *,
    split: str | None = "heldout",
    sequence_length: int | None = None,
    bytes_per_source: int | None = BYTES_PER_SOURCE,
    log: Log = silent,
) -> dict[str, float]:
    """Bits per byte of a saved model on documents, by source and language; see `choose`, `measure`."""
    chosen = choose(documents, split=split, most=bytes_per_source)
    found = measure(model_folder, chosen, sequence_length=sequence_length, log=log)
    return {one.name: one.bits_per_byte for one in found}
