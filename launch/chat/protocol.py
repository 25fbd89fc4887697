"""OpenAI's chat completions and completions, as data: what may be asked.

In: a request body (bytes). Out: a checked `ChatRequest` or `CompletionRequest`, or an `ApiError` in
OpenAI's error form. The answers are in `answers.py`.

The decision: a known field that would change the reply and is not supported (tools, penalties of
frequency, …) is refused with its name; other fields that do not matter here (`user`, `store`,
`metadata`, …) are ignored, so that clients written for other servers work. Fields beyond OpenAI's
are named as vLLM names them; `truncate_prompt_turns` is ours. Reference: OpenAI API, "Create chat
completion" and "Create completion", 2025.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)

from launch.chat.backend import Message
from launch.chat.sampling import Sampling

MAX_BODY = 4 * 2**20  # bytes
MAX_CHOICES = 32  # replies to one request: prompts × n
MAX_ALTERNATIVES = 20  # top_logprobs
COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions

# A field that would change the reply → the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "suffix": (None, ""),
    "best_of": (None, 1),
    # vLLM's
    "min_tokens": (None, 0),
    "ignore_eos": (None, False),
    "length_penalty": (None, 1),
    "use_beam_search": (None, False),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "prompt_logprobs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "structured_outputs": (None,),
    "chat_template": (None,),
    "add_generation_prompt": (None, True),
    "continue_final_message": (None, False),
    "skip_special_tokens": (None, True),
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
    content: StrictStr | Annotated[list[TextPart], Field(fail_fast=True)]

    def message(self) -> Message:
        text = (
            self.content
            if isinstance(self.content, str)
            else "".join(part.text for part in self.content)
        )
        return {"role": "system" if self.role == "developer" else self.role, "text": text}


class StreamOptions(BaseModel):
    include_usage: StrictBool | None = None
    continuous_usage_stats: StrictBool | None = None  # vLLM's: usage in every chunk


StopString = Annotated[StrictStr, Field(min_length=1, max_length=200)]


class Request(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: StrictStr | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: StrictInt | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: StrictInt | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, strict=True)
    top_p: float | None = Field(default=None, gt=0, le=1, strict=True)
    top_k: StrictInt | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1, strict=True)
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10, strict=True)
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    seed: StrictInt | None = Field(default=None, ge=-(2**63), lt=2**63)

    def sampling(self) -> Sampling:
        """OpenAI's defaults: temperature 1, top_p 1, as many tokens as the context has room for."""
        return Sampling(
            max_tokens=self.longest(),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
            top_k=max(0, self.top_k or 0),  # vLLM's -1 and 0 both keep all
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logprobs=self.alternatives(),
        )

    def longest(self) -> int | None:
        """Most tokens of a reply; None: as many as fit."""
        return self.max_tokens

    def alternatives(self) -> int | None:
        """Likeliest tokens to report at each place; None: no log probabilities."""
        raise NotImplementedError

    def texts(self) -> list[str]:
        """Everything a person wrote in it."""
        raise NotImplementedError


class ChatRequest(Request):
    # one mistake is told: a body of a million would take seconds of every stream
    messages: list[ChatMessage] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: StrictInt | None = Field(default=None, ge=1)
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    truncate_prompt_turns: StrictBool | None = None

    def conversation(self) -> list[Message]:
        return [message.message() for message in self.messages]

    def longest(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def alternatives(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(
                400,
                "top_logprobs: needs logprobs to be true",
                param="top_logprobs",
                code="invalid_value",
            )
        return (self.top_logprobs or 0) if self.logprobs else None

    def texts(self) -> list[str]:
        return [message["text"] for message in self.conversation()]


TokenIds = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Prompt = (
    StrictStr
    | TokenIds
    | Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
)


class CompletionRequest(Request):
    prompt: Prompt
    echo: StrictBool | None = None
    logprobs: StrictInt | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    return_tokens_as_token_ids: StrictBool | None = (
        None  # vLLM's: `token_id:7` in log probabilities
    )

    def longest(self) -> int | None:
        return self.max_tokens or COMPLETION_TOKENS

    def alternatives(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]

    def texts(self) -> list[str]:
        return [prompt for prompt in self.prompts() if isinstance(prompt, str)]


Asked = TypeVar("Asked", bound=Request)


def parse(body: bytes, kind: type[Asked]) -> Asked:
    """Check a request body. Raises ApiError 400 naming the field at fault."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    text = "messages" if kind is ChatRequest else "prompt"
    try:
        request = kind.model_validate(data)
        for written in (*request.texts(), *request.sampling().stop, request.model or ""):
            written.encode()
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
        raise ApiError(400, f"{text}: a lone surrogate is not a character", param=text) from None
    for field, harmless in UNSUPPORTED.items():
        if field in data and data[field] not in harmless:
            raise ApiError(
                400, f"{field} is not supported", param=field, code="unsupported_parameter"
            )
    _check_together(request)
    return request


def _check_together(request: Request) -> None:
    """What no field alone says."""
    if isinstance(request, CompletionRequest):
        if len(request.prompts()) * (request.n or 1) > MAX_CHOICES:
            raise ApiError(
                400, f"n: prompts × n is at most {MAX_CHOICES}", param="n", code="invalid_value"
            )
        if request.echo and (request.logprobs is not None or not request.texts()):
            raise ApiError(
                400,
                "echo is supported for prompts that are text, without logprobs",
                param="echo",
                code="unsupported_parameter",
            )
    if request.stream_options is not None and not request.stream:
        raise ApiError(
            400,
            "stream_options: needs stream to be true",
            param="stream_options",
            code="invalid_value",
        )


_FIELDS = {
    name
    for model in (ChatRequest, CompletionRequest, ChatMessage, TextPart, StreamOptions)
    for name in model.model_fields
}


def _written(part: int | str) -> bool:
    return isinstance(part, int) or part in _FIELDS
