"""Ray on one machine, as long as somebody wants it: `node ray --head | --join ADDRESS`.

In: the address of the head (host:port). Out: a Ray node in the foreground, with a folder of its own for
its sockets and logs, and an exit status. `ray stop` is not used: it ends every Ray on the machine, also
other people's. Instead all that was started here hangs on this process (a subreaper) and is ended with it,
when standard input ends (`--attached`), nothing is heard any more, or a signal comes.

What tasks hold travels through files, so the object store is small.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from launch.clusters.agent import Orders, note
from launch.clusters.torchrun import ROOT
from launch.rank import die_with_parent

STORE = 200_000_000  # bytes of the object store
WAIT = 60.0  # seconds for a node to come up


def run(words: Sequence[str]) -> int:
    """`node ray …`: 0 after it was asked to end, 1 where Ray ended by itself."""
    import argparse

    parser = argparse.ArgumentParser(prog="node ray")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--head", metavar="HOST:PORT")
    where.add_argument("--join", metavar="HOST:PORT")
    parser.add_argument("--address", required=True, help="of this machine")
    parser.add_argument("--cpus", type=int, help="tasks at a time; default: the cores")
    parser.add_argument("--session", help="name of the folder for its sockets and logs")
    parser.add_argument("--attached", action="store_true")
    said = parser.parse_args(words)
    orders = Orders(attached=said.attached)
    if sys.platform == "linux":
        pr_set_child_subreaper = 36
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)
    name = said.session or f"malmoi-ray-{os.getpid()}"  # short: a socket's path has 107 bytes
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    command = words_for(said.head, said.join, said.address, said.cpus, folder)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=(folder / "start.log").open("wb"),
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        env=os.environ
        | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
            ),
        },
    )
    try:
        return _hold(child, orders, said.head or said.join, folder)
    finally:
        _end_all(child)
        shutil.rmtree(folder, ignore_errors=True)


def words_for(
    head: str | None, join: str | None, address: str, cpus: int | None, folder: Path
) -> list[str]:
    """`ray start` in the foreground."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    command += ["--node-ip-address", address, "--disable-usage-stats"]
    command += ["--object-store-memory", str(STORE)]
    if head is not None:
        command += ["--head", "--port", head.rpartition(":")[2], "--include-dashboard", "false"]
        command += ["--temp-dir", str(folder / "r")]
    else:
        command += ["--address", str(join)]
    if cpus is not None:
        command += ["--num-cpus", str(cpus)]
    return command


def _hold(child: subprocess.Popen[bytes], orders: Orders, head: str, folder: Path) -> int:
    """Say when it is up, then wait for the end of either."""
    told = False
    deadline = time.monotonic() + WAIT
    while child.poll() is None:
        orders.read()
        if orders.stop is not None or orders.kill:
            return 0
        if not told and _said(folder, "Ray runtime started"):
            told = True
            note(f"ray is up at {head}")
        if not told and time.monotonic() > deadline:
            break
        time.sleep(0.1)
    print((folder / "start.log").read_text(errors="replace")[-2000:], flush=True)
    return 1


def _said(folder: Path, words: str) -> bool:
    return words in (folder / "start.log").read_text(errors="replace")


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to everything below this process, reparented or not."""
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        below = psutil.Process().children(recursive=True)
        for process in below:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(below, timeout=seconds)
        if not alive:
            break
    child.wait()


def listens(address: str, seconds: float = 2.0) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except OSError:
        return False
    return True
