"""The learning rate of a step: a pure function of the phase's schedule and the step's number.

In: step 0 … steps − 1 of a phase. Out: the share of the phase's `lr`. Being a function of the step, it
needs no state in a checkpoint and cannot be reset by a resume.

The warm-up rises linearly from `start` and reaches 1 at its last step. Then cosine and linear fall to
`final` at the last step, and constant stays at 1. wsd (warm-up, stable, decay: Hu et al. 2024, MiniCPM)
stays at 1 and falls linearly over `decay` at the end. infinite (Ibrahim et al. 2024, §7) falls along a
cosine to `constant` over `cooldown`, stays there, and falls by equal factors over `decay` at the end.

With `decay: 0` the last two have no end: such a run is trained once, and runs with a decay fork from any
of its checkpoints (fork.py). Every phase has its own warm-up; `start` is where the phase before ended.
"""

from __future__ import annotations

import math
import re

from configs.schema import Schedule

_AMOUNT = re.compile(r"([\d._]+)([kmbt]?) (steps|tokens)", re.IGNORECASE)
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def length_in_steps(length: float | str, steps: int, step_tokens: float) -> int:
    """A share of the phase (0.03), `200 steps` or `0.5B tokens`, rounded up to whole steps.

    step_tokens: tokens of one step (their mean, where batches grow).
    """
    if not isinstance(length, str):
        return math.ceil(length * steps)
    match = _AMOUNT.fullmatch(length)
    assert match is not None, length  # the schema lets nothing else through
    amount = float(match[1].replace("_", "")) * _SCALE[match[2].lower()]
    return math.ceil(amount if match[3] == "steps" else amount / step_tokens)


def learning_rate_factor(
    schedule: Schedule, step: int, steps: int, step_tokens: float = 1.0
) -> float:
    """Share of the phase's lr at `step` (from 0) of `steps`; in [0, 1]."""
    warmup = min(steps, length_in_steps(schedule.warmup, steps, step_tokens))
    if step < warmup:
        return schedule.start + (1 - schedule.start) * (step + 1) / warmup
    after = steps - warmup  # steps after the warm-up
    if schedule.kind in ("wsd", "infinite"):
        decay = min(after, length_in_steps(schedule.decay, steps, step_tokens))
        fallen = max(0, step - (steps - decay) + 1)  # steps of the decay, this one included
        if schedule.kind == "wsd":
            return 1 - (1 - schedule.final) * fallen / decay if fallen else 1.0
        cooldown = min(after - decay, length_in_steps(schedule.cooldown, steps, step_tokens))
        level = schedule.constant
        if fallen:
            level *= (schedule.final / level) ** (fallen / decay)
        elif step - warmup < cooldown:
            level = _cosine(level, (step - warmup + 1) / cooldown)
        return level
    progress = (step - warmup + 1) / after
    if schedule.kind == "cosine":
        return _cosine(schedule.final, progress)
    if schedule.kind == "linear":
        return 1 - (1 - schedule.final) * progress
    return 1.0


def _cosine(low: float, progress: float) -> float:
    """Half a cosine from 1 (progress 0) to `low` (progress 1)."""
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
