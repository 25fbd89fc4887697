"""The machines of a Slurm cluster: one srun, in an allocation of its own, looks at each and at the link.

In: a Slurm cluster. Out: `Finding`s: of every machine what `machine.py` says there, then what shows
between them. srun waits in the queue as any job does, QUEUE seconds at most.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from configs.clusters.schema import Slurm
from launch.doctor.bandwidth import choose_card
from launch.doctor.between import Answer, Entry, alike, clock_finding, interconnect
from launch.doctor.finding import Finding
from launch.doctor.machine import ROOT

QUEUE = 600.0  # seconds for which Slurm may let the doctor wait


def by_slurm(cluster: Slurm, folder: Path) -> list[Finding]:
    """The same on the machines of an allocation: one srun, one task on each node.

    With the options, the shell lines and the container that a job of this cluster would have.
    """
    missing = [name for name in ("sbatch", "srun", "sinfo") if shutil.which(name) is None]
    if missing:
        return [Finding("Slurm", f"{', '.join(missing)} missing here", "wrong",
                        "run it on a login node of the cluster")]  # fmt: skip
    words = ["srun", "--nodes", str(cluster.nodes), "--ntasks-per-node", "1", "--time", "10"]
    given = {
        "partition": cluster.partition, "account": cluster.account, "qos": cluster.qos,
        "cpus-per-task": cluster.cpus, "mem": cluster.memory,
    }  # fmt: skip
    words += [f"--{option}={value}" for option, value in given.items() if value is not None]
    if cluster.gpus:
        words.append(f"--gpus-per-node={cluster.gpus}")
    python = cluster.python or ("python" if cluster.container else sys.executable)
    program = [python, "-m", "launch.doctor.machine", str(folder), "--slurm", str(cluster.port)]
    if cluster.container is not None:
        folder.mkdir(parents=True, exist_ok=True)  # else it cannot be bound
        inside = ["apptainer", "exec", *(["--nv"] if cluster.gpus else []), "--bind", str(folder)]
        program = [*inside, cluster.container, *program]
    if cluster.setup:
        program = ["bash", "-c", "\n".join([*cluster.setup, f"exec {shlex.join(program)}"])]
    tree = {} if cluster.container else {"PYTHONPATH": str(ROOT)}  # a container has its own
    environment = os.environ | tree | cluster.environment
    if cluster.interface:
        environment |= dict.fromkeys(
            ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), cluster.interface
        )
    try:
        done = subprocess.run(
            [*words, *program],
            capture_output=True, text=True, timeout=QUEUE, stdin=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Finding("Slurm", f"gave no {cluster.nodes} nodes in {QUEUE:.0f} s", "note",
                        "squeue tells why; try again when they are free")]  # fmt: skip
    answers = []
    for line in done.stdout.splitlines():
        if line.startswith('{"host"'):
            found = json.loads(line)
            answers.append(Answer(found["host"], found))
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
    if len(answers) < cluster.nodes:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1][:200]
        told = f"{len(answers)} of {cluster.nodes} machines answered: {last}"
        findings.append(Finding("Slurm", told, "wrong", "look at the machine that is missing"))
    findings += alike(answers)
    links = [
        answer.found["link"] for answer in answers if answer.found and answer.found.get("link")
    ]
    for link in links[:1]:
        if "problem" in link:
            fix = f"is {link['meet']} open between the machines, and `interface` the right card?"
            told = f"the all-reduce failed: {link['problem']}"
            findings.append(Finding("interconnect", told, "wrong", fix))
            continue
        first = link["clocks"][0]["host"]
        for clock in link["clocks"][1:]:
            findings.append(clock_finding(clock["host"], clock["ahead"], clock["about"], first))
        findings.append(interconnect(link))
    return findings


def slurm_link(port: int) -> Entry | None:
    """In a task of srun: the all-reduce with the other tasks; None where this is the only one."""
    from launch.doctor.bandwidth import measure

    rank, of = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    if of < 2:
        return None
    meet = f"port {port} of the first machine"
    try:
        words = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
        done = subprocess.run(words, capture_output=True, text=True)
        first = done.stdout.split()[0]
        meet = f"{first}:{port}"
        choose_card(first)
        return measure(rank, of, meet, seconds=4.0, cpu=False)
    except Exception as error:  # the machine's own findings are worth having without it
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return {"problem": said[:200], "meet": meet}
