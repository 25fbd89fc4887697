"""Training ranks on this machine: torchrun starts them, this file watches them.

The ranks live in sessions of their own, so a Ctrl-C reaches only this process, which passes it on as
SIGTERM: every rank finishes its step, saves and leaves; a second Ctrl-C kills them all. A rank that
crashes or hangs is restarted (torchrun.py), up to `pretrain.max_restarts` times, and resumes from the last
checkpoint. No rank is left behind when this process dies; while they still save, another start is refused.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil

from configs.clusters.schema import Local
from configs.errors import InputError, NoSpace, Stopped
from configs.progress import Log, Progress
from configs.schema import Config, Pretrain
from launch.clusters.job import Job
from launch.clusters.torchrun import (
    Outcome,
    Torchrun,
    prepare_folder,
    rank_environment,
    seconds_to_stop,
    training_lock,
)
from launch.clusters.view import View

__all__ = [
    "ON_THIS_MACHINE",
    "Here",
    "dry_run",
    "launch",
    "loopback",
    "run_ranks",
    "seconds_to_stop",
]


ON_THIS_MACHINE = ("--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")
"""An address, not a name: nobody is asked what this machine is called."""


def loopback() -> dict[str, str]:
    """For gloo, which else asks a name server for this machine's own address."""
    return {"GLOO_SOCKET_IFNAME": "lo"} if "lo" in psutil.net_if_addrs() else {}


class Here:
    """This machine. settings: a cluster file's, if there is one."""

    def __init__(self, settings: Local | None = None) -> None:
        self.settings = settings or Local(kind="local")

    def for_data(
        self, stage: str, config: Config, folder: Path, log: Log
    ) -> AbstractContextManager[Config]:
        return nullcontext(config)

    def train(self, config: Config, folder: Path, log: Log) -> None:
        assert config.pretrain is not None
        run_ranks(config.pretrain, folder, log=log, environment=self.settings.environment)


def launch(job: Job, log: Log) -> None:
    """`malmoi launch` on this machine. Raises what `run_command` raises."""
    from launch.pipeline import run_command

    assert isinstance(job.cluster, Local)
    here = Here(job.cluster)
    given = (job.config, job.folder, job.source, job.overrides, job.only)
    try:
        run_command(*given, dry_run=False, machines=here)
    except NoSpace as error:
        raise Stopped(error.lines[0]) from error


def dry_run(job: Job) -> str:
    """What would run, a line a stage."""
    from launch.run import dry_run as decisions

    assert isinstance(job.cluster, Local)
    lines = [f"{job.config.name} → {job.folder}, on this machine (dry run: nothing is written)"]
    lines += [f"  {line}" for line in decisions(job.config, job.folder, job.stages)]
    if job.config.pretrain is not None and "pretrain" in job.stages:
        pretrain = job.config.pretrain
        lines.append(f"  ranks: {pretrain.processes}, threads of each: {pretrain.threads}")
    return "\n".join(lines)


def run_ranks(
    config: Pretrain, folder: Path, *, log: Log, environment: dict[str, str] | None = None
) -> None:
    """Train on this machine until the run is done.

    Raises InputError for a mistake a rank found, Stopped or KeyboardInterrupt after a stop that
    left a checkpoint, RuntimeError when the restarts are used up (the logs say why).
    """
    stage = folder / "pretrain"
    processes, variables = _ranks(config, log)
    with training_lock(folder) as held:
        prepare_folder(folder)
        views: list[View] = []
        torchrun = Torchrun(
            folder,
            config,
            ["--nnodes", "1", "--rdzv-backend", "c10d", *ON_THIS_MACHINE],
            processes,
            loopback() | variables | (environment or {}),
            folder / "logs" / "torchrun.log",
            [held],
            lambda line: views[0].say(line),
        )
        views.append(View(stage, torchrun.watch, log))
        _follow(torchrun, views[0], log)
    done = Outcome.read(stage).done()
    if torchrun.child.returncode != 0 or not done:
        raise RuntimeError(torchrun.last_words())


def _follow(torchrun: Torchrun, view: View, log: Log) -> None:
    """Pass on progress until torchrun has ended, by itself or because it was made to."""
    try:
        while torchrun.running():
            view.tick()
            if Outcome.read(torchrun.stage).final:
                torchrun.end(seconds=10)
                break
            time.sleep(0.2)
    except (KeyboardInterrupt, Stopped):
        log(Progress("pretrain", "stopping", message="finishing the step and saving"))
        torchrun.end(seconds=seconds_to_stop(torchrun.stage))
        raise
    except BaseException:
        torchrun.end(seconds=10)
        raise
    view.tick()


def _ranks(config: Pretrain, log: Log) -> tuple[int, dict[str, str]]:
    """How many ranks there are, and their environment.

    A toy (random weights) with more processes than GPUs trains on the CPU, where any number of ranks
    can run; a real base cannot be meant so.

    Raises InputError where a real base is given more processes than there are GPUs.
    """
    import torch

    gpus = torch.cuda.device_count()
    processes = max(1, gpus) if config.processes == "auto" else config.processes
    on_cpu = gpus == 0
    if 0 < gpus < processes:
        said = f"{processes} processes, and this machine has {gpus} GPU{'s' if gpus > 1 else ''}"
        if not isinstance(config.base, dict):
            raise InputError(f"pretrain.processes: {said}; write {gpus}, or auto for all of them")
        log(Progress("pretrain", "ranks", message=f"{said}: this toy trains on the CPU"))
        on_cpu = True
    return processes, rank_environment(config.threads, processes, on_cpu=on_cpu, more={})
