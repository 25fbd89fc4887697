"""Real ranks, quickly: processes forked from one that has imported DeepSpeed (seven seconds) already.

They meet as torchrun's do, by its environment variables and gloo over TCP; torchrun itself is tested in
test_ranks.py. A rank can be killed at any moment, which is what they are for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from configs.progress import Progress
from configs.schema import Config
from pretrain.zero import quiet_deepspeed

quiet_deepspeed()  # before the server starts, which looks for GPUs when it imports DeepSpeed
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch",
        "deepspeed",
        "transformers.models.llama.modeling_llama",
        "transformers.generation.utils",
        "pretrain.stage",
        "pretrain.train",
        "pretrain.weights.export",
        "forked_ranks",
    ]
)


def _rank(
    config: Config, folder: Path, rank: int, world_size: int, port: int, stop_after: int | None
) -> None:
    """One rank; leaves what happened in ranks/<rank>.json of the run folder."""

    def log(progress: Progress) -> None:
        if progress.unit == "steps" and progress.done == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    output = os.open(folder / "ranks" / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    outcome: dict[str, Any]
    try:
        from pretrain.stage import run

        report = run(config, folder, log=log)
        outcome = {"status": "done", "resumed": report.resumed}
    except BaseException as error:
        traceback.print_exc()
        lines = list(getattr(error, "lines", ())) or [str(error)]
        outcome = {"status": type(error).__name__, "lines": lines}
    (folder / "ranks" / f"{rank}.json").write_text(json.dumps(outcome))
    os._exit(0)  # forked processes need not tear down what they did not build


def start(
    config: Config, folder: Path, world_size: int = 1, stop_after: int | None = None
) -> list[BaseProcess]:
    """Start the ranks of a run whose documents and tokenizer are there.

    stop_after: rank 0 gets a SIGTERM after this step of a phase, and so stops one step later.
    """
    (folder / "ranks").mkdir(parents=True, exist_ok=True)
    for path in (folder / "ranks").glob("*.json"):
        path.unlink()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world_size):
        process = SERVER.Process(
            target=_rank, args=(config, folder, rank, world_size, port, stop_after)
        )
        process.start()
        processes.append(process)
    return processes


def finish(processes: list[BaseProcess], folder: Path, seconds: float = 200) -> dict[str, Any]:
    """Wait for all ranks; what rank 0 has to say. Kills them all where they take too long."""
    deadline = time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            assert process.exitcode is not None, f"a rank of {folder} did not end in time"
    finally:
        for process in processes:
            process.kill()
            process.join()
    path = folder / "ranks" / "0.json"
    assert path.is_file(), (folder / "ranks" / "0.log").read_text()[-3000:]
    return dict(json.loads(path.read_text()))


def train(
    config: Config, folder: Path, world_size: int = 1, stop_after: int | None = None
) -> dict[str, Any]:
    """Train with so many ranks until the run ends; what rank 0 has to say."""
    return finish(start(config, folder, world_size, stop_after), folder)


def steps(folder: Path) -> list[dict[str, Any]]:
    """The steps of metrics.jsonl without what depends on the clock."""
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    clock = ("tokens_per_second", "data_wait")
    entries = [entry for entry in map(json.loads, lines) if "loss" in entry]
    return [{k: v for k, v in entry.items() if k not in clock} for entry in entries]
