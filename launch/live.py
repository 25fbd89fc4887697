"""What a terminal shows of a running stage: the bars of its steps, and below them the funnel.

One block that rich draws again in place. Imported when the first bar is drawn, not before.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Bars(Progress):
    """The bars; `below` are lines of text under them."""

    def __init__(self) -> None:
        self.below: list[str] = []
        super().__init__(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[message]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text("\n".join(self.below), no_wrap=True, overflow="crop")
