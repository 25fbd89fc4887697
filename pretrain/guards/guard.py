"""What stops a run or turns it back: losses that are no numbers, jumps, and requests to stop.

In: the step's loss and gradient norm (the same on every rank, for they were all-reduced) and the
signals that this process got. Out: an error that says what happened and what to do, or a flag that the
loop reads at the end of a step.

The decision: a loss or gradient norm that is not finite ends the run at once, on all ranks alike, and
nothing of that step is saved; the last checkpoint is whole. Skipping such steps hides a learning rate
that is too high until the damage is done, so it is done only where `guard.spike` asks for it, and only
`guard.most` times in a phase.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil

from configs.errors import InputError
from configs.schema import Guard
from pretrain.guards.spikes import Spike

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 is what `#SBATCH --signal=USR1@600` sends ten minutes before a job's time is up."""


def check_finite(what: str, value: float, *, step: int, phase: str, first: int, count: int) -> None:
    """Raise InputError where the step's loss or gradient norm is not a number to go on with."""
    if math.isfinite(value):
        return
    raise InputError(
        f"pretrain.phases ({phase}): the {what} is {value} at step {step}, sequences {first} to "
        f"{first + count - 1} of the phase; lower its lr or lengthen its warm-up and give the command "
        "again: pretrain then starts anew (with the same settings it would fail at the same step)"
    )


class RolledBack(Exception):
    """The phase is to begin again at a checkpoint before the jump; what led there is recorded."""


def too_many(phase: str, settings: Guard, spike: Spike) -> InputError:
    """The error after the last jump that may be acted upon."""
    return InputError(
        f"pretrain.phases ({phase}): loss or gradient jumped more than {settings.most} times "
        f"(pretrain.guard.most), now {spike}; lower the phase's lr or lengthen its warm-up, or look at "
        "the sequences in pretrain/left_out.json"
    )


def process_seconds() -> float:
    """How long this process has lived."""
    return time.time() - psutil.Process().create_time()


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait for the step
        self.signal = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGUSR1 and Ctrl-C into a request that is answered after the step. Main thread only."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {
        number: signal.signal(number, request._receive) for number in STOPPING
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
