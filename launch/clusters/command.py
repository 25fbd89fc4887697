"""`malmoi launch CLUSTER STAGE CONFIG`: the same stage and the same config, on other machines.

In: the words of the command line. Everything a person can have got wrong is found before a machine is
spoken to: cluster, stage, config and overrides, all at once. Each kind of cluster is a module with
`launch(job, log)`, which raises InputError (a mistake), Stopped (resumable) or RuntimeError (a crash),
and `dry_run(job)`, which says as text what would be done and writes nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from configs.clusters.load import load_cluster
from configs.clusters.schema import Cluster, Local
from configs.errors import InputError
from configs.keys import nearest
from configs.load import load, run_folder
from configs.schema import Config
from launch.clusters.job import STAGES, Job
from launch.console import Console


def launch_command(
    cluster: str, stage: str, source: str, overrides: Sequence[str], *, dry_run: bool
) -> None:
    """Do what the command line says; see the module."""
    job = make_job(cluster, stage, source, overrides)
    engine = importlib.import_module(f"launch.clusters.{job.cluster.kind}")
    if dry_run:
        print(engine.dry_run(job))
        return
    with Console() as console:
        engine.launch(job, console.log)


def make_job(cluster: str, stage: str, source: str, overrides: Sequence[str]) -> Job:
    """The words as a `Job`; InputError with every mistake in any of them."""
    wrong: list[str] = []
    if stage not in STAGES:
        near = nearest(stage, STAGES)
        meant = f"did you mean {near}?" if near else f"write one of {', '.join(STAGES)}"
        wrong.append(f"{stage}: is no stage; {meant}")
    machines = config = None
    try:
        machines = load_cluster(cluster)
    except InputError as error:
        wrong += error.lines
    try:
        config = load(source, overrides)
    except InputError as error:
        wrong += error.lines
    if config is not None and stage in STAGES[:3] and getattr(config, stage) is None:
        wrong.append(f"{source}: has no {stage} section; `malmoi explain {stage}` tells its keys")
    if machines is None or config is None or wrong:
        raise InputError(wrong)
    folder = Path.cwd() / run_folder(config)
    config = on_machines(config, machines)
    return Job(machines, cluster, stage, config, source, tuple(overrides), folder)


def on_machines(config: Config, cluster: Cluster) -> Config:
    """The config with what the cluster file says about ranks; auto there leaves it as it is."""
    if config.pretrain is None:
        return config
    keys: dict[str, object] = {"threads": cluster.threads}
    if isinstance(cluster, Local):
        keys["processes"] = cluster.processes
    known = {key: value for key, value in keys.items() if value != "auto"}
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update=known)})
