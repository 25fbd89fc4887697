"""A model folder → replies, many at once.

In: a Hugging Face folder (`runs/<name>/model`) and dialogues. Out: a `Reply` per request, which
yields text as it is made, to a loop (`for delta in reply`) or to a coroutine (`async for`). Several
engines live in one process without knowing of each other.

The decision: transformers' `ContinuousBatchingManager` does the decoding, for the server and for a
single message alike (its thread starts in milliseconds): paged cache, prefix sharing, and a batch
that requests join and leave at every step. What it lacks is here and in the files beside: which token
comes next (`sampling.py`), exact text and stop strings (`decoding.py`), delivery (`reply.py`), and
admission (here).

Admission: what could never fit is an error at once (`ContextOverflow`). A queue that is full, in
requests or in tokens of prompts, says so (`Busy`). What is admitted waits until the cache has room;
where running replies outgrow it, the newest of them gives its pages back and is computed again
later, with the same text, since draws depend on the position alone.

Cost on a CPU: a step grows with the sum of the contexts, whose keys are all read (`attention.py`);
that is why the cache is bounded, not only the number of requests.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from configs.errors import InputError
from launch.chat import attention
from launch.chat.backend import MAX_REQUESTS, Busy, ChatFormat, ContextOverflow, Load, Message
from launch.chat.decoding import TextStream
from launch.chat.linear import widen
from launch.chat.loading import load
from launch.chat.reply import EngineError, Listener, Reply, Router
from launch.chat.sampling import BatchSampler, Draw, Sampling
from launch.model_folder import check

__all__ = ["Busy", "ContextOverflow", "Engine", "Message"]

QUEUED_CACHES = 4  # prompts running and waiting, in caches full; more is refused at once
BATCH_REQUESTS = 64  # decoded in one step; the others wait
PAGE_TOKENS = 64  # granularity of the cache and of prefix sharing
CACHE_TOKENS = 32768  # most tokens held, over all requests, where memory allows
CACHE_MEMORY = 0.25  # share of the memory that is free after loading


class Engine(ChatFormat):
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
        self.model, tokenizer = load(folder)
        widen(self.model)
        super().__init__(folder, tokenizer)
        self._allowed = torch.zeros(self.model.config.vocab_size, dtype=torch.bool)
        ordinary = [i for i, piece in enumerate(self.pieces) if piece is not None]
        self._allowed[[*ordinary, *self.stop_ids]] = True
        self._allowed = self._allowed.to(self.model.device)
        capacity = self._cache_tokens()
        self.context = min(self.model.config.max_position_embeddings, capacity)
        self._blocks = capacity // PAGE_TOKENS
        self._numbers = itertools.count()
        self._manager: Any = None
        self._router = Router(self._finished, self._cancel)
        self._lock = threading.Lock()
        self._admission = threading.Lock()
        self._held: dict[str, int] = {}  # request → tokens of its prompt

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

    def reply(self, prompt: Sequence[int], sampling: Sampling) -> Reply:
        """Start a reply to `prompt` (ids). Raises ContextOverflow, Busy or EngineError."""
        return self.replies([prompt], sampling)[0]

    def replies(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int = 1
    ) -> list[Reply]:
        """Start `n` replies to each prompt (ids), in order: all, or an exception and none.

        The first reply to a prompt has the seed asked for, the others seeds made of it and their
        index. They wait for its first token, then share the prompt's pages in the cache.
        """
        rooms = [self.room(prompt, sampling) for prompt in prompts]
        manager = self._running()
        made: list[Reply] = []
        with self._admission:
            self._admit(sum(len(prompt) for prompt in prompts) * n, len(prompts) * n)
            for prompt, room in zip(prompts, rooms, strict=True):
                seed = random.getrandbits(64) if sampling.seed is None else sampling.seed
                made += self._start(manager, list(prompt), room, sampling, seed, n)
        return made

    def _admit(self, tokens: int, requests: int) -> None:
        if len(self._router.listeners) + requests > MAX_REQUESTS:
            raise Busy(f"{MAX_REQUESTS} requests are running or waiting; try again later")
        held = sum(list(self._held.values()))
        if held and held + tokens > QUEUED_CACHES * self._blocks * PAGE_TOKENS:
            raise Busy(f"prompts of {held} tokens are running or waiting; try again later")

    def _start(
        self, manager: Any, prompt: list[int], room: int, sampling: Sampling, seed: int, n: int
    ) -> list[Reply]:
        """Register `n` replies; submit the first, and the others once it has its first token."""
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        names = [f"reply-{next(self._numbers)}" for _ in range(n)]

        def submit(name: str, index: int) -> bool:
            draw = Draw.of(sampling, seed, index)
            return bool(
                manager.add_request(
                    prompt,
                    request_id=name,
                    max_new_tokens=room,
                    streaming=True,
                    eos_token_id=sorted(self.stop_ids),
                    draw=draw,
                )
            )

        def submit_siblings() -> None:
            for index, name in enumerate(names[1:], start=1):
                listener = self._router.listeners.get(name)
                if listener is not None and not submit(name, index):
                    self._finished(name, False)
                    listener.hand(EngineError("the generation thread has stopped"))

        first = submit_siblings if n > 1 else None
        made = []
        for name in names:
            stream = TextStream(self.pieces, sampling.stop)
            listener = Listener(stream, self.stop_ids, loop, first)
            self._held[name] = len(prompt)
            self._router.listeners[name] = listener
            made.append(Reply(listener, partial(self._finished, name, True), prompt))
            first = None
        if not submit(names[0], 0):
            for reply in made:
                reply.cancel()
            raise EngineError("the generation thread has stopped")
        return made

    @property
    def alive(self) -> bool:
        """Always: a generation thread that an error ended is started again."""
        return True

    @property
    def active(self) -> int:
        """Requests running or waiting."""
        return len(self._router.listeners)

    def load(self) -> Load:
        """How busy this engine is at the moment."""
        manager = self._manager
        processor = None if manager is None else manager.batch_processor
        if processor is None:
            return Load(0, self.active, 0.0)
        running = min(self.active, len(processor.scheduler.active_requests))
        return Load(
            running, self.active - running, 1 - float(processor.cache.compute_free_capacity())
        )

    def _finished(self, name: str, cancel: bool) -> None:
        """Forget a request; `cancel` where the manager still works on it."""
        self._held.pop(name, None)
        listener = self._router.listeners.pop(name, None)
        if listener is not None:
            if cancel:
                self._cancel(name)
            listener.begin()  # siblings that waited for its first token

    def _cancel(self, name: str) -> None:
        manager = self._manager
        if manager is not None:
            manager.cancel_request(name)

    # ------------------------------------------------------------------------------ the thread

    def _running(self) -> Any:
        """The manager, started; a new one where an error ended the last."""
        with self._lock:
            if self._manager is not None and self._manager.is_running():
                return self._manager
            self.model.set_attn_implementation("sdpa")  # the manager takes no other it knows
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
            sampler = BatchSampler(self._allowed)
            manager.logit_processor = sampler
            self._router.scores = sampler.scores
            manager.output_router = self._router
            if attention.suits(self.model):
                self.model.set_attn_implementation(attention.NAME)
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
