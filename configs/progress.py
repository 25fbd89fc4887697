"""How a stage says where it is, without knowing who listens.

A stage calls `log(Progress(...))` as often as it likes; `launch/` draws a bar on a terminal, prints
a plain line every few seconds elsewhere, and a notebook may pass `print`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Funnel:
    """Documents on their way through the steps, so far.

    documents, bytes: read, also by an earlier call that was stopped (bytes on disk, of unfinished
    tasks an estimate). judged: documents of finished tasks, and what became of them: kept, failed
    (could not be read) and removed, {step: documents} in the order of the steps; a step that has not
    begun is missing.
    """

    documents: float
    bytes: float
    judged: int
    kept: int
    failed: int
    removed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a long step.

    stage: "dedup", "tokenizer" or "pretrain". step: what is being done ("read", "near", "count",
    "train", …). done/total: amounts of `unit` (total None while unknown). message: figures worth
    showing beside the bar, already formatted ("loss 5.21").
    """

    stage: str
    step: str
    done: float = 0
    total: float | None = None
    unit: str = ""
    message: str = ""
    funnel: Funnel | None = None


Log = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The log of a caller that does not want one."""
