"""Talking to an engine in the terminal, and one reply for a script.

In: lines of standard input. Out: replies on standard output as they are made; everything else
(prompts, notices, figures) goes to standard error, so a pipe holds replies only, exactly as the model
wrote them. On a terminal their Markdown is rendered (`ansi.py`). Commands are in `slash.py`; of those a
pipe obeys only /reset, /exit and /quit, since its lines are data and /save writes files.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from configs.errors import InputError
from launch.chat.ansi import Markdown, printable
from launch.chat.backend import Busy, ContextOverflow
from launch.chat.dialogue import Dialogue, Session
from launch.chat.engine import Engine
from launch.chat.line import piped, typed
from launch.chat.manner import Manner
from launch.chat.reply import EngineError, Reply
from launch.chat.slash import COMMANDS, Next, run

HINT = "/help shows the commands · Ctrl-C stops a reply · Ctrl-D ends"


def talk(
    engine: Engine,
    **options: Any,
) -> None:
    """Read a line, stream a reply, until Ctrl-D or the end of a pipe (one line, one turn).

    options: of `Manner`.
    """
    manner = Manner(**options)
    converse(Session.over([engine], manner.system, manner.sampling()), answer)


def converse(session: Session, answer: Callable[[Session, bool], None]) -> None:
    """The conversation itself: `answer` shows the replies to the last question and notes them.

    Its second argument: whether a person is typing, and figures are wanted.
    """
    interactive = sys.stdin.isatty()
    if interactive:
        notice(f"{' · '.join(d.name for d in session.dialogues)}: {HINT}")
    for line in typed(notice, HINT, list(COMMANDS)) if interactive else piped():
        try:
            if not respond(session, line, answer, interactive):
                return
        except KeyboardInterrupt:  # between the last token and the next line
            if not interactive:
                raise
            if session.turns and session.turns[-1]["role"] == "user":
                session.take_back(question=True)
            notice("")
    if session.failed and not interactive:
        raise InputError(f"messages that were not answered: {session.failed}; why stands above")


def respond(
    session: Session, line: str, answer: Callable[[Session, bool], None], interactive: bool
) -> bool:
    """What one line asks for: a command or a reply. False where it ends the conversation."""
    text = line
    if line.startswith("//") and interactive:
        text = line[1:]
    elif line.startswith("/") and (interactive or line in ("/reset", "/exit", "/quit")):
        said, then = run(session, line)
        if said:
            notice(said)
        if then is Next.REPLY:
            answer(session, interactive)
        return then is not Next.END
    session.ask(text)
    answer(session, interactive)
    return True


def answer(session: Session, interactive: bool) -> None:
    """One model's reply, shown while it is made. A question that cannot be answered is taken back."""
    dialogue = session.dialogues[0]
    before = dialogue.dropped
    started = time.monotonic()
    try:
        reply, pressed = begin(session, dialogue)
        tell_dropped(dialogue, before)
        text, stopped = show(reply, sys.stdout, pressed=pressed)
    except (ContextOverflow, Busy, EngineError) as error:
        session.fail()
        notice(str(error))
        return
    if stopped and not interactive:
        raise KeyboardInterrupt
    dialogue.turns.append({"role": "assistant", "text": text})
    if interactive:
        notice(figures(reply, time.monotonic() - started, stopped))


def begin(session: Session, dialogue: Dialogue) -> tuple[Reply, bool]:
    """Start a reply, undisturbed by Ctrl-C; whether that was pressed meanwhile.

    An exception in the middle of it could leave a request, or the engine's thread, that nobody ends.
    """
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        return session.begin(dialogue), False
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        reply = session.begin(dialogue)
    finally:
        signal.signal(signal.SIGINT, before)
    return reply, bool(pressed)


def tell_dropped(dialogue: Dialogue, before: int) -> None:
    if dialogue.dropped > before:
        notice(
            f"{dialogue.name}: the context is full; the model no longer sees the oldest "
            f"{dialogue.dropped} messages"
        )


def figures(reply: Reply, seconds: float, stopped: bool) -> str:
    why = "stopped" if stopped else "cut at the limit" if reply.finish_reason == "length" else ""
    rate = reply.tokens / max(seconds, 1e-6)
    return " · ".join(filter(None, (f"{reply.tokens} tokens, {rate:.0f} tokens/s", why)))


def one_reply(
    engine: Engine,
    text: str,
    **options: Any,
) -> str:
    """One reply to `text`, streamed to standard output and returned.

    Raises InputError where the message does not fit the context or the engine fails; Ctrl-C propagates.
    """
    manner = Manner(**options)
    session = Session.over([engine], manner.system, manner.sampling())
    session.ask(text)
    try:
        reply = session.begin(session.dialogues[0])
        said, stopped = show(reply, sys.stdout)
    except (ContextOverflow, EngineError) as error:
        raise InputError(f"--message: {error}") from None
    if stopped:
        raise KeyboardInterrupt
    return said


def show(reply: Reply, out: TextIO, *, pressed: bool = False) -> tuple[str, bool]:
    """Stream a reply; returns its text and whether Ctrl-C stopped it (or `pressed`: had before)."""
    parts: list[str] = []
    stopped = pressed
    markdown = Markdown(columns()) if renders(out) else None
    try:
        for delta in () if pressed else reply:
            parts.append(delta.text)
            if markdown is not None:
                out.write(markdown.feed(delta.text))
            else:
                out.write(printable(delta.text) if out.isatty() else delta.text)
            out.flush()
    except KeyboardInterrupt:
        stopped = True
    finally:
        reply.cancel()
        if markdown is not None:
            out.write(markdown.end())
    out.write("\n")
    out.flush()
    return "".join(parts), stopped


def renders(out: TextIO) -> bool:
    """Whether styles belong in `out`: a terminal that knows them, and nobody asked for none."""
    return out.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def columns() -> int:
    return shutil.get_terminal_size().columns


def notice(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)  # a file or a model may be quoted in it
