"""Documents packed into one sequence must not see each other: how a model is told, and the proof.

In: position_ids [batch, length] that restart at 0 with each document. Out: for most architectures
nothing: transformers builds block-diagonal attention from the positions by itself. Falcon's forward
takes position_ids and gives its mask none of them, so for it the mask is made here, [batch, 1, length,
length]; not with alibi (falcon-rw), whose bias is made from a mask of two dimensions: that is refused.

Which architectures keep documents apart is not a list that can be kept true by hand: every engine is
asked once, by a few tokens, before its first step. The cost is one forward pass of two short rows.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from configs.errors import InputError

MASKED = frozenset({"falcon"})
"""model_type of those whose attention is not told of the positions, and takes a mask of four dimensions."""

_PART = 8  # tokens in a document of the probe


def needs_mask(model: Any) -> bool:
    """Whether a mask must be passed beside the positions. FlashAttention reads the positions itself."""
    config = model.config
    takes_mask = config.model_type in MASKED and not getattr(config, "alibi", False)
    return takes_mask and config._attn_implementation != "flash_attention_2"


def block_mask(position_ids: Tensor, dtype: torch.dtype, window: int | None = None) -> Tensor:
    """What to add to attention's scores: 0 where a token of the same document stands at or before, less
    than `window` tokens away where there is one; else the least number. [batch, 1, length, length] of
    `dtype`; position_ids int64 [batch, length]."""
    steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=1)
    document = (steps != 1).cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    seen = same & torch.ones_like(same[0]).tril()
    if window is not None:
        seen &= position_ids[:, :, None] - position_ids[:, None, :] < window
    least = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, least)[
        :, None
    ]


@torch.no_grad()
def check_isolation(loss: Any, model: Any, device: torch.device, *, flat: bool) -> None:
    """Raise InputError where a document's loss depends on what stands before it in the sequence.

    loss: a SummedLoss or an engine around it, in training or not; every rank calls this. flat: the
    documents behind one another in one row, as FlashAttention wants them.
    """
    config = model.config.get_text_config()
    refusal = InputError(
        f"pretrain.base: {config.model_type} lets the documents of a packed sequence see each other "
        "(its attention is not told of position_ids); take another architecture"
    )
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise refusal
    rows = max(8, int(config.vocab_size) - 1)
    chosen = torch.Generator().manual_seed(1)
    one, other, judged = (torch.randint(0, rows, (_PART,), generator=chosen) for _ in range(3))
    ids = torch.stack([torch.cat([one, judged]), torch.cat([other, judged])]).to(device)
    positions = torch.arange(_PART, device=device).repeat(2, 2)
    targets = ids.roll(-1, 1)
    if flat:
        ids, positions, targets = (tensor.reshape(1, -1) for tensor in (ids, positions, targets))
    was_training = loss.training
    loss.eval()
    _, nats = loss(ids, positions, targets, True)
    loss.train(was_training)
    nats = nats.reshape(2, -1)[:, _PART:-1].double()
    wide = next(model.parameters()).dtype == torch.float32
    if float((nats[0] - nats[1]).abs().mean()) > (1e-5 if wide else 2e-2):
        raise refusal
