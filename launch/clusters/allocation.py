"""The machines of an allocation (a Slurm job, the pods of a Job), as the first of them uses them.

In: a `Place`. Out: `launch.machines.Machines`: Ray over all machines for a data stage, ranks on all of
them for training. What the others have to do is told them through orders.py; what they do themselves is
the same program as here (node.py).
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import InputError, Stopped
from configs.progress import Log, Progress
from configs.schema import Config
from launch.clusters import orders
from launch.clusters.beats import Watch
from launch.clusters.child import end, started
from launch.clusters.identity import digest
from launch.clusters.place import Place
from launch.clusters.ray_node import listens
from launch.clusters.torchrun import Outcome, prepare_folder, seconds_to_stop, training_lock
from launch.clusters.view import View

RAY_PORT = 6379
RAY_TOKEN = ".ray-token"
JOIN = 180.0  # seconds in which the other machines join Ray; then it goes on with those that did
LOOK = 0.3  # seconds between two looks at the ranks' files


class Allocation:
    """The machines of an allocation, as the first of them uses them (`launch.machines.Machines`)."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @contextmanager
    def for_data(self, stage: str, config: Config, folder: Path, log: Log) -> Iterator[Config]:
        """Ray across the allocation while the context is open; without other machines, none."""
        place = self.place
        if place.machines == 1:
            yield config
            return
        address = f"{place.address}:{_free_port(place.address)}"
        output = folder / "logs" / f"ray-{platform.node()}.log"
        os.environ.update(ray_token(folder, make=True))  # before ray is imported
        begun = output.stat().st_size if output.exists() else 0
        with started(place.ray("--head", address), output) as head:
            try:
                _wait_for_head(head, output, begun)
                orders.give(folder, place.allocation, "ray", address)
                _join(address, 1 if place.tasks > 1 else place.machines, log)
                yield on_ray(config, stage, address)
            finally:
                _leave_ray()
                orders.give(folder, place.allocation, "wait")

    def train(self, config: Config, folder: Path, log: Log) -> None:
        """Ranks on all machines, until the run is done; raises as `Machines.train` says."""
        place, stage = self.place, folder / "pretrain"
        own = f"{place.address}:{place.port}"
        with training_lock(folder):  # nobody of an earlier start is left
            prepare_folder(folder)
        orders.give(folder, place.allocation, "train", place.rendezvous or own, digest())
        output = folder / "logs" / f"node-{platform.node()}.log"
        try:
            with started(place.training(own, digest()), output) as node:
                status = _watched(node, stage, log)
        finally:
            orders.give(folder, place.allocation, "wait")
        outcome = Outcome.read(stage)
        if outcome.status == "error" or status == 2:
            raise InputError(outcome.lines or mistakes_in(output))
        if outcome.status == "full":
            raise Stopped(outcome.lines[0])
        if outcome.status == "stopped" or status == 75:
            raise Stopped
        if status != 0 or outcome.status != "done":
            raise RuntimeError("\n".join([f"training ended with status {status}:", *_tail(output)]))


def _tail(output: Path) -> list[str]:
    return output.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]


def mistakes_in(output: Path) -> list[str]:
    """What the node program called a mistake, in its last words."""
    found = [line.removeprefix("error: ") for line in _tail(output) if line.startswith("error: ")]
    return found or [f"{output}: says what is wrong"]


def _free_port(address: str) -> int:
    """Ray's own port, or the next one where somebody listens already."""
    return next(port for port in range(RAY_PORT, RAY_PORT + 50) if not listens(f"{address}:{port}"))


def _leave_ray() -> None:
    """The next stage's cluster is another one."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def on_ray(config: Config, stage: str, address: str) -> Config:
    """The config with a data stage on the Ray cluster at `address`."""
    section = getattr(config, stage)
    placed = section.model_copy(update={"engine": "ray", "address": address})
    return config.model_copy(update={stage: placed})


def _watched(node: subprocess.Popen[bytes], stage: Path, log: Log) -> int:
    """Show what the ranks say until the node program has ended; its status."""
    watch = Watch(stage)
    view = View(stage, watch, log)
    try:
        while node.poll() is None:
            watch.look()
            view.tick()
            time.sleep(LOOK)
    except (KeyboardInterrupt, Stopped):
        log(Progress("pretrain", "stopping", message="finishing the step and saving"))
        end(node, seconds_to_stop(stage) + 30)
        raise
    view.tick()
    return node.returncode


def ray_token(folder: Path, *, make: bool = False) -> dict[str, str]:
    """Variables that let nobody but this user into the run's Ray cluster (Ray 2.52 and newer).

    make: on the first machine, write the token that they name, readable for its owner alone.
    """
    path = folder / RAY_TOKEN
    if make and not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def _wait_for_head(head: subprocess.Popen[bytes], output: Path, begun: int) -> None:
    """Raises RuntimeError with its last words where the head of Ray does not come up.

    begun: bytes of its log before it was started.
    """
    while b"ray is up" not in output.read_bytes()[begun:]:
        if head.poll() is not None:
            raise RuntimeError("\n".join(["Ray's head does not come up:", *_tail(output)]))
        time.sleep(LOOK)


def _join(address: str, wanted: int, log: Log) -> None:
    """Until so many machines have joined Ray; after `JOIN` seconds it goes on with fewer."""
    import ray

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    deadline, there = time.monotonic() + JOIN, 0
    while there < wanted and time.monotonic() < deadline:
        there = sum(1 for node in ray.nodes() if node["Alive"])
        time.sleep(LOOK)
    log(Progress("launch", "ray", there, wanted, "machines"))
