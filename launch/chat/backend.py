"""What makes replies, as the server sees it: a model in this process, or in another one.

In: dialogues or text. Out: ids in Llama-3's chat format, and the errors, loads and names that all
backends share. The two there are: `engine.Engine` and `external.External`.

The decision: a prompt becomes ids here, for every backend. So what a person writes can nowhere become
a control token, and a context that overflows is found before a request leaves this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

from configs.errors import InputError
from launch.chat.decoding import token_bytes
from launch.chat.reply import Reply
from launch.chat.sampling import Sampling
from tokenizer.chat import BOS, plain_ids, render_dialogue

MAX_REQUESTS = 256  # running and waiting; more is refused at once
STOP_TOKENS = ("<|eot_id|>", "<|end_of_text|>")


class Message(TypedDict):
    """One turn of a dialogue: role is system, user or assistant."""

    role: str
    text: str


class ContextOverflow(Exception):
    """The prompt, or the prompt and the tokens asked for, do not fit the model's context."""

    def __init__(self, prompt: int, asked: int | None, context: int) -> None:
        wish = f" and max_tokens is {asked}" if asked else ""
        super().__init__(
            f"this model's context is {context} tokens; the messages are {prompt}{wish}. "
            "Shorten the messages or ask for fewer tokens"
        )
        self.prompt, self.asked, self.context = prompt, asked, context


class Busy(Exception):
    """More requests than are admitted; try again later."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a backend is: requests, and the share of the cache in use (None: unknown)."""

    running: int
    waiting: int
    cache: float | None


class Backend(Protocol):
    """What the server needs of whatever makes the replies.

    `context`: tokens of a prompt and its reply together. `alive`: False once it can make none.
    """

    name: str
    context: int

    def prompt(self, messages: Sequence[Message]) -> list[int]: ...
    def text_prompt(self, text: str) -> list[int]: ...
    def token(self, index: int) -> bytes: ...
    def replies(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> list[Reply]: ...
    def load(self) -> Load: ...
    def close(self) -> None: ...

    @property
    def vocabulary(self) -> int: ...
    @property
    def alive(self) -> bool: ...


class ChatFormat:
    """A tokenizer that writes Llama-3's chat format.

    folder: where it came from, for messages. Raises InputError where it is no such tokenizer.
    `stop_ids` end a reply; `pieces` are the bytes of each id, None for control tokens.
    """

    context: int

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        self.name = model_name(folder)
        self.tokenizer = tokenizer
        self.pieces = token_bytes(tokenizer)
        vocabulary = tokenizer.get_vocab()
        self.stop_ids = frozenset(vocabulary[t] for t in STOP_TOKENS if t in vocabulary)
        if not self.stop_ids:
            raise InputError(
                f"{folder}: its tokenizer has neither {' nor '.join(STOP_TOKENS)}; chat needs a "
                "tokenizer in Llama-3's format"
            )

    @property
    def vocabulary(self) -> int:
        """Ids below this are tokens."""
        return len(self.pieces)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a dialogue, ending where the assistant's turn begins.

        What a message says is text: "<|eot_id|>" in it becomes the ordinary tokens of those ten
        characters, never the control token.
        """
        segments = [{"role": m["role"], "text": m["text"]} for m in messages]
        return render_dialogue(self.tokenizer, segments, add_generation_prompt=True)[0]

    def text_prompt(self, text: str) -> list[int]:
        """The ids of plain text to go on from; control tokens' names in it are ordinary text."""
        start = int(self.tokenizer.convert_tokens_to_ids(BOS))
        return [start, *plain_ids(self.tokenizer, text)]

    def token(self, index: int) -> bytes:
        """The bytes of one token; a control token's are its name's."""
        return self.pieces[index] or str(self.tokenizer.convert_ids_to_tokens(index)).encode()

    def room(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """The tokens that may be generated; raises ContextOverflow where they cannot fit."""
        room = self.context - len(prompt)
        if room < 1 or (sampling.max_tokens or 0) > room:
            raise ContextOverflow(len(prompt), sampling.max_tokens, self.context)
        return sampling.max_tokens or room


def model_name(folder: Path) -> str:
    """How a model folder is called: its name, or its run's (`runs/<name>/model`)."""
    folder = Path(folder).resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def named(backends: Sequence[Backend]) -> dict[str, Backend]:
    """Backends by the name clients call them; a name that is taken gets `-2`, `-3`, …"""
    names: dict[str, Backend] = {}
    for backend in backends:
        name, number = backend.name, 2
        while name in names:
            name, number = f"{backend.name}-{number}", number + 1
        names[name] = backend
    return names
