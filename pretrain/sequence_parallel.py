"""Several ranks on each sequence, for contexts whose activations one card cannot hold.

In: a batch that every rank of a group has whole. Out: each rank's slice of its columns, and attention
that sees all of it. This is DeepSpeed-Ulysses (Jacobs et al. 2023): everything but attention works on
a token by itself, so a rank keeps length/size tokens; around attention an all-to-all gives each rank
all tokens of heads/size heads, and another one takes the result back. What is exchanged is 4 × hidden ×
length/size elements a layer and rank, whatever the number of ranks.

A group is ranks that follow each other, so those of one machine. Ranks of a group take the same
sequences, the groups different ones, and DeepSpeed sees nothing of it: a slice's loss is a sum over its
targets, and sums over all ranks are what the trainer divides by. The attention function is exchanged
under its own name (sdpa, flash_attention_2), for transformers asks for that name in many places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from configs.errors import InputError
from configs.schema import Pretrain
from pretrain.data.batches import Batch
from pretrain.weights.isolation import block_mask
from pretrain.zero import Ranks


class _Exchange(torch.autograd.Function):
    """[size, …] → [size, …]: item k goes to rank k of the group, item k comes from it."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: Any) -> Tensor:  # type: ignore[override]
        ctx.group = group
        sent = sent.contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(gradients[0], ctx.group), None


def to_heads(x: Tensor, size: int, group: Any) -> Tensor:
    """[batch, heads, length/size, width] → [batch, heads/size, length, width]."""
    batch, heads, part, width = x.shape
    sent = x.view(batch, size, heads // size, part, width).movedim(1, 0)
    received = _Exchange.apply(sent, group)  # [source, batch, heads/size, part, width]
    return received.permute(1, 2, 0, 3, 4).reshape(batch, heads // size, size * part, width)


def to_tokens(x: Tensor, size: int, group: Any) -> Tensor:
    """[batch, length, heads/size, width] → [batch, length/size, heads, width]."""
    batch, length, heads, width = x.shape
    sent = x.reshape(batch, size, length // size, heads, width).movedim(1, 0)
    received = _Exchange.apply(sent, group)  # [source, batch, part, heads/size, width]
    return received.permute(1, 2, 0, 3, 4).reshape(batch, length // size, size * heads, width)


class SequenceParallel:
    """This rank among those that share its sequences. size 1: nobody does, and nothing changes.

    Every rank makes one, at the same time. Raises InputError where the number of ranks, or a length,
    cannot be divided.
    """

    def __init__(self, pretrain: Pretrain, ranks: Ranks) -> None:
        self.size = size = pretrain.sequence_parallel
        if ranks.world_size % size:
            raise InputError(
                f"pretrain.sequence_parallel: {size} ranks share a sequence, and {ranks.world_size} ranks "
                f"are no multiple of that; start {size * max(1, ranks.world_size // size)}"
            )
        self.replicas, self.replica = ranks.world_size // size, ranks.rank // size
        self.place = ranks.rank % size
        self._group: Any = None
        if size > 1:
            made = [
                dist.new_group(list(range(k, k + size))) for k in range(0, ranks.world_size, size)
            ]
            self._group = made[self.replica]
        self._positions: tuple[Tensor, Tensor] | None = None
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def part(self, batch: Batch) -> Batch:
        """This rank's columns of a batch."""
        if self.size == 1:
            return batch
        length = batch.input_ids.shape[1] // self.size
        columns = slice(self.place * length, (self.place + 1) * length)
        inputs = (batch.input_ids, batch.position_ids, batch.targets)
        return Batch(*(tensor[:, columns].contiguous() for tensor in inputs))

    @contextmanager
    def attention(self, model: Any) -> Iterator[None]:
        """While it lasts, attention of this process goes through the group.

        Raises InputError for a model whose heads cannot be divided, or that has no such attention.
        """
        if self.size == 1:
            yield
            return
        config = model.config.get_text_config()
        keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        if config.num_attention_heads % self.size or keys % self.size:
            raise InputError(
                f"pretrain.sequence_parallel: {self.size} does not divide the {keys} key heads of this model; "
                f"write a number that divides {keys}"
            )
        name = model.config._attn_implementation
        if not getattr(model, "_supports_attention_backend", False) or name == "eager":
            raise InputError(
                f"pretrain.sequence_parallel: {config.model_type} has an attention of its own, which cannot be "
                "divided; leave sequence_parallel out"
            )
        whole = ALL_ATTENTION_FUNCTIONS[name]
        ALL_ATTENTION_FUNCTIONS[name] = self._divided(whole, masked=not name.startswith("flash"))
        try:
            yield
        finally:
            ALL_ATTENTION_FUNCTIONS[name] = whole
            self._positions = None
            self._masks.clear()

    def _divided(self, attend: Callable[..., Any], *, masked: bool) -> Callable[..., Any]:
        def divided(
            module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any
        ) -> tuple[Tensor, None]:
            """The mask was made for this rank's tokens, so it is no use; another is made of all."""
            positions = self._all_positions(rest["position_ids"])
            query, key, value = (to_heads(x, self.size, self._group) for x in (query, key, value))
            mask = (
                self._mask(positions, query.dtype, rest.get("sliding_window")) if masked else None
            )
            seen, _ = attend(
                module, query, key, value, mask, **(rest | {"position_ids": positions})
            )
            return to_tokens(seen, self.size, self._group), None

        return divided

    def _all_positions(self, own: Tensor) -> Tensor:
        """Of the whole sequence, int64 [batch, length]; gathered once, not in every layer."""
        if self._positions is None or self._positions[0] is not own:
            parts = [torch.empty_like(own) for _ in range(self.size)]
            dist.all_gather(parts, own.contiguous(), group=self._group)
            self._positions = own, torch.cat(parts, dim=1)
            self._masks.clear()
        return self._positions[1]

    def _mask(self, positions: Tensor, dtype: torch.dtype, window: int | None) -> Tensor:
        if (window, dtype) not in self._masks:
            self._masks[window, dtype] = block_mask(positions, dtype, window)
        return self._masks[window, dtype]
