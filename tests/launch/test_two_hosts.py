"""Two hosts with an sshd each (tests/two_hosts.py): `malmoi launch` over both, and what it survives."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tiny_run import make_config, make_documents, make_tokenizer
from two_hosts import ROOT, TwoHosts, both_hosts  # noqa: F401

from configs.load import dump
from launch.clusters.beats import Beat, read_beats

pytestmark = [pytest.mark.thorough, pytest.mark.slow, pytest.mark.xdist_group("two_hosts")]

MALMOI = [sys.executable, "-m", "launch.cli"]
LONG = [{"name": "text", "tokens": 40_000_000, "lr": 1e-3, "mixture": {"ko": 0.75, "en": 0.25}}]
SHORT = [{"name": "text", "tokens": 40 * 512, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}}]


def cluster(both: TwoHosts, **keys: Any) -> str:
    """A cluster file for both hosts, seen by both."""
    known = {"kind": "hosts", "hosts": [f"{name} slots=1" for name in both.names]}
    known |= {"ssh": ["-F", str(both.ssh_config)], "wait_seconds": 3}
    path = both.shared / f"cluster-{len(list(both.shared.glob('cluster-*')))}.yaml"
    path.write_text(yaml.safe_dump(known | keys))
    return str(path)


def training(hosts: TwoHosts, name: str, **fields: Any) -> tuple[str, Path]:
    """A config that trains a tiny model, and its run folder, on the shared storage."""
    made = hosts.shared / "made"
    if not made.exists():
        make_tokenizer(made / "tokenizer")
        make_documents(made / "documents")
    given = {"documents": [str(made / "documents")], "tokenizer": str(made / "tokenizer")}
    config = make_config(**given, **fields).model_copy(update={"dir": str(hosts.shared / name)})
    path = hosts.shared / f"{name}.yaml"
    path.write_text(dump(config), encoding="utf-8")
    return str(path), hosts.shared / name


def steps(folder: Path) -> list[dict[str, Any]]:
    """The steps of metrics.jsonl without what depends on the clock."""
    path = folder / "pretrain" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    clocks = ("tokens_per_second", "data_wait")
    whole = [line for line in lines if line.endswith("}")]
    return [
        {key: value for key, value in entry.items() if key not in clocks}
        for entry in map(json.loads, whole)
        if "loss" in entry
    ]


def ranks(folder: Path) -> list[psutil.Process]:
    """The processes of training (torchrun and ranks) on both hosts."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(folder) in words and ("launch.rank" in words or "launch.clusters.node" in words):
            found.append(process)
    return found


def rank(folder: Path, number: int) -> psutil.Process:
    """One rank, found by its environment."""
    for process in ranks(folder):
        try:
            if process.environ().get("RANK") == str(number):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    raise AssertionError(f"rank {number} is not there")


def wait_for(happened: Callable[[], Any], seconds: float = 240) -> float:
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < seconds, "it did not happen in time"
        time.sleep(0.1)
    return time.monotonic() - begun


def is_one_order(folder: Path) -> None:
    """Every step once, each with the sequences that follow those of the step before."""
    done = steps(folder)
    assert [entry["step"] for entry in done] == list(range(1, len(done) + 1))
    following = 0
    for entry in done:
        assert entry["first_sequence"] == following
        following += entry["sequences"]


# ── before anything starts ──────────────────────────────────────────────────────────────────────


def test_what_is_wrong_on_any_host_is_told_by_host_before_anything_starts(
    hosts: TwoHosts,
    tmp_path: Path,
) -> None:
    upload = {"every_steps": 4, "keep": 2, "upload": "s3://bucket/runs"}
    config, folder = training(hosts, "refused", checkpoint=upload)
    source = ROOT / "launch" / "why.py"
    hosts.replace(1, source, "# another\n")
    hosts.shell(1, f"mkdir -p {folder}; mount -t tmpfs tmpfs {folder}")
    own = hosts.shared / "temporary"  # a disk of node1's own, and a full one
    own.mkdir()
    hosts.shell(1, f"mount -t tmpfs -o size=1M tmpfs {own}")
    given = cluster(hosts, environment={"TMPDIR": str(own)})
    try:
        done = hosts.malmoi(0, "launch", given, "pretrain", config)
    finally:
        for mounted in (source, folder, own):
            hosts.restore(1, mounted)
    other, shared, full = done.stderr.splitlines()
    assert done.returncode == 2
    assert other.startswith("error: node1: has another malmoi: launch/why.py differ from node0's")
    assert shared.startswith(f"error: node1: {folder}: does not see what was written")
    assert "pretrain.checkpoint.upload does not stand for it" in shared
    assert full.startswith(f"error: node1: {own} (1.0 MB free): no space left on the device")
    lines = ["node0 slots=1", "nobody slots=1", "10.77.0.9"]
    done = hosts.malmoi(0, "launch", cluster(hosts, hosts=lines), "pretrain", config)
    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == [
        "nobody",
        "10.77.0.9",
    ]
    assert not (folder / "pretrain").exists() and not list(folder.glob(".seen-*"))


# ── training over both ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def alone(hosts: TwoHosts) -> Callable[[int], list[dict[str, Any]]]:
    """The steps of two ranks on one host that nothing happens to, by ZeRO stage."""
    done: dict[int, list[dict[str, Any]]] = {}

    def steps_alone(zero_stage: int) -> list[dict[str, Any]]:
        if zero_stage not in done:
            keys = {"zero_stage": zero_stage, "processes": 2, "phases": SHORT}
            config, folder = training(hosts, f"alone-{zero_stage}", **keys)
            ran = hosts.malmoi(0, "pretrain", config)
            assert ran.returncode == 0, ran.stderr
            done[zero_stage] = steps(folder)
        return done[zero_stage]

    return steps_alone


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_losses_over_two_hosts_equal_those_of_two_ranks_on_one_with_a_rank_killed_on_the_way(
    hosts: TwoHosts,
    alone: Callable[[int], list[dict[str, Any]]],
    zero_stage: int,
) -> None:
    config, folder = training(hosts, f"both-{zero_stage}", zero_stage=zero_stage, phases=SHORT)
    command = [*MALMOI, "launch", cluster(hosts), "pretrain", config]
    process = hosts.popen(0, command, stderr=subprocess.PIPE, text=True)
    if zero_stage == 2:
        sealed = folder / "pretrain" / "checkpoints" / "latest"
        wait_for(lambda: sealed.exists() or process.poll() is not None)
        rank(folder, 1).kill()
    told = process.communicate(timeout=400)[1]
    assert process.returncode == 0, told
    assert steps(folder) == alone(zero_stage) and len(steps(folder)) == 40
    report = json.loads((folder / "pretrain" / "report.json").read_text())
    assert (report["world_size"], report["resumed"]) == (2, int(zero_stage == 2))
    logs = {path.name for path in (folder / "logs").glob("pretrain-*")}
    assert {"pretrain-node0-0.log", "pretrain-node1-1.log"} <= logs
    assert "2 ranks on 2 hosts" in told and "last heartbeat" in told
    assert not ranks(folder)


def test_a_full_disk_of_one_host_ends_with_75_and_its_name_and_with_room_the_command_goes_on(
    hosts: TwoHosts, alone: Callable[[int], list[dict[str, Any]]], tmp_path: Path
) -> None:
    config, folder = training(hosts, "full", phases=SHORT)
    checkpoints, words = folder / "pretrain" / "checkpoints", ["launch", cluster(hosts)]
    words += ["pretrain", config]
    said = tmp_path / "said"
    with said.open("wb") as file:
        process = hosts.popen(0, [*MALMOI, *words], stdout=file, stderr=file)
    wait_for(lambda: (checkpoints / "latest").exists() or process.poll() is not None)
    hosts.shell(
        1, f"mount -t tmpfs -o size=32k tmpfs {checkpoints}"
    )  # room for no part of the next
    try:
        assert process.wait(timeout=300) == 75, said.read_text()
    finally:
        hosts.restore(1, checkpoints)
    told = said.read_text().splitlines()[-1]
    assert re.match(rf"stopped: node1: {folder}\S*: no space left on the device \(0\.0 MB", told), (
        told
    )
    assert told.endswith(f"; go on with: malmoi {' '.join(words)}")
    assert not ranks(folder)
    done = hosts.malmoi(0, *words)
    assert done.returncode == 0, done.stderr
    assert steps(folder) == alone(2)
    report = json.loads((folder / "pretrain" / "report.json").read_text())
    assert report["resumed"] == 1


# ── one long training, and what happens to it ───────────────────────────────────────────────────


class Launched:
    """`malmoi launch` on node0, again and again over the same run."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        checkpoint = {"every_steps": 100, "keep": 2}
        keys = {"phases": LONG, "hang_seconds": 15, "max_restarts": 9, "checkpoint": checkpoint}
        self.config, self.folder = training(hosts, "long", **keys)
        self.cluster = cluster(hosts)
        self.said = hosts.shared / "long.said"
        self.process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        """Give the command (again), until steps are done."""
        if self.process is not None and self.process.poll() is None:
            return
        before = len(steps(self.folder))
        with self.said.open("ab") as said:
            command = [*MALMOI, "launch", self.cluster, "pretrain", self.config]
            self.process = self.hosts.popen(0, command, stdout=said, stderr=said)
        self.advance(before + 5)

    def advance(self, to: int, seconds: float = 240) -> float:
        """Wait until a step is reached."""
        return wait_for(lambda: len(steps(self.folder)) >= to or self.ended(), seconds)

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def told(self) -> str:
        return self.said.read_text(errors="replace")

    def world(self) -> int:
        return max((b.world_size for b in read_beats(self.folder / "pretrain").values()), default=0)


@pytest.fixture(scope="module")
def long(hosts: TwoHosts) -> Iterator[Launched]:
    launched = Launched(hosts)
    try:
        yield launched
    finally:
        if launched.process is not None:
            for process in ranks(launched.folder):
                process.kill()
            launched.process.kill()
            launched.process.wait()


def test_the_same_run_launched_from_the_other_host_is_refused_by_the_holders_name(
    hosts: TwoHosts,
    long: Launched,
) -> None:
    long.start()
    done = hosts.malmoi(1, "launch", long.cluster, "pretrain", long.config)
    assert done.returncode == 2
    assert re.search(r"is in use by \S+, process \d+ on node0", done.stderr), done.stderr
    assert not long.ended()


@contextmanager
def slowed(process: psutil.Process) -> Iterator[None]:
    """A process that gets the processor for a seventh of the time, as a throttled one does."""
    over = threading.Event()

    def pulse() -> None:
        with suppress(psutil.NoSuchProcess):
            while not over.is_set():
                process.suspend()
                over.wait(0.06)
                process.resume()
                over.wait(0.01)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_rank_that_is_slower_than_the_others_is_named_with_its_host(long: Launched) -> None:
    long.start()
    name = "rank 1 on node1 holds the others up"
    with slowed(rank(long.folder, 1)):
        wait_for(lambda: name in long.told() or long.ended())
        seen = len(long.told())
        wait_for(lambda: "slowest rank 1 (node1)" in long.told()[seen:] or long.ended())
    assert not long.ended(), long.told()
    assert name in (long.folder / "logs" / "events.log").read_text()


def suspended_in_a_step(long: Launched) -> psutil.Process:
    """Rank 1, stopped where a step should go on (not in a save, which takes its time)."""
    while True:
        stuck = rank(long.folder, 1)
        stuck.suspend()
        time.sleep(1)
        if read_beats(long.folder / "pretrain")[1].doing == "train":
            return stuck
        stuck.resume()
        time.sleep(1)


def started_again(long: Launched, before: dict[int, Beat]) -> bool:
    """Whether every rank is another process, and trains."""
    now = read_beats(long.folder / "pretrain")
    new = [b for b in now.values() if b.doing == "train" and b.pid != before[b.rank].pid]
    return len(new) == len(before)


def test_a_rank_that_hangs_leaves_its_stack_and_is_started_again_from_the_last_checkpoint(
    long: Launched,
) -> None:
    long.start()
    before = read_beats(long.folder / "pretrain")
    suspended_in_a_step(long)
    wait_for(lambda: "no life for" in long.told())
    reached = len(steps(long.folder))
    wait_for(lambda: started_again(long, before) or long.ended())
    long.advance(reached + 5)
    assert not long.ended(), long.told()
    for name in ("pretrain-node0-0.log", "pretrain-node1-1.log"):
        assert "most recent call first" in (long.folder / "logs" / name).read_text(), name
    is_one_order(long.folder)


def test_a_host_that_is_cut_off_is_gone_on_without_and_taken_in_when_it_comes_back(
    hosts: TwoHosts,
    long: Launched,
) -> None:
    long.start()
    hosts.cut(1)
    wait_for(lambda: long.world() == 1)
    long.advance(len(steps(long.folder)) + 5)
    wait_for(lambda: "node1: is lost" in long.told() or long.ended())
    assert not long.ended() and long.world() == 1, long.told()
    hosts.plug(1)
    wait_for(lambda: long.world() == 2 or long.ended())
    long.advance(len(steps(long.folder)) + 5)
    wait_for(lambda: "node1: is back" in long.told() or long.ended())
    assert not long.ended(), long.told()
    is_one_order(long.folder)


def test_a_stop_saves_on_all_hosts_and_ends_with_75_and_the_command_that_goes_on(
    long: Launched,
) -> None:
    long.start()
    assert long.process is not None
    next(p for p in psutil.Process(long.process.pid).children()).send_signal(signal.SIGTERM)
    assert long.process.wait(timeout=300) == 75
    assert f"go on with: malmoi launch {long.cluster} pretrain {long.config}" in long.told()
    saved = (long.folder / "pretrain" / "checkpoints" / "latest").read_text().strip()
    assert int(saved.removeprefix("step-")) == len(steps(long.folder))
    assert not ranks(long.folder)


def test_ranks_whose_launcher_was_killed_save_and_leave_nothing_behind(long: Launched) -> None:
    long.start()
    assert long.process is not None
    before = len(steps(long.folder))
    for child in psutil.Process(long.process.pid).children():
        child.kill()
    long.process.wait()
    wait_for(lambda: not ranks(long.folder))
    saved = (long.folder / "pretrain" / "checkpoints" / "latest").read_text().strip()
    assert int(saved.removeprefix("step-")) == len(steps(long.folder)) >= before
    is_one_order(long.folder)


def test_without_the_machine_where_ranks_meet_all_stop_with_75_and_the_reason(
    long: Launched,
) -> None:
    long.start()
    assert long.process is not None
    torchrun = [p for p in ranks(long.folder) if "torch.distributed.run" in p.cmdline()]
    for process in torchrun:
        if "--local-addr" in process.cmdline() and "10.77.0.1" in process.cmdline():
            process.kill()
    assert long.process.wait(timeout=300) == 75, long.told()
    assert "torchrun on node0 was ended by SIGKILL; go on with:" in long.told()
    wait_for(lambda: not ranks(long.folder))


# ── data stages on Ray ──────────────────────────────────────────────────────────────────────────


def test_dedup_and_tokenizer_on_ray_over_both_hosts_write_the_bytes_of_a_local_run(
    hosts: TwoHosts,
) -> None:
    pytest.importorskip("ray")
    sample = ROOT / "configs" / "sample"
    sources = [
        {"name": "board", "paths": [f"{sample}/ko/board.jsonl.zst"]},
        {"name": "essays", "paths": [f"{sample}/ko/essays.jsonl.gz"]},
    ]
    written = {}
    for name in ("over-hosts", "local"):
        config = hosts.shared / f"{name}.yaml"
        keys = {
            "name": "data",
            "dir": str(hosts.shared / name),
            "dedup": {"shard": "20KB", "sources": sources},
            "tokenizer": {"base": "llama3", "new_tokens": 100},
        }
        config.write_text(yaml.safe_dump(keys))
        words = ["launch", cluster(hosts)] if name == "over-hosts" else []
        done = hosts.malmoi(0, *words, "run", str(config))
        assert done.returncode == 0, done.stderr
        if words:
            assert done.stderr.count("Ray is up at 10.77.0.1:") == 2
        folder = hosts.shared / name
        paths = [*folder.glob("dedup/*/*.parquet"), *folder.glob("tokenizer/*.json")]
        written[name] = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in paths
            if path.name != "report.json"
        }
    assert written["over-hosts"] == written["local"] and len(written["local"]) > 3
    left = [p for p in psutil.process_iter() if "raylet" in p.name()]
    assert not [p for p in left if str(hosts.addresses[0]) in " ".join(p.cmdline())]
