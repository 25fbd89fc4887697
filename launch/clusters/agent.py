"""The training of one machine among several: the same program, whoever starts it (ssh, srun, a pod).

In: the run folder, where the ranks of all machines meet, this machine's address. Out: an exit status: 0
done, 75 stopped and resumable, 2 a person's mistake, 1 anything else; and lines on standard output: notes
for whoever started it, and last words. Membership is torchrun's (c10d, elastic): machines that stay away
are waited for and then done without, one that comes back is taken in, for which the others save first.

A launcher on another machine speaks through standard input (`--attached`): `alive` every few seconds,
`stop`, `kill`, `lost NAME`. The end of that stream, or silence, means that nobody follows this machine any
more: its ranks save, if they can, and end.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import select
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from configs.errors import InputError, Stopped, is_no_space, no_space
from configs.load import load
from launch.clusters.identity import digest, own_address
from launch.clusters.torchrun import (
    Outcome,
    Torchrun,
    rank_environment,
    seconds_to_stop,
    training_lock,
)

SILENCE = 20.0  # seconds without a word after which the launcher is taken for gone
AFTER_LOSS = 10.0  # seconds a rank may be silent once another machine is known to be lost
PREDECESSOR = 45.0  # seconds to wait for the end of this run's earlier agent on this machine
LATE = 10.0  # seconds in which an outcome may still appear on a network file system
KEEP_ALIVE = {"keep_alive_interval": 3, "keep_alive_max_attempt": 4}
"""torchrun's own: a machine that has been silent for 12 s is out of the rendezvous."""


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of all machines meet. endpoint: host:port; nodes: fewest and most machines."""

    endpoint: str
    job: str
    nodes: tuple[int, int]
    address: str
    wait_seconds: float = 30.0

    def words(self) -> list[str]:
        """For torchrun."""
        host = self.endpoint.rpartition(":")[0]
        known = {"last_call_timeout": int(max(1, self.wait_seconds)), **KEEP_ALIVE}
        known |= {"is_host": 1} if host == self.address else {}
        return [
            "--nnodes", f"{self.nodes[0]}:{self.nodes[1]}",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", self.endpoint, "--rdzv-id", self.job,
            "--rdzv-conf", ",".join(f"{key}={value}" for key, value in known.items()),
            "--local-addr", self.address,
        ]  # fmt: skip


def train(
    folder: Path,
    meeting: Meeting,
    *,
    ranks: int | str = "auto",
    threads: int | str = "auto",
    interface: str | None = None,
    attached: bool = False,
    same_as: str | None = None,
) -> int:
    """Run this machine's ranks to the end of training; the exit status.

    same_as: the `identity.digest` that this machine has to have. Raises InputError where it has another.
    """
    if same_as is not None and same_as != digest():
        raise InputError(
            f"{platform.node()}: has another malmoi or other packages than the launcher; bring the "
            "same working tree and packages to every machine"
        )
    settings = load(str(folder / "config.yaml")).pretrain
    if settings is None:
        raise InputError(f"{folder / 'config.yaml'}: has no pretrain section")
    processes, on_cpu = _devices(ranks)
    more = _network(meeting.address, interface)
    if meeting.nodes[1] > 1:  # a store of its own for each round: see pretrain/zero.py
        more["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    wanted = settings.threads if threads == "auto" else threads
    environment = rank_environment(wanted, processes, on_cpu=on_cpu, more=more)
    orders = Orders(attached=attached)
    stage = folder / "pretrain"
    with _alone(folder) as own, training_lock(folder, shared=True) as held:
        log = folder / "logs" / f"torchrun-{platform.node()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        seen = _stamp(stage)
        words = meeting.words()
        torchrun = Torchrun(folder, settings, words, processes, environment, log, [own, held], note)
        note(f"{processes} ranks on {platform.node()}")
        _follow(torchrun, orders, seen)
        return _status(torchrun, orders, seen)


def note(line: str) -> None:
    """A line for whoever started this; nobody may be there any more."""
    with contextlib.suppress(OSError):
        print(f"note: {line}", flush=True)


class Orders:
    """What the launcher, or a signal, has asked for so far."""

    def __init__(self, *, attached: bool) -> None:
        self.stop: str | None = None
        self.kill = False
        self.lost: list[str] = []
        self._attached, self._heard, self._rest = attached, time.monotonic(), b""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop = self.stop or f"on {signal.Signals(number).name}"

    def read(self) -> None:
        """Take what has come since the last call."""
        if not self._attached:
            return
        while select.select([0], [], [], 0)[0]:
            content = os.read(0, 4096)
            if not content:
                self._attached = False
                self.stop = self.stop or "the launcher is gone"
                return
            self._heard = time.monotonic()
            *lines, self._rest = (self._rest + content).split(b"\n")
            for line in lines:
                self._obey(line.decode("utf-8", "replace"))
        if time.monotonic() - self._heard > SILENCE:
            if self.stop is None:
                self.lost.append("the launcher")  # with what is between, perhaps other ranks
            self.stop = self.stop or "nothing is heard of the launcher"

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "stop":
            self.stop = self.stop or "asked to"
        elif word == "kill":
            self.kill = True
        elif word == "lost":
            self.lost.append(rest)


def _follow(torchrun: Torchrun, orders: Orders, seen: tuple[int, int]) -> None:
    """Look after torchrun until it has ended, by itself or because it was made to."""
    deadline = float("inf")
    while torchrun.running():
        orders.read()
        while orders.lost:
            orders.lost.pop()
            torchrun.watch.hurry(AFTER_LOSS)
        if orders.stop is not None and deadline == float("inf"):
            note(f"stopping ({orders.stop}): the step is finished and saved")
            deadline = time.monotonic() + seconds_to_stop(torchrun.stage)
            torchrun.ask_to_stop()
        final = _stamp(torchrun.stage) != seen and Outcome.read(torchrun.stage).final
        if final and deadline == float("inf"):
            deadline = time.monotonic() + 10
            torchrun.ask_to_stop()
        if orders.kill or time.monotonic() > deadline:
            torchrun.kill()
            return
        time.sleep(0.1)


def _status(torchrun: Torchrun, orders: Orders, seen: tuple[int, int]) -> int:
    """The exit status, after last words where they are needed."""
    status = torchrun.child.returncode
    deadline = time.monotonic() + LATE
    while True:
        told = _stamp(torchrun.stage) != seen
        outcome = Outcome.read(torchrun.stage) if told else Outcome("crashed")
        waits = status == 0 or orders.stop is not None
        if outcome.status != "crashed" or not waits or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if outcome.status == "done" and status == 0:
        return 0
    if outcome.status == "stopped":
        return 75
    if status is not None and status < 0 and orders.stop is None and outcome.status == "crashed":
        name = signal.Signals(-status).name
        print(f"torchrun on {platform.node()} was ended by {name}", flush=True)
        return 75
    if outcome.final:
        print("\n".join(outcome.lines), flush=True)
        return 2 if outcome.status == "error" else 75
    with contextlib.suppress(OSError):
        print(torchrun.last_words(), flush=True)
    return 1


def _stamp(stage: Path) -> tuple[int, int]:
    """Changes when the outcome is written; what an earlier start left is not ours."""
    try:
        status = (stage / ".outcome.json").stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _devices(ranks: int | str) -> tuple[int, bool]:
    """Ranks here, and whether they compute on the CPU."""
    gpus = _gpus()
    wanted = max(1, gpus) if ranks == "auto" else int(ranks)
    if 0 < gpus < wanted:
        raise InputError(
            f"{wanted} ranks on {platform.node()}, which has {gpus} GPUs; write {gpus}"
        )
    return wanted, gpus == 0


def _gpus() -> int:
    """GPUs that torch can use; where no driver is loaded, torch (two seconds) is not asked."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return 0
    import torch

    return int(torch.cuda.device_count())


def _network(address: str, interface: str | None) -> dict[str, str]:
    """The card that gloo and NCCL use: the one that was named, or the one with this address."""
    cards = psutil.net_if_addrs()
    if interface is not None and interface not in cards:
        raise InputError(
            f"interface: {platform.node()} has no network card {interface}; it has {', '.join(cards)}"
        )
    if interface is None:
        having = (name for name, at in cards.items() if any(a.address == address for a in at))
        interface = next(having, None)
    if interface is None or interface == "lo":
        return {}
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
    return dict.fromkeys(names, interface)


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Wait for the end of this run's earlier agent here (its launcher was lost) and stand for it."""
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"malmoi-{os.getuid()}-{name}.lock"
    deadline = time.monotonic() + PREDECESSOR
    with path.open("a+") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{folder}: ranks of an earlier start are still on {platform.node()}; give "
                        "the same command again when they have ended"
                    ) from None
                time.sleep(0.5)
        yield handle.fileno()


def parse_nodes(text: str) -> tuple[int, int]:
    """`1:4` → (1, 4); `4` → (4, 4)."""
    fewest, _, most = text.partition(":")
    return int(fewest), int(most or fewest)


def run(words: Sequence[str]) -> int:
    """`node train …`; see `node.py` for the words."""
    import argparse

    parser = argparse.ArgumentParser(prog="node train")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rendezvous", required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--nodes", type=parse_nodes, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--ranks", default="auto")
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--interface")
    parser.add_argument("--wait", type=float, default=30.0)
    parser.add_argument("--same-as")
    parser.add_argument("--attached", action="store_true")
    said = parser.parse_args(words)
    address = said.address if said.address != "auto" else own_address()
    meeting = Meeting(said.rendezvous, said.job, said.nodes, address, said.wait)
    try:
        return train(
            said.run,
            meeting,
            ranks=said.ranks if said.ranks == "auto" else int(said.ranks),
            threads=said.threads if said.threads == "auto" else int(said.threads),
            interface=said.interface,
            attached=said.attached,
            same_as=said.same_as,
        )
    except InputError as error:
        print("\n".join(f"error: {line}" for line in error.lines), flush=True)
        return 2
    except (Stopped, KeyboardInterrupt):
        return 75
    except OSError as error:
        if not is_no_space(error, said.run):
            raise
        print(f"{platform.node()}: {no_space(error, said.run)}", flush=True)
        return 75
