"""What the doctor sees: this machine, two hosts on a slow cable, a training of some minutes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import slurm_on
from small_run import malmoi
from two_hosts import TwoHosts, both_hosts  # noqa: F401  (a fixture)

from configs.clusters.schema import Hosts, Kubernetes
from configs.errors import InputError
from launch.doctor import machine
from launch.doctor.finding import Finding, rows
from launch.doctor.hosts import machines_of
from launch.doctor.kubernetes import by_kubectl
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


KUBECTL = """\
#!{python}
import json, sys
words = sys.argv[3:]  # after --namespace NAME
if words[:2] == ["auth", "can-i"]:
    print("no" if words[3] == "rayjobs.ray.io" else "yes")
elif words[1] == "persistentvolumeclaim":
    print(json.dumps({{"spec": {{"accessModes": {modes}}}, "status": {{"phase": "Bound"}}}}))
else:
    gpus = {gpus}
    print(json.dumps({{"items": [{{"status": {{"allocatable": {{"nvidia.com/gpu": n}}}}}} for n in gpus]}}))
"""


def asked(folder: Path, modes: list[str], on_nodes: list[str], **keys: Any) -> dict[str, Finding]:
    """What the doctor finds where kubectl answers so."""
    tool = folder / "kubectl"
    tool.write_text(KUBECTL.format(python=sys.executable, modes=json.dumps(modes), gpus=on_nodes))
    tool.chmod(0o755)
    cluster = Kubernetes(kind="kubernetes", image="registry/x:1", volume="claim", **keys)
    return {finding.what: finding for finding in by_kubectl(cluster)}


def test_kubernetes_is_asked_for_rights_the_volume_and_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no cluster here: what kubectl answers is played."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = asked(tmp_path, ["ReadWriteMany"], ["8", "8", "0"], nodes=2, gpus=8)
    assert found["kubectl create jobs.batch"].verdict == "ok"
    assert found["kubectl create rayjobs.ray.io"].verdict == "note"  # for data stages alone
    assert found["volume claim"] == Finding("volume claim", "Bound, ReadWriteMany")
    assert found["GPUs"] == Finding("GPUs", "2 of 3 machines have 8 or more")
    assert "--image=registry/x:1 -- malmoi doctor" in found["pods"].fix
    found = asked(tmp_path, ["ReadWriteOnce"], ["8", "4"], nodes=2, gpus=8)
    assert found["volume claim"].verdict == "wrong"
    assert "ReadWriteMany" in found["volume claim"].fix
    assert found["GPUs"].verdict == "note"
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho nobody is at home >&2; exit 1\n")
    cluster = Kubernetes(kind="kubernetes", image="i", volume="claim", gpus=1)
    told = {finding.what: finding for finding in by_kubectl(cluster)}
    assert told["volume claim"].found == "nobody is at home"
    assert told["volume claim"].verdict == "wrong"


AHEAD = """\
cp $(command -v date) {place}/date.real
printf '#!/bin/sh\\nexec {place}/date.real -d "30 seconds" "$@"\\n' > {place}/date
chmod +x {place}/date
mount --bind {place}/date $(command -v date)
"""


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
    slow = f"tc qdisc add dev {hosts.card} root tbf rate 100mbit burst 128kb latency 50ms"
    try:
        hosts.shell(1, AHEAD.format(place=hosts.base / "node1"))  # the kernel's clock is all hosts'
        for host in (0, 1):
            hosts.shell(host, slow)
        words = ("doctor", str(cluster), "--dir", str(hosts.shared / "runs"), "--json")
        done = hosts.malmoi(0, *words, timeout=240)
    finally:
        for host in (0, 1):
            hosts.shell(host, f"tc qdisc del dev {hosts.card} root || true")
        hosts.shell(1, "umount $(command -v date) || true")
    told = json.loads(done.stdout)
    found = {(one["host"], one["what"]): one for one in told["findings"]}
    link = found["", "interconnect"]
    speed = float(link["found"].split(" Mbit/s")[0])
    assert 80 <= speed <= 100, link
    assert "same on all" in found["", "shared folder"]["found"]
    for host in ("node0", "node1"):
        assert found[host, "Python"]["verdict"] == "ok"
    assert found["node0", "clock"]["verdict"] == "ok"
    ahead = found["node1", "clock"]
    assert ahead["verdict"] == "note" and "chrony" in ahead["fix"]
    assert 29_500 < float(ahead["found"].split()[0].replace(",", "")) < 30_500
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
@pytest.mark.xdist_group("two_hosts")
def test_a_real_slurm_is_looked_at_from_inside_an_allocation_of_its_own(hosts: TwoHosts) -> None:
    path = hosts.shared / "slurm.yaml"
    keys = "kind: slurm\nnodes: 2\ncpus: 1\nport: 29412\nenvironment: {OMP_NUM_THREADS: '1'}\n"
    with slurm_on(hosts) as slurm:
        path.write_text(keys + "partition: main\nsetup: [export FROM_SETUP=1]\n")
        words = [sys.executable, "-m", "launch.cli", "doctor", str(path), "--json"]
        done = slurm.run([*words, "--dir", str(hosts.shared / "runs")], timeout=300)
        path.write_text(keys + "partition: nowhere\n")
        refused = slurm.run(words, timeout=60)
    told = json.loads(done.stdout)
    found = {(one["host"], one["what"]): one for one in told["findings"]}
    for host in ("node0", "node1"):
        assert found[host, "Python"]["verdict"] == "ok", found
        assert found[host, "Slurm"]["found"].startswith("slurm")
    clock = found["node1", "clock"]  # one kernel, one clock
    assert clock["verdict"] == "ok" and "against node0" in clock["found"]
    assert "all-reduce" in found["", "interconnect"]["found"], found["", "interconnect"]
    (said,) = json.loads(refused.stdout)["findings"]
    assert refused.returncode == 1 and "partition" in said["found"] and "sinfo" in said["fix"]


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
