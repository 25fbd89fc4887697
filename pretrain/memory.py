"""Bytes that a rank needs for a phase, by what they are for, before it is started.

In: the model's shape, a phase's settings, the number of ranks. Out: `Memory` for each ZeRO stage, and
the first stage that fits a card.

The arithmetic is that of Rajbhandari et al. 2020 (ZeRO, §3) with what DeepSpeed adds to it: a float32
copy of what learns even where the weights are float32 already, buckets of gradients on their way, and
under stage 3 the weights that are gathered at a time. tests/benchmarks/plan_memory.py holds it against
trainings. Activations are counted by the tensors that a
Llama layer saves for its backward pass; other architectures are taken as such layers of their size.
What cannot be known from a config (fragments, kernels' workspaces, the CUDA context) is a stated
margin, not hidden in the rest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from configs.schema import Phase, Pretrain, TrainGroup
from pretrain.loss import CHUNK_BYTES, CHUNK_BYTES_GPU
from pretrain.shape import Shape
from pretrain.weights.trainable import layer_numbers
from pretrain.zero import BUCKET

LIVE = 1_000_000_000  # weights that ZeRO-3 keeps gathered (DeepSpeed's stage3_max_live_parameters)
MARGIN = 0.08  # of all the rest: fragments and workspaces
CONTEXT = 1_500_000_000  # CUDA's context, NCCL's buffers


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at its fullest. weights: with what ZeRO-3 gathers. gradients: with buckets.
    optimizer: float32 weights and two moments, and the float32 gradient of a step where that is more
    than activations and logits, which are gone by then. logits: of the loss and its gradients. margin:
    what no config tells."""

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
    tokens = pretrain.micro_batch * length // pretrain.sequence_parallel
    if phase.objective == "preference":  # both dialogues of a pair, and sequences are not shared
        tokens = 2 * pretrain.micro_batch * length
    learning = shape.learning(phase.train)
    share = ranks if zero_stage >= 1 else 1
    weights = shape.total * width
    if zero_stage == 3:  # gathered even where one rank has them all: DeepSpeed makes a copy
        weights = weights // ranks + min(shape.total, LIVE) * width
    accumulated = 4 if zero_stage == 0 else width  # without ZeRO gradients add up in float32
    gradients = learning * accumulated // (ranks if zero_stage >= 2 else 1)
    if zero_stage >= 1:  # a bucket on its way, and where that overlaps with computing another
        gradients += (2 if on_gpu else 1) * min(BUCKET, learning) * width
    optimizer = 12 * learning // share
    if zero_stage == 0 and width == 4:
        optimizer = 8 * learning
    step = 4 * learning // share if zero_stage >= 1 else 0
    saved = _saved(shape, phase.train, width)
    activations = _activations(shape, tokens, width, saved, pretrain.activation_checkpointing)
    logits = _logits(
        shape,
        "chunked" if phase.objective == "preference" else pretrain.loss,
        tokens,
        width,
        _head_rows(shape, phase),
        CHUNK_BYTES_GPU if on_gpu else CHUNK_BYTES,
    )
    optimizer += max(0, step - activations - logits)
    if on_gpu and pretrain.offload != "none":  # in the CPU's memory then
        optimizer = 0
        if pretrain.offload == "all":
            weights = min(shape.total, LIVE) * width
    known = weights + gradients + optimizer + activations + logits
    margin = int(MARGIN * known) + (CONTEXT if on_gpu else 0)
    return Memory(weights, gradients, optimizer, activations, logits, margin)


def _head_rows(shape: Shape, phase: Phase) -> int:
    """Rows of the head that have a gradient."""
    groups = {"head"} if phase.train == "all" else set(phase.train)
    sides = ("head", "embed") if shape.tied else ("head",)
    if any(side in groups for side in sides):
        return shape.vocabulary
    return shape.new_rows if any(f"{side}.new_rows" in groups for side in sides) else 0


def _saved(shape: Shape, train: str | list[TrainGroup], width: int) -> list[int]:
    """Bytes of a token that each layer saves for the backward pass.

    A layer that learns: its input, both norms' (in float32 and as they leave it), query, key and value
    before and after rotation, what attention gives, gate, up, their product. One that a gradient only
    passes: what its own nonlinear parts need, for a matrix that stands still needs no input. One with
    nothing that learns at or below it: nothing.
    """
    attended = shape.heads * shape.head_size
    keyed = shape.key_value_heads * shape.head_size
    learns = width * (4 * shape.hidden + 3 * attended + 4 * keyed + 4 * shape.intermediate)
    learns += 4 * 2 * shape.hidden
    passes = width * (2 * shape.hidden + 2 * attended + 2 * keyed + 3 * shape.intermediate)
    groups: set[str] = {"layers", "norms"} if train == "all" else set(train)
    everywhere = bool(groups & {"layers", "lora"})
    ranges = [layer_numbers(group, shape.layers) for group in groups if group.startswith("layers.")]
    named = {number for found in ranges for number in found}
    inputs = {"embed", "embed.new_rows", *(("head", "head.new_rows") if shape.tied else ())}
    from_below = everywhere or bool(groups & (inputs | {"norms"}))
    lowest = 0 if from_below else min(named, default=shape.layers)
    return [
        0 if n < lowest else learns if everywhere or n in named else passes
        for n in range(shape.layers)
    ]


def _activations(
    shape: Shape, tokens: int, width: int, saved: list[int], checkpointing: bool
) -> int:
    """Of all layers, and the last norm. checkpointing: inputs of the layers, and one layer in full."""
    whole = sum(saved)
    if checkpointing:
        whole = width * shape.hidden * sum(map(bool, saved)) + max(saved, default=0)
    return tokens * (whole + 2 * width * shape.hidden)


def _logits(shape: Shape, loss: str, tokens: int, width: int, head_rows: int, chunk: int) -> int:
    """In chunks: a buffer in float32, one more in the weights' type where that is another, the gradient of
    the hidden states and of the head. Whole: the logits, in float32 once more, and the gradient of both."""
    if loss != "logits":
        head = shape.hidden * head_rows * width
        buffers = chunk if width == 4 else chunk + chunk * width // 4
        return buffers + tokens * shape.hidden * width + head
    return tokens * shape.vocabulary * (2 * width + 8)
