"""Where a run stands: the few numbers that a checkpoint holds beside DeepSpeed's own files.

Data order, learning rate and random numbers are functions of the step, so they need no state. What
does: how far training has come, the last losses and norms (the next step's jump is measured by them),
and which steps were left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from configs.files import read_json
from pretrain.guards.spikes import remembered


@dataclass(frozen=True)
class LeftOut:
    """Steps first_step … last_step of a phase that did not change the weights, and their sequences.

    Both ranges count from 0 and include their ends. action: skip (the step was computed and its
    update dropped) or rollback (the steps are passed over). why: what jumped, and at which step.
    """

    phase: int
    first_step: int
    last_step: int
    first_sequence: int
    last_sequence: int
    action: str
    why: str


@dataclass(frozen=True)
class State:
    """Where a run stands.

    phase: index of the phase; step: optimizer steps since the start of the run; phase_step: since
    that of the phase (both count steps that were left out); tokens and seconds (of training): since
    the start of the run; loss_first and loss_last: of the phase. world_size and zero_stage are those
    that wrote the checkpoint; identity says what it belongs to. losses and norms: of the last steps of
    the phase, oldest first. bits_per_byte: the last evaluation, by source and language, made at
    bits_step; bits_at_start: the first, from which forgetting is counted.
    """

    phase: int
    step: int
    phase_step: int
    tokens: int
    seconds: float
    loss_first: float
    loss_last: float
    resumed: int
    world_size: int
    zero_stage: int
    identity: str
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    bits_per_byte: dict[str, float] = field(default_factory=dict)
    bits_step: int = -1
    bits_at_start: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, world_size: int, zero_stage: int, identity: str) -> State:
        return cls(0, 0, 0, 0, 0.0, 0.0, 0.0, 0, world_size, zero_stage, identity)

    @classmethod
    def of(cls, values: dict[str, Any]) -> State:
        """The state in a state.json, also of an earlier version of this program."""
        left_out = [LeftOut(**entry) for entry in values.get("left_out", [])]
        return cls(**{**values, "left_out": left_out})

    def begin_phase(self, phase: int) -> State:
        """The state at the first step of a phase, whose losses are not those of the one before."""
        return replace(self, phase=phase, phase_step=0, loss_first=0.0, losses=[], norms=[])

    def after_step(
        self, tokens: int, loss: float, norm: float | None, seconds: float, window: int
    ) -> State:
        """The state one optimizer step later. window: how many losses and norms are remembered."""
        return replace(
            self,
            step=self.step + 1,
            phase_step=self.phase_step + 1,
            tokens=self.tokens + tokens,
            seconds=self.seconds + seconds,
            loss_first=self.loss_first or (loss if isfinite(loss) else 0.0),
            loss_last=loss if isfinite(loss) else self.loss_last,
            losses=remembered(self.losses, loss, window),
            norms=remembered(self.norms, norm or 0.0, window),
        )

    def passed_over(self) -> State:
        """The state after a step that was left out without computing it."""
        return replace(self, step=self.step + 1, phase_step=self.phase_step + 1)

    def leaves_out(self, step: int) -> LeftOut | None:
        """What is recorded of this step of the present phase, if it was left out."""
        for entry in self.left_out:
            if entry.phase == self.phase and entry.first_step <= step <= entry.last_step:
                return entry
        return None

    def never_saw(self, entry: LeftOut) -> bool:
        """Whether the weights of this state took nothing from what is left out."""
        before = (self.phase, self.phase_step) <= (entry.phase, entry.first_step)
        return before or entry in self.left_out


def read_state(checkpoint: Path) -> State:
    """The state in a checkpoint's folder."""
    return State.of(read_json(checkpoint / "state.json"))
