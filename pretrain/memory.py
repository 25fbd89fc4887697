"""Bytes that a rank needs for a phase, by what they are for, before it is started.

In: the model's shape, a phase's settings, the number of ranks. Out: `Memory` for each ZeRO stage, and
the first stage that fits a card.

The arithmetic is that of Rajbhandari et al. 2020 (ZeRO, §3) with what DeepSpeed adds to it: a float32
copy of what learns even where the weights are float32 already, buckets of gradients on their way, and
under stage 3 the weights that are gathered at a time. Activations are counted by the tensors that a
Llama layer saves for its backward pass; other architectures are taken as such layers of their size.
What cannot be known from a config (fragments, kernels' workspaces, the CUDA context) is a stated
margin, not hidden in the rest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from configs.schema import Phase, Pretrain
from pretrain.loss import CHUNK_BYTES
from pretrain.shape import Shape
from pretrain.zero import BUCKET

LIVE = 1_000_000_000  # weights that ZeRO-3 keeps gathered (DeepSpeed's stage3_max_live_parameters)
MARGIN = 0.08  # of all the rest: fragments and workspaces
CONTEXT = 1_500_000_000  # CUDA's context, NCCL's buffers


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. weights: with what ZeRO-3 gathers. gradients: with buckets. optimizer: float32
    weights, two moments, and the float32 gradient of a step. logits: of the loss and its gradients.
    margin: what no config tells."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    margin: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def memory(
    shape: Shape,
    pretrain: Pretrain,
    phase: Phase,
    *,
    zero_stage: int,
    ranks: int,
    width: int,
    on_gpu: bool = True,
) -> Memory:
    """Bytes of one of `ranks` ranks in a phase; `width`: bytes of a weight (2 for bf16, 4 for fp32)."""
    length = phase.sequence_length or pretrain.sequence_length
    tokens = pretrain.micro_batch * length
    learning = shape.learning(phase.train)
    share = ranks if zero_stage >= 1 else 1
    weights = shape.total * width
    if zero_stage == 3:
        weights = weights // ranks + (min(shape.total, LIVE) * width if ranks > 1 else 0)
    accumulated = 4 if zero_stage == 0 else width  # without ZeRO gradients add up in float32
    gradients = learning * accumulated
    if zero_stage >= 2:
        gradients = gradients // ranks + 2 * min(BUCKET, learning) * width
    optimizer = (4 + 8 + (4 if zero_stage >= 1 else 0)) * learning // share
    if zero_stage == 0 and width == 4:
        optimizer = 8 * learning
    activations = _activations(shape, tokens, width, pretrain.activation_checkpointing)
    logits = _logits(shape, pretrain.loss, tokens, width, learns_head=_learns_head(shape, phase))
    known = weights + gradients + optimizer + activations + logits
    margin = int(MARGIN * known) + (CONTEXT if on_gpu else 0)
    return Memory(weights, gradients, optimizer, activations, logits, margin)


def _learns_head(shape: Shape, phase: Phase) -> bool:
    groups = {"head"} if phase.train == "all" else {name.split(".")[0] for name in phase.train}
    return "head" in groups or (shape.tied and "embed" in groups)


def _activations(shape: Shape, tokens: int, width: int, checkpointing: bool) -> int:
    """Saved for the backward pass. A layer: its input, both norms' (in float32 and as they leave it),
    query, key and value before and after rotation, what attention gives, gate, up, their product."""
    attended = shape.heads * shape.head_size
    keyed = shape.key_value_heads * shape.head_size
    layer = width * (4 * shape.hidden + 3 * attended + 4 * keyed + 4 * shape.intermediate)
    layer += 4 * 2 * shape.hidden
    whole = layer * shape.layers
    if checkpointing:
        whole = width * shape.hidden * shape.layers + layer
    return tokens * (whole + 2 * width * shape.hidden)


def _logits(shape: Shape, loss: str, tokens: int, width: int, *, learns_head: bool) -> int:
    """In chunks: two buffers, the gradient of the hidden states and of the head. Whole: the logits,
    in float32 once more, and the gradient of both."""
    if loss != "logits":
        head = shape.hidden * shape.vocabulary * width if learns_head else 0
        return 2 * CHUNK_BYTES + tokens * shape.hidden * width + head
    return tokens * shape.vocabulary * (2 * width + 8)
