"""What a person sees while a stage runs: bars on a terminal, and below those of the data stage its
funnel; a plain line every few seconds elsewhere.

`Console.log` is the `log` that stages are given. Figures go to stderr, so that stdout holds only
what a command was asked for and can be piped; the plain lines also go to the stage's file in logs/.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from configs.progress import Progress
from launch.funnel import Rates, block, one_line

PLAIN_EVERY = 5.0  # seconds between two plain lines of one step
FUNNEL_EVERY = 10.0  # and of one that tells a funnel: its lines are long
FUNNEL_DRAWN_EVERY = 1.0  # seconds between two states of the funnel on a terminal
EVENT = "event"  # the unit of what happened once, and is a line of its own


class Console:
    """Draws `Progress` reports. Use as a context manager, so that a bar is always closed."""

    def __init__(self, *, interactive: bool | None = None) -> None:
        self.interactive = sys.stderr.isatty() if interactive is None else interactive
        self._bars: Any = None
        self._tasks: dict[tuple[str, str], Any] = {}
        self._first: dict[tuple[str, str], tuple[float, float]] = {}
        self._said: dict[tuple[str, str], float] = {}
        self._rates: Rates | None = None
        self._drawn = float("-inf")
        self._file: Path | None = None

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bars of a stage."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._tasks.clear()
        self._first.clear()
        self._said.clear()
        self._rates = None

    def log_to(self, path: Path | None) -> None:
        """From now on write plain lines to the end of this file too; None ends that."""
        self._file = path

    def say(self, line: str = "") -> None:
        """Print a line above the bars."""
        self.note(line)
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Write a line to the stage's log alone; a disk that has no room for it loses it."""
        if self._file is None:
            return
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as handle:
                handle.write(f"{stamp} {line}\n")

    def log(self, progress: Progress) -> None:
        """Take one report; cheap when called often."""
        if progress.unit == EVENT:
            self.say(f"  {progress.stage} · {progress.message}")
            return
        key = (progress.stage, progress.step)
        now = time.monotonic()
        # A resumed step does not start at 0, and a restarted one falls back: rates count from there.
        if key not in self._first or progress.done < self._first[key][1]:
            self._first[key] = now, progress.done
        if progress.funnel is not None:
            self._rates = self._rates or Rates(progress.funnel)
            self._rates.take(progress.funnel)
        finished = progress.total is not None and progress.done >= progress.total
        if self.interactive:
            self._draw(key, progress)
            self._draw_funnel(progress, now, finished)
        every = FUNNEL_EVERY if progress.funnel is not None else PLAIN_EVERY
        last = self._said.get(key, -every)
        if last != float("inf") and (finished or now - last >= every):
            self._said[key] = float("inf") if finished else now
            line = self._plain(progress, *self._since_first(key, progress))
            if self.interactive:
                self.note(line)
            else:
                self.say(line)

    def _since_first(self, key: tuple[str, str], progress: Progress) -> tuple[float, float]:
        """Seconds and amount since a step was first heard of."""
        started, done = self._first[key]
        return time.monotonic() - started, progress.done - done

    def _plain(self, progress: Progress, seconds: float, more: float) -> str:
        parts = [f"  {progress.stage} · {progress.step}"]
        if progress.total:
            done = amount(progress.done)
            parts.append(f"{done} / {quantity(progress.total, progress.unit)}")
            parts.append(f"{100 * progress.done / progress.total:.0f} %")
        elif progress.done:
            parts.append(quantity(progress.done, progress.unit))
        if seconds > 1 and more > 0:
            if progress.funnel is None:  # which tells its own rates
                parts.append(f"{quantity(more / seconds, progress.unit)}/s")
            if progress.total and progress.done < progress.total:
                left = seconds * (progress.total - progress.done) / more
                parts.append(f"{duration(left)} left")
        if progress.funnel is not None and self._rates is not None:
            parts.append(one_line(progress.funnel, self._rates))
        elif progress.message:
            parts.append(progress.message)
        return "  ".join(parts)

    def _draw(self, key: tuple[str, str], progress: Progress) -> None:
        if self._bars is None:
            from launch.live import Bars

            self._bars = Bars()
            self._bars.start()
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(
                f"{progress.stage} · {progress.step}",
                total=progress.total,
                completed=progress.done,
                rate="",
                message="",
            )
        seconds, more = self._since_first(key, progress)
        known = seconds > 0.5 and more > 0 and progress.funnel is None  # which tells its own
        rate = f"{quantity(more / seconds, progress.unit)}/s" if known else ""
        self._bars.update(
            self._tasks[key],
            completed=progress.done,
            total=progress.total,
            rate=rate,
            message=progress.message,
        )

    def _draw_funnel(self, progress: Progress, now: float, finished: bool) -> None:
        if progress.funnel is None or self._rates is None:
            return
        if finished or now - self._drawn >= FUNNEL_DRAWN_EVERY:
            self._drawn = now
            self._bars.below = block(progress.funnel, self._rates)


def amount(value: float) -> str:
    """1234567 → "1.23 M"; small whole numbers stay whole, small others keep two digits."""
    for scale, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if abs(value) >= scale:
            return f"{value / scale:.2f}{letter}"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def quantity(value: float, unit: str) -> str:
    """1234567 B → "1.23 MB"; 12 steps → "12 steps"."""
    figure = amount(value)
    return figure + unit if unit == "B" and figure[-1].isalpha() else f"{figure} {unit}".rstrip()


def duration(seconds: float) -> str:
    """75 → "1 min 15 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plain table with aligned columns; Hangul counts two cells."""
    from rich.cells import cell_len

    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(header))]

    def render(line: Sequence[str]) -> str:
        cells = (
            text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)
        )
        return "  " + "  ".join(cells).rstrip()

    rule = "  " + "  ".join("─" * width for width in widths)
    return "\n".join([render(lines[0]), rule, *(render(line) for line in lines[1:])])
