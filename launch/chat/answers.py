"""OpenAI's answers, as data: whole completions and the chunks of a stream.

In: a backend's deltas. Out: objects in the form of `/v1/chat/completions` (`ChatAnswer`) or
`/v1/completions` (`TextAnswer`); server-sent events are their JSON.

The decision: what is the same in every chunk of a reply is built once. A chunk then costs about two
microseconds, which counts where the thread that generates waits for the same interpreter lock.
"""

from __future__ import annotations

import time
import uuid
from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from launch.chat.reply import Delta
from launch.chat.sampling import TokenScore

Bytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Whole:
    """One finished choice: all its text, why it ended, its tokens' log probabilities."""

    text: str
    finish_reason: str | None
    scores: Sequence[TokenScore] = ()


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class ChatAnswer:
    """The answers to one chat request.

    token: id → bytes. logprobs: whether they were asked for. dropped: messages that were cut from
    the prompt; None where that was not allowed.
    """

    kind, prefix = "chat.completion", "chatcmpl"

    def __init__(
        self, model: str, token: Bytes, *, logprobs: bool = False, dropped: int | None = None
    ) -> None:
        self.token = token
        self.logprobs = logprobs
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.kind,
            "created": int(time.time()),
            "model": model,
        }
        self._chunk_head = self._head | {"object": self.chunk_kind}
        self._extra = {} if dropped is None else {"malmoi": {"dropped_messages": dropped}}

    @property
    def chunk_kind(self) -> str:
        return "chat.completion.chunk"

    def whole(self, choices: Sequence[Whole], used: dict[str, int]) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        return {
            **self._head,
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": used,
            **self._extra,
        }

    def start(self, choices: int) -> list[dict[str, Any]]:
        """What a stream begins with: each choice's role, and in the first chunk what was cut."""
        chunks = [
            self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)
            for index in range(choices)
        ]
        chunks[0].update(self._extra)
        return chunks

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        """A delta of choice `index`: its text, and, last, why it ended."""
        chunks = []
        if delta.text or delta.scores:
            piece: dict[str, Any] = {"delta": {"content": delta.text}}
            if self.logprobs:
                piece["logprobs"] = self._scores(delta.scores)
            chunks.append(self._chunk(index, piece, None))
        if delta.finish_reason:
            chunks.append(self._chunk(index, {"delta": {}}, delta.finish_reason))
        return chunks

    def usage(self, used: dict[str, int]) -> dict[str, Any]:
        """The last chunk, where usage was asked for."""
        return {**self._chunk_head, "choices": [], "usage": used}

    def _chunk(self, index: int, piece: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": index, "logprobs": None, **piece, "finish_reason": finish}
        return {**self._chunk_head, "choices": [choice]}

    def _choice(self, index: int, choice: Whole) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "finish_reason": choice.finish_reason,
            "logprobs": self._scores(choice.scores) if self.logprobs else None,
        }

    def _scores(self, scores: Sequence[TokenScore]) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            piece = self.token(token)
            text = piece.decode("utf-8", "replace")
            return {"token": text, "logprob": logprob, "bytes": list(piece)}

        content = [
            entry(s.token, s.logprob) | {"top_logprobs": [entry(*other) for other in s.top]}
            for s in scores
        ]
        return {"content": content, "refusal": None}


class TextAnswer(ChatAnswer):
    """The answers to one completions request.

    echoes: text to put before each choice's own. as_ids: tokens of log probabilities as
    `token_id:7`, as vLLM's `return_tokens_as_token_ids` has them.
    """

    kind, prefix = "text_completion", "cmpl"

    def __init__(
        self,
        model: str,
        token: Bytes,
        *,
        logprobs: bool = False,
        echoes: Sequence[str] = (),
        as_ids: bool = False,
    ) -> None:
        super().__init__(model, token, logprobs=logprobs)
        self.echoes = echoes
        self.as_ids = as_ids
        self._texts: dict[
            int, tuple[IncrementalDecoder, int]
        ] = {}  # choice → its characters so far

    @property
    def chunk_kind(self) -> str:
        return self.kind

    def start(self, choices: int) -> list[dict[str, Any]]:
        return [
            self._chunk(index, {"text": echo}, None)
            for index, echo in enumerate(self.echoes)
            if echo
        ]

    def chunks(self, index: int, delta: Delta) -> list[dict[str, Any]]:
        if not (delta.text or delta.scores or delta.finish_reason):
            return []
        piece: dict[str, Any] = {"text": delta.text}
        if self.logprobs:
            piece["logprobs"] = self._text_scores(index, delta.scores)
        return [self._chunk(index, piece, delta.finish_reason)]

    def _choice(self, index: int, choice: Whole) -> dict[str, Any]:
        echo = self.echoes[index] if self.echoes else ""
        return {
            "index": index,
            "text": echo + choice.text,
            "finish_reason": choice.finish_reason,
            "logprobs": self._text_scores(index, choice.scores) if self.logprobs else None,
        }

    def _text_scores(self, index: int, scores: Sequence[TokenScore]) -> dict[str, Any]:
        offsets = []
        decoder, at = self._texts.get(index) or (getincrementaldecoder("utf-8")("replace"), 0)
        for s in scores:
            offsets.append(at)
            at += len(decoder.decode(self.token(s.token)))
        self._texts[index] = decoder, at
        return {
            "tokens": [self._name(s.token) for s in scores],
            "token_logprobs": [s.logprob for s in scores],
            "top_logprobs": [{self._name(i): p for i, p in s.top} for s in scores],
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        if self.as_ids:
            return f"token_id:{token}"
        piece = self.token(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:  # part of a character; a name of its own, as OpenAI's was
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
