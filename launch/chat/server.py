"""An OpenAI-compatible server over one engine, and the page at `/`.

In: HTTP. Out: `/v1/chat/completions` (whole, or server-sent events that end with `[DONE]`),
`/v1/models`, `/health`, and `page.html`. Any OpenAI client works with `base_url=http://…/v1`.

The decision: what can be refused is refused before the first byte (a 4xx in OpenAI's error form),
and a client that goes away takes its request with it: the reply is dropped, and a dropped reply
frees its slot in the batch. Nothing listens beyond this machine without a key, unless asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launch.chat.engine import Busy, ContextOverflow, Engine
from launch.chat.listener import bind
from launch.chat.protocol import MAX_BODY, ApiError, ChatRequest, Completion, parse
from launch.chat.reply import EngineError, Reply

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


def create_app(engine: Engine, *, api_key: str | None = None, model_name: str) -> FastAPI:
    """The application. With an `api_key`, `/v1/…` wants `Authorization: Bearer <key>`."""
    app = FastAPI(title="malmoi", docs_url=None, redoc_url=None, openapi_url=None)
    page = files("launch.chat").joinpath("page.html").read_text(encoding="utf-8")

    app.add_middleware(Headers)

    def key(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        sent = given.encode("latin-1")  # the bytes on the wire: starlette decodes headers so
        if api_key is not None and not hmac.compare_digest(sent, api_key.encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    with_key = [Depends(key)]

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "2"}}.get(error.status)
        return JSONResponse(error.body(), error.status, headers=headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = {
            404: f"no such path: {request.url.path}",
            405: f"{request.method} is not possible here",
        }.get(error.status_code, str(error.detail))
        return JSONResponse(
            ApiError(error.status_code, message).body(), error.status_code, headers=error.headers
        )

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        # The trace goes to the log; the client learns nothing about paths or code.
        return JSONResponse(ApiError(500, "internal error").body(), 500)

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": model_name, "requests": engine.active}

    @app.get("/v1/models", dependencies=with_key)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card(model_name, engine)]}

    @app.get("/v1/models/{name:path}", dependencies=with_key)
    async def one_model(name: str) -> dict[str, Any]:
        known(name, model_name)
        return card(model_name, engine)

    @app.post("/v1/chat/completions", dependencies=with_key)
    async def chat(http: Request) -> Response:
        request = parse(await read_body(http))
        if request.model is not None:
            known(request.model, model_name)
        reply = start(engine, request)
        completion = Completion(model_name)
        if request.stream:
            with_usage = bool(request.stream_options and request.stream_options.include_usage)
            return StreamingResponse(
                events(reply, completion, with_usage), media_type="text/event-stream"
            )
        text = await whole(reply, http)
        return JSONResponse(
            completion.whole(text, reply.finish_reason, reply.prompt_tokens, reply.tokens)
        )

    return app


class Headers:
    """Adds HEADERS to every answer; plain ASGI, so that streams and disconnects pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


def card(model_name: str, engine: Engine) -> dict[str, Any]:
    return {
        "id": model_name,
        "object": "model",
        "created": 0,
        "owned_by": "malmoi",
        "context_length": engine.context,
    }


def known(name: str, model_name: str) -> None:
    if name != model_name:
        raise ApiError(
            404,
            f"no model {name!r} here; this server has {model_name!r}",
            param="model",
            code="model_not_found",
        )


async def read_body(http: Request) -> bytes:
    """The body, up to MAX_BODY bytes; ApiError 413 beyond."""
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > MAX_BODY:
            raise ApiError(413, f"the body is longer than {MAX_BODY} bytes", code="too_large")
    return bytes(body)


def start(engine: Engine, request: ChatRequest) -> Reply:
    """Submit to the engine; what it refuses becomes an ApiError."""
    try:
        return engine.reply(engine.prompt(request.conversation()), request.sampling())
    except ContextOverflow as error:
        raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from None
    except Busy as error:
        raise ApiError(429, str(error), code="rate_limit_exceeded") from None
    except EngineError as error:
        raise ApiError(503, str(error), code="engine_stopped") from None


async def whole(reply: Reply, http: Request) -> str:
    """The reply's text; a client that disconnects ends it."""

    async def collect() -> str:
        return "".join([delta.text async for delta in reply])

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    collected, left = asyncio.ensure_future(collect()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((collected, left), return_when=asyncio.FIRST_COMPLETED)
        if not collected.done():
            raise ApiError(499, "the client closed the connection")
        return collected.result()
    except EngineError as error:
        raise ApiError(500, str(error), code="engine_error") from None
    finally:
        left.cancel()
        collected.cancel()
        reply.cancel()


async def events(reply: Reply, completion: Completion, with_usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events: the role, the text as it comes, the end, `[DONE]`."""
    try:
        yield event(completion.start())
        async for delta in reply:
            for chunk in completion.chunk(delta):
                yield event(chunk)
        if with_usage:
            yield event(completion.usage(reply.prompt_tokens, reply.tokens))
    except EngineError as error:
        yield event(ApiError(500, str(error), code="engine_error").body())
    finally:
        reply.cancel()
    yield b"data: [DONE]\n\n"


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


# ------------------------------------------------------------------------------------- serving


def serve(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    *,
    public: bool = False,
    listener: socket.socket | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, then return: no new requests, five seconds for those running.

    `listener`: a socket of `bind`, where it was made before the engine. Raises InputError as `bind`.
    """
    listener = listener or bind(host, port, api_key=api_key, public=public)
    app = create_app(engine, api_key=api_key, model_name=engine.name)
    name, number = listener.getsockname()[:2]
    url = f"http://{f'[{name}]' if ':' in name else name}:{number}"
    print(
        f"{engine.name} is at {url}  (page: {url}/, OpenAI clients: {url}/v1, end: Ctrl-C)",
        file=sys.stderr,
        flush=True,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=5, lifespan="off"
        )
    )
    try:
        with _signals_end_quietly():
            server.run(sockets=[listener])
    finally:
        listener.close()
        engine.close()


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it again afterwards; here ending is not an error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
