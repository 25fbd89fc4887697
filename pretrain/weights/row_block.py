"""New rows of the vocabulary as a block of their own: the old rows are frozen, only the block learns.

In: an embedding or head whose matrix is [rows, hidden], and which rows are new. Out: the same module
with two parameters: `weight`, frozen, and `new_rows` [new, hidden], which stands in for weight's rows
of new tokens. Saved weights are put together again (`whole`), so a checkpoint on disk looks ordinary.

The other way is a hook that zeroes the gradient of all other rows. Then gradient, moments and the
optimizer's float32 copy are as large as the whole matrix: 20 GB for 160,000 × 4,096 × 2, of which
30,000 new rows need 3.9, and the head's gradient is computed for rows that are to be thrown away.
Measured on one core, ZeRO 3, fp32, 160,000 × 512 untied with 30,000 new rows, 128 tokens a step
(`python tests/benchmarks/row_block.py`): hook 27 tokens/s and 4,386 MB, block 80 tokens/s and 2,305 MB.
The cost of the block is one gather more in the embedding, three products instead of one in the head,
and a second copy of the new rows (the one in `weight` lies idle).

Old rows cannot move at all: they are not parameters that learn, in any ZeRO stage.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from configs.errors import InputError
from pretrain.weights.embeddings import Rows

NAME = "new_rows"


def gathered(*parameters: nn.Parameter) -> AbstractContextManager[Any]:
    """The parameters whole on every rank, to be read; ZeRO-3 holds a share of them otherwise."""
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return cast(AbstractContextManager[Any], deepspeed.zero.GatheredParameters(sharded))


def split_embedding(module: nn.Embedding, rows: Rows) -> nn.Parameter:
    """Freeze an embedding and let a block learn in place of its new rows; returns the block.

    Raises InputError where the module is no plain embedding (a scale, as in Gemma 3, is known).
    """
    scale = getattr(module, "embed_scale", None)
    if not isinstance(module, nn.Embedding) or (type(module) is not nn.Embedding and scale is None):
        raise InputError(
            f"train: embed.new_rows: {type(module).__name__} is no plain embedding, so its rows cannot "
            "be split off; train embed"
        )
    block = _split(module, rows)

    def forward(ids: Tensor) -> Tensor:
        new = (ids >= rows.base) & (ids < rows.vocabulary)
        place = torch.where(new, ids - rows.base, 0)
        found = torch.where(
            new[..., None],
            functional.embedding(place, module.new_rows),  # type: ignore[arg-type]
            functional.embedding(ids, module.weight),
        )
        return found if scale is None else found * module.embed_scale.to(found.dtype)  # type: ignore[operator, union-attr]

    module.forward = forward  # type: ignore[method-assign, assignment]
    return block


def split_head(module: nn.Linear, rows: Rows, shared: nn.Parameter | None = None) -> nn.Parameter:
    """The same for a head. shared: the embedding's block, where one matrix serves as both."""
    if not isinstance(module, nn.Linear):
        raise InputError(
            f"train: head.new_rows: {type(module).__name__} is no linear layer, so its rows cannot be "
            "split off; train head"
        )
    block = _split(module, rows, shared)
    if module.bias is not None:
        module.bias.requires_grad_(False)

    def forward(hidden: Tensor) -> Tensor:
        logits = torch.cat([functional.linear(hidden, part) for part in head_parts(module)], dim=-1)
        return logits if module.bias is None else logits + module.bias

    module.forward = forward  # type: ignore[method-assign, assignment]
    return block


def _split(module: Any, rows: Rows, shared: nn.Parameter | None = None) -> nn.Parameter:
    module.weight.requires_grad_(False)
    module.row_range = (rows.base, rows.vocabulary)
    if shared is None:
        with gathered(module.weight), torch.no_grad():
            shared = nn.Parameter(module.weight[rows.base : rows.vocabulary].clone())
    module.register_parameter(NAME, shared)
    return shared


def head_parts(module: Any) -> list[Tensor]:
    """The head's matrix as blocks of rows, in order: one, or old rows, new rows and padding.

    To be called inside the module's forward: under ZeRO-3 its parameters are whole only there.
    """
    if getattr(module, NAME, None) is None:
        return [module.weight]
    first, last = module.row_range
    parts = [module.weight[:first], module.new_rows, module.weight[last:]]
    return [part for part in parts if part.shape[0]]


def whole(state: dict[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    """A model's state with every block put back into its matrix, under the matrix's name."""
    made = {name: value for name, value in state.items() if not name.endswith(f".{NAME}")}
    for name, block in state.items():
        if name.endswith(f".{NAME}"):
            matrix = f"{name.removesuffix(NAME)}weight"
            full = made[matrix].clone()  # the state may share memory with the model
            full[rows.base : rows.vocabulary] = block.to(full.device)
            made[matrix] = full
    return made
