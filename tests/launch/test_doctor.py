"""What the doctor sees: this machine, two hosts on a slow cable, a training of some minutes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from small_run import malmoi
from two_hosts import TwoHosts, both_hosts  # noqa: F401  (a fixture)

from configs.clusters.schema import Hosts
from configs.errors import InputError
from launch.doctor import machine
from launch.doctor.cluster import machines_of
from launch.doctor.finding import Finding, rows
from launch.doctor.machine import look


def test_this_machine_is_told_with_what_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"numpy": ">=1.26", "rich": ">=999", "no-such-package-at-all": ">=1"}
    monkeypatch.setattr(machine, "requirements", lambda: wanted)
    found = {finding.what: finding for finding in look(tmp_path)}
    assert found["Python"].verdict == "ok" and sys.executable in found["Python"].found
    assert found["packages"].found == "1 of 3 as needed"
    assert found["rich"].verdict == "wrong" and found["rich"].fix == "pip install 'rich>=999'"
    assert found["no-such-package-at-all"].found == "is missing"
    assert "MB/s" in found["disk speed"].found and not list(tmp_path.iterdir())
    assert found["open files"].found and found["ssh"].found and found["Slurm"].found
    table = rows(found.values())
    assert "FIX" in table and "pip install 'rich>=999'" in table


def test_the_packages_that_a_plain_install_needs_are_asked_for_and_no_extras() -> None:
    needed = machine.requirements()
    assert needed["torch"] == ">=2.5" and "ray" not in needed and "pytest" not in needed


def test_the_exit_status_says_whether_anything_is_to_be_mended(tmp_path: Path) -> None:
    done = malmoi("doctor", "--json", "--dir", str(tmp_path))
    told = json.loads(done.stdout)
    wrong = [one for one in told["findings"] if one["verdict"] == "wrong"]
    assert told["fit"] == (not wrong) and done.returncode == (1 if wrong else 0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = malmoi("doctor", str(tmp_path / "nowhere.yaml"))
    assert done.returncode == 2 and "nowhere.yaml" in done.stderr


def test_a_table_of_several_hosts_names_them() -> None:
    table = rows([Finding("clock", "+3 ms", host="node1"), Finding("interconnect", "94 Mbit/s")])
    assert "node1" in table and "all" in table


def test_hosts_come_from_the_list_and_the_hostfile_without_their_slots(tmp_path: Path) -> None:
    (tmp_path / "hostfile").write_text("# ours\nnode0 slots=8\n\nnode1 slots=8  # the new one\n")
    cluster = Hosts(kind="hosts", hostfile=str(tmp_path / "hostfile"))
    assert [host.name for host in machines_of(cluster)] == ["node0", "node1"]
    (tmp_path / "hostfile").write_text("node0 slots=many\n")
    with pytest.raises(InputError, match="hostfile:1"):
        machines_of(cluster)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.xdist_group("two_hosts")
def test_a_cable_of_100_megabits_is_measured_as_one_and_a_host_that_is_off_is_named(
    hosts: TwoHosts,
) -> None:
    cluster = hosts.shared / "cluster.yaml"
    cluster.write_text(
        f"kind: hosts\nhosts: [node0, node1]\nssh: [-F, {hosts.ssh_config}]\nport: 29411\n"
        "environment: {OMP_NUM_THREADS: '1'}\n"
    )
    for host in (0, 1):
        hosts.shell(
            host, f"tc qdisc add dev {hosts.card} root tbf rate 100mbit burst 128kb latency 50ms"
        )
    try:
        words = ("doctor", str(cluster), "--dir", str(hosts.shared / "runs"), "--json")
        done = hosts.malmoi(0, *words, timeout=240)
    finally:
        for host in (0, 1):
            hosts.shell(host, f"tc qdisc del dev {hosts.card} root")
    told = json.loads(done.stdout)
    found = {(one["host"], one["what"]): one for one in told["findings"]}
    link = found["", "interconnect"]
    speed = float(link["found"].split(" Mbit/s")[0])
    assert 80 <= speed <= 100, link
    assert "same on all" in found["", "shared folder"]["found"]
    for host in ("node0", "node1"):
        assert found[host, "Python"]["verdict"] == "ok"
        assert found[host, "clock"]["verdict"] == "ok"
    # what only one of them sees is no shared folder, and a host that is off is named
    words = ("doctor", str(cluster), "--dir", "/tmp/runs", "--json")
    hosts.cut(1)
    try:
        done = hosts.malmoi(0, *words, timeout=240)
    finally:
        hosts.plug(1)
    told = json.loads(done.stdout)
    (gone,) = [
        one for one in told["findings"] if one["verdict"] == "wrong" and one["what"] == "ssh"
    ]
    assert done.returncode == 1 and gone["host"] == "node1" and "ssh" in gone["fix"]


@pytest.mark.thorough
@pytest.mark.slow
def test_training_on_these_devices_is_tried_and_told_in_one_table() -> None:
    done = malmoi("doctor", "--train", "--json", timeout=590)
    told = json.loads(done.stdout)
    found = {one["what"]: one for one in told["findings"]}
    assert done.returncode == 0, told
    assert set(found) >= {
        "ZeRO 1",
        "ZeRO 2",
        "ZeRO 3",
        "ZeRO 1 = 2 = 3",
        "a rank killed",
        "packing",
    }
    assert "resumed 1 time" in found["a rank killed"]["found"]
    assert "Mbit/s" in found["all-reduce"]["found"] or "Gbit/s" in found["all-reduce"]["found"]
