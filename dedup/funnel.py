"""What the passes have done so far, as the terminal shows it: read, dropped by step, kept.

In: the marks of finished tasks and what running ones tell. Out: a `Funnel`.

The decision: steps are counted task by task, from the same marks that the report is summed from, so
what a person sees while it runs is what the report says in the end, also after a resume. Only the
number of documents read moves between two tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from configs.files import read_json
from configs.progress import Funnel
from dedup.clean import Cleaned, mark_of
from dedup.publish import Published
from dedup.read import Task

FIRST = ("normalise", "filter", "pii", "decontaminate")
LAST = ("exact", "near")


class Tally:
    """Sums over tasks. `done` are those whose first pass an earlier call has finished."""

    def __init__(self, done: Iterable[Task], work: Path) -> None:
        self._removed: Counter[str] = Counter()
        self._judged = self._failed = 0
        self._told = 0.0  # documents that tasks of this call have told of
        self._heard = 0  # of them, those of tasks that have finished since
        self._before = 0
        self._published = False
        for task in done:
            cleaned = Cleaned(**read_json(mark_of(work, task.index)))
            self._before += cleaned.documents_in
            self._add(cleaned)

    def told(self, documents: float) -> None:
        """A running task has read so many more documents (fewer, where its worker died)."""
        self._told += documents

    def cleaned(self, cleaned: Cleaned) -> None:
        """A task's first pass is done."""
        self._told += cleaned.documents_failed  # of which tasks do not tell
        self._heard += cleaned.documents_in
        self._add(cleaned)

    def published(self, published: Published) -> None:
        """A task's last pass is done."""
        self._published = True
        self._count(published.removed)

    def funnel(self, done: float) -> Funnel:
        """All so far; `done`: bytes of the tasks whose first pass is finished."""
        running = max(0.0, self._told - self._heard)
        bytes_each = done / self._judged if self._judged else 0.0
        steps = (*FIRST, *LAST) if self._published else FIRST
        removed = {step: self._removed[step] for step in steps}
        return Funnel(
            self._before + self._told,
            done + running * bytes_each,
            self._judged,
            self._judged - self._failed - sum(removed.values()),
            self._failed,
            removed,
        )

    def _add(self, cleaned: Cleaned) -> None:
        self._judged += cleaned.documents_in
        self._failed += cleaned.documents_failed
        self._count(cleaned.removed)

    def _count(self, removed: dict[str, int]) -> None:
        for reason, count in removed.items():
            self._removed[reason.split("/", 1)[0]] += count
