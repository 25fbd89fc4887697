"""The machines of a cluster: each one's own check, and what only shows between them.

In: a cluster file. Out: `Finding`s: of every machine what `machine.py` says there; then whether they run
the same code, how far their clocks are apart, whether they see the same folder, and how fast they
exchange what training exchanges (bandwidth.py, started on all of them at once).
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from configs.clusters.hostfile import Host, parse_host, read_hostfile
from configs.clusters.schema import Cluster, Hosts, Kubernetes, Local, Slurm
from launch.clusters.ssh import OPTIONS
from launch.doctor.bandwidth import said
from launch.doctor.finding import Finding
from launch.doctor.machine import ROOT, look

ANSWER = 120.0  # seconds a machine may take over its check
SKEW = 1.0  # seconds by which clocks may differ before it is worth mending
SLOW_LINK = 1e9  # bits per second between machines below which training waits for the network
QUEUE = 600.0  # seconds for which Slurm may let the doctor wait

Entry = dict[str, Any]


def look_at(cluster: Cluster, folder: Path) -> list[Finding]:
    """Every finding of a cluster. folder: where runs will lie, on all of its machines."""
    if isinstance(cluster, Hosts):
        return _over_ssh(cluster, folder)
    if isinstance(cluster, Slurm):
        return _by_slurm(cluster, folder)
    if isinstance(cluster, Kubernetes):
        return [*look(folder), *_kubernetes(cluster)]
    assert isinstance(cluster, Local)
    return look(folder)


# ── hosts ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Answer:
    """What a machine said. skew: seconds its clock is ahead of this one's, give or take `about`."""

    name: str
    found: Entry | None
    problem: str = ""
    skew: float = 0.0
    about: float = 0.0


def machines_of(cluster: Hosts) -> list[Host]:
    """The machines of the list or the hostfile. Raises InputError for a wrong line in that."""
    if cluster.hostfile is not None:
        return read_hostfile(Path(cluster.hostfile))
    return [parse_host(line) for line in cluster.hosts]


def _over_ssh(cluster: Hosts, folder: Path) -> list[Finding]:
    machines = [host.name for host in machines_of(cluster)]
    if shutil.which("ssh") is None:
        return [Finding("ssh", "is missing", "wrong", "install openssh-client")]
    with ThreadPoolExecutor(min(32, len(machines))) as threads:
        answers = list(threads.map(lambda name: _ask(cluster, name, machines, folder), machines))
    findings: list[Finding] = []
    for answer in answers:
        if answer.found is None:
            fix = f"try: {shlex.join([*_ssh(cluster, answer.name), 'true'])}"
            findings.append(Finding("ssh", answer.problem, "wrong", fix, answer.name))
            continue
        findings += [Finding(**{**one, "host": answer.name}) for one in answer.found["findings"]]
        apart = abs(answer.skew)
        far = apart - answer.about > SKEW
        findings.append(
            Finding(
                "clock",
                f"{1000 * answer.skew:+,.0f} ± {1000 * answer.about:,.0f} ms against this machine",
                "note" if far else "ok",
                "run chrony or ntpd on all machines" if far else "",
                answer.name,
            )
        )
    there = [answer for answer in answers if answer.found is not None]
    findings += _alike(there)
    findings += _shared(cluster, [answer.name for answer in there], folder)
    if len(there) > 1:
        findings.append(_link(cluster, there))
    return findings


def _ssh(cluster: Hosts, name: str) -> list[str]:
    options = [word for key, value in OPTIONS.items() for word in ("-o", f"{key}={value}")]
    user = ["-l", cluster.user] if cluster.user is not None and "@" not in name else []
    return ["ssh", *cluster.ssh, *options, "-T", *user, "--", name]


def _there(cluster: Hosts, words: list[str]) -> str:
    """A command as the other machine's shell is to run it."""
    tree = cluster.folder or str(ROOT)
    variables = {"PYTHONPATH": tree, **cluster.environment}
    if cluster.interface:
        variables |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), cluster.interface)
    environment = [f"{name}={value}" for name, value in variables.items()]
    command = ["env", *environment, cluster.python or sys.executable, *words]
    return f"cd {shlex.quote(tree)} && exec {shlex.join(command)}"


def _ask(cluster: Hosts, name: str, machines: list[str], folder: Path) -> Answer:
    ssh = _ssh(cluster, name)
    skew, about, problem = _clock(ssh)
    if problem:
        return Answer(name, None, problem)
    peers = [each.rpartition("@")[2] for each in machines]
    words = ["-m", "launch.doctor.machine", str(folder), "--peers", ",".join(peers)]
    try:
        done = subprocess.run(
            [*ssh, _there(cluster, words)],
            capture_output=True, text=True, timeout=ANSWER, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return Answer(name, None, f"its check did not end in {ANSWER:.0f} s")
    except (ValueError, IndexError):
        last = (done.stderr.strip() or "no output").splitlines()[-1][:200]
        return Answer(name, None, f"its check failed: {last}")
    return Answer(name, found, "", skew, about)


def _clock(ssh: list[str]) -> tuple[float, float, str]:
    """How far a machine's clock is ahead, and how sure that is: half of the quickest round trip."""
    best: tuple[float, float] | None = None
    for _ in range(3):
        before = time.time()
        try:
            done = subprocess.run(
                [*ssh, "date +%s.%N"],
                capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 0.0, 0.0, "does not answer in 20 s"
        after = time.time()
        if done.returncode:
            last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
            return 0.0, 0.0, f"cannot be logged in to: {last[:200]}"
        try:
            theirs = float(done.stdout.split()[-1])
        except (ValueError, IndexError):
            return 0.0, 0.0, f"answers {done.stdout.strip()[:60]!r} to `date +%s.%N`"
        half = (after - before) / 2
        if best is None or half < best[1]:
            best = theirs - (before + half), half
    assert best is not None
    return *best, ""


def _alike(answers: list[Answer]) -> list[Finding]:
    """Whether all run the same code with the same packages."""
    versions: dict[str, list[str]] = {}
    for answer in answers:
        assert answer.found is not None
        code = answer.found["code"]
        versions.setdefault(f"{code['version']} {code['commit'] or ''}".strip(), []).append(
            answer.name
        )
    if len(versions) < 2:
        return []
    said = "; ".join(f"{version} on {', '.join(hosts)}" for version, hosts in versions.items())
    return [Finding("code", said, "wrong", "bring all machines to the same commit")]


def _shared(cluster: Hosts, machines: list[str], folder: Path) -> list[Finding]:
    """Whether a file that one machine writes in the folder is read by the others."""
    if len(machines) < 2:
        return []
    word, path = secrets.token_hex(8), folder / f".malmoi-doctor-{secrets.token_hex(4)}"
    here, place = shlex.quote(str(path)), shlex.quote(str(folder))
    _tell(cluster, machines[0], f"mkdir -p {place} && echo {word} > {here}")
    blind = [
        n for n in machines[1:] if _tell(cluster, n, f"ls {place} >/dev/null; cat {here}") != word
    ]
    _tell(cluster, machines[0], f"rm -f {here}")
    if not blind:
        return [Finding("shared folder", f"{folder} is the same on all")]
    return [
        Finding(
            "shared folder",
            f"{folder}: what {machines[0]} writes is not seen by {', '.join(blind)}",
            "note",
            "train on storage that all see (dir=…), or set checkpoint.upload to s3://…",
        )
    ]


def _tell(cluster: Hosts, name: str, script: str) -> str:
    try:
        done = subprocess.run(
            [*_ssh(cluster, name), script],
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def _link(cluster: Hosts, answers: list[Answer]) -> Finding:
    """The all-reduce between all machines, one rank on each."""
    machines = [answer.name for answer in answers]
    meet = f"{(answers[0].found or {})['address']}:{cluster.port}"
    running = []
    for rank, name in enumerate(machines):
        words = ["-m", "launch.doctor.bandwidth", "--rank", str(rank), "--of", str(len(machines))]
        running.append(
            subprocess.Popen(
                [*_ssh(cluster, name), _there(cluster, [*words, "--meet", meet])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = []
    try:
        ends = [process.communicate(timeout=ANSWER) for process in running]
    except subprocess.TimeoutExpired:
        return Finding(
            "interconnect", f"no all-reduce within {ANSWER:.0f} s", "wrong",
            f"is port {cluster.port} of {machines[0]} open, and `interface` the right card?",
        )  # fmt: skip
    finally:
        for process in running:
            process.kill()
            process.wait()
    failed = [n for n, p in zip(machines, running, strict=True) if p.returncode]
    if failed:
        last = next((e for _, e in ends if e.strip()), "no output").strip().splitlines()[-1][:200]
        return Finding(
            "interconnect", f"the all-reduce failed on {', '.join(failed)}: {last}", "wrong",
            f"is port {cluster.port} of {machines[0]} open, and `interface` the right card?",
        )  # fmt: skip
    return interconnect(json.loads(ends[0][0].strip().splitlines()[-1]))


def interconnect(found: Entry) -> Finding:
    """A measured all-reduce as a line of the table."""
    bits, latency = found["bits_per_second"], found["latency_seconds"]
    slow = bits < SLOW_LINK
    return Finding(
        "interconnect",
        f"{said(bits)} ({found['backend']} all-reduce of {found['bytes'] >> 20} MB among "
        f"{found['ranks']}), {1e6 * latency:,.0f} µs",
        "note" if slow else "ok",
        "is `interface` the fast card? gradients are this much: `malmoi plan`" if slow else "",
    )


# ── Slurm and Kubernetes ────────────────────────────────────────────────────────────────────────


def _by_slurm(cluster: Slurm, folder: Path) -> list[Finding]:
    """The same on the machines of an allocation: one srun, one task on each node."""
    missing = [name for name in ("sbatch", "srun", "sinfo") if shutil.which(name) is None]
    if missing:
        return [Finding("Slurm", f"{', '.join(missing)} missing here", "wrong",
                        "run it on a login node of the cluster")]  # fmt: skip
    words = ["srun", "--nodes", str(cluster.nodes), "--ntasks-per-node", "1", "--time", "10"]
    given = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos}
    words += [f"--{option}={value}" for option, value in given.items() if value is not None]
    if cluster.gpus:
        words.append(f"--gpus-per-node={cluster.gpus}")
    program = [cluster.python or sys.executable, "-m", "launch.doctor.machine", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | cluster.environment
    if cluster.interface:
        environment |= dict.fromkeys(
            ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), cluster.interface
        )
    try:
        done = subprocess.run(
            [*words, *program, "--slurm", str(cluster.port)],
            capture_output=True, text=True, timeout=QUEUE, stdin=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Finding("Slurm", f"gave no {cluster.nodes} nodes in {QUEUE:.0f} s", "note",
                        "squeue tells why; try again when they are free")]  # fmt: skip
    answers = []
    for line in done.stdout.splitlines():
        if line.startswith('{"host"'):
            found = json.loads(line)
            answers.append(Answer(found["host"], found, "", found["time"] - time.time(), 5.0))
    if not answers:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1][:200]
        return [
            Finding(
                "Slurm", f"srun failed: {last}", "wrong", "look at sinfo, partition and account"
            )
        ]
    findings = [
        Finding(**{**one, "host": answer.name})
        for answer in sorted(answers, key=lambda a: a.name)
        for one in (answer.found or {})["findings"]
    ]
    findings += _alike(answers)
    links = [
        answer.found["link"] for answer in answers if answer.found and answer.found.get("link")
    ]
    return findings + [interconnect(link) for link in links[:1]]


def slurm_link(port: int) -> Entry | None:
    """In a task of srun: the all-reduce with the other tasks; None where this is the only one."""
    from launch.doctor.bandwidth import measure

    rank, of = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    if of < 2:
        return None
    nodes = os.environ["SLURM_STEP_NODELIST"]
    done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True)
    first = done.stdout.split()[0]
    choose_card(first)
    return measure(rank, of, f"{first}:{port}", seconds=4.0, cpu=False)


def choose_card(towards: str) -> None:
    """Let gloo use the network card that leads to a machine; else it may take the loopback's."""
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
            own = probe.getsockname()[0]
        except OSError:
            return
    for card, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = card
            return


def _kubernetes(cluster: Kubernetes) -> list[Finding]:
    if shutil.which("kubectl") is None:
        return [Finding("kubectl", "is missing", "wrong", "install it, and a kubeconfig")]
    found = []
    for what in ("create jobs.batch", "get pods", "create services"):
        verb, kind = what.split()
        words = ["kubectl", "auth", "can-i", verb, kind, "--namespace", cluster.namespace]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        may = done.stdout.strip() == "yes"
        told = "may" if may else (done.stderr.strip() or "may not").splitlines()[-1][:120]
        fix = "" if may else f"ask for the right to {what} in namespace {cluster.namespace}"
        found.append(Finding(f"kubectl {what}", told, "ok" if may else "wrong", fix))
    return found
