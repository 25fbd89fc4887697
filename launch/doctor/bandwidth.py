"""How fast ranks exchange what training exchanges: a measured all-reduce.

In: a rendezvous and how many there are. Out: bits per second of the slowest link, as NCCL's tests count
it (bus bandwidth): an all-reduce of S bytes among n moves 2(n−1)/n · S over every link, whatever the
algorithm ("Performance reported by NCCL tests", github.com/NVIDIA/nccl-tests). Between two hosts that is
what one of them sends, so a 100 Mbit/s link shows as a little less than that.

A program, one process a host (or a GPU): `python -m launch.doctor.bandwidth --rank 0 --of 2 --meet
HOST:PORT [--seconds S] [--cpu]`. Rank 0 prints JSON. NCCL on GPUs, gloo elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import time
from datetime import timedelta
from typing import Any

import psutil

SIZES = (4096, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
"""Bytes of the buffers tried; the last one that is quick enough is measured."""

BARRIERS = 20  # of which the quickest tells how far clocks are apart

WAIT = 60.0  # seconds for all to come to the rendezvous


def measure(rank: int, of: int, meet: str, *, seconds: float, cpu: bool) -> dict[str, Any]:
    """Join `of` ranks at `meet` and all-reduce for about `seconds`. The same figures on every rank.

    bits_per_second: bus bandwidth; latency_seconds: of an all-reduce of 4 KB; bytes: of the buffer.
    """
    import torch
    import torch.distributed as dist

    with_gpu = torch.cuda.is_available() and not cpu
    device = (
        torch.device("cuda", rank % torch.cuda.device_count()) if with_gpu else torch.device("cpu")
    )
    backend = "nccl" if with_gpu else "gloo"
    host, _, port = meet.rpartition(":")
    store = torch._C._distributed_c10d.TCPStore(
        host, int(port), of, rank == 0, timedelta(seconds=WAIT)
    )
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=of, timeout=timedelta(seconds=WAIT)
    )
    try:
        return timed(device, seconds=seconds) | {"clocks": clocks(device)}
    finally:
        dist.destroy_process_group()


def timed(device: Any, *, seconds: float) -> dict[str, Any]:
    """The same in a group that this process is in already; every rank must call it."""
    import torch
    import torch.distributed as dist

    def once(buffer: Any) -> float:
        begun = time.perf_counter()
        dist.all_reduce(buffer)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    of = dist.get_world_size()
    small = torch.zeros(SIZES[0] // 4, device=device)
    for _ in range(3):
        once(small)
    latency = _slowest(min(once(small) for _ in range(10)), device)
    chosen, took = SIZES[1], 0.0
    for size in SIZES[1:]:
        buffer = torch.zeros(size // 4, device=device)
        once(buffer)
        took = _slowest(once(buffer), device)
        chosen = size
        if took > seconds / 8:
            break
    turns = max(2, min(1000, int(seconds / max(took, 1e-6))))
    begun = time.perf_counter()
    for _ in range(turns):
        once(buffer)
    spent = _slowest(time.perf_counter() - begun, device)
    moved = 2 * (of - 1) / of * chosen * turns
    return {
        "backend": dist.get_backend(),
        "ranks": of,
        "bytes": chosen,
        "bits_per_second": 8 * moved / spent,
        "latency_seconds": latency,
    }


def clocks(device: Any) -> list[dict[str, Any]]:
    """Each rank's host, how many seconds its clock is ahead of rank 0's, and how sure that is.

    All read their clocks as they leave a barrier; the quickest of some barriers is taken, for they leave
    it no further apart than it took.
    """
    import torch
    import torch.distributed as dist

    best: tuple[float, list[float]] | None = None
    for _ in range(BARRIERS):
        begun = time.perf_counter()
        dist.all_reduce(torch.zeros(1, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = torch.tensor([time.time()], dtype=torch.float64, device=device)
        took = _slowest(time.perf_counter() - begun, device)
        every = [torch.zeros_like(now) for _ in range(dist.get_world_size())]
        dist.all_gather(every, now)
        if best is None or took < best[0]:
            best = took, [float(one.item()) for one in every]
    assert best is not None
    about, times = best
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, platform.node())
    return [
        {"host": host, "ahead": read - times[0], "about": about}
        for host, read in zip(hosts, times, strict=True)
    ]


def _slowest(value: float, device: Any) -> float:
    """The largest of all ranks' values: all of them then choose alike."""
    import torch
    import torch.distributed as dist

    box = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return float(box.item())


def said(bits: float) -> str:
    """94_000_000 → "94 Mbit/s"."""
    return f"{bits / 1e9:,.1f} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:,.0f} Mbit/s"


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


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("--rank", type=int, required=True)
    words.add_argument("--of", type=int, required=True)
    words.add_argument("--meet", required=True)
    words.add_argument("--seconds", type=float, default=4.0)
    words.add_argument("--cpu", action="store_true")
    given = words.parse_args()
    choose_card(given.meet.rpartition(":")[0])
    found = measure(given.rank, given.of, given.meet, seconds=given.seconds, cpu=given.cpu)
    if given.rank == 0:
        print(json.dumps(found))
