"""The signs of life of all ranks, read: who is there, who is slow, who hangs.

In: `pretrain/.ranks/` of a run (pretrain/heartbeat.py), looked at again and again. Out: the line that the
live view shows, the name of a straggler, and the ranks that have shown no life for too long.

Clocks of machines differ, so no time that a rank wrote is compared with one here: what counts is for how
long this process has seen a file unchanged. A rank that saves or judges held-out text takes its time,
so silence is judged by what the rank said it was doing.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from pretrain.heartbeat import FOLDER

SLOW = 1.3  # times the median of the ranks' own seconds from which on one is a straggler
SLOWER_BY = 0.01  # seconds, at least: below that it is noise
REMEMBERED = 5  # beats over which a rank's own seconds are taken
STEPS = 20  # times its own step time a rank may be silent in training
AT_LEAST = 120.0  # seconds, though
UNHURRIED = 3600.0  # seconds for anything but a step: start, held-out text, save, export


@dataclass(frozen=True)
class Beat:
    """What a rank's file says. step_seconds: of its last step; own_seconds: without waiting.

    beats: counted where there is no step to count.
    """

    rank: int
    world_size: int
    host: str
    pid: int
    doing: str
    step: int
    step_seconds: float
    own_seconds: float
    beats: int
    time: float


def read_beats(stage: Path) -> dict[int, Beat]:
    """Rank → beat; a file that is being written over at this instant is left out."""
    found = {}
    names = [field.name for field in fields(Beat)]
    for path in (stage / FOLDER).glob("*.json"):
        try:
            values = json.loads(path.read_bytes())
            beat = Beat(**{name: values[name] for name in names})
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found[beat.rank] = beat
    return dict(sorted(found.items()))


def clear(stage: Path) -> None:
    """Forget the ranks of an earlier start."""
    for path in (stage / FOLDER).glob("*.json"):
        path.unlink(missing_ok=True)


class Watch:
    """Looks at the beats of a run. hang_seconds: longest silence in training; None: from the steps."""

    def __init__(
        self,
        stage: Path,
        hang_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage, self._hang, self._clock = stage, hang_seconds, clock
        self._changed: dict[int, tuple[Beat, float]] = {}
        self._own: dict[int, deque[float]] = {}
        self._hurry: tuple[float, float] | None = None

    def look(self) -> None:
        """Read the files again."""
        now = self._clock()
        for rank, beat in read_beats(self._stage).items():
            before = self._changed.get(rank)
            if before is not None and before[0] == beat:
                continue
            self._changed[rank] = (beat, now)
            if before is not None and (before[0].pid, before[0].host) != (beat.pid, beat.host):
                self._own.pop(rank, None)
            if beat.doing == "train":
                self._own.setdefault(rank, deque(maxlen=REMEMBERED)).append(beat.own_seconds)

    def forget(self, rank: int) -> None:
        """What this rank was is over; only a new sign of life counts."""
        self._changed.pop(rank, None)
        self._own.pop(rank, None)

    def hurry(self, seconds: float) -> None:
        """Another machine is lost: a step that has begun and does not end soon never will."""
        self._hurry = (self._clock(), seconds)

    def ranks(self) -> list[Beat]:
        """The ranks of the world that there is now, in order; the last that changed says how many."""
        if not self._changed:
            return []
        newest, _ = max(self._changed.values(), key=lambda seen: seen[1])
        ranks = [beat for beat, _ in self._changed.values() if beat.rank < newest.world_size]
        return sorted(ranks, key=lambda beat: beat.rank)

    def silent(self, rank: int) -> float:
        """Seconds since a rank's file changed."""
        return self._clock() - self._changed[rank][1]

    def patience(self, beat: Beat) -> float:
        """Seconds that a rank may be silent in what it is doing."""
        if beat.doing not in ("train", "evaluate"):
            return UNHURRIED
        usual = max(AT_LEAST, STEPS * beat.step_seconds) if beat.doing == "train" else UNHURRIED
        patience = self._hang or usual
        if self._hurry is not None and self._changed[beat.rank][1] <= self._hurry[0]:
            patience = min(patience, max(self._hurry[1], 3 * beat.step_seconds))
        return patience

    def hung(self) -> list[Beat]:
        """The ranks that have been silent for longer than they may."""
        return [beat for beat in self.ranks() if self.silent(beat.rank) > self.patience(beat)]

    def slowest(self) -> tuple[Beat, float] | None:
        """The rank whose own part of a step is longest, and its seconds; None below two ranks."""
        known = self._own_seconds()
        if len(known) < 2:
            return None
        beat = max(known, key=lambda one: known[one])
        return beat, known[beat]

    def straggler(self) -> tuple[Beat, float, float] | None:
        """A rank that holds the others up: (rank, its own seconds, the median of the others)."""
        known = self._own_seconds(whole=True)
        if len(known) < 2:
            return None
        beat = max(known, key=lambda one: known[one])
        others = statistics.median(seconds for one, seconds in known.items() if one != beat)
        if known[beat] < max(SLOW * others, others + SLOWER_BY):
            return None
        return beat, known[beat], others

    def _own_seconds(self, *, whole: bool = False) -> dict[Beat, float]:
        """Each rank's median; whole: only where as many beats were seen as are remembered."""
        least = REMEMBERED if whole else 1
        seen = {beat: self._own.get(beat.rank, ()) for beat in self.ranks()}
        return {beat: statistics.median(own) for beat, own in seen.items() if len(own) >= least}

    def line(self) -> str:
        """For the live view: "4 ranks on 2 hosts, slowest rank 3 (node1) 0.21 s, heartbeat 0.4 s ago"."""
        ranks = self.ranks()
        if not ranks:
            return ""
        hosts = {beat.host for beat in ranks}
        parts = [f"{len(ranks)} rank{'s' if len(ranks) > 1 else ''}"]
        if len(hosts) > 1:
            parts[0] += f" on {len(hosts)} hosts"
        slow = self.slowest()
        if slow is not None:
            where = f" ({slow[0].host})" if len(hosts) > 1 else ""
            parts.append(f"slowest rank {slow[0].rank}{where} {slow[1]:.2g} s")
        oldest = max(self.silent(beat.rank) for beat in ranks)
        parts.append(f"last heartbeat {oldest:.0f} s ago")
        return ", ".join(parts)


def named(straggler: tuple[Beat, float, float]) -> str:
    """The sentence for a straggler."""
    beat, own, others = straggler
    return (
        f"rank {beat.rank} on {beat.host} holds the others up: its own part of a step takes "
        f"{own:.2g} s, theirs {others:.2g} s ({own / max(others, 1e-9):.1f}×)"
    )
