"""The lines a person types, or a pipe holds.

In: standard input. Out: messages, stripped, empty ones left out.

The decision: `readline` edits the line, not prompt_toolkit: it is in the standard library, is right
about Hangul (without it, backspace takes a byte and leaves half a syllable), and costs no start-up
time. What it lacks is here: messages of several lines, and a history that keeps those whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.errors import InputError

try:
    import readline
except ImportError:  # Windows has none, and its console edits lines itself
    readline = None  # type: ignore[assignment]

PROMPT = "나 › "
MORE = "…  › "
KEPT = 1000  # entries of the history
QUOTES = '"""'


def history_file() -> Path | None:
    """$MALMOI_HISTORY (empty: none is kept), or chat_history in the user's state folder."""
    wish = os.environ.get("MALMOI_HISTORY")
    if wish is not None:
        return Path(wish).expanduser() if wish else None
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "malmoi" / "chat_history"


class History:
    """What was typed, one JSON string a line, readable by its owner only.

    A file that cannot be read or written is no reason not to talk: the history then lasts as long
    as the program.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._last = ""
        if readline is None:
            return
        readline.set_auto_history(False)
        readline.clear_history()
        kept = self._read()
        for entry in kept[-KEPT:]:
            readline.add_history(entry)
            self._last = entry
        if len(kept) > 2 * KEPT:
            self._write(kept[-KEPT:], "w")

    def add(self, entry: str) -> None:
        if entry == self._last or readline is None:
            return
        self._last = entry
        readline.add_history(entry)
        self._write([entry], "a")

    def _read(self) -> list[str]:
        if self._path is None:
            return []
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        entries = []
        for line in lines:
            with contextlib.suppress(ValueError):  # half a line, where the machine went down
                entry = json.loads(line)
                if isinstance(entry, str) and "\0" not in entry:
                    entries.append(entry.encode("utf-8", "replace").decode())
        return entries

    def _write(self, entries: list[str], mode: str) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if mode == "a" else os.O_TRUNC)
            with os.fdopen(os.open(self._path, flags, 0o600), mode, encoding="utf-8") as file:
                file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def typed(notice: Callable[[str], None], hint: str, words: list[str]) -> Iterator[str]:
    """Messages from a terminal until Ctrl-D. Ctrl-C drops what was typed and shows `hint`.

    words: commands that the Tab key completes.
    """
    history = History(history_file())
    if readline is not None:
        _bind(words)
    while True:
        try:
            message = _message()
            if message:
                history.add(message)
        except EOFError:
            notice("")
            return
        except KeyboardInterrupt:
            notice(f"\n{hint}")
            continue
        if message:
            yield message


def _bind(words: list[str]) -> None:
    """Alt+Enter makes a new line, Tab completes commands."""

    def complete(text: str, state: int) -> str | None:
        line = readline.get_line_buffer()
        found = [w for w in words if line.startswith("/") and f"/{w}".startswith(text)]
        return f"/{found[state]} " if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \n")
    if "libedit" in (
        readline.__doc__ or ""
    ):  # macOS' own Python; it has no macros like the one below
        readline.parse_and_bind("bind ^I rl_complete")
        return
    readline.parse_and_bind("tab: complete")
    readline.parse_and_bind("set enable-bracketed-paste on")  # several pasted lines are one message
    readline.parse_and_bind(r'"\e\C-m": "\C-v\C-j"')
    readline.parse_and_bind(r'"\e\C-j": "\C-v\C-j"')


def _message() -> str:
    r"""One message: a line, more of them after a trailing backslash, or all between two \"""."""
    line = _read(PROMPT)
    if line.lstrip().startswith(QUOTES):
        rest = line.lstrip()[len(QUOTES) :]
        lines = []
        while not rest.rstrip().endswith(QUOTES):
            lines.append(rest)
            rest = _read(MORE)
        lines.append(rest.rstrip()[: -len(QUOTES)])
        return "\n".join(lines).strip()
    lines = []
    while (len(line) - len(line.rstrip("\\"))) % 2:
        lines.append(line[:-1])
        line = _read(MORE)
    return "\n".join([*lines, line]).strip()


def _read(prompt: str) -> str:
    if not sys.stdout.isatty():  # input() would write its prompt among the replies
        sys.stderr.write(prompt)
        sys.stderr.flush()
        prompt = ""
    line = input(prompt)
    # A byte that is no UTF-8 arrives as a lone surrogate, which no tokenizer takes; text from
    # macOS' file names comes as letters of syllables, which models have hardly seen.
    whole = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return unicodedata.normalize("NFC", whole)


def piped() -> Iterator[str]:
    """The lines of a pipe or file. Raises InputError with the number of one that is not UTF-8."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise InputError(
                f"<stdin>:{number}: is not UTF-8; convert it, e.g. iconv -f CP949"
            ) from None
        if text:
            yield text
