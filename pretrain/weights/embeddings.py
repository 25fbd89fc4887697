"""Growing a model's vocabulary: where the rows of new tokens start.

In: the old rows of a vocabulary matrix, wherever they lie, and new_tokens.tsv, in which each new token
names the base tokens that its bytes used to be. Out: the values of the new rows, a block at a time, and
of the padding rows. `shards.py` writes them into a checkpoint without loading it; `grow` puts them into
a model that is loaded.

The methods, chosen for input and output apart: `subtokens` (mean of the rows of its base subtokens),
`first` (row of the first one; as output row, with `subtokens` as input, this is EEVE's: Kim et al.
2024), `mean` (of all old rows: Hewitt 2021), `random` (normal, with the mean and deviation of the old
rows in each dimension), `given` (vectors from a file).

The default, `subtokens` in and `first` out, is what read held-out Korean best after 200 steps; the
mean of all rows as output, best before the first step, costs every step after it, because all new rows
start equal. Bits per byte on a base of 9.7 M parameters trained on 4.2 M tokens, + 4,096 tokens, 200
steps of 256 tokens of Korean, mean ± deviation of three seeds:

    input / output         Korean at once   after 200 steps    English at once    after 200 steps
    subtokens / first           2.436        2.162 ± 0.009          1.717          1.780 ± 0.001
    subtokens / subtokens       2.375        2.177 ± 0.010          1.704          1.772 ± 0.001
    subtokens / mean            2.304        2.218 ± 0.010          1.699          1.764 ± 0.003
    first / first               2.544        2.218 ± 0.009          1.717          1.785 ± 0.003
    subtokens / random          2.321        2.225 ± 0.010          1.732          1.782 ± 0.002
    mean / mean                 2.519        2.230 ± 0.010          1.699          1.769 ± 0.003
    random / mean               2.313        2.243 ± 0.010          1.699          1.765 ± 0.004
    random / random             2.332        2.251 ± 0.010          1.732          1.783 ± 0.003
    no new tokens               2.147        2.149 ± 0.003          1.684          1.731 ± 0.005

What `first` costs: rows that copy old ones take probability from them (text cut into the base's own
tokens reads 2.679, with `mean` 2.163), and English forgets 0.016 more. 51,000 tokens are too few for new
tokens to pay at all: what they save is tokens, and the last line shows what they cost at first. Tied models use `input` for both.
(`python tests/benchmarks/new_rows.py methods` measures it.)

Padding rows only round the shape up for the hardware. They hold the mean of the old rows, no label
names them, and generation suppresses them (`suppress_tokens`, written by export.py). What softmax they
take in the loss is bounded: exp(h · mean) ≤ mean of exp(h · row), so n of them beside `base` old rows
hold at most n / base of the probability (63 on Llama-3: 0.05 %, 0.0007 bits a token), and training
pushes them down from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from configs.errors import InputError
from configs.schema import NewRows, RowStart

BLOCK = 1024
"""Rows in memory at a time: 16 MB of float32 at 4,096 dimensions."""

Take = Callable[[Tensor], Tensor]
"""int64 ids [n] → those rows of a matrix, float32 [n, hidden]."""

Given = Callable[[int], Tensor | None]
"""Place among the new tokens → its vector [hidden], or None where the file has none."""

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Rows:
    """The rows of a vocabulary matrix: [0, base) old, [base, vocabulary) new, [vocabulary, total) padding."""

    base: int
    vocabulary: int
    total: int

    @classmethod
    def of(cls, base: int, vocabulary: int, multiple: int, present: int) -> Rows:
        """Rows for `vocabulary` tokens, of which `base` are old; `present` is what the model has."""
        return cls(base, vocabulary, max(present, -(-vocabulary // multiple) * multiple))


def read_new_tokens(path: Path) -> dict[int, list[int]]:
    """new_tokens.tsv → {new id: base ids of the same bytes}; {} where there is no such file.

    Raises InputError, naming the line, where it is damaged or a base id is not below every new one.
    """
    if not path.is_file():
        return {}
    new: dict[int, list[int]] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\r").split("\t")
        if number == 1 or not line:
            continue
        try:
            new[int(fields[0])] = [int(part) for part in fields[4].split()]
        except (IndexError, ValueError):
            raise InputError(
                f"{path}:{number}: not a line of id, token, text, count and base_ids; "
                "make the tokenizer again"
            ) from None
    first = min(new, default=0)
    for index, parts in new.items():
        if any(not 0 <= part < first for part in parts):
            raise InputError(
                f"{path}: token {index} is made of {parts}, which are not all tokens of the base "
                f"(0 to {first - 1}); make the tokenizer again"
            )
    return new


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of the old rows in each dimension, float32 [hidden]."""

    mean: Tensor
    deviation: Tensor


def spread(take: Take, base: int) -> Spread:
    """Over rows [0, base), a block at a time, in float64."""
    total = squares = torch.zeros((), dtype=torch.float64)
    for start in range(0, base, BLOCK):
        block = take(torch.arange(start, min(base, start + BLOCK))).double()
        total = total + block.sum(0)
        squares = squares + block.square().sum(0)
    mean = total / base
    variance = (squares / base - mean.square()).clamp_min(0) * (base / max(1, base - 1))
    return Spread(mean.float(), variance.sqrt().float())


def start_rows(
    take: Take,
    of_all: Spread,
    base_ids: list[list[int]],
    how: RowStart,
    generator: torch.Generator,
    given: Given | None = None,
) -> Iterator[Tensor]:
    """The first values of new rows, float32 [at most BLOCK, hidden] at a time.

    base_ids: of each new token, the base tokens of the same bytes; one without any starts at the mean.
    given: place among the new tokens → its vector, or None where the file has none: then subtokens.
    """
    for start in range(0, len(base_ids), BLOCK):
        block = base_ids[start : start + BLOCK]
        if how in ("mean", "random"):
            values = of_all.mean.repeat(len(block), 1)
            if how == "random":
                noise = torch.randn(values.shape, generator=generator)
                values = noise * of_all.deviation + values
        else:
            parts = [ids[:1] for ids in block] if how == "first" else block
            values = _means(take, parts, of_all.mean)
        if how == "given":
            assert given is not None
            for place in range(len(block)):
                vector = given(start + place)
                if vector is not None:
                    values[place] = vector
        yield values


def _means(take: Take, parts: list[list[int]], fallback: Tensor) -> Tensor:
    """Mean of the rows of each token's parts, float32 [len(parts), hidden]."""
    flat = torch.tensor([part for ids in parts for part in ids], dtype=torch.int64)
    counts = torch.tensor([len(ids) for ids in parts])
    token = torch.repeat_interleave(torch.arange(len(parts)), counts)
    distinct, where = flat.unique(return_inverse=True)
    values = torch.zeros(len(parts), len(fallback))
    rows = take(distinct)
    for begin in range(0, len(flat), BLOCK):  # a long token names many rows, some of them often
        own = slice(begin, begin + BLOCK)
        values.index_add_(0, token[own], rows[where[own]])
    values /= counts.clamp_min(1)[:, None]
    values[counts == 0] = fallback
    return values


def grown_rows(
    take: Take,
    rows: Rows,
    new: dict[int, list[int]],
    config: NewRows,
    side: Side,
    seed: int,
    given: Given | None = None,
) -> Iterator[Tensor]:
    """Rows [base, total) of the input or the output matrix, float32, at most BLOCK at a time.

    take reads the old rows; each side draws from a generator of its own, so the values do not depend
    on which matrix is written first.
    """
    how = config.input if side == "input" else config.output
    generator = torch.Generator().manual_seed(2 * seed + (side == "output"))
    of_all = spread(take, rows.base)
    base_ids = [new.get(index, []) for index in range(rows.base, rows.vocabulary)]
    yield from start_rows(take, of_all, base_ids, how, generator, given)
    for start in range(rows.vocabulary, rows.total, BLOCK):
        yield of_all.mean.repeat(min(BLOCK, rows.total - start), 1)


def is_tied(model: Any) -> bool:
    """Whether one matrix serves as embedding and head."""
    head = model.get_output_embeddings()
    return head is None or head.weight is model.get_input_embeddings().weight


def grow(
    model: Any,
    rows: Rows,
    new: dict[int, list[int]],
    config: NewRows,
    seed: int,
    given: dict[Side, Given] | None = None,
) -> None:
    """Give a loaded transformers model `rows.total` rows, and the new ones their start. In place.

    For what `shards.py` cannot take (no safetensors, a head with a bias): old and new matrices are in
    memory together while it works.
    """
    tied = is_tied(model)
    if model.get_input_embeddings().weight.shape[0] != rows.total:
        model.resize_token_embeddings(rows.total, mean_resizing=False)
    sides: list[tuple[Side, Any]] = [("input", model.get_input_embeddings())]
    if not tied:
        sides.append(("output", model.get_output_embeddings()))
    for side, module in sides:
        weight = module.weight.detach()

        def take(ids: Tensor, weight: Tensor = weight) -> Tensor:
            return weight[ids].float()

        at = rows.base
        for block in grown_rows(take, rows, new, config, side, seed, (given or {}).get(side)):
            weight[at : at + len(block)] = block.to(weight.dtype)
            at += len(block)
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        bias.detach()[rows.base :] = bias.detach()[: rows.base].float().mean().to(bias.dtype)
