"""The same prompt to several models at once, in the terminal: side by side where there is room.

In: engines, and what is typed. Out: on a terminal of enough columns, a column per model that grows line
by line; elsewhere (a pipe, a narrow window) one reply after the other, each under its model's name.

The decision: a row is printed for good once every model has filled it, and only the last row is drawn
over. So nothing jumps, scrolling back works, and a reply of any length fits; the price is that a fast
model waits for a slow one to be seen, though not to be made. Replies run at the same time, with the
same seed. Columns show the text as written: rendered Markdown would not line up.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TextIO

from rich.cells import cell_len

from configs.errors import InputError
from launch.chat.ansi import BOLD, printable, styled
from launch.chat.backend import Busy, ContextOverflow
from launch.chat.dialogue import Session
from launch.chat.engine import Engine
from launch.chat.manner import Manner
from launch.chat.reply import EngineError, together
from launch.chat.terminal import (
    begin,
    columns,
    converse,
    figures,
    notice,
    renders,
    show,
    tell_dropped,
)

GAP = " │ "
NARROWEST = 32  # columns a reply needs to be readable beside another


def compare_terminal(
    engines: Sequence[Engine],
    **options: Any,
) -> None:
    """Read a line, show every model's reply to it, until Ctrl-D. `talk` takes the same options.

    Each model has its own history: what it said itself.
    """
    manner = Manner(**options)
    converse(Session.over(engines, manner.system, manner.sampling()), answer)


def compare_message(
    engines: Sequence[Engine],
    text: str,
    **options: Any,
) -> list[str]:
    """Every model's reply to one message, printed and returned. `one_reply` takes the same options.

    Raises InputError where the message does not fit a model's context; Ctrl-C propagates.
    """
    manner = Manner(**options)
    session = Session.over(engines, manner.system, manner.sampling())
    session.ask(text)
    try:
        texts, stopped = replies(session, sys.stdout, interactive=False)
    except (ContextOverflow, EngineError) as error:
        raise InputError(f"--message: {error}") from None
    if stopped:
        raise KeyboardInterrupt
    return texts


def answer(session: Session, interactive: bool) -> None:
    """All models' replies to the last question. One that cannot be answered by all is taken back."""
    try:
        texts, stopped = replies(session, sys.stdout, interactive=interactive)
    except (ContextOverflow, Busy, EngineError) as error:
        session.fail()
        notice(str(error))
        return
    if stopped and not interactive:
        raise KeyboardInterrupt
    for dialogue, text in zip(session.dialogues, texts, strict=True):
        dialogue.turns.append({"role": "assistant", "text": text})


def replies(session: Session, out: TextIO, *, interactive: bool) -> tuple[list[str], bool]:
    """Make and show a reply of each model; their texts, and whether Ctrl-C stopped them.

    Raises ContextOverflow before anything is shown where one model's context is too short.
    """
    before = [dialogue.dropped for dialogue in session.dialogues]
    for dialogue, dropped in zip(session.dialogues, before, strict=True):
        session.prompt(dialogue)
        tell_dropped(dialogue, dropped)
    wanted = session.sampling
    if wanted.seed is None:
        session.sampling = replace(wanted, seed=random.getrandbits(62))
    try:
        count = len(session.dialogues)
        width = (columns() - 1 - len(GAP) * (count - 1)) // count
        if renders(out) and width >= NARROWEST:
            return _side_by_side(session, out, width, interactive=interactive)
        return _one_by_one(session, out, interactive=interactive)
    finally:
        session.sampling = wanted


def _one_by_one(session: Session, out: TextIO, *, interactive: bool) -> tuple[list[str], bool]:
    texts: list[str] = []
    stopped = False
    for dialogue in session.dialogues:
        name = f"── {dialogue.name} ──"
        out.write((styled(name, BOLD) if renders(out) else name) + "\n")
        out.flush()
        if stopped:  # Ctrl-C is for all of them
            texts.append("")
            continue
        started = time.monotonic()
        reply, pressed = begin(session, dialogue)
        text, stopped = show(reply, out, pressed=pressed)
        texts.append(text)
        if interactive:
            notice(figures(reply, time.monotonic() - started, stopped))
    return texts, stopped


def _side_by_side(
    session: Session, out: TextIO, width: int, *, interactive: bool
) -> tuple[list[str], bool]:
    count = len(session.dialogues)
    texts = [""] * count
    seconds = [0.0] * count
    rows = Rows(out, width, count)
    rows.heading([dialogue.name for dialogue in session.dialogues])
    started = time.monotonic()
    made = []

    async def run() -> None:
        try:  # made inside the loop that reads them
            made.extend([session.begin(dialogue) for dialogue in session.dialogues])
            async for which, delta in together(made):
                texts[which] += delta.text
                seconds[which] = time.monotonic() - started
                rows.write(which, delta.text)
                if delta.finish_reason is not None:
                    rows.end(which)
        finally:
            for reply in made:
                reply.cancel()

    stopped = False
    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        stopped = True
    finally:
        for which in range(count):
            rows.end(which)
    if interactive:
        notes = [
            figures(reply, seconds[i], stopped and reply.finish_reason is None)
            for i, reply in enumerate(made)
        ]
        notice(rows.row(notes))
    return texts, stopped


class Column:
    """Text wrapped to a number of terminal cells, where a Hangul syllable takes two."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = []  # finished
        self.rest = ""  # the line being written
        self._cells = 0
        self.over = False

    def write(self, text: str) -> None:
        for character in printable(text).replace("\t", "    "):
            if character == "\n":
                self._break(len(self.rest))
                continue
            cells = cell_len(character)
            if self._cells + cells > self.width:
                if character == " ":
                    self._break(len(self.rest))
                    continue
                space = self.rest.rfind(" ") + 1
                # A word longer than half the line is cut rather than moved.
                self._break(space if 2 * space > len(self.rest) else len(self.rest))
            self.rest += character
            self._cells += cells

    def end(self) -> None:
        if not self.over:
            self.over = True
            if self.rest:
                self._break(len(self.rest))

    def _break(self, at: int) -> None:
        self.lines.append(self.rest[:at].rstrip())
        self.rest = self.rest[at:]
        self._cells = cell_len(self.rest)


class Rows:
    """Columns that grow together on a terminal."""

    def __init__(self, out: TextIO, width: int, count: int) -> None:
        self._out = out
        self._width = width
        self._columns = [Column(width) for _ in range(count)]
        self._printed = 0

    def heading(self, names: Sequence[str]) -> None:
        shortened = [_cut(name, self._width) for name in names]
        cells = [styled(n, BOLD) + " " * (self._width - cell_len(n)) for n in shortened]
        self._out.write(GAP.join(cells).rstrip() + "\n")
        self._out.write("─┼─".join("─" * self._width for _ in names) + "\n")

    def write(self, which: int, text: str) -> None:
        self._columns[which].write(text)
        self._draw()

    def end(self, which: int) -> None:
        self._columns[which].end()
        self._draw()

    def row(self, texts: Sequence[str]) -> str:
        cells = [_cut(text, self._width) for text in texts]
        return GAP.join(c + " " * (self._width - cell_len(c)) for c in cells).rstrip()

    def _draw(self) -> None:
        """Print the rows that all have filled, then the one being filled, without its end."""
        while all(len(c.lines) > self._printed or c.over for c in self._columns):
            if all(len(c.lines) <= self._printed for c in self._columns):
                break  # all are over
            self._out.write("\r" + self.row([self._at(c) for c in self._columns]) + "\x1b[K\n")
            self._printed += 1
        if not all(c.over for c in self._columns):
            self._out.write("\r" + self.row([self._at(c) for c in self._columns]) + "\x1b[K")
        self._out.flush()

    def _at(self, column: Column) -> str:
        if len(column.lines) > self._printed:
            return column.lines[self._printed]
        return column.rest if len(column.lines) == self._printed else ""


def _cut(text: str, width: int) -> str:
    """At most `width` cells of `text`, with an ellipsis where some are missing."""
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[:-1]
    return text + "…"
