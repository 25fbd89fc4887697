"""The learning rate of a step: a pure function of the phase's schedule and the step's number.

In: step 0 … steps − 1 of a phase. Out: the share of the phase's `lr`. Being a function of the step, it
needs no state in a checkpoint and cannot be reset by a resume.

warm-up rises linearly over the first `warmup` share of the steps and reaches 1 at its last; then
cosine and linear fall to `final` at the last step, constant stays at 1, and wsd (warm-up, stable,
decay: Hu et al. 2024, MiniCPM) stays at 1 and falls linearly over the last `decay` share.
"""

from __future__ import annotations

import math

from configs.schema import Schedule


def learning_rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Share of the phase's lr at `step` (from 0) of `steps`; in (0, 1]."""
    warmup = min(steps, math.ceil(schedule.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    after = steps - warmup  # steps after the warm-up
    if schedule.kind == "wsd":
        decay = min(after, math.ceil(schedule.decay * steps))
        start = steps - decay
        progress = 0.0 if step < start else (step - start + 1) / decay
        return 1 - (1 - schedule.final) * progress
    progress = (step - warmup + 1) / after
    if schedule.kind == "cosine":
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.kind == "linear":
        return 1 - (1 - schedule.final) * progress
    return 1.0
