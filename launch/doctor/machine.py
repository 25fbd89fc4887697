"""One machine: Python, packages, GPUs, disk, limits, tools.

In: a folder on the disk that runs will lie on. Out: `Finding`s. It is a program too (`python -m
launch.doctor.machine FOLDER`, JSON on stdout), for the doctor asks every machine of a cluster the same.
Nothing is imported that is asked about but torch: a package's version stands in its metadata.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import psutil

from configs.machine import cores
from launch.console import quantity
from launch.doctor.finding import Finding
from launch.lineage import code
from launch.system_metrics import gpu_rows

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = 64 << 20  # bytes by which a disk's speed is measured
SLOW_DISK = 100e6  # bytes per second below which checkpoints become the bottleneck
LITTLE_DISK = 20e9  # bytes free
FILES = 65_536  # open files that a data stage with many shards may need
SHARED_MEMORY = 1e9  # bytes of /dev/shm per GPU, which NCCL uses within a machine
SLOW_NAME = 0.5  # seconds for the name of one's own address
DRIVER = 525  # the oldest driver that CUDA 12 takes


def look(folder: Path) -> list[Finding]:
    """Everything that can be said of this machine. A check that fails itself is told, not raised."""
    found: list[Finding] = []
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _gpus,
        _memory,
        _limits,
        _names,
        _tools,
        lambda: _disk(folder),
    ]
    for check in checks:
        try:
            found += check()
        except Exception as error:
            found.append(
                Finding(check.__name__.strip("_"), f"{type(error).__name__}: {error}", "note")
            )
    return found


def _python() -> Iterator[Finding]:
    new = sys.version_info >= (3, 11)
    said = f"{platform.python_version()} ({sys.executable})"
    fix = "" if new else "install Python 3.11 or newer"
    yield Finding("Python", said, "ok" if new else "wrong", fix)
    found = code()
    commit = f", commit {found['commit'][:18]}" if found["commit"] else ""
    yield Finding("malmoi", f"{found['version']}{commit}")


def requirements() -> dict[str, str]:
    """Package → the range that is needed, of what a plain install brings."""
    from packaging.requirements import Requirement

    wanted: dict[str, str] = {}
    for line in distribution("malmoi").requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            wanted[requirement.name] = str(requirement.specifier)
    return wanted


def _pins() -> dict[str, str]:
    """Package → the version the tests run with, where this is a checkout."""
    try:
        lines = (ROOT / "constraints.txt").read_text().splitlines()
    except OSError:
        return {}
    pairs = (re.match(r"^([A-Za-z0-9._-]+)==(\S+)", line) for line in lines)
    return {_normal(pair[1]): pair[2] for pair in pairs if pair}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _packages() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    try:
        wanted = requirements()
    except PackageNotFoundError:
        yield Finding("packages", "malmoi is not installed", "note", "pip install -e .")
        return
    pins, other, fine = _pins(), [], 0
    for name, needed in sorted(wanted.items()):
        try:
            there = version(name)
        except PackageNotFoundError:
            yield Finding(name, "is missing", "wrong", f"pip install '{name}{needed}'")
            continue
        if not SpecifierSet(needed).contains(there, prereleases=True):
            yield Finding(
                name, f"{there}, needs {needed}", "wrong", f"pip install '{name}{needed}'"
            )
            continue
        fine += 1
        pinned = pins.get(_normal(name))
        if pinned and pinned.split("+")[0] != there.split("+")[0]:
            other.append(f"{name} {there} (tested: {pinned})")
    yield Finding("packages", f"{fine} of {len(wanted)} as needed")
    if other:
        yield Finding(
            "versions",
            "; ".join(other),
            "note",
            "pip install -c constraints.txt, if anything is odd",
        )


# ── GPUs ────────────────────────────────────────────────────────────────────────────────────────


def _gpus() -> Iterator[Finding]:
    import torch

    cards = gpu_rows(
        shutil.which("nvidia-smi"), "name,memory.total,driver_version,ecc.mode.current"
    )
    count = torch.cuda.device_count()
    if cards:
        names = sorted({f"{name}, {float(memory) / 1024:.0f} GiB" for name, memory, *_ in cards})
        yield Finding("GPUs", f"{len(cards)} × {'; '.join(names)}")
        driver = cards[0][2]
        old = driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < DRIVER
        fix = f"install a driver of {DRIVER} or newer" if old else ""
        yield Finding("driver", driver, "wrong" if old else "ok", fix)
    if cards and not count:
        built = torch.version.cuda
        yield Finding(
            "torch",
            f"{torch.__version__} sees no GPU (CUDA {built or 'not built in'})",
            "wrong",
            "install torch for CUDA: pip install torch --index-url "
            "https://download.pytorch.org/whl/cu126"
            if built is None
            else "look at CUDA_VISIBLE_DEVICES, and whether driver and CUDA fit",
        )
        return
    if not count:
        bf16 = _cpu_bf16(
            torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        )
        yield Finding("GPUs", f"none; trains on {cores()} cores, {bf16}")
        return
    from torch.cuda import nccl

    nccl_version = ".".join(map(str, nccl.version()))
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: pretrain.dtype fp32"
    yield Finding("torch", f"{torch.__version__}, CUDA {torch.version.cuda}, {bf16}")
    yield Finding("NCCL", nccl_version)
    shm = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    small = count > 1 and shm < SHARED_MEMORY * count
    fix = "give the container more: docker run --shm-size 16g, or --ipc host" if small else ""
    yield Finding("/dev/shm", quantity(shm, "B"), "wrong" if small else "ok", fix)


def _cpu_bf16(abilities: Mapping[str, object]) -> str:
    fast = [name for name in ("amx_bf16", "avx512_bf16", "bf16") if abilities.get(name)]
    return f"bf16 by {fast[0]}" if fast else "no fast bf16: fp32"


# ── the rest of the machine ─────────────────────────────────────────────────────────────────────


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield Finding("memory", f"{memory.total / 2**30:.0f} GiB, {memory.available / 2**30:.0f} free")


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= soft < FILES
    said = f"{soft if soft >= 0 else 'unlimited'} (hard limit {hard if hard >= 0 else 'none'})"
    enough = soft < 0 or soft >= 4096
    fix = f"ulimit -n {FILES}, or nofile in /etc/security/limits.conf" if few else ""
    yield Finding("open files", said, "ok" if not few else "note" if enough else "wrong", fix)
    maps = Path("/proc/sys/vm/max_map_count")
    with suppress(OSError, ValueError):
        count = int(maps.read_text())
        low = count < 65_530
        fix = "sysctl vm.max_map_count=262144: token shards are memory-mapped" if low else ""
        yield Finding("memory maps", f"{count:,}", "note" if low else "ok", fix)


def _names() -> Iterator[Finding]:
    """How long it takes to be told what 127.0.0.1 is called, as an IPv6 socket sees it.

    torch's store asks that of everyone who connects to it, some times in each start. Where /etc/hosts
    does not say, a name server is asked, and where that one does not answer, ranks wait for it.
    """
    begun = time.perf_counter()
    with suppress(OSError):
        socket.getnameinfo(("::ffff:127.0.0.1", 0), socket.NI_NUMERICSERV)
    seconds = time.perf_counter() - begun
    slow = seconds > SLOW_NAME
    yield Finding(
        "own name",
        f"found in {1000 * seconds:,.0f} ms",
        "note" if slow else "ok",
        "add a line to /etc/hosts: ::ffff:127.0.0.1 localhost" if slow else "",
    )


def _tools() -> Iterator[Finding]:
    ssh = _first_line("ssh", "-V")
    yield Finding(
        "ssh", ssh or "is missing", "ok" if ssh else "note",
        "" if ssh else "install openssh-client, for clusters of kind hosts",
    )  # fmt: skip
    slurm = _first_line("sinfo", "--version")
    yield Finding("Slurm", slurm or "none here (sinfo is missing)")
    if slurm:
        states = _first_line("sinfo", "-h", "-o", "%D nodes %T")
        yield Finding("Slurm nodes", states or "sinfo does not answer", "ok" if states else "wrong",
                      "" if states else "look at slurmctld (scontrol ping)")  # fmt: skip
    ibstat = Path("/sys/class/infiniband")
    cards = sorted(path.name for path in ibstat.glob("*")) if ibstat.is_dir() else []
    if cards:
        yield Finding("InfiniBand", ", ".join(cards))


def _first_line(program: str, *words: str) -> str:
    if shutil.which(program) is None:
        return ""
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, timeout=15, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return ", ".join(lines[:4]) if done.returncode == 0 else ""


def _disk(folder: Path) -> Iterator[Finding]:
    place = next((p for p in (folder, *folder.resolve().parents) if p.is_dir()), Path("/"))
    if not os.access(place, os.W_OK):
        yield Finding(f"disk of {place}", "is not to be written to", "wrong", "name another folder")
        return
    free = shutil.disk_usage(place).free
    little = free < LITTLE_DISK
    yield Finding(
        f"space in {place}", f"{quantity(free, 'B')} free", "note" if little else "ok",
        "`malmoi plan` tells what a training needs" if little else "",
    )  # fmt: skip
    if free < 4 * WRITTEN:
        yield Finding("disk speed", "too little space to measure it", "wrong", "free some")
        return
    speed = disk_speed(place)
    slow = speed < SLOW_DISK
    yield Finding(
        "disk speed", f"{speed / 1e6:,.0f} MB/s written and flushed", "note" if slow else "ok",
        "put runs on a faster disk, or save less often (checkpoint.every_steps)" if slow else "",
    )  # fmt: skip


def disk_speed(folder: Path, size: int = WRITTEN) -> float:
    """Bytes per second at which a file is written and flushed to the disk of a folder."""
    path = folder / f".malmoi-doctor-{platform.node()}-{os.getpid()}"
    block = os.urandom(1 << 20)
    begun = time.perf_counter()
    try:
        with path.open("wb") as handle:
            for _ in range(size >> 20):
                handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())
        return size / (time.perf_counter() - begun)
    finally:
        path.unlink(missing_ok=True)


def main(words: list[str]) -> None:
    """FOLDER; --peers NAME,NAME for the address at which these reach this machine; --slurm PORT in a
    task of Slurm, for the link to the other tasks."""
    here = [asdict(finding) for finding in look(Path(words[0]))]
    found = {"host": platform.node(), "code": code(), "findings": here, "time": time.time()}
    if words[1:2] == ["--peers"]:
        from launch.clusters.place import address_here

        found["address"] = address_here(words[2].split(","), os.environ.get("GLOO_SOCKET_IFNAME"))
    if words[1:2] == ["--slurm"]:
        from launch.doctor.slurm import slurm_link

        found["link"] = slurm_link(int(words[2]))
    sys.stdout.write(json.dumps(found) + "\n")  # in one piece: tasks share the stream


if __name__ == "__main__":
    main(sys.argv[1:])
