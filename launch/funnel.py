"""The funnel of a running data stage in words: a block of lines for a terminal, one line elsewhere.

In: `Funnel`s as the stage tells them. Out: text. Rates are of what this call has read, since it began.
"""

from __future__ import annotations

import time

from configs.progress import Funnel

AFTER = ("exact", "near")  # steps that come when all is read
WIDE = 30  # cells of the longest bar


class Rates:
    """Documents and bytes per second; they stay as they are once reading is over."""

    def __init__(self, first: Funnel) -> None:
        self._begin = time.monotonic()
        self._first = first
        self._read = first.documents
        self.documents = self.bytes = 0.0

    def take(self, funnel: Funnel) -> None:
        """Bring the rates up to date."""
        seconds = time.monotonic() - self._begin
        if funnel.documents == self._read or seconds < 0.2:
            return
        self._read = funnel.documents
        self.documents = max(0.0, funnel.documents - self._first.documents) / seconds
        self.bytes = max(0.0, funnel.bytes - self._first.bytes) / seconds

    def said(self) -> str:
        """ "18,300 documents/s  31.2 MB/s", as far as there is something to say."""
        parts = [f"{self.documents:,.0f} documents/s"] if self.documents else []
        if self.bytes:
            parts.append(f"{self.bytes / 1e6:,.1f} MB/s")
        return "  ".join(parts)


def block(funnel: Funnel, rates: Rates) -> list[str]:
    """A line for what was read, one for each step, one for what is kept."""
    lines = [f"  {'read':<15}{funnel.documents:>14,.0f}  {rates.said()}".rstrip()]
    if funnel.failed:
        lines.append(_row("unreadable", -funnel.failed, funnel.judged))
    for step, gone in funnel.removed.items():
        lines.append(_row(step, -gone, funnel.judged))
    lines += [
        f"  {step:<15}{'·':>14}  when all is read" for step in AFTER if step not in funnel.removed
    ]
    unfinished = funnel.documents - funnel.judged
    note = f"   (of {funnel.judged:,} in finished tasks)" if unfinished >= 1 else ""
    lines.append(_row("kept so far", funnel.kept, funnel.judged) + note)
    return lines


def one_line(funnel: Funnel, rates: Rates) -> str:
    """The same in one line."""
    parts = [f"{funnel.documents:,.0f} documents", *filter(None, [rates.said()])]
    if funnel.judged:
        parts.append(f"kept so far {funnel.kept:,} ({_share(funnel.kept, funnel.judged)})")
        gone = [f"{step} {count:,}" for step, count in funnel.removed.items() if count]
        if funnel.failed:
            gone.insert(0, f"unreadable {funnel.failed:,}")
        parts.append(f"dropped: {', '.join(gone) or 'none'}")
    return "  ".join(parts)


def _row(name: str, count: int, judged: int) -> str:
    said = f"−{-count:,}" if count < 0 else f"{count:,}"
    bar = "█" * round(WIDE * abs(count) / judged) if judged else ""
    return f"  {name:<15}{said:>14}  {_share(abs(count), judged):>7}  {bar}".rstrip()


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
