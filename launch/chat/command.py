"""`malmoi chat`: which models, on which engine, and what is done with them.

In: model folders and the command line's options. Out: a server, a conversation or one reply.

The decision: what can be wrong without loading a model (a folder, a port, the other engine's
environment) is found before one is loaded, which may take minutes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError
from launch.chat.manner import Manner
from launch.model_folder import check

ENGINES = ("transformers", "vllm")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and for whom."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    public: bool = False


def serve_models(
    models: Sequence[Path],
    address: Address,
    *,
    threads: int | None = None,
    engine: str = "transformers",
    vllm: Path | None = None,
) -> None:
    """Serve the models until Ctrl-C or SIGTERM. Raises InputError for whatever is wrong."""
    for model in models:
        check(model)
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: must be one of {', '.join(ENGINES)}")
    from launch.chat.listener import bind

    listener = bind(address.host, address.port, api_key=address.api_key, public=address.public)
    from launch.chat.backend import Backend, named
    from launch.chat.engine import Engine
    from launch.chat.serve import serve

    backends: list[Backend] = []
    try:
        if engine == "vllm":
            from launch.chat.external import External, find_vllm

            program = find_vllm(vllm)
            backends.extend(External(model, program) for model in models)
        else:
            share = _threads(threads, models)
            backends.extend(Engine(model, threads=share) for model in models)
        serve(named(backends), api_key=address.api_key, listener=listener)
    finally:
        listener.close()
        for backend in backends:
            backend.close()


def answer_once(
    models: Sequence[Path], text: str, manner: Manner, *, threads: int | None = None
) -> None:
    """One reply of each model to `text`, on standard output."""
    engines = _engines(models, threads)
    options: dict[str, Any] = asdict(manner)
    if len(engines) > 1:
        from launch.chat.compare import compare_message

        compare_message(engines, text, **options)
        return
    from launch.chat.terminal import one_reply

    one_reply(engines[0], text, **options)


def talk_to(models: Sequence[Path], manner: Manner, *, threads: int | None = None) -> None:
    """A conversation in the terminal, with one model or two at once."""
    engines = _engines(models, threads)
    options: dict[str, Any] = asdict(manner)
    if len(engines) > 1:
        from launch.chat.compare import compare_terminal

        compare_terminal(engines, **options)
        return
    from launch.chat.terminal import talk

    talk(engines[0], **options)


def _engines(models: Sequence[Path], threads: int | None) -> list[Any]:
    for model in models:
        check(model)
    from launch.chat.engine import Engine

    share = _threads(threads, models)
    return [Engine(model, threads=share) for model in models]


def _threads(asked: int | None, models: Sequence[Path]) -> int | None:
    """CPU threads of each model: engines at work at once on the same cores slow each other down."""
    if asked is not None or len(models) < 2:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // len(models))
