"""One reply while it is being made: from the generation thread to whoever reads it.

In: what the batching loop made so far for a request, on its own thread. Out: `Delta`s, read with
`for` or `async for` from a `Reply`.

The decision: results go straight to the request's listener. Transformers' own router hands a whole
batch to one asyncio loop, so a second loop gets nothing and a closed one kills the generation
thread; results of a cancelled request would stay in its queue for ever.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from transformers.generation.continuous_batching.continuous_api import OutputRouter

from launch.chat.decoding import TextStream

Finish = Literal["stop", "length"]


class EngineError(Exception):
    """Generation itself failed; the message says how."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply. The last one has a `finish_reason`; `tokens` counts those made so far."""

    text: str
    finish_reason: Finish | None
    tokens: int


class Listener:
    """Turns one request's tokens into deltas, on the generation thread, and hands them over."""

    def __init__(
        self, stream: TextStream, stop_ids: frozenset[int], loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self.stream = stream
        self.stop_ids = stop_ids
        self.deltas: queue.SimpleQueue[Delta | EngineError] = queue.SimpleQueue()
        self.arrived = asyncio.Event()
        self.loop = loop
        self.seen = 0

    def take(self, output: Any) -> bool:
        """Take the manager's output so far; True when nothing more is wanted."""
        text, finish = "", None
        for token in output.generated_tokens[self.seen :]:
            self.seen += 1
            if token in self.stop_ids:
                finish = "stop"
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
        if text or finish:
            self.hand(Delta(text, finish, self.seen))  # type: ignore[arg-type]
        return finish is not None

    def hand(self, delta: Delta | EngineError) -> None:
        self.deltas.put(delta)
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.arrived.set)


class Router(OutputRouter):
    """Delivers on the generation thread; results of requests nobody waits for are dropped."""

    def __init__(self, finished: Callable[[str, bool], None]) -> None:
        super().__init__()
        self.listeners: dict[str, Listener] = {}
        self.finished = finished

    def deliver(self, output: Any) -> None:
        listener = self.listeners.get(output.request_id)
        if listener is None:
            return
        try:
            over = listener.take(output)
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

    def __init__(self, listener: Listener, cancel: Callable[[], None], prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.tokens = 0
        self.finish_reason: Finish | None = None
        self._listener = listener
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
        return self._take(self._listener.deltas.get())

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while not self._over:
            self._listener.arrived.clear()
            try:
                return self._take(self._listener.deltas.get_nowait())
            except queue.Empty:
                await self._listener.arrived.wait()
        raise StopAsyncIteration
