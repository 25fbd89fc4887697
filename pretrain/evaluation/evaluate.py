"""Bits per byte on held-out text: how many bits the model needs for a byte of a source.

In: a model and held-out documents. Out: Σ −log2 p(token) / UTF-8 bytes, by source, and by language
over its plain-text sources. Bytes, not tokens, so that models with different tokenizers compare.

It is the measure of lm-eval's rolling log-likelihood (Gao et al.), to which a test holds it within 1e-4:
every token of the text is predicted once, BOS stands before the first and EOS is not judged. lm-eval
puts a second BOS before texts where the tokenizer adds one of its own, and then judges that too; ask it
with `add_bos_token=False`. Text that spells a control token is text here, and the token to lm-eval. Of
a dialogue only what the assistant says is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from configs.progress import Log, Progress, silent
from pretrain.data.encode import encode_rows
from pretrain.data.order import permute
from pretrain.data.tokens import Tokens
from pretrain.evaluation.windows import Judged, Row, batched, rows
from pretrain.loss import SummedLoss

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


def texts_as_documents(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[Judged]:
    """Plain texts, ready for `bits_per_byte`."""
    made = [{"kind": "text", "text": text, "segments": None} for text in texts if text]
    return [
        Judged(np.array(ids[:-1], np.int64), len(row["text"].encode("utf-8")))
        for row, ids, _ in encode_rows(made, tokenizer)
    ]
