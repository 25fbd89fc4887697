"""A checked request → replies → one answer, whole or streamed.

In: a backend and what was asked of it. Out: an object for a JSON answer, or server-sent events.

The decision: whoever waits is watched. A client that goes away ends its replies at once, whether it
was streaming or not; an engine's refusal becomes an error before the first byte, its failure an event.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request

from launch.chat.answers import ChatAnswer, Whole, event, usage
from launch.chat.backend import Backend, Busy, ContextOverflow
from launch.chat.metrics import Clock
from launch.chat.protocol import ApiError, CompletionRequest
from launch.chat.protocol import Request as Asked
from launch.chat.reply import EngineError, Reply, together

LONG_BODY = 16384  # bytes; a longer one is encoded on another thread, so that streams go on


async def encoded(body: bytes, encode: Any, *arguments: Any) -> Any:
    """`encode(*arguments)`, on another thread where the body is long."""
    if len(body) <= LONG_BODY:
        return encode(*arguments)
    return await asyncio.to_thread(encode, *arguments)


def prompt_ids(engine: Backend, request: CompletionRequest) -> list[list[int]]:
    """The ids of each prompt; ApiError 400 for ids that are no tokens."""
    prompts = []
    for prompt in request.prompts():
        if isinstance(prompt, str):
            prompts.append(engine.text_prompt(prompt))
        elif max(prompt) < engine.vocabulary:
            prompts.append(prompt)
        else:
            raise ApiError(
                400,
                f"prompt: token {max(prompt)} does not exist; ids end at {engine.vocabulary - 1}",
                param="prompt",
                code="invalid_value",
            )
    return prompts


def start(
    engine: Backend, prompts: Sequence[Sequence[int]], request: Asked, field: str
) -> list[Reply]:
    """Submit to the engine; what it refuses becomes an ApiError."""
    try:
        return engine.replies(prompts, request.sampling(), request.n or 1)
    except ContextOverflow as error:
        raise ApiError(400, str(error), param=field, code="context_length_exceeded") from None
    except Busy as error:
        raise ApiError(429, str(error), code="rate_limit_exceeded") from None
    except EngineError as error:
        raise ApiError(503, str(error), code="engine_stopped") from None


def used(replies: Sequence[Reply]) -> dict[str, int]:
    """Tokens so far. A prompt counts once, however many replies were made to it."""
    prompts = {id(reply.prompt): reply.prompt_tokens for reply in replies}
    return usage(sum(prompts.values()), sum(reply.tokens for reply in replies))


def failed(error: EngineError) -> ApiError:
    """What went wrong goes to the log; the client learns nothing about paths or code."""
    print(f"engine: {error}", file=sys.stderr, flush=True)
    return ApiError(500, "the engine failed; the server's log says more", code="engine_error")


def cancel(replies: Sequence[Reply]) -> None:
    for reply in reversed(replies):  # the first last: the others may be waiting for it
        reply.cancel()


async def whole(
    replies: list[Reply], answer: ChatAnswer, clock: Clock, http: Request
) -> dict[str, Any]:
    """The whole answer; a client that disconnects ends it."""

    async def collect() -> list[Whole]:
        texts: list[list[str]] = [[] for _ in replies]
        scores: list[list[Any]] = [[] for _ in replies]
        async for index, delta in together(replies):
            clock.note(index, delta.tokens)
            texts[index].append(delta.text)
            scores[index] += delta.scores
        return [
            Whole("".join(text), reply.finish_reason, found)
            for text, reply, found in zip(texts, replies, scores, strict=True)
        ]

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    collected, left = asyncio.ensure_future(collect()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((collected, left), return_when=asyncio.FIRST_COMPLETED)
        if not collected.done():
            raise ApiError(499, "the client closed the connection")
        return answer.whole(collected.result(), used(replies))
    except EngineError as error:
        raise failed(error) from None
    finally:
        left.cancel()
        collected.cancel()
        cancel(replies)


async def events(
    replies: list[Reply], answer: ChatAnswer, clock: Clock, last_usage: bool, every_usage: bool
) -> AsyncIterator[bytes]:
    """Server-sent events: the role, the text as it comes, the end, `[DONE]`."""
    try:
        for chunk in answer.start(len(replies)):
            if every_usage:
                chunk["usage"] = used(replies)
            yield event(chunk)
        async for index, delta in together(replies):
            clock.note(index, delta.tokens)
            for chunk in answer.chunks(index, delta):
                if every_usage:
                    chunk["usage"] = used(replies)
                yield event(chunk)
        if last_usage:
            yield event(answer.usage(used(replies)))
    except EngineError as error:
        yield event(failed(error).body())
    finally:
        cancel(replies)
    yield b"data: [DONE]\n\n"
