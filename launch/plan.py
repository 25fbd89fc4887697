"""`malmoi plan`: what a training would take, before any of it is paid for.

In: a config and how many GPUs there are (cluster_size.py). Out: text
for a terminal: batch arithmetic, steps and learning rate of each phase, memory of a GPU for every ZeRO
stage with the first that fits marked, disk, hours, and the DeepSpeed JSON.

Hours rest on a rate, FLOPs that a GPU really gets through in a second. It is an assumption until it
was measured (`--tflops`): 40 % of what the maker says of the card that has that memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from configs.errors import InputError
from configs.schema import Config, Phase, Pretrain
from launch.cluster_size import Cluster
from launch.failures import Assumed, failure_lines, machines_of_plan

if TYPE_CHECKING:
    from pretrain.memory import Memory
    from pretrain.shape import Shape

_CARDS = ((24, 165.0, "RTX 4090"), (48, 362.0, "L40S"), (80, 989.0, "H100"), (141, 989.0, "H200"))
"""Memory in GB, bf16 TFLOP/s (dense) by the maker's sheet, and the card that has both."""
_REACHED = 0.4
_BARS = "▁▂▃▄▅▆▇█"


def plan(
    config: Config,
    cluster: Cluster,
    tflops: float | None = None,
    mtbf_hours: float | None = None,
) -> tuple[str, list[str]]:
    """The plan as text, and what makes the config impossible on this cluster (empty: nothing).

    mtbf_hours: between two failures of one machine; left out, what `failures.Assumed` says.
    """
    from pretrain.phases import batch_mistakes
    from pretrain.shape import read_shape

    pretrain = config.pretrain
    if pretrain is None:
        raise InputError("pretrain: the config has no such section, so there is nothing to plan")
    uses_lora = any("lora" in phase.train for phase in pretrain.phases)
    shape = read_shape(
        pretrain.base,
        _vocabulary(config),
        pretrain.new_rows.multiple,
        pretrain.lora if uses_lora else None,
    )
    refused = [
        f"pretrain.phases.{number}: sequence_length {_length(pretrain, phase)} is more than the "
        f"model's {shape.positions} positions; set {shape.positions} or less"
        for number, phase in enumerate(pretrain.phases)
        if shape.positions is not None and _length(pretrain, phase) > shape.positions
    ]
    for number, phase in enumerate(pretrain.phases):
        refused += batch_mistakes(pretrain, number, _length(pretrain, phase))
    card, rate = _rate(cluster, tflops)
    lines = [
        f"{config.name} on {cluster}",
        "",
        f"model    {shape.name}: {shape.total / 1e9:.3g} B parameters, {shape.layers} layers of "
        f"{shape.hidden}, {shape.vocabulary:,} rows{', tied' if shape.tied else ''}",
        "",
        *_phases(pretrain, shape, cluster, rate),
        "",
        *_memories(pretrain, shape, cluster, refused),
        "",
        *_disk(pretrain, shape),
        "",
        *_failures(pretrain, shape, cluster, rate, mtbf_hours),
        "",
        f"rate     {rate / 1e12:,.0f} TFLOP/s a GPU: {card}",
        "",
        "DeepSpeed",
        json.dumps(_deepspeed(pretrain, cluster), indent=2),
    ]
    return "\n".join(lines), refused


def _vocabulary(config: Config) -> int | None:
    """Tokens after extension, as far as the config says; None for the base's own."""
    settings = config.tokenizer
    if settings is None or not isinstance(settings.new_tokens, int) or not settings.new_tokens:
        return None
    return 128_256 + settings.new_tokens


def _length(pretrain: Pretrain, phase: Phase) -> int:
    return phase.sequence_length or pretrain.sequence_length


def _rate(cluster: Cluster, tflops: float | None) -> tuple[str, float]:
    if tflops is not None:
        return "as given", tflops * 1e12
    fitting = [card for card in _CARDS if card[0] * 1e9 >= cluster.memory - 1e9] or [_CARDS[-1]]
    _, peak, name = fitting[0]
    said = f"assumed, {_REACHED:.0%} of the {peak:g} of an {name}; measure yours, then --tflops"
    return said, peak * _REACHED * 1e12


def _phases(pretrain: Pretrain, shape: Shape, cluster: Cluster, rate: float) -> list[str]:
    from pretrain.data.batches import Share
    from pretrain.phases import division
    from pretrain.schedule import learning_rate_factor

    lines = []
    hours = 0.0
    for phase in pretrain.phases:
        length = _length(pretrain, phase)
        if phase.objective == "preference":
            lines += _preference(pretrain, phase, cluster)
            continue
        sequences = 10**12 if phase.tokens is None else -(-phase.tokens // length)
        steps_of = division(pretrain, phase, sequences)
        per_step = steps_of.largest
        together = pretrain.sequence_parallel
        share = Share.of(per_step, max(1, cluster.ranks // together), pretrain.micro_batch)
        slots = share.accumulation * share.world_size * share.micro_batch
        groups = f"{share.world_size} groups of {together}" if together > 1 else f"{cluster.ranks}"
        empty = slots - per_step
        lines.append(
            f"phase    {phase.name}: {per_step * length:,} tokens a step = {per_step:,} sequences of "
            f"{length:,} = {groups} ranks × {share.micro_batch} × {share.accumulation} turns"
            + (f", {empty} slots empty ({empty / slots:.0%})" if empty else "")
        )
        if len(steps_of.sizes) > 1:
            stairs = "; ".join(
                f"{size * length:,} from step {first + 1:,}" for first, _, size in steps_of.stairs()
            )
            lines.append(f"         the batch grows: {stairs}")
        if phase.tokens is None:
            lines.append(
                f"         {phase.epochs:g} epochs: as long as its text, which is not read here"
            )
            continue
        steps = steps_of.count
        factors = [
            learning_rate_factor(
                phase.schedule, round(at * (steps - 1) / 23), steps, phase.tokens / steps
            )
            for at in range(24)
        ]
        curve = "".join(_BARS[min(7, int(factor * 7.999))] for factor in factors)
        flops = phase.tokens * shape.flops(length, phase.train) * (slots / per_step)
        if pretrain.activation_checkpointing:
            flops *= 4 / 3  # the forward pass once more
        took = flops / (rate * cluster.ranks) / 3600
        hours += took
        lines.append(
            f"         {phase.tokens / 1e9:,.3g} B tokens, {steps:,} steps, lr {phase.lr:g} {curve}"
        )
        lines.append(f"         {_time(took)}, {took * cluster.ranks:,.0f} GPU-hours")
    if len(pretrain.phases) > 1:
        lines.append(f"all      {_time(hours)}, {hours * cluster.ranks:,.0f} GPU-hours")
    return lines


def _preference(pretrain: Pretrain, phase: Phase, cluster: Cluster) -> list[str]:
    """A preference phase: its steps in pairs. The model it begins with is asked once, and not held."""
    from pretrain.preference.turns import pairs_of_step, turns

    micro, accumulation = turns(pretrain.micro_batch, pairs_of_step(pretrain, phase), cluster.ranks)
    length = _length(pretrain, phase)
    return [
        f"phase    {phase.name}: {micro * accumulation * cluster.ranks:,} pairs a step, each of two "
        f"dialogues of at most {length:,} tokens = {cluster.ranks} ranks × {micro} × {accumulation} turns",
        f"         {phase.epochs:g} epochs: as long as its pairs, which are not read here; the reference "
        "model runs once, before the first step, and is not held beside the other",
    ]


def _time(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.1f} days"


_COLUMNS = ("weights", "gradients", "optimizer", "activations", "logits", "margin")


def _memories(pretrain: Pretrain, shape: Shape, cluster: Cluster, refused: list[str]) -> list[str]:
    """The table by ZeRO stage, of the phase that takes most; adds to `refused` what does not fit."""
    from pretrain.memory import memory

    width = 4 if pretrain.dtype == "fp32" else 2

    def most(stage: int) -> Memory:
        needs = (
            memory(shape, pretrain, phase, zero_stage=stage, ranks=cluster.ranks, width=width)
            for phase in pretrain.phases
        )
        return max(needs, key=lambda need: need.total)

    needs = {stage: most(stage) for stage in range(4)}
    fitting = [stage for stage, need in needs.items() if need.total <= cluster.memory]
    lines = ["memory   GB of one GPU, in the phase that needs most"]
    lines.append("         ZeRO  " + "".join(f"{name:>12}" for name in _COLUMNS) + f"{'all':>9}")
    for stage, need in needs.items():
        parts = "".join(f"{getattr(need, name) / 1e9:12.1f}" for name in _COLUMNS)
        marks = [
            "the config's" if stage == pretrain.zero_stage else "",
            "the first that fits" if fitting and stage == fitting[0] else "",
        ]
        note = ", ".join(mark for mark in marks if mark)
        lines.append(f"         {stage:<6}{parts}{need.total / 1e9:9.1f}  {note}".rstrip())
    if pretrain.zero_stage not in fitting:
        own = needs[pretrain.zero_stage].total / 1e9
        refused.append(
            f"pretrain.zero_stage: {pretrain.zero_stage} needs {own:.0f} GB of each GPU, which has "
            f"{cluster.memory / 1e9:g}; {_instead(pretrain, shape, cluster, width, fitting)}"
        )
    return lines


def _instead(
    pretrain: Pretrain, shape: Shape, cluster: Cluster, width: int, fitting: list[int]
) -> str:
    """The nearest setting that fits, in words."""
    from pretrain.memory import memory

    if fitting:
        near = min(fitting, key=lambda stage: abs(stage - pretrain.zero_stage))
        return f"the nearest that fits is pretrain.zero_stage={near}"

    def fits(settings: Pretrain, ranks: int) -> bool:
        return all(
            memory(shape, settings, phase, zero_stage=3, ranks=ranks, width=width).total
            <= cluster.memory
            for phase in settings.phases
        )

    saving = pretrain.model_copy(update={"activation_checkpointing": True, "micro_batch": 1})
    if fits(saving, cluster.ranks):
        return "pretrain.zero_stage=3 with activation_checkpointing=true and micro_batch=1 fits"
    ranks = cluster.ranks
    while ranks < 1 << 16 and not fits(saving, ranks):
        ranks *= 2
    if fits(saving, ranks):
        return f"with ZeRO 3, activation_checkpointing=true and micro_batch=1 it takes {ranks} such GPUs"
    return "no number of such GPUs holds it: shorten pretrain.sequence_length, or take larger ones"


def _failures(
    pretrain: Pretrain, shape: Shape, cluster: Cluster, rate: float, mtbf_hours: float | None
) -> list[str]:
    """Starts, saves and failures on this cluster and on larger ones, in the longest phase."""
    phases = pretrain.token_phases or pretrain.phases
    phase = max(phases, key=lambda phase: phase.tokens or 0)
    step_seconds = {
        machines: _step_seconds(pretrain, phase, shape, machines * cluster.gpus, rate)
        for machines in machines_of_plan(cluster.machines)
    }
    return failure_lines(
        cluster.machines,
        cluster.gpus,
        checkpoint=_checkpoint(pretrain, shape),
        weights=shape.total * (4 if pretrain.dtype == "fp32" else 2),
        step_seconds=step_seconds,
        every_steps=pretrain.checkpoint.every_steps,
        assumed=Assumed() if mtbf_hours is None else Assumed(mtbf_hours=mtbf_hours),
    )


def _step_seconds(pretrain: Pretrain, phase: Phase, shape: Shape, ranks: int, rate: float) -> float:
    """An optimizer step at the rate, empty slots and recomputation included, messages left out."""
    from pretrain.data.batches import Share
    from pretrain.phases import division

    length = _length(pretrain, phase)
    sequences = 10**12 if phase.tokens is None else -(-phase.tokens // length)
    share = Share.of(division(pretrain, phase, sequences).largest, ranks, pretrain.micro_batch)
    tokens = share.accumulation * share.micro_batch * length  # of one rank
    again = 4 / 3 if pretrain.activation_checkpointing else 1
    return tokens * shape.flops(length, phase.train) * again / rate


def _checkpoint(pretrain: Pretrain, shape: Shape) -> float:
    """Bytes: the weights, and in float32 those that learn with two moments."""
    width = 4 if pretrain.dtype == "fp32" else 2
    return float(
        max(shape.total * width + 12 * shape.learning(phase.train) for phase in pretrain.phases)
    )


def _disk(pretrain: Pretrain, shape: Shape) -> list[str]:
    width = 4 if pretrain.dtype == "fp32" else 2
    one = _checkpoint(pretrain, shape)
    settings = pretrain.checkpoint
    kept = settings.keep + (settings.keep_best is not None) + 1  # one more while it is written
    weights = shape.total * width
    known = [phase.tokens for phase in pretrain.phases if phase.tokens is not None]
    lines = [
        f"disk     checkpoints {kept * one / 1e9:,.0f} GB ({kept - 1} kept and one being "
        f"written, {one / 1e9:,.1f} GB each), weights before and after {3 * weights / 1e9:,.0f} GB",
    ]
    if settings.keep_every is not None:
        lines.append(f"         and {one / 1e9:,.1f} GB for every {settings.keep_every:,} steps")
    if known:
        lines.append(
            f"         token shards 4 bytes a token of text: {4 * max(known) / 1e9:,.1f} GB for the "
            f"{max(known) / 1e9:,.3g} B of the longest phase, if none is read twice"
        )
    return lines


def _deepspeed(pretrain: Pretrain, cluster: Cluster) -> dict[str, Any]:
    import torch

    from pretrain.data.batches import Share
    from pretrain.phases import division
    from pretrain.zero import deepspeed_config

    phase = (pretrain.token_phases or pretrain.phases)[-1]
    sequences = 10**12 if phase.tokens is None else -(-phase.tokens // _length(pretrain, phase))
    per_step = division(pretrain, phase, sequences).largest
    replicas = max(1, cluster.ranks // pretrain.sequence_parallel)
    share = Share.of(per_step, replicas, pretrain.micro_batch)
    return deepspeed_config(
        pretrain,
        micro_batch=share.micro_batch,
        accumulation=share.accumulation,
        world_size=cluster.ranks,
        dtype=torch.float32 if pretrain.dtype == "fp32" else torch.bfloat16,
        on_gpu=True,
    )
