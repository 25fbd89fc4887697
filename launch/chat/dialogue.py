"""A conversation as the terminal holds it: one dialogue per model, the same questions to each.

In: what is typed. Out: prompts that fit each model's context, and a file that the page reads too.

The decision: nothing that was said is forgotten here. Where a model's context is full, its prompt
leaves out the oldest turns, and it is said how many messages that were; a saved file has them all.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from configs.errors import InputError
from launch.chat.backend import ContextOverflow, Message, named
from launch.chat.engine import Engine
from launch.chat.reply import Reply
from launch.chat.sampling import Sampling
from launch.chat.truncation import REPLY_ROOM
from launch.chat.truncation import fit as cut

# What /params and a saved file may set → its type, and the range that makes sense.
PARAMETERS: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0.01, 1),
    "top_k": (int, 0, 1_000_000),
    "min_p": (float, 0, 1),
    "repetition_penalty": (float, 0.1, 10),
    "max_tokens": (int, 1, 1_000_000),
    "seed": (int, 0, 2**63 - 1),
}


@dataclass
class Dialogue:
    """What one model was told and has said. dropped: oldest messages its last prompt left out."""

    engine: Engine
    name: str
    turns: list[Message] = field(default_factory=list)
    dropped: int = 0


@dataclass
class Session:
    """One conversation with one model or several.

    retries: of the last question, for the seed. failed: questions that got no answer.
    """

    dialogues: list[Dialogue]
    system: str | None
    sampling: Sampling
    retries: int = 0
    failed: int = 0

    @classmethod
    def over(cls, engines: Sequence[Engine], system: str | None, sampling: Sampling) -> Session:
        names = named(engines)
        return cls([Dialogue(e, name) for name, e in names.items()], system or None, sampling)  # type: ignore[arg-type]

    @property
    def turns(self) -> list[Message]:
        """The first model's messages; the users' are the same in all."""
        return self.dialogues[0].turns

    def ask(self, text: str) -> None:
        self.retries = 0
        for dialogue in self.dialogues:
            dialogue.turns.append({"role": "user", "text": text})

    def forget(self) -> None:
        self.retries = 0
        for dialogue in self.dialogues:
            dialogue.turns.clear()
            dialogue.dropped = 0

    def take_back(self, *, question: bool) -> str | None:
        """Remove the last replies, and their question too; the question, None where there is none."""
        if not self.turns:
            return None
        text = next((m["text"] for m in reversed(self.turns) if m["role"] == "user"), None)
        for dialogue in self.dialogues:
            while dialogue.turns and dialogue.turns[-1]["role"] != "user":
                dialogue.turns.pop()
            if question and dialogue.turns:
                dialogue.turns.pop()
        return text

    def fail(self) -> None:
        """The last question cannot be answered: it is taken back, and counted."""
        self.take_back(question=True)
        self.failed += 1

    def prompt(self, dialogue: Dialogue) -> tuple[list[int], int]:
        """Prompt ids and the tokens to generate at most. Raises ContextOverflow; sets `dropped`."""
        prompt, room, dialogue.dropped = fit(
            dialogue.engine, self.system, dialogue.turns, self.sampling.max_tokens
        )
        return prompt, room

    def begin(self, dialogue: Dialogue) -> Reply:
        """Start the reply to the last question. Raises as `prompt`, Busy or EngineError."""
        prompt, room = self.prompt(dialogue)
        seed = self.sampling.seed
        if seed is not None:  # a retry with the same seed would say the same again
            seed += self.retries
        return dialogue.engine.reply(prompt, replace(self.sampling, max_tokens=room, seed=seed))


def fit(
    engine: Engine, system: str | None, turns: Sequence[Message], max_tokens: int | None
) -> tuple[list[int], int, int]:
    """Prompt ids, tokens to generate, and how many of the oldest messages were left out for it.

    Leaves out whole turns, never the last message or the system prompt. Raises ContextOverflow
    where those alone leave no room.
    """
    head: list[Message] = [{"role": "system", "text": system}] if system else []
    least = min(max_tokens or REPLY_ROOM, REPLY_ROOM)
    prompt, dropped = cut(engine, [*head, *turns], least)
    room = min(max_tokens or engine.context, engine.context - len(prompt))
    if room < 1:
        raise ContextOverflow(len(prompt), None, engine.context)
    return prompt, room, dropped


def parameter(name: str, text: Any) -> float | int | None:
    """A parameter's value. Raises InputError with what it may be; "none" and "" unset a seed."""
    kind, least, most = PARAMETERS[name]
    if text in ("none", "", None):
        if name in ("seed", "max_tokens"):
            return None
        return {f.name: f.default for f in fields(Sampling)}[name]  # type: ignore[return-value]
    try:
        value = kind(text)
    except (TypeError, ValueError, OverflowError):
        value = None
    if value is None or isinstance(text, bool) or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name}: must be {what} from {least:g} to {most:g}, not {text}")
    return value  # type: ignore[no-any-return]


def save(session: Session, path: Path) -> None:
    """Write the conversation as JSON, in the page's form: per model a dialogue as OpenAI's API has it.

    Raises InputError where the file is there and is something else, or cannot be written.
    """
    if path.exists():
        try:
            _read(path)
        except InputError:
            raise InputError(f"{path}: is there and is no dialogue; take another name") from None
    wanted = asdict(session.sampling)
    content = {
        "malmoi": "dialogue",
        "title": next((m["text"] for m in session.turns if m["role"] == "user"), "")[:80],
        "sampling": {n: wanted[n] for n in PARAMETERS if wanted[n] is not None},
        "dialogues": [
            {
                "model": dialogue.name,
                "messages": [
                    {"role": m["role"], "content": m["text"]}
                    for m in [*_system(session), *dialogue.turns]
                ],
            }
            for dialogue in session.dialogues
        ],
    }
    new = path.with_name(f".malmoi-{secrets.token_hex(4)}.tmp")
    try:
        new.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _system(session: Session) -> list[Message]:
    return [{"role": "system", "text": session.system}] if session.system else []


def load(session: Session, path: Path) -> None:
    """Go on from a saved conversation. Raises InputError, and then nothing has changed.

    Each model takes the dialogue with its name, or the file's first.
    """
    content = _read(path)
    said = {d["model"]: d["messages"] for d in reversed(content["dialogues"])}
    first = content["dialogues"][0]["messages"]
    given = content.get("sampling") or {}
    wanted = {n: parameter(n, given[n]) for n in PARAMETERS if given.get(n) is not None}
    session.sampling = replace(session.sampling, **wanted)  # type: ignore[arg-type]
    system = [m["content"] for m in first if m["role"] == "system"]
    session.system = "\n".join(system) or None
    session.forget()
    for dialogue in session.dialogues:
        dialogue.turns[:] = [
            {"role": m["role"], "text": m["content"]}
            for m in said.get(dialogue.name, first)
            if m["role"] != "system"
        ]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not JSON") from None
    try:
        good = content["malmoi"] == "dialogue" and isinstance(content.get("sampling", {}), dict)
        for dialogue in content["dialogues"]:
            good = good and isinstance(dialogue["model"], str)
            roles = [m["role"] for m in dialogue["messages"]]
            good = good and {*roles} <= {"system", "user", "assistant"}
            good = good and all(isinstance(m["content"], str) for m in dialogue["messages"])
            for message in dialogue["messages"]:
                message["content"].encode()
        good = good and bool(content["dialogues"])
    except (TypeError, KeyError, AttributeError, UnicodeEncodeError):
        good = False
    if not good:
        raise InputError(f"{path}: is no dialogue that /save or the page wrote")
    return content  # type: ignore[no-any-return]
