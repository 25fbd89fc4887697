"""What a machine is and has, for comparing machines before anything starts on them.

In: nothing but this machine. Out: plain values that travel as JSON: host, Python, versions of the packages
that decide what a step computes, a digest of every source file of malmoi, network addresses, and what
it sees of the run folder. Imports nothing heavy: a check of many machines takes as long as ssh does.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from configs.machine import cores

ROOT = Path(__file__).resolve().parents[2]
TEMPORARY = 16 << 20  # bytes that torchrun and Ray find in the folder for temporary files, at least
SOURCES = ("configs", "dedup", "tokenizer", "pretrain", "launch")
PACKAGES = (
    "torch", "deepspeed", "transformers", "tokenizers", "safetensors", "accelerate", "numpy", "pyarrow",
    "ray", "peft",
)  # fmt: skip


def code() -> dict[str, str]:
    """Every source file → the start of its SHA-256."""
    return {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for package in SOURCES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def packages() -> dict[str, str]:
    """Package → version; "none" where it is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def commit() -> str:
    """The commit of the working tree, as git's own files have it; "" for an installed package."""
    head = ROOT / ".git" / "HEAD"
    try:
        text = head.read_text().strip()
        if not text.startswith("ref: "):
            return text
        return (ROOT / ".git" / text.removeprefix("ref: ")).read_text().strip()
    except OSError:
        return ""


def digest() -> str:
    """Of code and packages: the same on machines that may train together."""
    content = json.dumps([code(), packages()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def addresses() -> dict[str, str]:
    """Network card → its IPv4 address, of cards that are up."""
    up = psutil.net_if_stats()
    return {
        card: entry.address
        for card, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET and card in up and up[card].isup
    }


def reached_at() -> str:
    """The address at which ssh has reached this machine; "" without ssh."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else ""


def own_address() -> str:
    """Where other machines reach this one: where ssh did, or its first card that is up."""
    reached = reached_at()
    if reached and not reached.startswith("127."):
        return reached
    outside = [address for address in addresses().values() if not address.startswith("127.")]
    return outside[0] if outside else "127.0.0.1"


def facts(folder: Path, token: str, port: int | None) -> dict[str, Any]:
    """All of it. folder: the run's, in which a file `.seen-<token>` is looked for, and one is written.

    port: to be free here; None: not asked.
    """
    name = platform.node()
    return {
        "host": name,
        "address": reached_at(),
        "cards": addresses(),
        "cores": cores(),
        "code": code(),
        "commit": commit(),
        "packages": packages(),
        "time": time.time(),
        "sees": _sees(folder, token),
        "port_taken": port is not None and _taken(port),
        "full": _full(),
    }


def probe(folder: Path, token: str) -> Path:
    """The file that says that two machines see the same folder."""
    return folder / f".seen-{token}"


def _sees(folder: Path, token: str) -> str:
    """ "" if the folder is the launcher's, else why not; the answer is written into it, too."""
    deadline = time.monotonic() + 5.0  # a network file system may be late
    while True:
        try:
            if probe(folder, token).read_text() == token:
                break
            return "has another file there"
        except OSError as error:
            if time.monotonic() > deadline:
                if not folder.is_dir():
                    return "has no such folder"
                return f"does not see what was written to it ({error.strerror})"
        time.sleep(0.2)
    try:
        probe(folder, f"{token}-{platform.node()}").write_text(token)
    except OSError as error:
        return f"cannot write to it ({error.strerror})"
    return ""


def _full() -> str:
    """The folder for temporary files, which is this machine's own, where it has no room; else ""."""
    place = os.environ.get("TMPDIR") or "/tmp"
    try:
        status = os.statvfs(place)
    except OSError:
        return ""
    free = status.f_bavail * status.f_frsize
    return "" if free >= TEMPORARY else f"{place} ({free / 1e6:.1f} MB free)"


def _taken(port: int) -> bool:
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("", port))
        except OSError:
            return True
    return False
