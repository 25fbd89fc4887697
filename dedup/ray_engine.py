"""What runs the tasks on many machines: Ray, over the same functions and the same files.

In and out: as `executor.run_tasks`, which calls this where a cluster is given. Only what a task is
told (a small dataclass) and its summary travel through Ray; the data stays in files, which every node
sees at the same place. So Ray's object store holds next to nothing, and the output has the same bytes
as that of local processes.

The decision: Ray places and watches, and retrying is done here. A task whose worker or node died is
given to another one, up to `TRIES` times; then the run stops with the task's name, as it does
locally. Ray's own retries would count neither out-of-memory kills nor lost results in the same way.
A node that is lost but still alive may finish its copy of a task: files appear by rename and have the
same bytes, so that does no harm.

What the pass over all documents at once (`duplicates.py`) decides, it decides on the machine that
started the run, on threads.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import InputError, missing_extra
from configs.schema import Dedup, Tokenizer
from dedup.executor import Cluster, Tell, WorkerError, attempt

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIES = 4
"""Workers a task may have, one after the other: more than locally, since nodes are taken away."""

_TICK = 0.5  # seconds between two calls of on_tick while nothing happens
_PATIENCE = 10.0  # seconds a cluster has to answer
_AHEAD = 2  # tasks handed out per core, so that none waits for this process


def cluster_of(settings: Dedup | Tokenizer) -> Cluster | None:
    """The cluster a stage's settings ask for; None for local processes.

    Raises InputError, before anything heavy is imported, where Ray is not installed.
    """
    if settings.engine == "local":
        return None
    section = "dedup" if isinstance(settings, Dedup) else "tokenizer"
    if importlib.util.find_spec("ray") is None:
        raise InputError(f"{section}.engine: {missing_extra('ray', 'cluster')}; or set it to local")
    tasks = None if settings.workers == "auto" else settings.workers
    return Cluster(settings.address, tasks, section)


def connect(cluster: Cluster) -> Any:
    """The ray module, connected; a connection that is there already is used as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return ray
    address = None if cluster.address == "auto" else cluster.address
    try:
        if address is not None:
            _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{cluster.section}.address: no Ray cluster answers at {cluster.address} ({said}); start "
            "one with `ray start --head`, or set address to auto"
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        raise ValueError("write it as host:port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def need_shared_folder(cluster: Cluster, folder: Path) -> None:
    """Raise InputError, naming the nodes, where a node of the cluster does not see `folder`."""
    ray = connect(cluster)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    sees = ray.remote(num_cpus=0, max_retries=0)(_sees)
    asked = {
        node["NodeManagerAddress"]: sees.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(folder))
        for node in ray.nodes()
        if node["Alive"]
    }
    blind = []
    for address, answer in asked.items():
        try:
            if not ray.get(answer):
                blind.append(f"{address} does not see it")
        except ray.exceptions.RayTaskError as error:
            blind.append(f"{address} cannot run a task ({str(error).strip().splitlines()[-1]})")
        except ray.exceptions.RayError:  # it has just gone away
            continue
    if blind:
        raise InputError(
            [
                f"{folder}: node {line}; every node needs the run folder and the sources at the "
                "same place, and malmoi installed in the same version"
                for line in blind
            ]
        )


def run_on(
    cluster: Cluster,
    function: Callable[[Item, Tell], Result],
    items: Sequence[Item],
    *,
    on_done: Callable[[Item, Result], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_tick: Callable[[], None] | None = None,
) -> None:
    """`executor.run_tasks` on a Ray cluster; a task's progress is heard when it is done."""
    ray = connect(cluster)
    lost = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
        ray.exceptions.LocalRayletDiedError,
    )
    work = ray.remote(num_cpus=1, max_retries=0)(_work)
    waiting = list(range(len(items)))[::-1]
    deaths = [0] * len(items)
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < _most(ray, cluster):
                index = waiting.pop()
                running[work.remote(function, items[index])] = index
            done, _ = ray.wait(list(running), timeout=_TICK)
            for reference in done:
                index = running.pop(reference)
                try:
                    kind, content, told = ray.get(reference)
                except lost as error:
                    deaths[index] += 1
                    if deaths[index] == TRIES:
                        raise _given_up(items[index], error) from error
                    waiting.append(index)
                    continue
                except ray.exceptions.RayTaskError as error:  # before or after the task itself
                    said = str(error).strip().splitlines()[-1]
                    raise InputError(
                        f"{items[index]}: could not be run on the cluster ({said}); every node needs "
                        "malmoi, and the modules that the config names, in the same version"
                    ) from error
                if kind == "error":
                    raised, text = content
                    raise raised from WorkerError(text)
                if on_progress is not None:
                    on_progress(told)
                if on_done is not None:
                    on_done(items[index], content)
            if on_tick is not None:
                on_tick()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=10)


def _most(ray: Any, cluster: Cluster) -> int:
    """Tasks to have out now: nodes come and go."""
    if cluster.tasks is not None:
        return cluster.tasks
    return max(1, round(_AHEAD * ray.cluster_resources().get("CPU", 1)))


def _given_up(item: Any, error: Exception) -> InputError:
    said = str(error).strip().splitlines()
    why = said[0] if said else type(error).__name__
    return InputError(
        f"{item}: the worker or node it ran on died {TRIES} times ({why}); free memory, or set fewer "
        "workers. Finished tasks are kept: the same command goes on"
    )


def _work(function: Callable[[Any, Tell], Any], item: Any) -> tuple[str, Any, float]:
    """One task on some node: (result or error, what it is, the progress it told)."""
    told: list[float] = []
    kind, content = attempt(function, item, told.append)
    if kind == "error":
        try:
            pickle.dumps(content)
        except Exception:
            error, text = content
            content = (RuntimeError(f"{type(error).__name__}: {error}"), text)
    return kind, content, sum(told)


def _sees(folder: str) -> bool:
    return Path(folder).is_dir()
