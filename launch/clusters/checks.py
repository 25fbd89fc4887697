"""Before anything starts: can every machine be reached, is it the same there, does it see the run?

In: the hosts of a cluster and the run folder. Out: `Machine`s, ready to be used, and those that do not
answer; or InputError with everything that is wrong on any of them, a line each. All are asked at once.
A wrong commit or package version on one of 64 machines is silent in training, and shows in the loss.
"""

from __future__ import annotations

import json
import platform
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.clusters.hostfile import Host
from configs.clusters.schema import Hosts
from configs.errors import InputError
from launch.clusters.identity import code, commit, packages, probe
from launch.clusters.node import MARK
from launch.clusters.ssh import LOST, ssh_words

UPLOAD = (
    "; pretrain.checkpoint.upload does not stand for it: it copies whole checkpoints out, and ranks read "
    "the data, write their parts of a checkpoint and show their life in the run folder"
)
ANSWER = 60.0  # seconds for a machine's answer


@dataclass(frozen=True)
class Machine:
    """A host that answered. address: where the other machines reach it."""

    host: Host
    address: str
    name: str
    cores: int


def check_hosts(
    cluster: Hosts, hosts: Sequence[Host], folder: Path, *, trains: bool, upload: bool = False
) -> tuple[list[Machine], dict[Host, str]]:
    """The machines that can be used, in order, and the hosts that do not answer, with ssh's words.

    trains: whether the rendezvous needs its port. upload: whether checkpoints are copied far away, which
    a person may take for storage that is shared. Raises InputError for whatever is wrong on a machine
    that does answer.
    """
    token = secrets.token_hex(8)
    folder.mkdir(parents=True, exist_ok=True)
    probe(folder, token).write_text(token)
    try:
        with ThreadPoolExecutor(max_workers=64) as pool:
            answers = list(
                pool.map(lambda host: _ask(cluster, host, folder, token, trains=trains), hosts)
            )
    finally:
        for path in folder.glob(f".seen-{token}*"):
            path.unlink(missing_ok=True)
    away = {host: said for host, said in zip(hosts, answers, strict=True) if isinstance(said, str)}
    facts = {
        host: said for host, said in zip(hosts, answers, strict=True) if not isinstance(said, str)
    }
    wrong = [
        f"{host.name}: {line}"
        for host, said in facts.items()
        for line in _wrong(said, folder, upload=upload)
    ]
    names: dict[str, str] = {}
    for host, said in facts.items():
        if "broken" in said:
            continue
        if said["host"] in names and len(facts) > 1:
            wrong.append(
                f"{host.name}: calls itself {said['host']}, as {names[said['host']]} does; list each "
                "machine once, and give machines names of their own"
            )
        names.setdefault(said["host"], host.name)
    if wrong:
        raise InputError(wrong)
    several = len(hosts) > 1
    machines = [
        Machine(host, address_of(cluster, said, several=several), said["host"], said["cores"])
        for host, said in facts.items()
    ]
    return machines, away


def _ask(
    cluster: Hosts, host: Host, folder: Path, token: str, *, trains: bool
) -> dict[str, Any] | str:
    """A machine's facts; or why it does not answer; or {"broken": why it cannot run malmoi}."""
    words = ["check", "--run", str(folder), "--token", token]
    if trains:
        words += ["--port", str(cluster.port)]
    try:
        done = subprocess.run(
            ssh_words(cluster, host, words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER:.0f} s"
    except FileNotFoundError:
        raise InputError("ssh: is not installed here; install openssh-client") from None
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            with suppress(ValueError):
                return dict(json.loads(line.removeprefix(MARK)))
    told = [line for line in done.stderr.splitlines() if line.strip()]
    why = told[-1].strip() if told else f"exit status {done.returncode}"
    return why if done.returncode == LOST else {"broken": why}


def _wrong(said: Mapping[str, Any], folder: Path, *, upload: bool) -> list[str]:
    """What is wrong with a machine that answered."""
    if "broken" in said:
        return [
            f"malmoi does not run there ({said['broken']}); bring the same working tree and Python "
            "there, or name theirs: folder and python in the cluster file"
        ]
    lines = differences(said["code"], said["commit"], said["packages"])
    if said["sees"]:
        lines.append(
            f"{folder}: {said['sees']}; the run folder has to lie on storage that all machines see "
            "at the same place (NFS, Lustre, …): name such a folder with dir=…"
            + (UPLOAD if upload else "")
        )
    if said.get("full"):  # an older malmoi, which was told of above, does not look
        lines.append(
            f"{said['full']}: no space left on the device for temporary files; free some, or name "
            "another folder: environment: {TMPDIR: …}"
        )
    if said["port_taken"]:
        lines.append("another program listens on the port of the rendezvous; name another: port")
    return lines


def differences(
    there: Mapping[str, str], their_commit: str, versions: Mapping[str, str]
) -> list[str]:
    """In which files and packages a machine is not as this one."""
    here = code()
    lines = []
    names = sorted({*here, *there})
    differ = [name for name in names if here.get(name) != there.get(name)]
    if differ:
        more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        commits = commit(), their_commit
        told = (
            f" (commit {commits[1][:10]}, here {commits[0][:10]})"
            if commits[0] != commits[1]
            else ""
        )
        lines.append(
            f"has another malmoi: {differ[0]}{more} differ from {platform.node()}'s{told}; bring the "
            "same working tree to every machine"
        )
    wrong = [
        f"{name} {versions.get(name, 'none')}, here {mine}"
        for name, mine in packages().items()
        if versions.get(name) != mine
    ]
    if wrong:
        lines.append(f"has other packages: {'; '.join(wrong)}; install the same versions")
    return lines


def address_of(cluster: Hosts, said: Mapping[str, Any], *, several: bool) -> str:
    """Where the others reach a machine: its named card, where ssh came in, or its first card.

    Raises InputError where it has no address that others could use.
    """
    cards: dict[str, str] = said["cards"]
    if cluster.interface is not None:
        if cluster.interface not in cards:
            raise InputError(
                f"{said['host']}: has no network card {cluster.interface} that is up; it has "
                f"{', '.join(cards) or 'none'}: name one in interface"
            )
        return cards[cluster.interface]
    reached = str(said["address"])
    if reached and not (several and reached.startswith("127.")):
        return reached
    outside = [address for address in cards.values() if not address.startswith("127.")]
    if outside:
        return outside[0]
    if several:
        raise InputError(f"{said['host']}: has no address that other machines could reach")
    return "127.0.0.1"
