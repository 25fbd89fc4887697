"""Bad requests, clients that leave, and many short requests: does the chat server leak anything?

    python tests/benchmarks/chat_fuzz.py MODEL [--seconds 300] [--seed 0]

Starts `malmoi chat MODEL --serve` and, in turns until the time is over: bodies that are nearly right
(values swapped for odd ones, keys lost, bytes flipped), 64 streams of which a third leave at random
moments, and short requests (1,000 in all, at least). Every answer must be whole and in OpenAI's form,
none a 500; no slot may stay taken, and memory and file handles may not grow after the first round.
Exit status 1, with what was found, where that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

STREAMS, SHORT = 64, 1000
LOST = 5.0  # seconds after which a slot whose client left is lost; 0.5 is what is aimed at
ROOM = 48 * 2**20  # bytes the process may grow by after the first round

CHAT: dict[str, Any] = {
    "model": None, "messages": [
        {"role": "system", "content": "짧게 답하라."}, {"role": "user", "content": "안녕 😀"},
    ],
    "max_tokens": 3, "temperature": 1.0, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "n": 1,
    "repetition_penalty": 1.1, "stop": ["끝"], "seed": 1, "stream": False, "logprobs": True,
    "top_logprobs": 2, "truncate_prompt_turns": True, "user": "me",
}  # fmt: skip
TEXT: dict[str, Any] = {
    "prompt": ["봄", "여름"], "max_tokens": 3, "temperature": 0, "logprobs": 1, "echo": False,
    "n": 2, "stream": False, "suffix": None, "best_of": 1, "stop": "끝", "seed": -5,
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 33, 1.5, -0.0, 1e308, 2**31, 2**63, 2**64, -(2**70), "", "가",
    "\ud83d", "<|eot_id|>", "a" * 5000, "\x00", [], [[]], [None], ["", ""], [1, 2], [[1], [2]],
    [10**9], {}, {"role": "user"}, {"type": "text", "text": "가"}, [{"role": "user", "content": 5}],
    [{"role": "user", "content": [{"type": "text", "text": "가"}, {"type": "image_url"}]}],
    [{"role": "assistant", "content": ""}] * 40, float("nan"), float("inf"),
]  # fmt: skip


@dataclass
class Found:
    """What came of it: counts by status, and what must not be."""

    statuses: Counter[int] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_free: float = 0.0


def nearly_right(chance: random.Random) -> tuple[str, bytes]:
    """A path and a body with one to three things wrong, or none."""
    path, body = chance.choice([("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)])
    body = copy.deepcopy(body)
    for _ in range(chance.randint(0, 3)):
        place: Any = body
        while True:
            if not place or not isinstance(place, dict | list):
                break
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if isinstance(place[key], dict | list) and chance.random() < 0.6:
                place = place[key]
                continue
            if chance.random() < 0.2:
                del place[key]
            else:
                place[key] = copy.deepcopy(chance.choice(ODD))
            break
    if isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 3:
        body["max_tokens"] = 3  # a huge one is for the list of bad requests; here it would only run
    text = json.dumps(body).encode()
    if chance.random() < 0.2:
        flipped = bytearray(text)
        for _ in range(chance.randint(1, 4)):
            flipped[chance.randrange(len(flipped))] = chance.randrange(256)
        text = bytes(flipped)
    return path, text


def judge(answer: httpx.Response, body: bytes, found: Found) -> None:
    """Whether an answer is one of those that may be."""
    found.statuses[answer.status_code] += 1
    said = ""
    if answer.status_code == 200:
        if answer.headers["content-type"].startswith("text/event-stream"):
            if not answer.text.endswith("data: [DONE]\n\n"):
                said = "a stream without [DONE]"
        elif not answer.json()["choices"]:
            said = "no choices"
    elif answer.status_code not in (400, 404, 413, 429):
        said = f"status {answer.status_code}"
    elif set(answer.json()["error"]) != {"message", "type", "param", "code"}:
        said = "an error in another form"
    if said:
        found.wrong.append(f"{said}: {body[:300]!r} → {answer.text[:300]}")


async def fuzz(base: str, chance: random.Random, until: float, found: Found) -> None:
    """Nearly right bodies, eight at a time."""

    async def one(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            path, body = nearly_right(chance)
            judge(await client.post(base + path, content=body), body, found)

    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(one(client) for _ in range(8)))


async def leaving(port: int, base: str, chance: random.Random, found: Found) -> None:
    """64 streams; a third of them close at a random moment. Then nothing may be running."""
    from launch.chat.upstream import Refused, post_events

    left = 0.0

    async def one(number: int) -> None:
        nonlocal left
        leaves = number % 3 == 0
        body = {
            "messages": [{"role": "user", "content": f"{number} 우리는 길을 걷는다"}],
            "max_tokens": 200 if leaves else 20, "temperature": 2, "stream": True,
        }  # fmt: skip

        async def read() -> None:
            async for chunk in post_events(port, "/v1/chat/completions", body, "none"):
                if "error" in chunk:
                    raise Refused(str(chunk))

        try:
            if leaves:
                await asyncio.wait_for(read(), chance.random() * 1.5)
            else:
                await read()
            found.streams["whole"] += 1
        except TimeoutError:
            left = time.monotonic()
            found.streams["left"] += 1
        except (Refused, OSError) as error:
            found.wrong.append(f"a stream broke: {error}")

    await asyncio.gather(*(one(number) for number in range(STREAMS)))
    async with httpx.AsyncClient() as client:
        while (await client.get(f"{base}/health")).json()["requests"]:
            if left and time.monotonic() - left > LOST:
                found.wrong.append(f"a slot was still taken after {LOST:g} seconds")
                break
            await asyncio.sleep(0.01)
    if left:
        found.slowest_free = max(found.slowest_free, time.monotonic() - left)


async def short(base: str, count: int, found: Found) -> None:
    """Short requests, sixteen at a time."""
    numbers = iter(range(count))

    async def one(client: httpx.AsyncClient) -> None:
        for number in numbers:
            body = {"messages": [{"role": "user", "content": str(number)}], "max_tokens": 2}
            answer = await client.post(f"{base}/v1/chat/completions", json=body)
            judge(answer, json.dumps(body).encode(), found)
            if answer.status_code != 200:
                found.wrong.append(f"a short request got {answer.status_code}")

    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(one(client) for _ in range(16)))


def holds(process: psutil.Process) -> tuple[int, int, int]:
    """Resident bytes, open files and sockets, threads."""
    time.sleep(0.3)
    return process.memory_info().rss, process.num_fds(), process.num_threads()


def run(model: Path, seconds: float, seed: int = 0) -> tuple[Found, list[tuple[int, int, int]]]:
    """All of it; what was found, and what the server held after each round."""
    chance = random.Random(seed)
    found = Found()
    words = [sys.executable, "-m", "launch.cli", "chat", str(model), "--serve", "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*words, "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environment,
    ) as server:
        assert server.stderr is not None
        said = line = ""
        while "http://" not in line:
            line = server.stderr.readline()
            said += line
            if not line:
                raise SystemExit(f"the server ended before it listened: {said}")
        port = int(re.search(r"http://[\d.]+:(\d+)", line)[1])  # type: ignore[index]
        base = f"http://127.0.0.1:{port}"
        process = psutil.Process(server.pid)
        end = time.monotonic() + seconds
        rounds = max(4, round(seconds / 30))
        after = []
        try:
            for number in range(rounds):
                rest = (end - time.monotonic()) / (rounds - number)
                asyncio.run(short(base, -(-SHORT // rounds), found))
                asyncio.run(leaving(port, base, chance, found))
                asyncio.run(fuzz(base, chance, time.monotonic() + rest * 0.4, found))
                after.append(holds(process))
            answer = httpx.get(f"{base}/metrics").text
            for name in ("running", "waiting"):
                if not re.search(rf"^malmoi_requests_{name}{{.*}} 0$", answer, re.M):
                    found.wrong.append(f"/metrics: some requests are still {name}")
        finally:
            server.terminate()
            said = server.stderr.read()
        if "Traceback" in said:
            found.wrong.append(f"the server's log has a trace: {said[-2000:]}")
    if server.returncode:
        found.wrong.append(f"the server ended with status {server.returncode}")
    grown = after[-1][0] - after[0][0]
    if grown > ROOM:
        found.wrong.append(f"resident memory grew by {grown / 2**20:.0f} MiB")
    if after[-1][1] > after[0][1] + 4:
        found.wrong.append(f"file handles grew from {after[0][1]} to {after[-1][1]}")
    if after[-1][2] > after[0][2] + 8:
        found.wrong.append(f"threads grew from {after[0][2]} to {after[-1][2]}")
    return found, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found, after = run(asked.model, asked.seconds, asked.seed)
    print("answers by status:", dict(sorted(found.statuses.items())))
    print("streams:", dict(found.streams), f"slot free within {found.slowest_free:.2f} s")
    for number, (memory, files, threads) in enumerate(after, start=1):
        print(f"round {number}: {memory / 2**20:.0f} MiB, {files} files, {threads} threads")
    for wrong in found.wrong[:20]:
        print("WRONG:", wrong)
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()
