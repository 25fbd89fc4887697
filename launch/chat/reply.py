"""One reply while it is being made: from the generation thread to whoever reads it.

In: what the batching loop made so far for a request, on its own thread. Out: `Delta`s, read with
`for` or `async for` from a `Reply`; several replies at once with `together`.

The decision: results go straight to the request's listener. Transformers' own router hands a whole
batch to one asyncio loop, so a second loop gets nothing and a closed one kills the generation
thread; results of a cancelled request would stay in its queue for ever.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers.generation.continuous_batching.continuous_api import OutputRouter

from launch.chat.decoding import TextStream
from launch.chat.sampling import TokenScore

Finish = Literal["stop", "length"]


class EngineError(Exception):
    """Generation itself failed; the message says how."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply. The last one has a `finish_reason`; `tokens` counts those made so far.

    scores: log probabilities of the piece's tokens, where they were asked for; a stop token has none.
    """

    text: str
    finish_reason: Finish | None
    tokens: int
    scores: tuple[TokenScore, ...] = ()


class Mailbox:
    """Deltas on their way from whatever thread makes them to the one reader.

    loop: the asyncio loop of a reader that waits with `await`; None for one that blocks.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.deltas: queue.SimpleQueue[Delta | EngineError] = queue.SimpleQueue()
        self.arrived = asyncio.Event()
        self.loop = loop

    def hand(self, delta: Delta | EngineError) -> None:
        """Raises RuntimeError where the reader's loop is closed."""
        self.deltas.put(delta)
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.arrived.set)


class Listener(Mailbox):
    """Turns one request's tokens into deltas, on the generation thread, and hands them over.

    first: called once, when the first token is there.
    """

    def __init__(
        self,
        stream: TextStream,
        stop_ids: frozenset[int],
        loop: asyncio.AbstractEventLoop | None,
        first: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(loop)
        self.stream = stream
        self.stop_ids = stop_ids
        self.first = first
        self.seen = 0

    def take(self, output: Any, score: TokenScore | None = None) -> bool:
        """Take the manager's output so far; True when nothing more is wanted."""
        text, finish = "", None
        if self.first is not None and output.generated_tokens:
            self.begin()
        for token in output.generated_tokens[self.seen :]:
            self.seen += 1
            if token in self.stop_ids:
                finish, score = "stop", None
                break
            text += self.stream.push(token)
            if self.stream.stopped:
                finish = "stop"
                break
        if finish is None and output.error is not None:
            self.hand(EngineError(output.error))
            return True
        if finish is None and output.is_finished():
            finish = "length"
        if finish is not None:
            text += self.stream.flush()
            if self.stream.stopped:
                finish = "stop"
        if text or finish or score:
            scores = () if score is None else (score,)
            self.hand(Delta(text, finish, self.seen, scores))  # type: ignore[arg-type]
        return finish is not None

    def begin(self) -> None:
        """Call `first`, where that was not done yet."""
        first, self.first = self.first, None
        if first is not None:
            first()


class Router(OutputRouter):
    """Delivers on the generation thread; results of requests nobody waits for are dropped.

    finished: told of each request that is over, and whether the manager still works on it.
    cancel: told of results nobody waits for. The manager forgets a cancellation that overtakes its
    request on the way in; such a request is cancelled again at its first token.
    """

    def __init__(
        self, finished: Callable[[str, bool], None], cancel: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.listeners: dict[str, Listener] = {}
        self.scores: dict[str, TokenScore] = {}  # the sampler's, taken with the token they are of
        self.finished = finished
        self.cancel = cancel

    def deliver(self, output: Any) -> None:
        score = self.scores.pop(output.request_id, None)
        listener = self.listeners.get(output.request_id)
        if listener is None:
            if not output.is_finished():
                self.cancel(output.request_id)
            return
        try:
            over = listener.take(output, score)
        except RuntimeError:  # the listener's event loop is closed
            over = True
        if over:
            self.finished(output.request_id, not output.is_finished())

    def deliver_batch(self, outputs: list[Any]) -> None:
        for output in outputs:
            self.deliver(output)


class Reply:
    """One reply being made. Iterate it, in a loop or a coroutine; `cancel` it, or just drop it.

    Created inside a running asyncio loop it must be read by that loop with `async for`, elsewhere
    with `for`. Raises EngineError from the iteration where generation fails.
    """

    def __init__(self, mailbox: Mailbox, cancel: Callable[[], None], prompt: Sequence[int]) -> None:
        self.prompt = prompt
        self.prompt_tokens = len(prompt)
        self.tokens = 0
        self.finish_reason: Finish | None = None
        self._mailbox = mailbox
        self._cancel = cancel
        self._over = False

    def cancel(self) -> None:
        """Stop generating; the slot is free within a step. Safe to call at any time."""
        self._over = True
        self._cancel()

    def __del__(self) -> None:
        if not self._over:
            self._cancel()

    def _take(self, delta: Delta | EngineError) -> Delta:
        if isinstance(delta, EngineError):
            self._over = True
            raise delta
        self.tokens, self.finish_reason = delta.tokens, delta.finish_reason
        self._over = delta.finish_reason is not None
        return delta

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        if self._over:
            raise StopIteration
        return self._take(self._mailbox.deltas.get())

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self._over:
            self._mailbox.arrived.clear()
            try:
                return self._take(self._mailbox.deltas.get_nowait())
            except queue.Empty:
                await self._mailbox.arrived.wait()
        raise StopAsyncIteration


async def together(replies: Sequence[Reply]) -> AsyncIterator[tuple[int, Delta]]:
    """Deltas of several replies of one loop as they come, each with its reply's index."""
    arrived = asyncio.Event()
    for reply in replies:  # a delta handed over before this is found by the first look below
        reply._mailbox.arrived = arrived
    open_ones: Mapping[int, Reply] = dict(enumerate(replies))
    while open_ones:
        arrived.clear()
        for index, reply in open_ones.items():
            while not reply._over:
                try:
                    delta = reply._mailbox.deltas.get_nowait()
                except queue.Empty:
                    break
                yield index, reply._take(delta)
        open_ones = {index: reply for index, reply in open_ones.items() if not reply._over}
        if open_ones:
            await arrived.wait()
