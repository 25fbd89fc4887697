"""Talking to an engine in the terminal, and one reply for a script.

In: lines of standard input. Out: replies on standard output as they are made; everything else
(prompts, notices, figures) goes to standard error, so a pipe holds replies only.

The decision: `readline` edits the line. Without it, backspace on Hangul takes a byte and leaves half
a syllable. A dialogue that outgrows the model's context loses its oldest turns, and is told so.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

from configs.errors import InputError
from launch.chat.engine import ContextOverflow, Engine, Message
from launch.chat.reply import Reply
from launch.chat.sampling import Sampling

with contextlib.suppress(ImportError):  # Windows has none, and its console edits lines itself
    import readline  # noqa: F401

HELP = "/reset starts over · Ctrl-C stops a reply · Ctrl-D ends"
PROMPT = "나 › "
REPLY_ROOM = 64  # tokens of the context kept for a reply before old turns are dropped


def talk(
    engine: Engine,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.95,
) -> None:
    """Read a line, stream a reply, until Ctrl-D or the end of a pipe (one line, one turn)."""
    sampling = Sampling(max_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    turns: list[Message] = []
    interactive = sys.stdin.isatty()
    if interactive:
        notice(f"{engine.name}: {HELP}")
    for text in lines(interactive):
        if text in ("/reset", "/help", "/?"):
            if text == "/reset":
                turns.clear()
            notice("새 대화 · a new conversation" if text == "/reset" else HELP)
            continue
        if text in ("/exit", "/quit"):
            break
        turns.append({"role": "user", "text": text})
        try:
            prompt, room, dropped = fit(engine, system, turns, max_new_tokens)
        except ContextOverflow as error:
            turns.pop()
            notice(str(error))
            continue
        if dropped:
            notice(f"the context is full: the oldest {dropped} messages were dropped")
        started = time.monotonic()
        reply = engine.reply(prompt, replace(sampling, max_tokens=room))
        answer, stopped = show(reply, sys.stdout)
        turns.append({"role": "assistant", "text": answer})
        if interactive:
            rate = reply.tokens / max(time.monotonic() - started, 1e-6)
            why = (
                "stopped"
                if stopped
                else "cut at the limit"
                if reply.finish_reason == "length"
                else ""
            )
            notice(" · ".join(filter(None, (f"{reply.tokens} tokens, {rate:.0f} tokens/s", why))))


def one_reply(
    engine: Engine,
    text: str,
    *,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.95,
    seed: int | None = None,
) -> str:
    """One reply to `text`, streamed to standard output and returned.

    Raises InputError where the message does not fit the model's context; Ctrl-C propagates.
    """
    turns: list[Message] = [{"role": "user", "text": text}]
    try:
        prompt, room, _ = fit(engine, system, turns, max_new_tokens)
    except ContextOverflow as error:
        raise InputError(f"--message: {error}") from None
    sampling = Sampling(max_tokens=room, temperature=temperature, top_p=top_p, seed=seed)
    answer, stopped = show(engine.reply(prompt, sampling), sys.stdout)
    if stopped:
        raise KeyboardInterrupt
    return answer


def fit(
    engine: Engine, system: str | None, turns: list[Message], max_new_tokens: int
) -> tuple[list[int], int, int]:
    """Prompt ids, tokens to generate, and how many of the oldest messages were dropped for it.

    Drops from `turns` by whole exchanges, never the last message or the system prompt. Raises
    ContextOverflow where those alone leave no room.
    """
    head: list[Message] = [{"role": "system", "text": system}] if system else []
    before = len(turns)
    while True:
        prompt = engine.prompt([*head, *turns])
        room = min(max_new_tokens, engine.context - len(prompt))
        if room >= min(max_new_tokens, REPLY_ROOM) or (len(turns) < 3 and room >= 1):
            return prompt, room, before - len(turns)
        if len(turns) < 3:
            raise ContextOverflow(len(prompt), None, engine.context)
        del turns[:2]


def show(reply: Reply, out: TextIO) -> tuple[str, bool]:
    """Stream a reply; returns its text and whether Ctrl-C stopped it."""
    parts: list[str] = []
    plain = printable if out.isatty() else str
    stopped = False
    try:
        for delta in reply:
            parts.append(delta.text)
            out.write(plain(delta.text))
            out.flush()
    except KeyboardInterrupt:
        stopped = True
    finally:
        reply.cancel()
    out.write("\n")
    out.flush()
    return "".join(parts), stopped


def printable(text: str) -> str:
    """Without control characters, so that a model cannot send escape sequences to a terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def lines(interactive: bool) -> Iterator[str]:
    """The person's messages, stripped, empty ones left out."""
    source = typed() if interactive else piped()
    yield from filter(None, (line.strip() for line in source))


def typed() -> Iterator[str]:
    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            notice("")
            return
        except KeyboardInterrupt:
            notice(f"\n{HELP}")
            continue
        # A byte that is no UTF-8 arrives as a lone surrogate, which no tokenizer takes.
        yield line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def piped() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"<stdin>:{number}: is not UTF-8; convert it, e.g. iconv -f CP949"
            ) from None


def notice(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
