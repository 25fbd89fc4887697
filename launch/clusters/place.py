"""One machine of an allocation: what all of them are told alike, and where the others reach it.

In: the words of Slurm's script or of a pod. Out: `Place`, which knows the words that start this machine's
ranks or its Ray node (node.py), and its address.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from configs.errors import InputError
from configs.machine import cores


@dataclass(frozen=True)
class Place:
    """One machine of an allocation, and what all are told alike.

    allocation: its name; a restart has another. peers: the machines' names, the first one's first; ()
    where they are not known. fewest, most: machines of a training. tasks: jobs of an array.
    rendezvous: where the others find the first one's, if not at its address. replaced: a machine that
    ends comes back (a pod).
    """

    folder: Path
    allocation: str
    peers: tuple[str, ...]
    fewest: int
    most: int
    ranks: int
    threads: str
    port: int
    interface: str | None
    tasks: int = 1
    rendezvous: str | None = None
    replaced: bool = False

    @property
    def machines(self) -> int:
        return self.tasks if self.tasks > 1 else self.most

    def node(self, *words: str) -> list[str]:
        """The words that start `launch.clusters.node` on this machine."""
        return [sys.executable, "-m", "launch.clusters.node", *words]

    def training(self, rendezvous: str, same_as: str) -> list[str]:
        """same_as: digest of the software that the first machine has; another is refused."""
        words = [
            "train", "--run", str(self.folder), "--rendezvous", rendezvous,
            "--job", self.allocation, "--nodes", f"{self.fewest}:{self.most}",
            "--address", self.address, "--ranks", str(self.ranks), "--threads", self.threads,
            "--same-as", same_as,
        ]  # fmt: skip
        if self.interface is not None:
            words += ["--interface", self.interface]
        return self.node(*words)

    def ray(self, *how: str) -> list[str]:
        """how: `--head HOST:PORT` or `--join HOST:PORT`."""
        known = hashlib.sha256(f"{self.folder}\n{self.allocation}".encode()).hexdigest()
        words = ["--address", self.address, "--cpus", str(cores())]
        return self.node("ray", *how, *words, "--session", f"malmoi-ray-{known[:8]}")

    @property
    def address(self) -> str:
        """Where the other machines reach this one."""
        return os.environ.get("MALMOI_POD_IP") or address_here(self.peers, self.interface)


def address_here(peers: Sequence[str], interface: str | None = None) -> str:
    """This machine's IPv4 address as the others reach it.

    That of the named network card; else the one from which a packet to another machine would leave;
    else what the host name stands for; else the first that is not the loopback's. Raises InputError
    where there is none.
    """
    if interface is not None:
        for found in psutil.net_if_addrs().get(interface, []):
            if found.family == socket.AF_INET:
                return str(found.address)
        raise InputError(
            f"interface: {socket.gethostname()} has no {interface} with an IPv4 address"
        )
    own = socket.gethostname().split(".")[0]
    for peer in peers:
        if peer.split(".")[0] == own:
            continue
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))  # sends nothing
            return str(probe.getsockname()[0])
    with suppress(OSError):
        named = socket.gethostbyname(socket.gethostname())
        if not named.startswith("127."):
            return named
    for cards in psutil.net_if_addrs().values():
        for found in cards:
            if found.family == socket.AF_INET and not found.address.startswith("127."):
                return str(found.address)
    if len(peers) <= 1:
        return "127.0.0.1"
    raise InputError(f"{socket.gethostname()}: has no IPv4 address that the other machines reach")
