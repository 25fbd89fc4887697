"""Growing a model's vocabulary: where the rows of new tokens start.

In: a model with rows for its own vocabulary, and new_tokens.tsv, in which each new token names the
base tokens that its bytes used to be. Out: the same model with a row for every token, padded to a
multiple, and which rows are old, new and padding.

A new token's input row is the mean of its base subtokens' rows: the model already reads those bytes
that way (2.335 bits per byte right after extension, against 2.376 for the mean of all rows and 2.393
for random ones; base 2.190). Its output row, where the head is a matrix of its own, is the mean of
all old rows: a copy of a subtoken's output row takes probability from that subtoken (old-token path
2.19 → 2.4–2.5). Padding rows only round the shape up for the hardware. They hold the mean too, no
label ever names them, and generation suppresses them (`suppress_tokens`, written by export.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from configs.errors import InputError
from configs.schema import NewRows

Start = Literal["subtokens", "mean", "random"]


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
    """new_tokens.tsv → {new id: base ids of the same bytes}; {} where there is no such file."""
    if not path.is_file():
        return {}
    new: dict[int, list[int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
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
    return new


def _start(old: Tensor, ids: list[list[int]], how: Start, generator: torch.Generator) -> Tensor:
    """float32 [len(ids), hidden]: the first values of new rows."""
    mean = old.mean(0)
    if how == "subtokens":
        return torch.stack([old[parts].mean(0) if parts else mean for parts in ids])
    rows = mean.expand(len(ids), -1).clone()
    if how == "random":
        rows = torch.randn(rows.shape, generator=generator) * old.std(0) + mean
    return rows


def grow(model: Any, rows: Rows, new: dict[int, list[int]], config: NewRows, seed: int) -> None:
    """Give a loaded transformers model `rows.total` rows, and the new ones their start. In place."""
    generator = torch.Generator().manual_seed(seed)
    matrices = [(model.get_input_embeddings(), config.input)]
    tied = model.get_output_embeddings() is None or (
        model.get_output_embeddings().weight is model.get_input_embeddings().weight
    )
    old = [matrices[0][0].weight.detach()[: rows.base].float().clone()]
    if not tied:
        matrices.append((model.get_output_embeddings(), config.output))
        old.append(matrices[1][0].weight.detach()[: rows.base].float().clone())
    if model.get_input_embeddings().weight.shape[0] != rows.total:
        model.resize_token_embeddings(rows.total, mean_resizing=False)
    base_ids = [new.get(index, []) for index in range(rows.base, rows.vocabulary)]
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    for module, values, (_, how) in zip(modules, old, matrices, strict=False):
        weight = module.weight
        with torch.no_grad():
            if base_ids:
                start = _start(values, base_ids, how, generator)
                weight[rows.base : rows.vocabulary] = start.to(weight.dtype)
            weight[rows.vocabulary :] = values.mean(0).to(weight.dtype)
