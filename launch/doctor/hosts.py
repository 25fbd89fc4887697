"""The machines of a list or a hostfile, over ssh: each one's own check, and what shows between them.

In: a cluster of hosts. Out: `Finding`s. All machines are asked at once; then a file that one writes is
looked for on the others, and bandwidth.py is started on all of them.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from configs.clusters.hostfile import Host, parse_host, read_hostfile
from configs.clusters.schema import Hosts
from launch.clusters.ssh import OPTIONS
from launch.doctor.between import Answer, alike, clock_finding, interconnect
from launch.doctor.finding import Finding
from launch.doctor.machine import ROOT

ANSWER = 120.0  # seconds a machine may take over its check
LOGIN = 20.0  # seconds for ssh to log in and tell the time
ASKED = 6  # times that a clock is asked


def machines_of(cluster: Hosts) -> list[Host]:
    """The machines of the list or the hostfile. Raises InputError for a wrong line in that."""
    if cluster.hostfile is not None:
        return read_hostfile(Path(cluster.hostfile))
    return [parse_host(line) for line in cluster.hosts]


def over_ssh(cluster: Hosts, folder: Path) -> list[Finding]:
    """Every finding. folder: where runs will lie, on all of the machines."""
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
        findings.append(clock_finding(answer.name, answer.skew, answer.about, "this machine"))
    there = [answer for answer in answers if answer.found is not None]
    findings += alike(there)
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
    """How far a machine's clock is ahead, and how sure that is: half of the quickest round trip.

    One connection, over which the time is asked for several times: as NTP does it, a question's answer
    lies somewhere between when it was asked and when it came back.
    """
    process = subprocess.Popen(
        [*ssh, "sh -c 'while read -r asked; do date +%s.%N; done'"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    best: tuple[float, float] | None = None
    deadline, said = time.monotonic() + LOGIN, b""
    try:
        for _ in range(ASKED):
            before = time.time()
            with suppress(BrokenPipeError):
                process.stdin.write(b"?\n")
                process.stdin.flush()
            line = _line(process.stdout.fileno(), deadline)
            half = (time.time() - before) / 2
            if line is None:
                return 0.0, 0.0, f"does not answer in {LOGIN:.0f} s"
            if not line:
                break
            said += line
            with suppress(ValueError, IndexError):  # a shell's start-up files may print, too
                theirs = float(line.split()[-1])
                if best is None or half < best[1]:
                    best = theirs - (before + half), half
        with suppress(BrokenPipeError):
            process.stdin.close()
        if best is None:
            status = process.wait(timeout=5)
            assert process.stderr is not None
            os.set_blocking(process.stderr.fileno(), False)  # a shared connection's ssh lives on
            told = (process.stderr.read() or b"").decode("utf-8", "replace")
            if status:
                last = (told.strip() or f"status {status}").splitlines()[-1]
                return 0.0, 0.0, f"cannot be logged in to: {last[:200]}"
            words = said.decode("utf-8", "replace").strip()[:60]
            return 0.0, 0.0, f"answers {words!r} to `date +%s.%N`"
        return *best, ""
    except subprocess.TimeoutExpired:
        return 0.0, 0.0, f"does not answer in {LOGIN:.0f} s"
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                if stream is not None:
                    stream.close()


def _line(stream: int, deadline: float) -> bytes | None:
    """The next line of a descriptor, b"" at its end, None where none comes in time."""
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            return None
        byte = os.read(stream, 1)  # no more than the line: the stream is asked again
        if not byte:
            return b""
        line += byte
    return line


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
