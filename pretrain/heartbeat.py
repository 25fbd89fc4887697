"""A sign of life of every rank, for whoever watches them: `pretrain/.ranks/<rank>.json`.

In: what a rank does and how long its step took. Out: one small file per rank on the run's storage, which
the launcher and the agent of each machine read (launch/clusters/beats.py). A rank that hangs without
dying is one whose file no longer changes, and a straggler one whose own part of a step is longer than
that of the others (measured up to the end of its first forward pass; ZeRO 3 gathers weights in it, which
hides a part).

The decision: a file, not a message, so that nothing has to listen and a dead network does not matter. It
is written over in place (its room is taken at the start: a full disk cannot make a healthy rank look
dead) and at most twice a second, whatever a step takes: tens of microseconds locally, a millisecond on a
network file system, far below 0.5 % of training.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FOLDER = ".ranks"
ROOM = 512  # bytes of a file
EVERY = 0.5  # seconds between two beats of one kind


class Heartbeat:
    """The beats of this rank. A disk or network that does not take one never stops training."""

    def __init__(self, stage: Path, rank: int, world_size: int) -> None:
        self._path = stage / FOLDER / f"{rank}.json"
        self._known: dict[str, Any] = {
            "rank": rank,
            "world_size": world_size,
            "host": platform.node(),
            "pid": os.getpid(),
            "step": 0,
            "step_seconds": 0.0,
            "own_seconds": 0.0,
            "beats": 0,
        }
        self._written = float("-inf")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self.doing("start")

    def doing(self, what: str) -> None:
        """From now on: start, train, evaluate, save or export; told at once."""
        if self._known.get("doing") != what:
            self._known["doing"] = what
            self._write()

    def alive(self) -> None:
        """Still at what it is doing."""
        self._known["beats"] += 1
        if time.monotonic() - self._written >= EVERY:
            self._write()

    def step(self, step: int, seconds: float, own_seconds: float) -> None:
        """A step is done. own_seconds: the part of it in which no other rank was waited for."""
        self._known |= {"step": step, "step_seconds": round(seconds, 4)}
        self._known["own_seconds"] = round(own_seconds, 5)
        if self._known["doing"] != "train":
            self.doing("train")
        elif time.monotonic() - self._written >= EVERY:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        text = json.dumps(self._known | {"time": round(time.time(), 2)}).ljust(ROOM)
        with suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(handle, text.encode("ascii"), 0)
            finally:
                os.close(handle)


class Stopwatch:
    """Seconds that a device computes between `start` and `stop`, without waiting for it.

    `seconds` may be asked once the results of that work have been read.
    """

    def __init__(self, device: torch.device) -> None:
        self._events: Any = None
        if device.type == "cuda":
            import torch

            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._begun = self._seconds = 0.0

    def start(self) -> None:
        self._begun = time.monotonic()
        if self._events is not None:
            self._events[0].record()

    def stop(self) -> None:
        self._seconds = time.monotonic() - self._begun
        if self._events is not None:
            self._events[1].record()

    def seconds(self) -> float:
        if self._events is not None:
            return float(self._events[0].elapsed_time(self._events[1])) / 1000
        return self._seconds
