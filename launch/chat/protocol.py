"""OpenAI's chat completions, as data: what may be asked, and the shape of every answer.

In: a request body (bytes). Out: a checked `ChatRequest`, or an `ApiError` in OpenAI's error form.

The decision: a field that would change the reply and is not supported (tools, `n`, penalties, …) is
refused with its name; fields that do not matter here (`user`, `store`, `metadata`, …) are
ignored, so that clients written for other servers work. Reference: OpenAI API, "Create chat
completion", 2025.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from launch.chat.engine import Message
from launch.chat.reply import Delta, Finish
from launch.chat.sampling import Sampling

MAX_BODY = 4 * 2**20  # bytes

# A field that would change the reply → the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
}


class ApiError(Exception):
    """An error answer: HTTP status, message, the field at fault and a machine-readable code."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


class TextPart(BaseModel):
    type: Literal["text"]
    text: StrictStr


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[TextPart]

    def message(self) -> Message:
        text = (
            self.content
            if isinstance(self.content, str)
            else "".join(part.text for part in self.content)
        )
        return {"role": "system" if self.role == "developer" else self.role, "text": text}


class StreamOptions(BaseModel):
    include_usage: StrictBool = False


StopString = Annotated[StrictStr, Field(min_length=1, max_length=200)]


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    messages: list[ChatMessage] = Field(min_length=1)
    model: StrictStr | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: StrictInt | None = Field(default=None, ge=1)
    max_completion_tokens: StrictInt | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, strict=True)
    top_p: float | None = Field(default=None, gt=0, le=1, strict=True)
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    seed: StrictInt | None = Field(default=None, ge=-(2**63), lt=2**63)

    def conversation(self) -> list[Message]:
        return [message.message() for message in self.messages]

    def sampling(self) -> Sampling:
        """OpenAI's defaults: temperature 1, top_p 1, as many tokens as the context has room for."""
        return Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
        )


def parse(body: bytes) -> ChatRequest:
    """Check a request body. Raises ApiError 400 naming the field at fault."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    try:
        request = ChatRequest.model_validate(data)
        for message in request.conversation():
            message["text"].encode()
        "".join(request.sampling().stop).encode()
    except ValidationError as error:
        # Of a union's branches, the one that got furthest; its name in the path is pydantic's own.
        found = [
            ([str(part) for part in mistake["loc"] if _written(part)], mistake["msg"])
            for mistake in error.errors(include_url=False, include_context=False)
        ]
        path, why = max(found, key=lambda mistake: len(mistake[0]))
        raise ApiError(
            400, f"{'.'.join(path)}: {why}", param=".".join(path), code="invalid_value"
        ) from None
    except UnicodeEncodeError:
        raise ApiError(
            400, "messages: a lone surrogate is not a character", param="messages"
        ) from None
    for field, harmless in UNSUPPORTED.items():
        if field in data and data[field] not in harmless:
            raise ApiError(
                400, f"{field} is not supported", param=field, code="unsupported_parameter"
            )
    return request


_FIELDS = {
    name
    for model in (ChatRequest, ChatMessage, TextPart, StreamOptions)
    for name in model.model_fields
}


def _written(part: int | str) -> bool:
    return isinstance(part, int) or part in _FIELDS


class Completion:
    """The answers to one request: a whole completion, or the chunks of a stream."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model

    def whole(
        self, text: str, finish: Finish | None, prompt_tokens: int, tokens: int
    ) -> dict[str, Any]:
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "finish_reason": finish,
                    "logprobs": None,
                }
            ],
            "usage": usage(prompt_tokens, tokens),
        }

    def start(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""}, None)

    def chunk(self, delta: Delta) -> list[dict[str, Any]]:
        chunks = [self._chunk({"content": delta.text}, None)] if delta.text else []
        if delta.finish_reason:
            chunks.append(self._chunk({}, delta.finish_reason))
        return chunks

    def usage(self, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        return {
            **self._head("chat.completion.chunk"),
            "choices": [],
            "usage": usage(prompt_tokens, tokens),
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish: Finish | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
