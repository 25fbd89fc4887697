"""vLLM as the engine: another process, in an environment of its own, behind our server.

In: a model folder and vLLM's program. Out: a backend like `engine.Engine`, so the page, the key, the
limits, the errors and the metrics are the same ones.

The decision: prompts go over as token ids, to vLLM's `/v1/completions`. What a person writes is then
never parsed for control tokens, a context that overflows is found here, and the chat form is made
here. vLLM pins another torch and needs a GPU, so it is not a dependency:
`python -m venv ~/.malmoi/vllm && ~/.malmoi/vllm/bin/pip install vllm`.

The process ends with ours: it leads a process group that `close` ends, and the kernel ends it where
ours is killed outright (Linux). It listens on loopback, with a key nobody else knows.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from configs.errors import InputError
from launch.chat.backend import MAX_REQUESTS, Busy, ChatFormat, Load
from launch.chat.loading import load_tokenizer
from launch.chat.reply import Delta, EngineError, Mailbox, Reply
from launch.chat.sampling import SEED_STEP, Sampling, TokenScore
from launch.chat.upstream import Refused, post_events
from launch.model_folder import check

HOME = Path("~/.malmoi/vllm")
INSTALL = f"python -m venv {HOME} && {HOME}/bin/pip install vllm"
START_LIMIT = 1800.0  # seconds for a large model to load
END_LIMIT = 10.0  # seconds between SIGTERM and SIGKILL
LOG_LINES = 12  # shown when it dies


def find_vllm(given: Path | None = None) -> list[str]:
    """The command that runs vLLM: what was given, `$MALMOI_VLLM`, or what is in ~/.malmoi/vllm.

    Each may be the program, its Python or its environment's folder. Raises InputError with the
    command that installs it.
    """
    named = os.environ.get("MALMOI_VLLM")
    where = given or (Path(named) if named else HOME)
    path = where.expanduser()
    if path.is_dir():
        path = path / "bin" / "vllm"
    if not os.access(path, os.X_OK) or path.is_dir():
        source = "--vllm" if given else "MALMOI_VLLM" if named else "--engine vllm"
        raise InputError(f"{source}: no vLLM at {path}; install it with: {INSTALL}")
    if path.name.startswith("python"):
        return [str(path), "-m", "vllm.entrypoints.cli.main"]
    return [str(path)]


class External(ChatFormat):
    """A vLLM process serving one model.

    model_folder: what it serves. program: the command, as `find_vllm` returns it. start_limit:
    seconds it may take to load. Raises InputError with its last words where it does not come up.
    """

    def __init__(
        self, model_folder: Path, program: Sequence[str], *, start_limit: float = START_LIMIT
    ) -> None:
        folder = Path(model_folder).absolute()
        check(folder)
        super().__init__(folder, load_tokenizer(folder))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._key = secrets.token_urlsafe(24)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._numbers = itertools.count()
        self._said: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._ending = False
        command = [
            *program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(self._port),
            "--served-model-name", self.name,
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "VLLM_API_KEY": self._key},
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise InputError(f"{program[0]}: cannot be run: {error.strerror}") from None
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        try:
            self.context = self._wait(start_limit)
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------------------- the process

    def _listen(self) -> None:
        """Keep the process's last lines; say so where it ends by itself."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line.decode("utf-8", "replace").rstrip())
        if not self._ending and hasattr(self, "context"):
            print(f"{self.name}: {self._last_words()}", file=sys.stderr, flush=True)

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        said = "\n  ".join(self._said) or "(nothing)"
        return f"vLLM ended with status {self._process.returncode}; it said:\n  {said}"

    def _wait(self, limit: float) -> int:
        """Wait for /health; returns the context it was started with."""
        started = time.monotonic()
        while time.monotonic() - started < limit:
            if self._process.poll() is not None:
                self._listening.join(timeout=2)
                raise InputError(f"--engine vllm: {self._last_words()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                self._get("/health")
                break
            time.sleep(0.2)
        else:
            said = "\n  ".join(self._said) or "(nothing)"
            raise InputError(
                f"--engine vllm: not ready after {limit:.0f} seconds; it said:\n  {said}"
            )
        models = json.loads(self._get("/v1/models"))["data"]
        return int(models[0]["max_model_len"])

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}", headers={"Authorization": f"Bearer {self._key}"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it has our key
        with direct.open(request, timeout=10) as answer:
            return bytes(answer.read())

    def close(self) -> None:
        """End the process and all it started. May be called again."""
        if self._ending:  # its number may be another's by now
            return
        self._ending = True
        for number, limit in ((signal.SIGTERM, END_LIMIT), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=limit)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    # -------------------------------------------------------------------------------- replies

    @property
    def active(self) -> int:
        """Requests under way."""
        return len(self._tasks)

    def load(self) -> Load:
        return Load(self.active, 0, None)

    def replies(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> list[Reply]:
        """Start `n` replies to each prompt (ids), inside a running asyncio loop.

        Raises ContextOverflow, Busy, or EngineError where the process has ended.
        """
        rooms = [self.room(prompt, sampling) for prompt in prompts]
        if self.active + len(prompts) * n > MAX_REQUESTS:
            raise Busy(f"{MAX_REQUESTS} requests are running or waiting; try again later")
        if not self.alive:
            raise EngineError("the engine has stopped")
        return [
            self._start(prompt, room, sampling, index)
            for prompt, room in zip(prompts, rooms, strict=True)
            for index in range(n)
        ]

    def _start(self, prompt: Sequence[int], room: int, sampling: Sampling, index: int) -> Reply:
        loop = asyncio.get_running_loop()
        mailbox = Mailbox(loop)
        body = self._body(prompt, room, sampling, index)
        number = next(self._numbers)
        task = loop.create_task(self._read(body, mailbox))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the task with it
                loop.call_soon_threadsafe(task.cancel)

        return Reply(mailbox, cancel, prompt)

    def _body(
        self, prompt: Sequence[int], room: int, sampling: Sampling, index: int
    ) -> dict[str, Any]:
        seed = sampling.seed
        if seed is not None:  # as `Draw.of`, and signed, as vLLM wants it
            seed = (seed + index * SEED_STEP + 2**63) % 2**64 - 2**63
        return {
            "model": self.name,
            "prompt": list(prompt),
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "max_tokens": room,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": seed,
            "stop": list(sampling.stop),
            "stop_token_ids": sorted(self.stop_ids),
            "logprobs": sampling.logprobs,
            "return_tokens_as_token_ids": True,
        }

    async def _read(self, body: dict[str, Any], mailbox: Mailbox) -> None:
        """One request to the process, its chunks handed on as they come."""
        read = Reading(self.stop_ids, body["logprobs"])
        hand = partial(_hand, mailbox)
        try:
            async for chunk in post_events(self._port, "/v1/completions", body, self._key):
                if "error" in chunk:
                    raise Refused(str(chunk["error"].get("message", "")))
                for delta in read.chunk(chunk):
                    hand(delta)
                    if delta.finish_reason:
                        return
            raise Refused("the stream ended early")
        except Exception as error:  # whatever it is, somebody waits for the reply
            print(f"{self.name}: vLLM: {error!r}", file=sys.stderr, flush=True)
            hand(EngineError("the engine failed; its log says more"))


class Reading:
    """Turns a completion's chunks into deltas."""

    def __init__(self, stop_ids: frozenset[int], alternatives: int | None) -> None:
        self.stop_ids = stop_ids
        self.alternatives = alternatives
        self.tokens = 0

    def chunk(self, chunk: dict[str, Any]) -> list[Delta]:
        """The deltas of one chunk; a chunk that only says usage has none."""
        told = (chunk.get("usage") or {}).get("completion_tokens")
        deltas = []
        for choice in chunk.get("choices", ()):
            self.tokens = self.tokens + 1 if told is None else int(told)
            finish = choice.get("finish_reason")
            scores = self._scores(choice.get("logprobs") or {})
            text = choice.get("text") or ""
            if text or scores or finish:
                end = None if not finish else "length" if finish == "length" else "stop"
                deltas.append(Delta(text, end, self.tokens, scores))  # type: ignore[arg-type]
        return deltas

    def _scores(self, said: dict[str, Any]) -> tuple[TokenScore, ...]:
        if self.alternatives is None:
            return ()
        scores = []
        tops = said.get("top_logprobs") or itertools.repeat({})
        for name, logprob, others in zip(
            said.get("tokens", ()), said.get("token_logprobs", ()), tops, strict=False
        ):
            token = _id(name)
            if token in self.stop_ids:
                continue
            top = sorted(((_id(n), p) for n, p in (others or {}).items()), key=lambda at: -at[1])
            scores.append(TokenScore(token, logprob, tuple(top[: self.alternatives])))
        return tuple(scores)


def _id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def _hand(mailbox: Mailbox, delta: Delta | EngineError) -> None:
    with contextlib.suppress(RuntimeError):  # the reader's loop is closed
        mailbox.hand(delta)


def _end_with_parent() -> None:
    """In the child: SIGTERM when the thread that started it ends (prctl, PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
