"""The API as OpenAI's own Python client meets it, on each engine: ours, and another process behind ours.

The other process is a program named `vllm` that takes vLLM's command line and answers as vLLM does:
vLLM itself needs a GPU. What is tested of it here is all but its own kernels: starting, health, the
way of requests and replies, ends.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import torch

from configs.errors import InputError
from launch.chat.backend import Backend
from launch.chat.command import Address, serve_models
from launch.chat.engine import Engine
from launch.chat.external import External, find_vllm
from launch.chat.listener import bind
from launch.chat.serve import Server

HELLO = [{"role": "user", "content": "안녕"}]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
STAND_IN = """#!{python}
import argparse, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from launch.chat.engine import Engine
from launch.chat.serve import serve
parser = argparse.ArgumentParser()
parser.add_argument("serve", choices=["serve"])
parser.add_argument("model", type=Path)
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--served-model-name")
asked = parser.parse_args()
print("loading", asked.model, flush=True)
if os.environ.get("STAND_IN_FAILS"):
    sys.exit("CUDA out of memory: " + os.environ["STAND_IN_FAILS"])
engine = Engine(asked.model, threads=1)
key = os.environ["VLLM_API_KEY"]
serve({{asked.served_model_name: engine}}, asked.host, asked.port, api_key=key, drain=1)
"""


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that stands in for vLLM's."""
    program = tmp_path_factory.mktemp("environment") / "vllm"
    root = str(Path(__file__).parents[2])
    program.write_text(STAND_IN.format(python=sys.executable, root=root))
    program.chmod(0o755)
    return program


@pytest.fixture(
    scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.thorough)]
)
def backend(request: pytest.FixtureRequest, engine: Engine, chat_model: Path) -> Iterator[Backend]:
    if request.param == "transformers":
        yield engine
        return
    external = External(chat_model, find_vllm(request.getfixturevalue("vllm")), start_limit=120)
    yield external
    external.close()
    assert not external.alive


@pytest.fixture(scope="module")
def url(backend: Backend) -> Iterator[str]:
    """A real server on a real port, in a thread."""
    listener = bind("127.0.0.1", 0)
    server = Server({"tiny": backend})
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


def test_the_openai_client_gets_a_whole_completion(client: openai.OpenAI) -> None:
    completion = ask(client)
    choice = completion.choices[0]
    assert completion.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = completion.usage
    assert 0 < usage.completion_tokens <= 30
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_adds_up_to_the_whole_completion(client: openai.OpenAI) -> None:
    for seed in range(4):
        whole = ask(client, seed=seed, temperature=1.3)
        chunks = list(
            ask(
                client,
                seed=seed,
                temperature=1.3,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert set(reasons[:-1]) == {None}
        assert chunks[-1].usage == whole.usage
        assert len({c.id for c in chunks}) == 1


def test_the_stream_is_server_sent_events_that_end_with_done(url: str) -> None:
    body = {"messages": HELLO, "max_tokens": 5, "seed": 1, "stream": True}
    with httpx.stream("POST", url + CHAT, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in events)
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["choices"] for line in events[:-1])  # no usage unless asked


def test_the_same_seed_gives_the_same_reply_and_another_one_another(client: openai.OpenAI) -> None:
    texts = [ask(client, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_stop_strings_end_a_reply_streamed_or_not(client: openai.OpenAI) -> None:
    whole = ask(client, max_tokens=60).choices[0].message.content
    stop = [whole[6:9], "never said"]
    cut = ask(client, max_tokens=60, stop=stop).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop[0])], "stop")
    chunks = ask(client, max_tokens=60, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == cut.message.content


def test_system_prompts_parts_and_developers_are_understood(client: openai.OpenAI) -> None:
    def prompt_tokens(*messages: dict[str, Any]) -> int:
        return ask(client, messages=list(messages), max_tokens=1).usage.prompt_tokens

    parts = [{"type": "text", "text": "안"}, {"type": "text", "text": "녕"}]
    assert prompt_tokens({"role": "user", "content": parts}) == prompt_tokens(*HELLO)
    system = {"role": "system", "content": "짧게 답하라."}
    assert prompt_tokens(system, *HELLO) > prompt_tokens(*HELLO)
    assert prompt_tokens(system, *HELLO) == prompt_tokens({**system, "role": "developer"}, *HELLO)


def test_top_k_min_p_and_a_repetition_penalty_are_taken(client: openai.OpenAI) -> None:
    def text(**extra: Any) -> str:
        return ask(client, temperature=2, extra_body=extra).choices[0].message.content

    greedy = ask(client, temperature=0).choices[0].message.content
    assert text(top_k=1) == text(min_p=1.0) == greedy != text()
    assert text(top_k=-1, min_p=0, repetition_penalty=1.0) == text()
    assert text(top_k=1, repetition_penalty=1.8) != greedy


def test_n_gives_as_many_choices_the_first_as_if_it_were_alone(client: openai.OpenAI) -> None:
    one = ask(client, seed=5)
    three = ask(client, seed=5, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert texts[0] == one.choices[0].message.content
    assert len(set(texts)) == 3
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens > one.usage.completion_tokens
    streamed = ["", "", ""]
    ends: list[str | None] = [None, None, None]
    for chunk in ask(client, seed=5, n=3, stream=True):
        for choice in chunk.choices:
            assert ends[choice.index] is None
            streamed[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason
    assert streamed == texts
    assert ends == [choice.finish_reason for choice in three.choices]


def test_log_probabilities_are_those_of_the_model(client: openai.OpenAI, engine: Engine) -> None:
    asked = {"logprobs": True, "top_logprobs": 3, "temperature": 0, "max_tokens": 12}
    choice = ask(client, **asked).choices[0]
    scores = choice.logprobs.content
    assert b"".join(bytes(s.bytes) for s in scores).decode("utf-8", "replace") == (
        choice.message.content
    )
    ids = engine.prompt([{"role": "user", "text": "안녕"}])
    for s in scores:
        logits = engine.model(torch.tensor([ids])).logits[0, -1].detach()
        logits[~engine._allowed] = float("-inf")
        expected = torch.log_softmax(logits, -1)
        best = expected.topk(3)
        assert [t.logprob for t in s.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert s.logprob == pytest.approx(float(best.values[0]), abs=1e-3)
        assert bytes(s.top_logprobs[0].bytes) == bytes(s.bytes)
        ids.append(int(best.indices[0]))
    pieces = [c for chunk in ask(client, **asked, stream=True) for c in chunk.choices]
    streamed = [s for c in pieces if c.logprobs for s in c.logprobs.content]
    assert [s.token for s in streamed] == [s.token for s in scores]
    assert ask(client, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    assert ask(client).choices[0].logprobs is None


def test_completions_go_on_from_text_and_from_token_ids(
    client: openai.OpenAI, engine: Engine
) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 20, "temperature": 0}
    text = client.completions.create(prompt="봄 여름", **asked)
    assert text.object == "text_completion"
    assert text.choices[0].text
    ids = engine.text_prompt("봄 여름")
    assert text.usage.prompt_tokens == len(ids)
    assert client.completions.create(prompt=ids, **asked).choices[0].text == text.choices[0].text
    both = client.completions.create(prompt=["봄 여름", "가을"], n=2, **asked)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text == text.choices[0].text
    assert both.usage.prompt_tokens == len(ids) + len(engine.text_prompt("가을"))
    chunks = list(client.completions.create(prompt="봄 여름", stream=True, **asked))
    assert "".join(c.choices[0].text for c in chunks) == text.choices[0].text
    assert chunks[-1].choices[0].finish_reason == text.choices[0].finish_reason
    echoed = client.completions.create(prompt="봄 여름", echo=True, **asked)
    assert echoed.choices[0].text == "봄 여름" + text.choices[0].text
    same = {"model": "tiny", "prompt": ["봄 여름"] * 4, "max_tokens": 20, "temperature": 2}
    assert len({choice.text for choice in client.completions.create(**same).choices}) == 4
    short = client.completions.create(prompt="봄", model="tiny", temperature=2, seed=3)
    assert short.usage.completion_tokens <= 16  # OpenAI's default


def test_completions_report_log_probabilities_in_their_own_form(client: openai.OpenAI) -> None:
    choice = client.completions.create(
        model="tiny", prompt="봄 여름", max_tokens=6, temperature=0, logprobs=2
    ).choices[0]
    said = choice.logprobs
    assert len(said.tokens) == len(said.token_logprobs) == len(said.top_logprobs)
    assert all(len(top) == 2 and max(top.values()) <= 0 for top in said.top_logprobs)
    assert said.token_logprobs[0] == pytest.approx(max(said.top_logprobs[0].values()))
    assert said.text_offset[0] == 0
    assert said.text_offset == sorted(said.text_offset)
    assert all(math.isfinite(p) for p in said.token_logprobs)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": ["봄", 5]}, "prompt"),
        ({"prompt": ["봄"] * 33}, "prompt"),
        ({"prompt": ["봄"] * 8, "n": 8}, "n"),
        ({"prompt": "봄", "suffix": "끝"}, "suffix"),
        ({"prompt": "봄", "best_of": 3}, "best_of"),
        ({"prompt": "봄", "logprobs": 21}, "logprobs"),
        ({"prompt": "봄", "logprobs": True}, "logprobs"),
        ({"prompt": [5], "echo": True}, "echo"),
        ({"prompt": "가" * 3000}, "prompt"),
        ({"prompt": "\ud83d"}, "prompt"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_completion_request_gets_a_400_that_names_the_field(
    url: str, body: Any, param: str
) -> None:
    answer = httpx.post(url + TEXT, content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


def test_text_to_go_on_from_never_becomes_a_control_token(engine: Engine) -> None:
    control = {i for i, t in engine.tokenizer.added_tokens_decoder.items() if t.special}
    ids = engine.text_prompt("<|eot_id|><|begin_of_text|>봄")
    assert [i for i in ids if i in control] == ids[:1]


def test_a_dialogue_over_the_context_is_cut_by_whole_turns_and_the_answer_says_so(
    client: openai.OpenAI, backend: Backend
) -> None:
    system = {"role": "system", "content": "짧게 답하라."}
    turns: list[dict[str, str]] = []
    for number in range(30):
        turns += [
            {"role": "user", "content": f"{number} 우리는 작은 마을 시장 길을 걷는다"},
            {"role": "assistant", "content": "바람이 분다"},
        ]
    messages = [system, *turns, {"role": "user", "content": "끝"}]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=messages)
    assert caught.value.code == "context_length_exceeded"
    wanted = {"messages": messages, "extra_body": {"truncate_prompt_turns": True}}
    answer = ask(client, **wanted)
    dropped = answer.malmoi["dropped_messages"]
    assert dropped > 0
    assert dropped % 2 == 0

    def tokens(keep: int) -> int:
        kept = [system, *turns[keep:], messages[-1]]
        return len(backend.prompt([{"role": m["role"], "text": m["content"]} for m in kept]))

    assert answer.usage.prompt_tokens == tokens(dropped)
    assert tokens(dropped) + 30 <= backend.context < tokens(dropped - 2) + 30
    first = next(iter(ask(client, stream=True, **wanted)))
    assert first.malmoi == {"dropped_messages": dropped}
    assert ask(client, extra_body={"truncate_prompt_turns": True}).malmoi["dropped_messages"] == 0
    assert not hasattr(ask(client), "malmoi")
    alone = [system, {"role": "user", "content": "가" * 3000}]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=alone, extra_body={"truncate_prompt_turns": True})
    assert caught.value.code == "context_length_exceeded"


def test_usage_may_be_asked_for_in_every_chunk(url: str) -> None:
    body = {"messages": HELLO, "max_tokens": 8, "temperature": 0, "stream": True}
    body["stream_options"] = {"continuous_usage_stats": True}
    with httpx.stream("POST", url + CHAT, json=body) as answer:
        chunks = [
            json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")
        ]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] == 0 < counts[-1]


# ------------------------------------------------------------------------------ vLLM's process


def test_vllm_is_looked_for_where_it_was_installed_and_its_absence_says_how(
    vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MALMOI_VLLM", raising=False)
    with pytest.raises(InputError, match=r"python -m venv ~/.malmoi/vllm && .*pip install vllm"):
        find_vllm()
    with pytest.raises(InputError, match="--vllm: no vLLM at"):
        find_vllm(tmp_path / "nothing")
    assert find_vllm(vllm) == [str(vllm)]
    assert find_vllm(Path(sys.executable))[1:] == ["-m", "vllm.entrypoints.cli.main"]
    monkeypatch.setenv("MALMOI_VLLM", str(vllm))
    assert find_vllm() == [str(vllm)]
    monkeypatch.delenv("MALMOI_VLLM")
    home = tmp_path / ".malmoi" / "vllm" / "bin"
    home.mkdir(parents=True)
    (home / "vllm").symlink_to(vllm)
    assert find_vllm() == [str(home / "vllm")]


def test_engine_and_address_are_checked_before_a_model_is_loaded(
    chat_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--engine tgi: must be one of transformers, vllm"):
        serve_models([chat_model], Address(port=0), engine="tgi")
    with pytest.raises(InputError, match=r"0\.0\.0\.0.*--api-key KEY.*--public"):
        serve_models([chat_model], Address("0.0.0.0", 0))
    with pytest.raises(InputError, match="--vllm: no vLLM at"):
        serve_models([chat_model], Address(port=0), engine="vllm", vllm=tmp_path / "none")
    with pytest.raises(InputError, match="no such folder"):
        serve_models([chat_model, tmp_path / "none"], Address(port=0))


@pytest.mark.thorough
def test_a_vllm_that_does_not_come_up_is_quoted(
    vllm: Path, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "tried to allocate 20 GiB")
    with pytest.raises(InputError, match=r"(?s)ended with status 1.*tried to allocate 20 GiB"):
        External(chat_model, [str(vllm)])


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_vllm_ends_with_the_server_however_that_ends(
    vllm: Path, chat_model: Path, how: signal.Signals
) -> None:
    words = [sys.executable, "-m", "launch.cli", "chat", str(chat_model), "--serve", "--port", "0"]
    with subprocess.Popen(
        [*words, "--engine", "vllm", "--vllm", str(vllm), "--api-key", "key"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        assert server.stderr is not None
        said = ""
        while "http://" not in said:
            said = server.stderr.readline()
            assert said, "the server ended before it listened"
        base = said.split()[3]
        children = psutil.Process(server.pid).children(recursive=True)
        assert len(children) == 1
        assert httpx.post(base + CHAT, json={"messages": HELLO}).status_code == 401
        key = {"Authorization": "Bearer key"}
        body = {"messages": HELLO, "max_tokens": 3}
        assert httpx.post(base + CHAT, json=body, headers=key).status_code == 200
        server.send_signal(how)
        assert server.wait(timeout=60) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []


@pytest.mark.thorough
def test_a_vllm_that_dies_later_gives_errors_and_a_sick_health(
    vllm: Path, chat_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    external = External(chat_model, [str(vllm)])
    listener = bind("127.0.0.1", 0)
    server = Server({"tiny": external})
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        body = {"messages": HELLO, "max_tokens": 480, "temperature": 2, "stream": True}
        with httpx.stream("POST", base + CHAT, json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.killpg(external._process.pid, signal.SIGKILL)
            rest = "".join(lines)
        assert "the engine failed" in rest
        assert rest.endswith("data: [DONE]")
        external._process.wait(timeout=10)
        assert httpx.post(base + CHAT, json={"messages": HELLO}).status_code == 503
        assert httpx.get(f"{base}/health").status_code == 503
    finally:
        server.should_exit = True
        thread.join()
        external.close()
    assert "vLLM ended with status -9" in capfd.readouterr().err
