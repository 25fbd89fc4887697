"""`malmoi launch` on machines that ssh reaches: a list, or a DeepSpeed hostfile.

In: a job whose cluster is `Hosts`. The launcher is an ordinary `malmoi run` on a machine that sees the run
folder: lock, lineage, tracking and the page are its own. For data stages it holds a Ray cluster over the
machines, for training one agent on each (agent.py); training.py follows those.

Nothing is assumed to be shared but the run folder, and that is tried before anything starts.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from configs.clusters.hostfile import Host, parse_host, read_hostfile
from configs.clusters.schema import Hosts
from configs.errors import InputError, NoSpace, Stopped, missing_extra
from configs.progress import Log, Progress
from configs.schema import Config
from launch.clusters.allocation import RAY_TOKEN, on_ray, ray_token
from launch.clusters.checks import Machine, check_hosts
from launch.clusters.identity import addresses, packages
from launch.clusters.job import Job
from launch.clusters.ray_node import listens
from launch.clusters.ssh import Remote
from launch.clusters.training import Training
from launch.console import EVENT
from launch.holder import refuse_held
from launch.rank import die_with_parent

RAY_PORT = 6379
RAY_WAIT = 180.0  # seconds for Ray to come up on all machines


def hosts_of(cluster: Hosts) -> list[Host]:
    """The machines that the file names. Raises InputError with every wrong line of a hostfile."""
    if cluster.hostfile is not None:
        hosts = read_hostfile(Path(cluster.hostfile))
        if cluster.min_nodes > len(hosts):
            raise InputError(
                f"{cluster.hostfile}: names {len(hosts)} machines, and min_nodes asks for "
                f"{cluster.min_nodes}; give fewer, or more machines"
            )
        return hosts
    return [parse_host(line) for line in cluster.hosts]


def launch(job: Job, log: Log) -> None:
    """Run the job's stages on the machines. Raises InputError, Stopped, RuntimeError."""
    from launch.pipeline import run_command

    assert isinstance(job.cluster, Hosts)
    hosts = hosts_of(job.cluster)
    refuse_held(job.folder)  # before its port is found taken, by this very run
    pretrain = job.config.pretrain if "pretrain" in job.stages else None
    uploads = pretrain is not None and pretrain.checkpoint.upload is not None
    given = {"trains": pretrain is not None, "upload": uploads}
    machines, away = check_hosts(job.cluster, hosts, job.folder, **given)
    begun = (job.folder / "pretrain" / "checkpoints").is_dir()
    if away and (not begun or len(machines) < job.cluster.min_nodes):
        raise InputError(
            [
                f"{host.name}: does not answer ({why}); mend it, or leave it out"
                for host, why in away.items()
            ]
        )
    for host, why in away.items():
        log(
            Progress(
                "launch",
                "event",
                unit=EVENT,
                message=f"{host.name} stays away ({why}); the others go on",
            )
        )
    over = OverSsh(job.cluster, machines, list(away))
    run = (job.config, job.folder, job.source, job.overrides, job.only)
    try:
        run_command(*run, dry_run=False, machines=over)
    except NoSpace as error:
        raise Stopped(error.lines[0]) from error
    finally:
        (job.folder / RAY_TOKEN).unlink(missing_ok=True)


def dry_run(job: Job) -> str:
    """What would run where; no machine is spoken to."""
    from launch.clusters.ssh import ssh_words
    from launch.run import dry_run as decisions

    assert isinstance(job.cluster, Hosts)
    hosts = hosts_of(job.cluster)
    lines = [f"{job.config.name} → {job.folder} (dry run: nothing is written, nobody is called)"]
    lines += [f"  {line}" for line in decisions(job.config, job.folder, job.stages)]
    for host in hosts:
        slots = "one per GPU" if host.slots is None else str(host.slots)
        lines.append(f"  {host.name}: ranks: {slots}")
    lines.append(f"  goes on with {job.cluster.min_nodes} of {len(hosts)} machines at least")
    words = ssh_words(job.cluster, hosts[0], ["check", "--run", str(job.folder), "--token", "…"])
    lines.append(f"  as: {' '.join(words)}")
    return "\n".join(lines)


class OverSsh:
    """`Machines` that ssh reaches. away: hosts that did not answer, and may yet come."""

    def __init__(self, cluster: Hosts, machines: Sequence[Machine], away: Sequence[Host]) -> None:
        self.cluster, self.machines, self.away = cluster, list(machines), list(away)

    def train(self, config: Config, folder: Path, log: Log) -> None:
        assert config.pretrain is not None
        Training(self.cluster, self.machines, self.away, config, folder, log).run()

    @contextmanager
    def for_data(self, stage: str, config: Config, folder: Path, log: Log) -> Iterator[Config]:
        """A Ray cluster over the machines, and the config that uses it.

        Raises InputError where Ray is not installed or does not come up, with its last words.
        """
        if packages()["ray"] == "none":
            raise InputError(str(missing_extra("ray", "cluster")))
        head = f"{self.machines[0].address}:{_free_port(self.machines[0].address)}"
        log(Progress(stage, "ray", 0, len(self.machines), "machines", f"Ray comes up at {head}"))
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        session = f"malmoi-ray-{secrets.token_hex(4)}"
        token = ray_token(folder, make=True)
        os.environ.update(token)  # before ray is imported, which keeps it for good
        cluster = self.cluster.model_copy(update={"environment": token | self.cluster.environment})
        with ExitStack() as stack:
            nodes: list[Remote] = []
            for number, machine in enumerate(self.machines):
                words = ["ray", "--join" if number else "--head", head, "--attached"]
                words += ["--address", machine.address, "--cpus", str(machine.cores)]
                words += ["--session", session]
                path = folder / "logs" / f"ray-{machine.name}.log"
                nodes.append(Remote(cluster, machine.host, words, path))
                stack.callback(nodes[-1].close)
                if number == 0:
                    _wait_for(nodes, 1)
            _wait_for(nodes, len(nodes))
            log(Progress(stage, "ray", len(nodes), len(nodes), "machines", f"Ray is up at {head}"))
            stack.enter_context(_alive(nodes))
            if self.machines[0].address not in addresses().values():
                stack.enter_context(_own_node(head))
            stack.enter_context(_disconnected())
            yield on_ray(config, stage, head)


def _free_port(address: str) -> int:
    """Ray's own port, or the next one where somebody listens already."""
    return next(port for port in range(RAY_PORT, RAY_PORT + 50) if not listens(f"{address}:{port}"))


def _wait_for(nodes: Sequence[Remote], count: int) -> None:
    """Until `count` nodes have said that they are up."""
    deadline = time.monotonic() + RAY_WAIT
    up: set[int] = set()
    while len(up) < count:
        for number, node in enumerate(nodes):
            if any("ray is up" in line for line in [*node.said, *node.lines()]):
                up.add(number)
            if node.status() is not None or time.monotonic() > deadline:
                why = node.last_words() or "no answer"
                raise InputError(f"{node.host.name}: Ray does not come up there ({why[-600:]})")
        time.sleep(0.1)


@contextmanager
def _alive(nodes: Sequence[Remote]) -> Iterator[None]:
    """Tell the nodes that they are still wanted, while a stage has this thread."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(1.0):
            for node in nodes:
                node.lines()

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _own_node(head: str) -> Iterator[None]:
    """A Ray node without processors here: a program can only join the cluster through one."""
    host, _, port = head.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        mine = probe.getsockname()[0]
    command = [sys.executable, "-m", "launch.clusters.node", "ray", "--join", head]
    child = subprocess.Popen(
        [*command, "--address", mine, "--cpus", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        if "ray is up" not in line:
            raise InputError(f"Ray does not come up on this machine ({line.strip()})")
        yield
    finally:
        child.terminate()
        child.wait()


@contextmanager
def _disconnected() -> Iterator[None]:
    """Leave the cluster at the end: the next stage's is another one."""
    try:
        yield
    finally:
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()
