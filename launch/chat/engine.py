"""A model folder → replies, many at once.

In: a Hugging Face folder (`runs/<name>/model`) and dialogues. Out: a `Reply` per request, which
yields text as it is made, to a loop (`for delta in reply`) or to a coroutine (`async for`).

The decision: transformers' `ContinuousBatchingManager` does the decoding, for the server and for a
single message alike (its thread starts in milliseconds): paged cache, prefix sharing, and a batch
that requests join and leave at every step. What it lacks is here and in the files beside: which token
comes next (`sampling.py`), exact text and stop strings (`decoding.py`), delivery (`reply.py`), and
admission (here).

Cost on a CPU: attention reads the keys of all requests in one masked product, so a step grows
with the sum of the contexts; that is why the cache is bounded, not only the number of requests.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import psutil
import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from configs.errors import InputError
from launch.chat.decoding import TextStream, token_bytes
from launch.chat.loading import load
from launch.chat.reply import EngineError, Listener, Reply, Router
from launch.chat.sampling import BatchSampler, Draw, Sampling
from launch.model_folder import check
from tokenizer.chat import render_dialogue

MAX_REQUESTS = 256  # running and waiting; more is refused at once
BATCH_REQUESTS = 64  # decoded in one step; the others wait
PAGE_TOKENS = 64  # granularity of the cache and of prefix sharing
CACHE_TOKENS = 32768  # most tokens held, over all requests, where memory allows
CACHE_MEMORY = 0.25  # share of the memory that is free after loading
STOP_TOKENS = ("<|eot_id|>", "<|end_of_text|>")


class Message(TypedDict):
    """One turn of a dialogue: role is system, user or assistant."""

    role: str
    text: str


class ContextOverflow(Exception):
    """The prompt, or the prompt and the tokens asked for, do not fit the model's context."""

    def __init__(self, prompt: int, asked: int | None, context: int) -> None:
        wish = f" and max_tokens is {asked}" if asked else ""
        super().__init__(
            f"this model's context is {context} tokens; the messages are {prompt}{wish}. "
            "Shorten the messages or ask for fewer tokens"
        )
        self.prompt, self.asked, self.context = prompt, asked, context


class Busy(Exception):
    """More requests than the engine admits; try again later."""


class Engine:
    """A loaded model and tokenizer.

    model_folder: a Hugging Face folder with weights, config and a Llama-3 style tokenizer.
    threads: OpenMP threads for the whole process (None: torch's choice); on cores that others use,
    fewer are faster. Raises InputError for a folder that is not such a model.

    `context` is the tokens a dialogue may have, `name` how the server calls the model.
    """

    def __init__(self, model_folder: Path, *, threads: int | None = None) -> None:
        folder = Path(model_folder)
        check(folder)
        if threads is not None:
            if threads < 1:
                raise InputError(f"threads: must be at least 1, not {threads}")
            torch.set_num_threads(threads)
        self.name = folder.resolve().name
        if self.name == "model":  # runs/<name>/model
            self.name = folder.resolve().parent.name
        self.model, self.tokenizer = load(folder)
        pieces = token_bytes(self.tokenizer)
        vocabulary = self.tokenizer.get_vocab()
        self.stop_ids = frozenset(vocabulary[t] for t in STOP_TOKENS if t in vocabulary)
        if not self.stop_ids:
            raise InputError(
                f"{folder}: its tokenizer has neither {' nor '.join(STOP_TOKENS)}; chat needs a "
                "tokenizer in Llama-3's format"
            )
        self._pieces = pieces
        self._allowed = torch.zeros(self.model.config.vocab_size, dtype=torch.bool)
        ordinary = [i for i, piece in enumerate(pieces) if piece is not None]
        self._allowed[[*ordinary, *self.stop_ids]] = True
        self._allowed = self._allowed.to(self.model.device)
        capacity = self._cache_tokens()
        self.context = min(self.model.config.max_position_embeddings, capacity)
        self._blocks = capacity // PAGE_TOKENS
        self._numbers = itertools.count()
        self._manager: Any = None
        self._router = Router(self._finished)
        self._lock = threading.Lock()

    def _cache_tokens(self) -> int:
        """Tokens the cache holds: at least one page, at most what memory and CACHE_TOKENS allow."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        token = 2 * config.num_hidden_layers * heads * width * self.model.dtype.itemsize  # bytes
        if self.model.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.model.device)[0]
        else:
            free = psutil.virtual_memory().available
        wish = max(CACHE_TOKENS, config.max_position_embeddings)
        tokens = min(wish, int(free * CACHE_MEMORY) // token)
        return max(1, tokens // PAGE_TOKENS) * PAGE_TOKENS

    # ------------------------------------------------------------------------------- requests

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a dialogue, ending where the assistant's turn begins.

        What a message says is text: "<|eot_id|>" in it becomes the ordinary tokens of those ten
        characters, never the control token.
        """
        segments = [{"role": m["role"], "text": m["text"]} for m in messages]
        return render_dialogue(self.tokenizer, segments, add_generation_prompt=True)[0]

    def check(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """The tokens that may be generated; raises ContextOverflow or Busy."""
        room = self.context - len(prompt)
        if room < 1 or (sampling.max_tokens or 0) > room:
            raise ContextOverflow(len(prompt), sampling.max_tokens, self.context)
        if len(self._router.listeners) >= MAX_REQUESTS:
            raise Busy(f"{MAX_REQUESTS} requests are running or waiting; try again later")
        return sampling.max_tokens or room

    def reply(self, prompt: Sequence[int], sampling: Sampling) -> Reply:
        """Start a reply to `prompt` (ids). Raises ContextOverflow, Busy or EngineError."""
        max_tokens = self.check(prompt, sampling)
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        listener = Listener(TextStream(self._pieces, sampling.stop), self.stop_ids, loop)
        seed = random.getrandbits(64) if sampling.seed is None else sampling.seed
        name = f"reply-{next(self._numbers)}"
        manager = self._running()
        self._router.listeners[name] = listener
        if (
            manager.add_request(
                list(prompt),
                request_id=name,
                max_new_tokens=max_tokens,
                streaming=True,
                eos_token_id=sorted(self.stop_ids),
                draw=Draw(sampling.temperature, sampling.top_p, seed),
            )
            is None
        ):
            self._router.listeners.pop(name, None)
            raise EngineError("the generation thread has stopped")
        return Reply(listener, lambda: self._finished(name, True), len(prompt))

    @property
    def active(self) -> int:
        """Requests running or waiting."""
        return len(self._router.listeners)

    def _finished(self, name: str, cancel: bool) -> None:
        """Forget a request; `cancel` where the manager still works on it."""
        if self._router.listeners.pop(name, None) is not None and cancel and self._manager:
            self._manager.cancel_request(name)

    # ------------------------------------------------------------------------------ the thread

    def _running(self) -> Any:
        """The manager, started; a new one where an error ended the last."""
        with self._lock:
            if self._manager is not None and self._manager.is_running():
                return self._manager
            manager = self.model.init_continuous_batching(
                generation_config=GenerationConfig(
                    do_sample=False,  # argmax of what BatchSampler left
                    eos_token_id=sorted(self.stop_ids),
                    pad_token_id=min(self.stop_ids),
                ),
                continuous_batching_config=ContinuousBatchingConfig(
                    page_size=PAGE_TOKENS,
                    num_blocks=self._blocks,
                    max_batch_tokens=256 if self.model.device.type == "cpu" else 2048,
                    max_requests_per_batch=BATCH_REQUESTS,
                    use_async_batching=False,  # BatchSampler notes one step's rows at a time
                    use_cuda_graph=False,
                    auto_switch_to_flash=False,  # it may fetch kernels from the network
                ),
            )
            manager.logit_processor = BatchSampler(self._allowed)
            manager.output_router = self._router
            manager.start()
            threading.Thread(target=_stop_with_the_program, args=(manager,)).start()
            self._manager = manager
            return manager

    def close(self) -> None:
        """Stop the generation thread; replies under way end with EngineError. May be reused."""
        with self._lock:
            manager, self._manager = self._manager, None
        if manager is not None and manager.is_running():
            manager.stop(block=True, hard_stop=True)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _stop_with_the_program(manager: Any) -> None:
    """Stop the generation thread, which is no daemon, when the main thread ends without `close`.

    Not a daemon either: the interpreter waits for it, and torch is not torn down under it.
    """
    main = threading.main_thread()
    while manager.is_running() and main.is_alive():
        main.join(timeout=0.5)
    if manager.is_running():
        manager.stop(block=True, hard_stop=True)
