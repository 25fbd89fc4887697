"""The same tasks on a Ray cluster of two nodes: results, errors, a node killed half way, Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.errors import InputError
from configs.schema import Config, Dedup
from dedup.executor import Cluster, Tell, WorkerError, run_tasks
from dedup.ray_engine import cluster_of, need_shared_folder
from dedup.stage import run

ROOT = Path(__file__).resolve().parent.parent.parent


def test_without_ray_the_error_comes_early_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cluster_of(Dedup()) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"dedup\.engine: ray is not installed.*malmoi\[cluster\]"):
        cluster_of(Dedup(engine="ray"))


def test_the_config_says_which_cluster_and_how_many_tasks() -> None:
    pytest.importorskip("ray", reason="the engine ray needs the extra cluster")
    assert cluster_of(Dedup(engine="ray")) == Cluster("auto", None)
    given = Dedup(engine="ray", address="10.0.0.1:6379", workers=7)
    assert cluster_of(given) == Cluster("10.0.0.1:6379", 7)


def square(item: int, tell: Tell) -> int:
    tell(item)
    return item * item


def fail_on_three(item: int, tell: Tell) -> int:
    if item == 3:
        raise InputError("three: is not wanted; leave it out")
    return item


def sleep_the_first_time(item: str, tell: Tell) -> str:
    """Note the worker, and wait to be killed; a second try answers at once."""
    tell(1)
    mark = Path(item)
    if mark.exists():
        return "second try"
    mark.write_text(str(os.getpid()))
    time.sleep(60)
    return "never"


def note_and_sleep(item: str, tell: Tell) -> None:
    Path(item).write_text(str(os.getpid()))
    time.sleep(60)


def die(item: str, tell: Tell) -> None:
    with Path(item).open("a") as log:
        log.write("died\n")
    os.kill(os.getpid(), signal.SIGKILL)


class Nodes:
    """Two nodes of one core each, as processes of this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as LocalCluster

        self.settings = {"num_cpus": 1, "object_store_memory": 80_000_000}
        self.local: Any = LocalCluster(
            initialize_head=True, head_node_args={**self.settings, "include_dashboard": False}
        )
        self.second: Any = None
        self.cluster = Cluster(self.local.address)

    def both(self) -> None:
        """Give the cluster its second node, where a test took it away."""
        if self.second is None:
            self.second = self.local.add_node(**self.settings)
            self.local.wait_for_nodes()

    def kill_second(self) -> None:
        self.local.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    ray = pytest.importorskip("ray", reason="the engine ray needs the extra cluster")
    nodes = Nodes()
    yield nodes
    ray.shutdown()
    nodes.local.shutdown()


@pytest.mark.thorough
@pytest.mark.slow
def test_every_item_is_done_once_its_progress_heard_and_errors_come_out_as_themselves(
    nodes: Nodes, tmp_path: Path
) -> None:
    nodes.both()
    need_shared_folder(nodes.cluster, tmp_path)
    with pytest.raises(InputError, match="does not see it; every node needs"):
        need_shared_folder(nodes.cluster, tmp_path / "missing")
    results: dict[int, int] = {}
    heard: list[float] = []
    run_tasks(
        square,
        list(range(9)),
        1,
        cluster=nodes.cluster,
        on_done=results.__setitem__,
        on_progress=heard.append,
    )
    assert results == {item: item * item for item in range(9)}
    assert sum(heard) == sum(range(9))
    with pytest.raises(InputError, match="three: is not wanted") as caught:
        run_tasks(fail_on_three, list(range(8)), 1, cluster=nodes.cluster)
    assert isinstance(caught.value.__cause__, WorkerError)
    assert "fail_on_three" in str(caught.value.__cause__)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_given_up_and_named(nodes: Nodes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"deadly: the worker .* died 4 times") as caught:
        run_tasks(die, [str(tmp_path / "deadly")], 1, cluster=nodes.cluster)
    assert "the same command goes on" in caught.value.lines[0]
    assert (tmp_path / "deadly").read_text().count("died") == 4


@pytest.mark.thorough
@pytest.mark.slow
def test_ctrl_c_ends_the_tasks_on_the_cluster(nodes: Nodes, tmp_path: Path) -> None:
    nodes.both()
    marks = [tmp_path / "one", tmp_path / "two"]
    script = tmp_path / "caller.py"
    script.write_text(
        f"from {note_and_sleep.__module__} import note_and_sleep\n"
        "from dedup.executor import Cluster, run_tasks\n"
        f"there = Cluster({nodes.cluster.address!r})\n"
        f"run_tasks(note_and_sleep, {[str(mark) for mark in marks]!r}, 1, cluster=there)\n"
    )
    caller = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert time.monotonic() < deadline
        assert caller.poll() is None, caller.communicate()[1].decode()
        time.sleep(0.05)
    caller.send_signal(signal.SIGINT)
    _, message = caller.communicate(timeout=30)
    assert b"KeyboardInterrupt" in message
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(int(mark.read_text())) for mark in marks):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.thorough
@pytest.mark.slow
def test_tasks_of_a_node_that_is_killed_are_done_on_another(nodes: Nodes, tmp_path: Path) -> None:
    nodes.both()
    items = [str(tmp_path / name) for name in "ab"]  # one per node
    results: dict[str, str] = {}
    heard: list[float] = []

    def kill_when_both_run() -> None:
        while not all(Path(item).exists() and Path(item).read_text() for item in items):
            time.sleep(0.05)
        nodes.kill_second()
        for item in items:  # the one on the first node is not waited for
            with_pid = int(Path(item).read_text())
            if psutil.pid_exists(with_pid):
                os.kill(with_pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_both_run)
    killer.start()
    run_tasks(
        sleep_the_first_time,
        items,
        1,
        cluster=nodes.cluster,
        on_done=results.__setitem__,
        on_progress=heard.append,
    )
    killer.join()
    assert results == dict.fromkeys(items, "second try")
    assert sum(heard) == 2


def output(folder: Path) -> dict[str, bytes]:
    """Every file of the stage's output but its report, which has times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "dedup").rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_on_a_cluster_that_loses_a_node_half_way_has_the_bytes_of_a_local_one(
    nodes: Nodes, tmp_path: Path
) -> None:
    nodes.both()
    sample = ROOT / "configs" / "sample" / "ko"
    section = {
        "sources": [{"name": "ko", "paths": [str(sample / "**" / "*")]}],
        "shard": "10KB",
        "workers": 2,
    }
    run(Config.model_validate({"name": "here", "dedup": section}), tmp_path / "here")
    address = {"engine": "ray", "address": nodes.cluster.address, "workers": "auto"}
    killed = []

    def kill_half_way(progress: Any) -> None:
        if progress.step == "clean" and progress.done > 0.2 * progress.total and not killed:
            killed.append(progress.done / progress.total)
            nodes.kill_second()

    config = Config.model_validate({"name": "there", "dedup": {**section, **address}})
    run(config, tmp_path / "there", log=kill_half_way)
    assert 0 < killed[0] < 1
    assert output(tmp_path / "there") == output(tmp_path / "here")
    assert any(name.startswith("dedup/documents/") for name in output(tmp_path / "here"))


def test_an_address_where_nobody_answers_is_said_at_once() -> None:
    ray = pytest.importorskip("ray", reason="the engine ray needs the extra cluster")
    if ray.is_initialized():
        ray.shutdown()
    for address, said in (("127.0.0.1:1", "refused"), ("nowhere", "host:port")):
        with pytest.raises(InputError, match=rf"no Ray cluster answers at {address} \(.*{said}"):
            run_tasks(square, [1], 1, cluster=Cluster(address))
