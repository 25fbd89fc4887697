"""A dialogue that outgrew the context, cut by whole turns where the person asked for that.

In: messages and the tokens a reply needs. Out: the prompt's ids, and how many messages were left out.

The decision: a turn (a user's message and what was answered) goes as a whole, oldest first; system
prompts at the top and the last turn stay. Others cut tokens and drop the system prompt silently; here
the answer says how many messages the model did not see. The first turn to keep is found by bisection,
so a long dialogue is encoded a few times and not once a turn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

from launch.chat.backend import Message

REPLY_ROOM = 64  # tokens kept for a reply whose length was not asked for


class Encodes(Protocol):
    context: int

    def prompt(self, messages: Sequence[Message]) -> list[int]: ...


def fit(
    backend: Encodes, messages: Sequence[Message], max_tokens: int | None
) -> tuple[list[int], int]:
    """Prompt ids that leave room for `max_tokens`, and the number of messages dropped for it.

    Where even the system prompt and the last turn leave no room, they are returned as they are, and
    the backend refuses them as any other prompt.
    """
    top = 0
    while top < len(messages) - 1 and messages[top]["role"] == "system":
        top += 1
    starts = [i for i in range(top, len(messages)) if messages[i]["role"] == "user"] or [top]
    starts[0] = top  # whatever stands before the first user's message belongs to its turn
    room = max_tokens or min(REPLY_ROOM, backend.context // 4)
    most = backend.context - room

    def cut(start: int) -> list[int]:
        return backend.prompt([*messages[:top], *messages[start:]])

    whole = cut(top)
    if len(whole) <= most:
        return whole, 0
    at = bisect_left(starts, True, hi=len(starts) - 1, key=lambda start: len(cut(start)) <= most)
    return cut(starts[at]), starts[at] - top
