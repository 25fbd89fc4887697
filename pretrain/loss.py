"""Cross entropy over a large vocabulary, summed over the targets, without holding all logits.

In: hidden states [tokens, hidden], the head's weight [rows, hidden], targets [tokens]. Out: the sum of
−log p(target) in float32. The trainer divides by the target count of the whole optimizer step: a mean
of means would weigh a token by how full its micro-batch was.

With 130,000 rows the logits are the memory and most of the time. `chunked` takes a slice of tokens,
forms their logits and from them their own gradient (softmax − one-hot) while they are in the cache,
accumulating the gradients of hidden states and head already in the forward pass; the backward pass only
scales them (the idea of Liger Kernel's fused linear cross entropy, Hsu et al. 2024). Positions without
a target never reach the head, and rows of it that do not learn cost no gradient. Its cost is one
gradient-sized buffer per micro-batch. `python tests/benchmarks/large_vocabulary.py` measures it.
`logits` is the plain way, for models that scale or cap their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.data.batches import IGNORED
from pretrain.weights.isolation import block_mask, needs_mask
from pretrain.weights.row_block import head_parts

CHUNK_BYTES = 1 << 26
"""Logits in flight, float32: 128 tokens of 130k rows. Half of it took 1.2 times as long on a CPU (the head
is read once for each chunk), twice as much was 3 % faster."""
CHUNK_BYTES_GPU = 1 << 28
"""512 tokens: a GPU reads the whole head from memory for each product with a chunk. For 130k × 4,096 in
bf16 that is 1 GB, 0.3 ms at 3 TB/s, and the product 0.07 ms at 1,000 TFLOP/s for 64 tokens, 0.55 for
512. Arithmetic: no GPU was at hand."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross entropies and the gradient of their sum, a slice of tokens at a time.

    parts: the head's matrix as blocks of rows, in order; each has a gradient of its own if it learns.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, targets: Tensor, chunk: int, z_loss: float, *parts: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        needs_hidden, needs_parts = ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        hidden_grad = torch.empty_like(hidden) if needs_hidden else None
        part_grads = [
            torch.zeros_like(part) if needed else None
            for part, needed in zip(parts, needs_parts, strict=True)
        ]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        nats = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        wide = torch.promote_types(hidden.dtype, torch.float32)  # softmax in float32 at least
        ends = list(accumulate(len(part) for part in parts))
        columns = [slice(end - len(part), end) for end, part in zip(ends, parts, strict=True)]
        size = (min(chunk, len(hidden)), ends[-1])
        raw = hidden.new_empty(size)
        exact = raw if wide == hidden.dtype else hidden.new_empty(size, dtype=wide)
        for start in range(0, len(hidden), chunk):
            rows, target = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits, share = raw[: len(rows)], exact[: len(rows)]  # one buffer in float32
            for part, place in zip(parts, columns, strict=True):
                torch.mm(rows, part.t(), out=logits[:, place])
            if exact is not raw:
                share.copy_(logits)
            likeliest = share.amax(1, keepdim=True)
            wanted = share.gather(1, target)
            sums = share.sub_(likeliest).exp_().sum(1, keepdim=True)
            share.div_(sums)
            normaliser = likeliest + sums.log()
            each = normaliser - wanted
            nats[start : start + chunk] = each.squeeze(1)
            total += each.sum().float()
            if z_loss:
                total += z_loss * normaliser.square().sum().float()
            if not (needs_hidden or any(needs_parts)):
                continue
            if z_loss:
                share.mul_(1 + 2 * z_loss * normaliser)
            share.scatter_add_(1, target, torch.full_like(target, -1, dtype=wide))
            gradient = share.to(parts[0].dtype)
            if hidden_grad is not None:
                found = hidden_grad[start : start + chunk]
                torch.mm(gradient[:, columns[0]], parts[0], out=found)
                for part, place in zip(parts[1:], columns[1:], strict=True):
                    found.addmm_(gradient[:, place], part)
            for part_grad, place in zip(part_grads, columns, strict=True):
                if part_grad is not None:
                    part_grad.addmm_(gradient[:, place].t(), rows)
        ctx.save_for_backward(hidden_grad, *part_grads)
        ctx.mark_non_differentiable(nats)
        return total, nats

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            None if gradient is None else gradient.mul_(outputs[0].to(gradient.dtype))
            for gradient in ctx.saved_tensors
        ]
        return scaled[0], None, None, None, *scaled[1:]


def chunked_cross_entropy(
    hidden: Tensor, parts: Sequence[Tensor], targets: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(Σ −log p(target) + z_loss · Σ log² Σ exp, float32 scalar; −log p of each, float32 [n], detached).

    hidden [n, h]; parts: the head's matrix as blocks [rows, h] in order; targets int64 [n].
    """
    if not torch.is_grad_enabled():  # autograd asks only whether a weight could have a gradient
        hidden, parts = hidden.detach(), [part.detach() for part in parts]
    rows = sum(len(part) for part in parts)
    size = CHUNK_BYTES_GPU if hidden.is_cuda else CHUNK_BYTES
    chunk = max(16, size // (4 * rows))
    return cast(
        tuple[Tensor, Tensor],
        _ChunkedCrossEntropy.apply(hidden, targets, chunk, z_loss, *parts),
    )


def plain_cross_entropy(
    logits: Tensor, targets: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same from logits [n, rows], all at once."""
    logits = logits.float()
    nats = functional.cross_entropy(logits, targets, reduction="none")
    total = nats.sum()
    if z_loss:
        total = total + z_loss * logits.logsumexp(1).square().sum()
    return total, nats.detach()


def supports_chunks(model: nn.Module) -> bool:
    """Whether the model's logits are plainly hidden @ head.T (no bias, cap or scale)."""
    config: Any = model.config
    head = cast(Any, model).get_output_embeddings()
    changes = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
    return (
        isinstance(head, nn.Linear)
        and head.bias is None
        and not any(getattr(config, name, None) not in (None, 1, 1.0) for name in changes)
    )


class SummedLoss(nn.Module):
    """A causal language model whose forward is its loss, summed over the targets.

    z_loss (Chowdhery et al. 2022, §5) is added in training only: what is judged by is cross entropy.
    The head is called as a module, even for `chunked`: under ZeRO-3 its weight is there only inside
    its own forward (outside, its shape is (0,)).
    """

    def __init__(self, model: nn.Module, loss: str, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.z_loss = z_loss
        self.masked = needs_mask(model)
        self.chunked = loss == "chunked" or (loss == "auto" and supports_chunks(model))
        if self.chunked:
            head = cast(Any, model).get_output_embeddings()
            plain = head.forward

            def forward(hidden: Tensor, targets: Tensor | None = None, z_loss: float = 0.0) -> Any:
                if targets is None:
                    return plain(hidden)
                return chunked_cross_entropy(hidden, head_parts(head), targets, z_loss)

            head.forward = forward

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, targets: Tensor, each: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Σ −log p(target) over targets that are not −100; float32 scalar.

        All int64 [batch, length]. targets[t] is the token to be predicted at t. each: also −log p of
        every target, float32 [batch, length], detached, 0 where there is none.
        """
        model: Any = self.model
        z_loss = self.z_loss if self.training else 0.0
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if self.masked:
            inputs["attention_mask"] = block_mask(position_ids, next(model.parameters()).dtype)
        flat = targets.reshape(-1)
        learned = (flat != IGNORED).nonzero().squeeze(1)
        if self.chunked:
            hidden = model.base_model(**inputs).last_hidden_state
            hidden = hidden.reshape(-1, hidden.shape[-1])[learned]
            total, nats = model.get_output_embeddings()(hidden, flat[learned], z_loss)
        else:
            logits = model(**inputs).logits
            logits = logits.reshape(-1, logits.shape[-1])[learned]
            total, nats = plain_cross_entropy(logits, flat[learned], z_loss)
        if not each:
            return cast(Tensor, total)
        spread = torch.zeros(len(flat), dtype=torch.float32, device=flat.device)
        return total, spread.index_copy(0, learned, nats.float()).view_as(targets)
