"""What many machines cost that few do not: starts that storm the storage, saves, and failures.

In: how many machines, what a checkpoint weighs, how long a step takes. Out: seconds until a first step,
seconds of a save, failures to expect in a day, and how many steps should lie between two saves. All of
it is arithmetic on assumptions that are printed beside it; none of it was measured on such a cluster.

The interval is Young's (1974, "A first order approximation to the optimum checkpoint interval"), the
first order of Daly's (2006): with saves of C seconds and a failure every M seconds, the least work is
lost where saves lie sqrt(2·C·M) apart. It holds while C is small beside M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NODES = (8, 64, 512)
"""Machines that the plan tells of, beside those that were named."""


@dataclass(frozen=True)
class Assumed:
    """What is taken for true of machines and storage where nobody has measured it.

    mtbf_hours: of one machine of eight GPUs. 419 unexpected interruptions in 54 days of 16,384 GPUs
    (Grattafiori et al. 2024, The Llama 3 Herd of Models, 3.3.4) make 54·24·2048/419 = 6,334.
    storage, link: bytes per second that the shared storage gives to all machines together, and that
    one machine can take. software: bytes of Python packages that each machine reads at the start.
    detect: seconds until a failure is seen. fixed: seconds that a start takes with no storage at all
    (imports, rendezvous, the first all-reduce), seen as 20–30 s where this was written.
    """

    mtbf_hours: float = 6300.0
    storage: float = 40e9
    link: float = 5e9
    software: float = 8e9
    detect: float = 60.0
    fixed: float = 30.0

    def seconds(self, of_all: float, machines: int) -> float:
        """To move `of_all` bytes between the storage and machines that share the work evenly."""
        return of_all / min(self.storage, self.link * machines)


@dataclass(frozen=True)
class Outlook:
    """A training on `machines` machines.

    start: seconds from a start to the first step, all machines reading at once. save: seconds of a
    save that stops training. failures: a day. interval: seconds of training between two saves that
    lose least. lost: share of the time that saves, repeated work and restarts take at that interval.
    """

    machines: int
    start: float
    save: float
    failures: float
    interval: float
    lost: float

    def steps(self, step_seconds: float) -> int:
        """The interval in steps: whole, at least 1, of two figures."""
        steps = max(1.0, self.interval / step_seconds)
        digits = 10 ** max(0, math.floor(math.log10(steps)) - 1)
        return int(steps // digits * digits)


def outlook(machines: int, *, checkpoint: float, weights: float, assumed: Assumed) -> Outlook:
    """What to expect of so many machines.

    checkpoint: bytes of one save, all ranks' together. weights: bytes that every machine reads at a
    start beside its share of the checkpoint.
    """
    each = assumed.software + weights
    start = assumed.fixed + assumed.seconds(machines * each + checkpoint, machines)
    save = assumed.seconds(checkpoint, machines)
    between = between_failures(machines, assumed.mtbf_hours)
    interval = young(save, between)
    return Outlook(
        machines,
        start,
        save,
        86_400 / between,
        interval,
        lost_share(interval, save, start + assumed.detect, between),
    )


def between_failures(machines: int, mtbf_hours: float) -> float:
    """Seconds between two failures of any of `machines` that fail independently of each other."""
    return 3600 * mtbf_hours / machines


def young(save: float, between: float) -> float:
    """Seconds between two saves that lose the least work: sqrt(2·C·M)."""
    return math.sqrt(2 * save * between)


def lost_share(interval: float, save: float, restart: float, between: float) -> float:
    """Share of the time that is lost, to first order: C/τ for saves, (τ/2 + R)/M for failures."""
    return save / interval + (interval / 2 + restart) / between


def failure_lines(
    machines: int,
    gpus: int,
    *,
    checkpoint: float,
    weights: float,
    step_seconds: dict[int, float],
    every_steps: int,
    assumed: Assumed,
) -> list[str]:
    """The plan's lines on many machines, `machines` of `gpus` GPUs being the ones it is made for.

    step_seconds: {machines: seconds of a step in the longest phase}; for each a line. every_steps: of
    the config.
    """
    lines = [
        "failures machines  GPUs      start      save  failures a day  save every             lost"
    ]
    for count in sorted(step_seconds):
        seen = outlook(count, checkpoint=checkpoint, weights=weights, assumed=assumed)
        steps = seen.steps(step_seconds[count])
        every = f"{_span(seen.interval)} = {steps:,} steps"
        mark = "  this cluster" if count == machines else ""
        lines.append(
            f"         {count:8,}{count * gpus:6,}{_span(seen.start):>11}{_span(seen.save):>10}"
            f"{seen.failures:16.2g}  {every:<22}{seen.lost:>5.1%}{mark}"
        )
    lines.append(
        _advice(machines, step_seconds[machines], checkpoint, weights, every_steps, assumed)
    )
    lines += [
        f"         assumed: a machine fails every {assumed.mtbf_hours:,.0f} hours (--mtbf; 6,300 is what "
        "Llama 3's training saw),",
        f"         storage of {assumed.storage / 1e9:g} GB/s for all and {assumed.link / 1e9:g} for one "
        f"machine, {assumed.software / 1e9:g} GB of software read by each",
    ]
    return lines


def _advice(
    machines: int,
    step_seconds: float,
    checkpoint: float,
    weights: float,
    every_steps: int,
    assumed: Assumed,
) -> str:
    """checkpoint.every_steps of the config against the interval that loses least."""
    seen = outlook(machines, checkpoint=checkpoint, weights=weights, assumed=assumed)
    between = between_failures(machines, assumed.mtbf_hours)
    interval = every_steps * step_seconds
    lost = lost_share(interval, seen.save, seen.start + assumed.detect, between)
    here = (
        f"         checkpoint.every_steps={every_steps:,} is {_span(interval)} and loses {lost:.1%}"
    )
    if lost <= seen.lost + 0.001:
        return f"{here}: as good as the best"
    return f"{here}; {seen.steps(step_seconds):,} lose least, {seen.lost:.1%}"


def _span(seconds: float) -> str:
    """A length of time for a table: 12 s, 3.4 min, 5.6 h."""
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def machines_of_plan(named: int) -> Sequence[int]:
    """The counts a plan tells of: those of the cluster that was named, and `NODES`."""
    return sorted({named, *NODES})
