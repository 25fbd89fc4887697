"""How a stage says where it is, without knowing who listens.

A stage calls `log(Progress(...))` as often as it likes; `launch/` draws a bar on a terminal, prints
a plain line every few seconds elsewhere, and a notebook may pass `print`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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


Log = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The log of a caller that does not want one."""
