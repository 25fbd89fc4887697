"""A real Slurm on two hosts: training across both, told to stop in both ways, and deduplication on Ray."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm_cluster import SlurmCluster, slurm_on
from tiny_run import make_config, make_documents, make_tokenizer
from two_hosts import ROOT, two_hosts

from configs.load import dump
from configs.schema import Config
from configs.yaml12 import emit

pytestmark = [pytest.mark.thorough, pytest.mark.slow, pytest.mark.xdist_group("two_hosts")]

STEPS = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with two_hosts(tmp_path_factory.mktemp("slurm")) as hosts, slurm_on(hosts) as slurm:
        yield slurm


def cluster_file(cluster: SlurmCluster, **keys: Any) -> str:
    """A cluster file for both hosts, one rank on each."""
    path = cluster.hosts.shared / "cluster.yaml"
    settings = {
        "kind": "slurm", "nodes": 2, "cpus": 1, "partition": "main", "time": "30:00",
        "signal_seconds": 60, "threads": 1,
    }  # fmt: skip
    path.write_text(emit(settings | keys))
    return str(path)


def steps(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of every step in metrics.jsonl."""
    path = folder / "pretrain" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def wait_for(
    happened: Callable[[], Any], launched: subprocess.Popen[str], seconds: float = 150
) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert launched.poll() is None, (
            f"ended with {launched.returncode}: {launched.stderr.read()}"
        )  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def ctrl_c(launched: subprocess.Popen[str]) -> None:
    """Ctrl-C for the launcher alone; what was started is nsenter, which waits for it."""
    (child,) = psutil.Process(launched.pid).children()
    child.send_signal(signal.SIGINT)


def ended(launched: subprocess.Popen[str], seconds: float = 170) -> str:
    """What the launcher wrote to stderr until it ended."""
    try:
        return launched.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        launched.kill()
        pytest.fail(f"the launcher does not end: {launched.communicate()[1][-3000:]}")


def test_training_on_both_hosts_goes_on_after_the_time_limit_with_the_losses_of_one_host(
    cluster: SlurmCluster,
) -> None:
    shared = cluster.hosts.shared / "실험 '하나' (1)"
    shared.mkdir()
    made = {
        "documents": [str(make_documents(shared / "documents"))],
        "tokenizer": str(make_tokenizer(shared / "tokenizer")),
        "phases": [
            {"name": "text", "tokens": 512 * STEPS, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}}
        ],
        "checkpoint": {"every_steps": 20, "keep": 2},
        "evaluate": {"every_steps": 1000, "sequences": 4},
    }
    config, alone = shared / "내 설정.yaml", shared / "alone"
    run = shared / "run"
    settings = make_config(**made).model_copy(update={"dir": str(run)})
    config.write_text(dump(settings), encoding="utf-8")
    reference = subprocess.run(
        [sys.executable, "-m", "launch.cli", "pretrain", str(config), f"dir={alone}",
         "pretrain.processes=2"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert reference.returncode == 0, reference.stderr
    words = (cluster_file(cluster), "pretrain", str(config))

    launched = cluster.launch(*words)
    wait_for(lambda: len(steps(run)) >= 5, launched)
    (number,) = cluster.jobs()
    cluster.ask("scancel", "--batch", "--signal=USR1", number)  # what the time limit sends
    wait_for(lambda: "PENDING" in cluster.ask("scontrol", "show", "job", number), launched)
    time.sleep(5)  # Slurm cleans up; it would start the job two minutes later by itself
    cluster.ask("scontrol", "update", f"JobId={number}", "StartTime=now")
    said = ended(launched)
    assert launched.returncode == 0, said
    assert "waits (" in said and "running on node[0-1]" in said
    assert "Restarts=1" in cluster.ask("scontrol", "show", "job", number)
    assert steps(run) == steps(alone)
    report = json.loads((run / "pretrain" / "report.json").read_text())
    assert (report["world_size"], report["resumed"]) == (2, 1)
    hosts = {path.name.split("-")[1] for path in (run / "logs").glob("pretrain-node*.log")}
    assert hosts == {"node0", "node1"}


def output(folder: Path) -> dict[str, bytes]:
    """Every file of the stage's output but its report, which has times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "dedup").rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


@pytest.mark.parametrize("keys", [{"nodes": 2}, {"array": 2}], ids=["one job", "an array"])
def test_deduplication_on_ray_across_the_allocation_has_the_bytes_of_a_local_one(
    cluster: SlurmCluster, keys: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="data stages on several machines need the extra cluster")
    from dedup.stage import run as deduplicate

    shared = cluster.hosts.shared / f"dedup {len(keys)}{next(iter(keys))}"
    shared.mkdir()
    sample = ROOT / "configs" / "sample" / "ko" / "**" / "*"
    section = {"sources": [{"name": "ko", "paths": [str(sample)]}], "shard": "10KB"}
    config = Config.model_validate({"name": "clean", "dir": str(shared / "run"), "dedup": section})
    deduplicate(config, tmp_path / "local")
    file = shared / "config.yaml"
    file.write_text(dump(config), encoding="utf-8")
    launched = cluster.launch(cluster_file(cluster, **keys), "dedup", str(file))
    said = ended(launched)
    assert launched.returncode == 0, said
    assert output(shared / "run") == output(tmp_path / "local")
    assert cluster.jobs() == []


def test_ctrl_c_asks_the_job_to_stop_and_the_same_command_goes_on(cluster: SlurmCluster) -> None:
    shared = cluster.hosts.shared / "ctrl c"
    shared.mkdir()
    sample = ROOT / "configs" / "sample" / "ko" / "**" / "*"
    section = {"sources": [{"name": "ko", "paths": [str(sample)]}], "workers": 1}
    config = Config.model_validate({"name": "clean", "dir": str(shared / "run"), "dedup": section})
    file = shared / "config.yaml"
    file.write_text(dump(config), encoding="utf-8")
    words = (cluster_file(cluster, nodes=1), "dedup", str(file))
    launched = cluster.launch(*words)
    wait_for(lambda: (shared / "run" / "lineage.json").exists(), launched)
    ctrl_c(launched)
    said = ended(launched, 60)
    assert launched.returncode == 130, said
    assert "asked to save and stop" in said and cluster.jobs() == []
    again = cluster.launch(*words)
    said = ended(again, 120)
    assert again.returncode == 0, said
    assert (shared / "run" / "dedup" / "report.json").exists()


def test_a_persons_mistake_ends_the_job_with_2_and_its_own_words(cluster: SlurmCluster) -> None:
    shared = cluster.hosts.shared / "mistake"
    shared.mkdir()
    config = {
        "name": "none", "dir": str(shared / "run"),
        "dedup": {"sources": [{"name": "ko", "paths": [str(shared / "nothing" / "*.jsonl")]}]},
    }  # fmt: skip
    file = shared / "config.yaml"
    file.write_text(emit(config), encoding="utf-8")
    launched = cluster.launch(cluster_file(cluster, nodes=1), "dedup", str(file))
    said = ended(launched, 60)
    assert launched.returncode == 2, said
    assert "error: dedup.sources" in said and "Traceback" not in said
    refused = cluster.launch(cluster_file(cluster, partition="nowhere"), "dedup", str(file))
    said = ended(refused, 60)
    assert refused.returncode == 2 and "invalid partition" in said, said
    assert list((shared / "run" / "logs").iterdir())
