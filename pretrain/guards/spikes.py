"""A loss or a gradient's norm that jumps: noticed before it reaches the weights.

In: the loss and the gradient's norm of a step, the same on every rank (both were all-reduced), and those
of the steps before it, which a checkpoint carries. Out: what jumped and how far, or nothing; and an
optimizer that leaves the weights alone at such a step.

A value jumps when the logarithm of it lies more than `guard.deviations` robust standard deviations
(1.4826 × the median absolute deviation, Hampel 1974) above the median of the last `guard.window`
steps of the phase. Median and MAD do not move when a jump enters the window, and in the logarithm one
limit fits losses of 2 and norms of 0.01 alike.

The decision: the default is to warn. Leaving data out changes what is trained, so it is done where the
config asks for it. What PaLM did by hand (Chowdhery et al. 2022, §5.1: go back a hundred steps, leave out
some hundred batches) is `rollback`; `skip` drops the one update, and is enough where one bad document is
to blame.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configs.schema import Guard

if TYPE_CHECKING:
    from pretrain.checkpoints.state import LeftOut

LEAST = (
    32  # steps of a phase before anything can be said to jump; fewer where the window is smaller
)
NARROWEST = {"loss": 0.02, "gradient norm": 0.1}
"""Least deviation of the logarithm. With the default limit a loss of 1.22 × and a norm of 2.7 × the usual
are the first to jump: in 586 calm steps of a real run the norm once came to 2.0 ×, which was nothing."""

_TO_SIGMA = 1.4826  # a normal distribution's standard deviation, in median absolute deviations


@dataclass(frozen=True)
class Spike:
    """A value that jumped. usual: the median before it (nan where the value is no number)."""

    what: str
    value: float
    usual: float
    deviations: float

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"{self.what} {self.value}"
        return f"{self.what} {self.value:.4g}, usual {self.usual:.4g} ({self.deviations:.0f} deviations)"


def deviation(history: Sequence[float], value: float, narrowest: float) -> tuple[float, float]:
    """How many robust standard deviations ln(value) lies above the median of the history's; that median.

    history: positive values, at least one. narrowest: the least deviation of the logarithm. The median
    is given back as a value, not as a logarithm.
    """
    logs = [math.log(earlier) for earlier in history]
    middle = statistics.median(logs)
    spread = _TO_SIGMA * statistics.median(abs(log - middle) for log in logs)
    return (math.log(value) - middle) / max(spread, narrowest), math.exp(middle)


class Watch:
    """The verdict on one step after another; `refuses` is asked just before weights are updated."""

    def __init__(self, settings: Guard) -> None:
        self.settings = settings
        self.acts = settings.spike in ("skip", "rollback")
        self.spike: Spike | None = None
        self.known: LeftOut | None = None
        self._losses: Sequence[float] = ()
        self._norms: Sequence[float] = ()

    def begin(self, losses: Sequence[float], norms: Sequence[float], known: LeftOut | None) -> None:
        """A new step; the values of the steps before it in this phase, oldest first.

        known: what an earlier start has recorded of this step, where it left the weights alone.
        """
        self.spike, self.known, self._losses, self._norms = None, known, losses, norms

    def see(self, what: str, value: float) -> None:
        """Judge the step's "loss" or "gradient norm"; the first that jumps is kept in `spike`."""
        if self.spike is not None:
            return
        if not math.isfinite(value):
            self.spike = Spike(what, value, math.nan, math.inf)
            return
        history = self._losses if what == "loss" else self._norms
        if self.settings.spike == "off" or value <= 0:
            return
        if len(history) < min(LEAST, self.settings.window):
            return
        far, usual = deviation(history, value, NARROWEST[what])
        if far > self.settings.deviations:
            self.spike = Spike(what, value, usual, far)

    def refuses(self, norm: float | None) -> bool:
        """Whether the weights must not be updated with a gradient of this norm."""
        if norm is not None:
            self.see("gradient norm", norm)
        return self.known is not None or (self.acts and self.spike is not None)


def remembered(history: Sequence[float], value: float, window: int) -> list[float]:
    """The history with one more value; values that have no logarithm are not remembered."""
    if not math.isfinite(value) or value <= 0:
        return list(history)
    return [*history, value][-window:]


def gradient_norm(engine: Any) -> float | None:
    """The norm of the step's gradient before clipping, over all ranks; None where nobody took it.

    DeepSpeed writes −1 or inf where it is no number (ZeRO 1 and 2 in bf16 go on with −1), and takes none
    at stage 0 in fp32.
    """
    norm = getattr(engine.optimizer, "_global_grad_norm", None)
    if norm is None:
        norm = engine.get_global_grad_norm()
    if norm is None:
        return None
    norm = float(norm)
    return norm if norm >= 0 else math.nan


def let_refuse(engine: Any, watch: Watch) -> None:
    """Make the engine's optimizer ask `watch` before it changes a weight.

    By then DeepSpeed has reduced the gradients and taken their norm, the same on all ranks; what it
    does afterwards (clearing gradients, copying the unchanged weights) is right for a step that
    changed nothing. It calls the optimizer once per parameter group: the verdict is the same for each.
    """
    optimizer = engine.basic_optimizer
    update = optimizer.step

    def step(*arguments: Any, **named: Any) -> Any:
        if watch.refuses(gradient_norm(engine)):
            return None
        return update(*arguments, **named)

    optimizer.step = step
