"""What a line that begins with a slash does in the terminal.

In: the line and the conversation. Out: the conversation changed, a notice, and what comes next.
A mistake (a wrong name, number or file) is told and changes nothing. `//` begins a message with a slash.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path

from configs.errors import InputError
from launch.chat.backend import ContextOverflow
from launch.chat.dialogue import PARAMETERS, Session, load, parameter, save

HELP = """\
/system [TEXT]        show or set the system prompt; /system - removes it
/reset                a new conversation
/retry                another reply to the last question
/undo                 take the last question and its reply back
/save FILE            write the conversation, as the page exports it
/load FILE            go on from such a file
/params [NAME=VALUE]  show or set """ + ", ".join(PARAMETERS) + """
/tokens               how full the context is
/help, /exit
A line that ends with \\ goes on; so does everything between \"\"\" and \"\"\". Alt+Enter makes a new line.
Ctrl-C stops a reply, Ctrl-D ends."""  # fmt: skip


class Next(Enum):
    """What follows a command: the next line, a reply to the last question, or the end."""

    LINE = "line"
    REPLY = "reply"
    END = "end"


Action = Callable[[Session, str], tuple[str, Next]]


def run(session: Session, line: str) -> tuple[str, Next]:
    """Do what `line` (with its slash) says; the notice to show, and what comes next."""
    name, _, rest = line[1:].partition(" ")
    action = COMMANDS.get(name)
    if action is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        return f"no command /{name}; {hint} A message that begins with / is written //", Next.LINE
    try:
        return action(session, rest.strip())
    except (InputError, ContextOverflow) as error:
        return str(error), Next.LINE
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # ~nobody, a name too long, no right to look
        return f"/{name}: {error}", Next.LINE


def _system(session: Session, text: str) -> tuple[str, Next]:
    if text:
        session.system = None if text == "-" else text
    return f"system: {session.system or '(none)'}", Next.LINE


def _reset(session: Session, text: str) -> tuple[str, Next]:
    session.forget()
    return "새 대화 · a new conversation", Next.LINE


def _retry(session: Session, text: str) -> tuple[str, Next]:
    if session.take_back(question=False) is None:
        return "nothing was asked yet", Next.LINE
    session.retries += 1
    return "", Next.REPLY


def _undo(session: Session, text: str) -> tuple[str, Next]:
    question = session.take_back(question=True)
    if question is None:
        return "nothing was asked yet", Next.LINE
    return f"taken back: {question}", Next.LINE


def _file(text: str) -> Path:
    if not text:
        raise InputError("a file name is missing, e.g. /save talk.json")
    return Path(text).expanduser()


def _save(session: Session, text: str) -> tuple[str, Next]:
    save(session, _file(text))
    return f"{len(session.turns)} messages written to {text}", Next.LINE


def _load(session: Session, text: str) -> tuple[str, Next]:
    load(session, _file(text))
    return f"{len(session.turns)} messages read from {text}", Next.LINE


def _params(session: Session, text: str) -> tuple[str, Next]:
    changed: dict[str, float | int | None] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if name not in PARAMETERS or not equals:
            near = difflib.get_close_matches(name, PARAMETERS, n=1)
            hint = f"did you mean {near[0]}=…?" if near else f"one of {', '.join(PARAMETERS)}"
            raise InputError(f"{word}: is no NAME=VALUE of a parameter; {hint}")
        changed[name] = parameter(name, value)
    session.sampling = replace(session.sampling, **changed)  # type: ignore[arg-type]
    values = {name: getattr(session.sampling, name) for name in PARAMETERS}
    shown = (f"{name}={'none' if v is None else f'{v:g}' if v.__class__ is float else v}" for name, v in values.items())  # fmt: skip
    return "  ".join(shown), Next.LINE


def _tokens(session: Session, text: str) -> tuple[str, Next]:
    lines = []
    for dialogue in session.dialogues:
        head = [{"role": "system", "text": session.system}] if session.system else []
        used = len(dialogue.engine.prompt([*head, *dialogue.turns]))  # type: ignore[list-item]
        context = dialogue.engine.context
        whose = f"{dialogue.name}: " if len(session.dialogues) > 1 else ""
        line = f"{whose}{used:,} of {context:,} tokens, {len(dialogue.turns)} messages"
        over = "; over the context: the oldest are left out" if used >= context else ""
        lines.append(line + over)
    return "\n".join(lines), Next.LINE


def _help(session: Session, text: str) -> tuple[str, Next]:
    return HELP, Next.LINE


def _exit(session: Session, text: str) -> tuple[str, Next]:
    return "", Next.END


COMMANDS: dict[str, Action] = {
    "system": _system,
    "reset": _reset,
    "retry": _retry,
    "undo": _undo,
    "save": _save,
    "load": _load,
    "params": _params,
    "tokens": _tokens,
    "help": _help,
    "?": _help,
    "exit": _exit,
    "quit": _exit,
}
