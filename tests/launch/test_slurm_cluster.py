"""A real Slurm on two hosts: training across both, told to stop in both ways, and deduplication on Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
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
from launch.clusters.beats import read_beats

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


def training(
    cluster: SlurmCluster, folder: str, name: str, count: int = STEPS, **fields: Any
) -> tuple[Path, Path]:
    """A config that trains a tiny model for so many steps, in a folder of its own; and its run folder."""
    shared = cluster.hosts.shared / folder
    shared.mkdir()
    mixture = {"ko": 0.75, "en": 0.25}
    made = {
        "documents": [str(make_documents(shared / "documents"))],
        "tokenizer": str(make_tokenizer(shared / "tokenizer")),
        "phases": [{"name": "text", "tokens": 512 * count, "lr": 3e-3, "mixture": mixture}],
        "checkpoint": {"every_steps": 20, "keep": 2},
        "evaluate": {"every_steps": 1000, "sequences": 4},
    }
    config, run = shared / name, shared / "run"
    settings = make_config(**made, **fields).model_copy(update={"dir": str(run)})
    config.write_text(dump(settings), encoding="utf-8")
    return config, run


def test_training_on_both_hosts_goes_on_after_the_time_limit_with_the_losses_of_one_host(
    cluster: SlurmCluster,
) -> None:
    config, run = training(cluster, "실험 '하나' (1)", "내 설정.yaml")
    alone = run.with_name("alone")
    reference = subprocess.run(
        [sys.executable, "-m", "launch.cli", "pretrain", str(config), f"dir={alone}",
         "pretrain.processes=2"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert reference.returncode == 0, reference.stderr
    words = (cluster_file(cluster), "pretrain", str(config))

    launched = cluster.launch(*words)
    launched.wait_for(lambda: "running on node[0-1]" in launched.told() and len(steps(run)) >= 5)
    (number,) = cluster.jobs()
    cluster.ask("scancel", "--batch", "--signal=USR1", number)  # what the time limit sends
    launched.wait_for(lambda: "waits (" in launched.told(after="running on"))
    launched.wait_for(lambda: cluster.start_now(number))
    assert launched.ended() == 0, launched.told()
    assert "Restarts=1" in cluster.ask("scontrol", "show", "job", number)
    assert steps(run) == steps(alone)
    report = json.loads((run / "pretrain" / "report.json").read_text())
    assert (report["world_size"], report["resumed"]) == (2, 1)
    hosts = {path.name.split("-")[1] for path in (run / "logs").glob("pretrain-node*.log")}
    assert hosts == {"node0", "node1"}


def world(run: Path) -> int:
    """Ranks of the training that there is now."""
    beats = read_beats(run / "pretrain").values()
    newest = max(beats, key=lambda beat: beat.time, default=None)
    return 0 if newest is None else newest.world_size


def test_a_machine_that_fails_is_gone_on_without_and_a_requeued_job_starts_with_those_left(
    cluster: SlurmCluster,
) -> None:
    config, run = training(cluster, "fewer", "config.yaml", count=200, hang_seconds=15)
    launched = cluster.launch(cluster_file(cluster, min_nodes=1), "pretrain", str(config))
    sealed = run / "pretrain" / "checkpoints" / "latest"
    launched.wait_for(lambda: "running on node[0-1]" in launched.told() and sealed.exists())
    (number,) = cluster.jobs()
    for state in ("DRAIN", "DOWN"):  # the first, so that it does not come back by itself
        cluster.ask("scontrol", "update", "NodeName=node1", f"State={state}", "Reason=test")
    try:
        launched.wait_for(lambda: world(run) == 1)
        reached = len(steps(run))
        launched.wait_for(lambda: len(steps(run)) > reached)
        assert "running on node0" in launched.told(after="running on node[0-1]")
        cluster.ask("scancel", "--batch", "--signal=USR1", number)  # its time is up, too
        launched.wait_for(lambda: "waits (" in launched.told(after="running on node0"))
        launched.wait_for(lambda: cluster.start_now(number))
        assert launched.ended() == 0, launched.told()
    finally:
        cluster.ask("scontrol", "update", "NodeName=node1", "State=RESUME")
    report = json.loads((run / "pretrain" / "report.json").read_text())
    assert (report["world_size"], report["resumed"]) == (1, 2)
    entries = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").open()]
    trained = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in trained] == list(range(1, 201))
    ends = [entry["first_sequence"] + entry["sequences"] for entry in trained]
    assert [entry["first_sequence"] for entry in trained] == [0, *ends[:-1]]


def driver(run: Path) -> psutil.Process:
    """The process that runs the stages on the first machine."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = process.cmdline()
            if "launch.clusters.inside" in words and "drive" in words and str(run) in words:
                return process
    raise AssertionError("nothing drives the stages")


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
    assert launched.ended() == 0, launched.told()
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
    launched.wait_for(lambda: (shared / "run" / "lineage.json").exists())
    held = driver(shared / "run")  # it must not be done before it is asked
    held.suspend()
    launched.wait_for(lambda: "running on" in launched.told())  # one that waits is cancelled
    launched.ctrl_c()
    launched.wait_for(lambda: "asked to save and stop" in launched.told())
    held.resume()
    assert launched.ended() == 130, launched.told()
    assert cluster.jobs() == []
    again = cluster.launch(*words)
    assert again.ended() == 0, again.told()
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
    assert launched.ended() == 2, launched.told()
    said = launched.told()
    assert "error: dedup.sources" in said and "Traceback" not in said
    refused = cluster.launch(cluster_file(cluster, partition="nowhere"), "dedup", str(file))
    assert refused.ended() == 2 and "invalid partition" in refused.told(), refused.told()
    assert list((shared / "run" / "logs").iterdir())
