"""What the machines of an allocation tell each other, and how they find each other. No cluster is needed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from configs.errors import InputError
from configs.load import load
from launch.clusters import orders
from launch.clusters.allocation import mistakes_in, on_ray, ray_token
from launch.clusters.child import end, start
from launch.clusters.inside import _arguments
from launch.clusters.place import Place, address_here

ROOT = Path(__file__).resolve().parents[2]


def follower(folder: Path, allocation: str = "7.0") -> subprocess.Popen[bytes]:
    words = ["follow", "--run", str(folder), "--allocation", allocation, "--nodes", "2:2"]
    return subprocess.Popen(
        [sys.executable, "-m", "launch.clusters.inside", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def wait_until_it_listens(process: subprocess.Popen[bytes]) -> None:
    """Until it has its own answer to SIGTERM: before, it is still importing, and the signal ends it."""
    deadline = time.monotonic() + 60
    while True:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def test_orders_are_numbered_and_those_of_another_allocation_are_not_obeyed(tmp_path: Path) -> None:
    assert orders.order_for(tmp_path, "7.0") is None
    first = orders.give(tmp_path, "7.0", "ray", "10.0.0.1:6379")
    second = orders.give(tmp_path, "7.0", "train", "10.0.0.1:29400", "abc")
    assert (first.number, second.number) == (1, 2)
    assert orders.order_for(tmp_path, "7.0") == second
    assert orders.order_for(tmp_path, "7.1") is None  # the same job, put back into the queue
    assert orders.give(tmp_path, "7.1", "wait").number == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"do": "dance"}', '{"do": "train"}', "null"])
def test_an_order_that_is_none_is_not_there(tmp_path: Path, text: str) -> None:
    (tmp_path / orders.ORDERS).write_text(text)
    assert orders.order_for(tmp_path, "7.0") is None
    assert orders.give(tmp_path, "7.0", "over").number == 1


def test_the_others_leave_when_all_is_over_and_when_they_are_told_to_stop(tmp_path: Path) -> None:
    orders.give(tmp_path, "6.0", "over")  # of an earlier job
    stays, leaves = follower(tmp_path, "8.0"), follower(tmp_path)
    orders.give(tmp_path, "7.0", "over")
    assert leaves.wait(timeout=60) == 0
    wait_until_it_listens(stays)
    assert stays.poll() is None
    stays.send_signal(signal.SIGTERM)
    assert stays.wait(timeout=30) == 75


def test_a_program_that_does_not_end_is_killed_with_all_below_it(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 60 & echo $! > child; wait; sleep 60"
    child = start(["bash", "-c", f"cd {tmp_path}; {script}"], tmp_path / "logs" / "out.log")
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        time.sleep(0.02)
    below = int((tmp_path / "child").read_text())
    end(child, 0.3)
    assert child.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while psutil.pid_exists(below) and psutil.Process(below).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_machines_address_is_the_one_that_others_reach() -> None:
    assert address_here(["127.0.0.1"]) == "127.0.0.1"  # the way to another machine
    assert address_here([], interface="lo") == "127.0.0.1"
    own = socket.gethostname()
    assert address_here([own]).count(".") == 3
    with pytest.raises(InputError, match="has no nocard0 with an IPv4 address"):
        address_here([], interface="nocard0")


def test_a_pods_address_is_what_kubernetes_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, "a", ("x",), 1, 2, 4, "auto", 29400, None)
    monkeypatch.setenv("MALMOI_POD_IP", "10.1.2.3")
    words = place.training("first:29400", "digest")
    assert words[words.index("--address") + 1] == "10.1.2.3"
    assert words[words.index("--nodes") + 1] == "1:2"


def test_a_data_stage_on_ray_differs_only_in_where_it_runs() -> None:
    config = load("quickstart", [])
    placed = on_ray(config, "dedup", "10.0.0.1:6379")
    assert placed.dedup is not None and config.dedup is not None
    assert (placed.dedup.engine, placed.dedup.address) == ("ray", "10.0.0.1:6379")
    back = {"engine": config.dedup.engine, "address": config.dedup.address}
    restored = placed.dedup.model_copy(update=back)
    assert placed.model_copy(update={"dedup": restored}) == config


def test_only_this_user_gets_into_the_runs_ray_cluster(tmp_path: Path) -> None:
    known = ray_token(tmp_path, make=True)
    file = Path(known["RAY_AUTH_TOKEN_PATH"])
    assert known["RAY_AUTH_MODE"] == "token" and file.stat().st_mode & 0o777 == 0o600
    secret = file.read_text()
    assert len(secret) >= 32
    assert ray_token(tmp_path) == known and file.read_text() == secret  # the others read it


def test_the_words_of_a_launch_may_look_like_options() -> None:
    launched = ["--run.yaml", "dedup", "-- x.yaml", "a=--", "--", "--job=1"]
    given, words = _arguments(["drive", "--run", "/r", "--allocation", "7.0", "--", *launched])
    assert (given.role, given.run, words) == ("drive", Path("/r"), launched)


def test_the_mistakes_of_a_machine_are_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text("note: 1 ranks\nerror: node1: has another malmoi\n")
    assert mistakes_in(log) == ["node1: has another malmoi"]
    log.write_text("note: nothing\n")
    assert mistakes_in(log) == [f"{log}: says what is wrong"]
