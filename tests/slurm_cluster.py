"""A real Slurm on two hosts of one machine: controller and one slurmd on node0, another on node1.

In: `TwoHosts`. Out: `SlurmCluster`, whose commands (sbatch, scontrol, …) run on node0 and whose jobs run
on both. Everything is Debian's; nothing of it is started or configured outside the two hosts. Each host
has its own munged, its own spool, and a file system of its own where cgroups would be, since those of
the machine are not ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from two_hosts import NAMES, ROOT, TwoHosts, install

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}

_CONFIG = """\
ClusterName=malmoi
SlurmctldHost=node0(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={base}/node0/slurm/state
SlurmdSpoolDir={base}/%n/slurm/spool
SlurmctldPidFile={base}/node0/slurm/slurmctld.pid
SlurmdPidFile={base}/%n/slurm/slurmd.pid
SlurmctldLogFile={base}/node0/slurm/slurmctld.log
SlurmdLogFile={base}/%n/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
KillWait=5
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=30
NodeName=node0 NodeAddr=10.77.0.1 CPUs={cores} RealMemory=2000 State=UNKNOWN
NodeName=node1 NodeAddr=10.77.0.2 CPUs={cores} RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=node0,node1 Default=YES MaxTime=60 State=UP
"""

_DAEMON = """\
set -e
mkdir -p {folder}/state {folder}/spool /run/munge
chmod 755 /run/munge
mount -t tmpfs tmpfs /sys/fs/cgroup
munged --foreground --force --key-file={base}/{name}/munge.key --socket=/run/munge/munge.socket.2 \\
  --pid-file=/run/munge/munged.pid --seed-file=/run/munge/seed --log-file={folder}/munged.log &
"""


class Launched:
    """A launcher in the background. said: the file of what it prints, to be read while it runs."""

    def __init__(self, process: subprocess.Popen[Any], said: Path) -> None:
        self.process, self._said = process, said

    def told(self, after: str = "") -> str:
        """What it has printed so far, behind the first place where `after` stands."""
        said = self._said.read_text(errors="replace")
        return said.partition(after)[2] if after else said

    def wait_for(self, happened: Callable[[], Any], seconds: float = 300) -> None:
        """Until it happens; a launcher that ends before is an error of the test."""
        deadline = time.monotonic() + seconds
        while not happened():
            ended = self.process.poll()
            assert ended is None, f"ended with {ended}: {self.told()}"
            assert time.monotonic() < deadline, f"it did not happen in time: {self.told()[-3000:]}"
            time.sleep(0.1)

    def ctrl_c(self) -> None:
        """For the launcher alone; what was started is nsenter, which waits for it."""
        (child,) = psutil.Process(self.process.pid).children()
        child.send_signal(signal.SIGINT)

    def ended(self, seconds: float = 300) -> int:
        """Its exit status."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"the launcher does not end: {self.told()[-3000:]}")


class SlurmCluster:
    """Slurm on two hosts. environment: what its commands need."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        self.config = hosts.shared / "slurm" / "slurm.conf"
        self.environment = os.environ | {"SLURM_CONF": str(self.config)}
        self._daemons: list[subprocess.Popen[Any]] = []

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on node0."""
        return self.hosts.run(0, command, **{"env": self.environment} | options)

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints; one that fails is an error of the test."""
        done = self.run(command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def launch(self, *words: str) -> Launched:
        """`malmoi launch …` on node0, in the background."""
        command = [sys.executable, "-m", "launch.cli", "launch", *words]
        environment = self.environment | {"PYTHONPATH": str(ROOT)}
        said = self.hosts.base / f"launched-{len(list(self.hosts.base.glob('launched-*')))}"
        with said.open("wb") as file:
            process = self.hosts.popen(0, command, env=environment, stdout=file, stderr=file)
        return Launched(process, said)

    def state(self, number: str) -> str:
        """What Slurm calls the state of a job."""
        said = self.ask("scontrol", "show", "job", "--oneliner", number)
        return next(w.partition("=")[2] for w in said.split() if w.startswith("JobState="))

    def start_now(self, number: str) -> bool:
        """Let a job that was put back into the queue start, which by itself it does after two minutes.

        Whether it has; Slurm may still clean up after it, so ask again.
        """
        if self.state(number) == "PENDING":
            self.run(["scontrol", "update", f"JobId={number}", "StartTime=now"])
        return self.state(number) != "PENDING"

    def jobs(self) -> list[str]:
        """The numbers of the jobs that wait or run."""
        return self.ask("squeue", "--noheader", "--format=%i").split()

    def up(self) -> None:
        """Raises RuntimeError, with the daemons' logs, where Slurm does not come up."""
        base, key = self.hosts.base, os.urandom(128)
        self.config.parent.mkdir(parents=True)
        cores = os.cpu_count() or 1
        self.config.write_text(_CONFIG.format(base=base, cores=max(2, cores)))
        (self.config.parent / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
        )
        for host, name in enumerate(NAMES):
            secret = base / name / "munge.key"
            secret.write_bytes(key)
            secret.chmod(0o400)
            script = _DAEMON.format(base=base, name=name, folder=base / name / "slurm")
            if host == 0:
                script += "slurmctld -D &\n"
            script += f"sleep 0.5\nexec slurmd -D -N {name}\n"
            log = (base / name / "slurm.log").open("wb")
            self._daemons.append(
                self.hosts.popen(
                    host, ["bash", "-c", script], env=self.environment, stdout=log, stderr=log
                )
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            done = self.run(["sinfo", "--noheader", "--Node", "--format=%N %t"])
            if sorted(done.stdout.split("\n")[:2]) == ["node0 idle", "node1 idle"]:
                return
            time.sleep(0.3)
        raise RuntimeError(f"Slurm does not come up: {done.stdout}{done.stderr}\n{self.logs()}")

    def logs(self) -> str:
        """The last lines of every daemon's log."""
        files = [
            path for name in NAMES for path in (self.hosts.base / name).glob("slurm*/*.log")
        ] + [self.hosts.base / name / "slurm.log" for name in NAMES]
        parts = []
        for path in files:
            if path.exists():
                parts += [f"── {path}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(parts)

    def down(self) -> None:
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()


@contextmanager
def slurm_on(hosts: TwoHosts) -> Iterator[SlurmCluster]:
    """Slurm on the two hosts while the context is open; skips, with the reason, where it cannot be had."""
    install(PROGRAMS)
    cluster = SlurmCluster(hosts)
    try:
        try:
            cluster.up()
        except RuntimeError as error:
            pytest.skip(str(error))
        yield cluster
    finally:
        cluster.down()


def shared(cluster: SlurmCluster, name: str) -> Path:
    """A folder that both hosts see."""
    folder = cluster.hosts.shared / name
    folder.mkdir()
    return folder
