"""The HTTP API as an OpenAI client, curl and a browser meet it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi.testclient import TestClient

from configs.errors import InputError
from launch.chat import engine as engine_module
from launch.chat.backend import named
from launch.chat.engine import Engine
from launch.chat.listener import bind
from launch.chat.reply import Reply
from launch.chat.server import create_app

HELLO = [{"role": "user", "content": "안녕"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    """A real server on a real port, in a thread."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app({"tiny": engine}), log_level="warning", timeout_graceful_shutdown=2
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **options: Any) -> Any:
    options = {"model": "tiny", "messages": HELLO, "max_tokens": 30, "seed": 4} | options
    return client.chat.completions.create(**options)


def test_models_and_health_say_what_is_served(client: openai.OpenAI, url: str) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


BAD: list[tuple[Any, str | None]] = [
    (b"{", None),
    (b"\xff\xfe", None),
    (b"[1]", None),
    (b"null", None),
    (b"", None),
    (b'{"messages": ' + b"[" * 5000, None),
    ({}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "안녕"}, "messages"),
    ({"messages": ["안녕"]}, "messages.0"),
    ({"messages": [{"content": "안녕"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
    (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "messages"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10**6}, "messages"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [1]}, "stop.0"),
    ({"seed": "one"}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"n": 0}, "n"),
    ({"n": 33}, "n"),
    ({"n": "2"}, "n"),
    ({"logprobs": 2}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": 1e-300}, "repetition_penalty"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"min_tokens": 5}, "min_tokens"),
    (b'{"messages": [' + b"0," * 10**6 + b"0]}", "messages.0"),
    ({"truncate_prompt_turns": "yes"}, "truncate_prompt_turns"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": [{"role": "user", "content": "가" * 3000}]}, "messages"),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=lambda value: str(value)[:48])
def test_a_bad_request_gets_a_400_that_names_the_field(
    engine: Engine, body: Any, param: str | None
) -> None:
    if isinstance(body, dict) and body:
        body = {"messages": HELLO, **body}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with TestClient(create_app({"tiny": engine})) as client:
        answer = client.post(CHAT, content=content)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert (error["param"] or "").startswith(param)
        assert engine.active == 0


def test_a_prompt_over_the_context_says_how_long_it_is(
    client: openai.OpenAI, engine: Engine
) -> None:
    with pytest.raises(openai.BadRequestError, match=str(engine.context)) as caught:
        ask(client, messages=[{"role": "user", "content": "가" * 3000}])
    assert caught.value.code == "context_length_exceeded"


def test_unknown_models_paths_and_methods_are_answered_in_openai_form(
    client: openai.OpenAI, url: str
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-9")
    assert caught.value.code == "model_not_found"
    assert httpx.get(f"{url}/v1/nothing").json()["error"]["message"].startswith("no such path")
    assert httpx.get(url + CHAT).status_code == 405
    assert "error" in httpx.get(url + CHAT).json()


def test_a_body_beyond_the_limit_is_refused(url: str) -> None:
    answer = httpx.post(url + CHAT, content=b" " * (5 * 2**20))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_a_full_engine_answers_429_with_retry_after(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_REQUESTS", 0)
    answer = httpx.post(url + CHAT, json={"messages": HELLO})
    assert answer.status_code == 429
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_with_a_key_the_api_wants_it_and_the_page_does_not(engine: Engine) -> None:
    with TestClient(create_app({"tiny": engine}, api_key="비밀")) as client:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "비밀".encode()[:-1]},
        ):
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert client.post(CHAT, json={"messages": HELLO}, headers=headers).status_code == 401
        good = {"Authorization": "Bearer 비밀".encode()}
        assert client.get("/v1/models", headers=good).status_code == 200
        assert client.get("/").status_code == client.get("/health").status_code == 200


def test_a_bug_shows_the_client_no_trace_and_no_path(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "prompt", lambda messages: 1 / 0)
    app = create_app({"tiny": engine})
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post(CHAT, json={"messages": HELLO})
        counted = client.get("/metrics").text
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "internal error"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert re.search(r'requests_total\{.*status="500"\} 1', counted)
    assert "malmoi_disconnects_total 0" in counted


def test_without_a_key_neither_another_sites_page_nor_a_borrowed_name_may_ask(
    engine: Engine,
) -> None:
    body = {"messages": HELLO, "max_tokens": 1}

    def status(app: Any, **headers: str) -> int:
        with TestClient(app, base_url="http://127.0.0.1:8000") as client:
            return client.post(CHAT, json=body, headers=headers).status_code

    app = create_app({"tiny": engine}, local=True)
    assert status(app) == status(app, Origin="http://127.0.0.1:8000") == 200
    assert status(app, Host="localhost:8000") == status(app, Host="[::1]:8000") == 200
    assert status(app, Origin="http://evil.example") == status(app, Origin="null") == 403
    assert status(app, Host="evil.example:8000", Origin="http://evil.example:8000") == 403
    assert status(create_app({"tiny": engine}), Host="model.example") == 200
    keyed = create_app({"tiny": engine}, api_key="k", local=True)
    assert status(keyed, Host="model.example", Authorization="Bearer k") == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(
    engine: Engine, url: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = url.removeprefix("http://").split(":")
    replies: list[Reply] = []
    submit = engine.replies

    def remember(*request: Any) -> list[Reply]:
        replies.extend(submit(*request))
        return replies[-1:]

    monkeypatch.setattr(engine, "replies", remember)
    for seed in range(10):  # a random model may end a reply by itself before the client leaves
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        body = {"messages": HELLO, "stream": stream, "max_tokens": 480, "seed": seed}
        connection.request("POST", CHAT, json.dumps({**body, "temperature": 2}))
        if stream:
            connection.getresponse().read(200)
        while len(replies) <= seed:
            time.sleep(0.002)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        gone = time.monotonic()
        scheduler = engine._manager.batch_processor.scheduler
        while (engine.active or scheduler.has_pending_requests()) and time.monotonic() < gone + 5:
            time.sleep(0.002)
        assert engine.active == 0 and not scheduler.has_pending_requests()
        if replies[-1].finish_reason is None:
            return
    raise AssertionError("every reply ended before its client left")


# -------------------------------------------------------------------------------- page and port


def test_the_page_holds_all_it_needs_and_puts_no_markup_from_models(url: str) -> None:
    answer = httpx.get(url)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = files("launch.chat").joinpath("page.html").read_text(encoding="utf-8")
    assert answer.text == page
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    outside = re.findall(r"(?:src|href|url\()\s*=?\s*[\"']?(?!data:)(?:https?:)?//[^\s\"']+", page)
    assert outside == []
    words = re.search(r"const WORDS = (\{.*?\n\};)", page, re.S)
    assert words is not None
    korean, english = re.split(r"\n  en: \{", words[1])
    names = [set(re.findall(r"\b(\w+): \"", half)) for half in (korean, english)]
    assert names[0] == names[1]
    used = set(re.findall(r"data-(?:text|label|placeholder)=\"(\w+)\"", page))
    assert used <= names[0]


def test_a_port_in_use_is_named_with_a_free_one() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {port}: is in use.*--port \d+") as caught:
            bind("127.0.0.1", port)
    free = int(str(caught.value).rsplit(" ", 1)[1])
    bind("127.0.0.1", free).close()


@pytest.mark.parametrize(
    ("host", "port", "key", "says"),
    [
        ("0.0.0.0", 0, None, "give --api-key"),
        ("::", 0, None, "give --api-key"),
        ("no.such.host.invalid", 0, None, "no such host"),
        ("127.0.0.1", 70000, None, "between 0 and 65535"),
        ("127.0.0.1", 0, "", "--api-key: is empty"),
        ("203.0.113.7", 0, "key", "cannot listen there"),
    ],
)
def test_a_host_or_port_that_cannot_be_is_explained(
    host: str, port: int, key: str | None, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        bind(host, port, api_key=key)


def test_a_public_host_is_bound_with_a_key_or_when_told_so() -> None:
    bind("0.0.0.0", 0, api_key="key").close()
    bind("0.0.0.0", 0, public=True).close()


SERVER = """
import sys
from pathlib import Path
from launch.chat.engine import Engine
from launch.chat.serve import serve
engine = Engine(Path(sys.argv[1]), threads=1)
for _ in range(2):
    serve({"tiny": engine}, port=0)
print("ended twice")
"""


@pytest.mark.thorough
def test_sigterm_lets_replies_finish_and_refuses_new_ones(chat_model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "chat", str(chat_model), "--serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        assert server.stderr is not None
        said = server.stderr.readline()
        base = said.split()[3]
        with contextlib.ExitStack() as running:
            replies = []
            for seed in range(4):  # a random model may end a reply by itself
                body = {"messages": HELLO, "max_tokens": 480, "temperature": 2, "seed": seed}
                stream = httpx.stream("POST", base + CHAT, json={**body, "stream": True})
                replies.append(running.enter_context(stream).iter_lines())
            for reply in replies:
                next(reply)
            server.send_signal(signal.SIGTERM)
            refused = None
            while refused is None and server.poll() is None:
                answer = httpx.post(base + CHAT, json={"messages": HELLO, "max_tokens": 1})
                refused = answer if answer.status_code == 503 else None
            assert refused is not None, "the server ended at once"
            assert refused.headers["retry-after"]
            assert refused.json()["error"]["code"] == "server_ending"
            ends = [[line for line in reply if line][-1] for reply in replies]
        assert ends == ["data: [DONE]"] * 4
        assert server.wait(timeout=30) == 0
        assert "Traceback" not in server.stderr.read()


def test_metrics_count_requests_tokens_and_time_in_prometheus_form(
    engine: Engine, chat_model: Path
) -> None:
    app = create_app({"tiny": engine}, api_key="key")
    with TestClient(app, headers={"Authorization": "Bearer key"}) as client:
        answers = [
            client.post(CHAT, json={"messages": HELLO, "max_tokens": 7, "stream": stream})
            for stream in (False, True, False)
        ]
        made = sum(a.json()["usage"]["completion_tokens"] for a in (answers[0], answers[2]))
        client.post(CHAT, json={})
        client.get("/v1/nothing")
        page = client.get("/metrics")
        assert client.get("/metrics", headers={"Authorization": "none"}).status_code == 401
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = {}
    for line in page.text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .+|[a-z_]+({.+})? [-+0-9.e]+", line), line
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    assert values[f'malmoi_requests_total{{path="{CHAT}",status="200"}}'] == 3
    assert values[f'malmoi_requests_total{{path="{CHAT}",status="400"}}'] == 1
    assert values['malmoi_requests_total{path="other",status="404"}'] == 1
    assert values["malmoi_generated_tokens_total"] >= made + 1
    assert values["malmoi_prompt_tokens_total"] == 3 * len(
        engine.prompt([{"role": "user", "text": "안녕"}])
    )
    assert values['malmoi_requests_running{model="tiny"}'] == 0
    assert values["malmoi_first_token_seconds_count"] == 3
    assert values['malmoi_first_token_seconds_bucket{le="+Inf"}'] == 3
    later = values["malmoi_generated_tokens_total"] - 3
    assert 0 < values["malmoi_token_seconds_count"] <= later  # a first piece may be two tokens


def test_two_models_are_listed_and_chosen_by_name(engine: Engine, chat_model: Path) -> None:
    with Engine(chat_model, threads=1) as other:
        models = named([engine, other])
        with TestClient(create_app(models)) as client:
            listed = client.get("/v1/models").json()["data"]
            assert [card["id"] for card in listed] == [engine.name, f"{engine.name}-2"]
            for name in (*models, None):
                body = {"messages": HELLO, "max_tokens": 3, "seed": 1, "model": name}
                assert client.post(CHAT, json=body).json()["model"] == (name or engine.name)
            missing = client.post(CHAT, json={"messages": HELLO, "model": "tiny-3"})
            assert missing.status_code == 404
            assert f"{engine.name}-2" in missing.json()["error"]["message"]


@pytest.mark.thorough
def test_ctrl_c_and_sigterm_end_the_server_cleanly(chat_model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(chat_model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        assert server.stderr is not None
        assert server.stdout is not None
        for how in (signal.SIGINT, signal.SIGTERM):
            said = ""
            while "http://" not in said:
                said = server.stderr.readline()
                assert said, "the server ended before it listened"
            base = re.search(r"http://[\d.:]+", said)
            assert base is not None
            answer = httpx.post(base[0] + CHAT, json={"messages": HELLO, "max_tokens": 3})
            assert answer.status_code == 200
            server.send_signal(how)
        assert server.wait(timeout=30) == 0
        assert server.stdout.read() == "ended twice\n"
        assert "Traceback" not in server.stderr.read()
