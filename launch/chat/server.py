"""An OpenAI-compatible server over one model or several, and the page at `/`.

In: HTTP. Out: `/v1/chat/completions` and `/v1/completions` (whole, or server-sent events that end
with `[DONE]`), `/v1/models`, `/health`, `/metrics`, and `page.html`. Any OpenAI client works with
`base_url=http://…/v1`; a request's `model` selects, and without one the first model answers.

The decision: what can be refused is refused before the first byte (a 4xx in OpenAI's error form),
and a client that goes away takes its request with it: the reply is dropped, and a dropped reply
frees its slot in the batch. How a request becomes an answer is in `answering.py`; running the server,
and ending it, in `serve.py`.
"""

from __future__ import annotations

import hmac
import ipaddress
import sys
import traceback
from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launch.chat.answering import encoded, events, prompt_ids, start, used, whole
from launch.chat.answers import ChatAnswer, TextAnswer
from launch.chat.backend import Backend
from launch.chat.metrics import TYPE, Clock, Metrics
from launch.chat.protocol import MAX_BODY, ApiError, ChatRequest, CompletionRequest, parse
from launch.chat.protocol import Request as Asked
from launch.chat.reply import Reply
from launch.chat.truncation import fit

RETRY_AFTER = "2"  # seconds
CLIENT_LEFT = 499  # nginx's word; nobody is there to read it
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PATHS = ("/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions")


class Door:
    """Whether new requests come in: shut while the server ends, and those inside finish."""

    def __init__(self) -> None:
        self.open = True


def create_app(
    engines: Mapping[str, Backend],
    *,
    api_key: str | None = None,
    door: Door | None = None,
    local: bool = False,
) -> FastAPI:
    """The application over `engines`, by the names clients call them; the first is the default.

    With an `api_key`, `/v1/…` and `/metrics` want `Authorization: Bearer <key>`. Behind a `door`
    that is shut, replies are refused with 503 and `/health` says so. Without a key a page of another
    site may not ask (its `Origin` says so), and where only this machine is listened to (`local`) a
    host name that is not this machine's is refused: it was made to point here.
    """
    app = FastAPI(title="malmoi", docs_url=None, redoc_url=None, openapi_url=None)
    page = files("launch.chat").joinpath("page.html").read_text(encoding="utf-8")
    metrics = Metrics()
    entrance = door or Door()
    default = next(iter(engines))

    app.add_middleware(Envelope, metrics=metrics)

    def key(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        sent = given.encode("latin-1")  # the bytes on the wire: starlette decodes headers so
        if api_key is not None:
            if not hmac.compare_digest(sent, api_key.encode()):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
            return
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(403, f"a page of {origin} may not ask here", code="cross_origin")
        if local and not is_this_machine(host):
            raise ApiError(403, "ask by localhost or 127.0.0.1, or serve with a key", code="host")

    with_key = [Depends(key)]

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": RETRY_AFTER}}
        headers[503] = headers[429]
        return JSONResponse(error.body(), error.status, headers=headers.get(error.status))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = {
            404: f"no such path: {request.url.path}",
            405: f"{request.method} is not possible here",
        }.get(error.status_code, str(error.detail))
        return JSONResponse(
            ApiError(error.status_code, message).body(), error.status_code, headers=error.headers
        )

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/health")
    async def health() -> JSONResponse:
        loads = [engine.load() for engine in engines.values()]
        requests = sum(load.running + load.waiting for load in loads)
        fit_to_use = entrance.open and all(engine.alive for engine in engines.values())
        status = "ok" if fit_to_use else "stopped" if entrance.open else "ending"
        body = {"status": status, "model": default, "models": list(engines), "requests": requests}
        return JSONResponse(body, 200 if fit_to_use else 503)

    @app.get("/metrics", dependencies=with_key)
    async def prometheus() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(engines), media_type=TYPE)

    @app.get("/v1/models", dependencies=with_key)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card(name, engine) for name, engine in engines.items()]}

    @app.get("/v1/models/{name:path}", dependencies=with_key)
    async def one_model(name: str) -> dict[str, Any]:
        return card(name, known(name, engines))

    def chosen(request: Asked) -> tuple[str, Backend]:
        if not entrance.open:
            raise ApiError(503, "this server is ending", code="server_ending")
        name = default if request.model is None else request.model
        return name, known(name, engines)

    @app.post("/v1/chat/completions", dependencies=with_key)
    async def chat(http: Request) -> Response:
        body = await read_body(http)
        request = parse(body, ChatRequest)
        name, engine = chosen(request)
        messages = request.conversation()
        if request.truncate_prompt_turns:
            prompt, dropped = await encoded(body, fit, engine, messages, request.longest())
        else:
            prompt, dropped = await encoded(body, engine.prompt, messages), None
        replies = start(engine, [prompt], request, "messages")
        answer = ChatAnswer(name, engine.token, logprobs=bool(request.logprobs), dropped=dropped)
        return await answered(http, request, replies, answer)

    @app.post("/v1/completions", dependencies=with_key)
    async def completions(http: Request) -> Response:
        body = await read_body(http)
        request = parse(body, CompletionRequest)
        name, engine = chosen(request)
        prompts = await encoded(body, prompt_ids, engine, request)
        replies = start(engine, prompts, request, "prompt")
        echoes = [text for text in request.texts() for _ in range(request.n or 1)]
        answer = TextAnswer(
            name,
            engine.token,
            logprobs=request.logprobs is not None,
            echoes=echoes if request.echo else (),
            as_ids=bool(request.return_tokens_as_token_ids),
        )
        return await answered(http, request, replies, answer)

    async def answered(
        http: Request, request: Asked, replies: list[Reply], answer: ChatAnswer
    ) -> Response:
        clock = Clock(metrics, used(replies)["prompt_tokens"])
        if request.stream:
            options = request.stream_options
            every = bool(options and options.continuous_usage_stats)
            last = every or bool(options and options.include_usage)
            return StreamingResponse(
                events(replies, answer, clock, last, every), media_type="text/event-stream"
            )
        return JSONResponse(await whole(replies, answer, clock, http))

    return app


class Envelope:
    """Adds HEADERS to every answer and counts it; plain ASGI, so streams pass untouched.

    A bug becomes a 500: the trace goes to the log, and the client learns nothing of paths or code.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        begun = ended = False

        async def sending(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
                self.metrics.answers[path, message["status"]] += 1
                self.metrics.left += message["status"] == CLIENT_LEFT
            elif not message.get("more_body"):
                ended = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:
            if begun:  # too late for a status: the connection breaks
                raise
            traceback.print_exc(file=sys.stderr)
            bug = JSONResponse(ApiError(500, "internal error").body(), 500)
            await bug(scope, receive, sending)
        finally:
            self.metrics.left += not ended


def is_this_machine(host: str) -> bool:
    """Whether a Host header (`localhost:8000`, `[::1]:8000`) names a loopback address."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def card(name: str, engine: Backend) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "malmoi",
        "context_length": engine.context,
        "max_model_len": engine.context,  # vLLM's word for it
    }


def known(name: str, engines: Mapping[str, Backend]) -> Backend:
    """The engine of that name; ApiError 404 that lists those there are."""
    if name not in engines:
        raise ApiError(
            404,
            f"no model {name!r} here; this server has {', '.join(map(repr, engines))}",
            param="model",
            code="model_not_found",
        )
    return engines[name]


async def read_body(http: Request) -> bytes:
    """The body, up to MAX_BODY bytes; ApiError 413 beyond, 499 where the client left meanwhile."""
    body = bytearray()
    try:
        async for part in http.stream():
            body += part
            if len(body) > MAX_BODY:
                raise ApiError(413, f"the body is longer than {MAX_BODY} bytes", code="too_large")
    except ClientDisconnect:
        raise ApiError(CLIENT_LEFT, "the client closed the connection") from None
    return bytes(body)
