"""How many GPUs a training would have, and of what memory.

In: `8x80GB` (GPUs × memory), `4x8x80GB` (machines × GPUs × memory), or a cluster as `malmoi launch`
takes it, a YAML file or the name of a bundled example. Out: `Cluster`. A cluster file says how many
GPUs there are and not how large, so their memory is told beside it, or taken to be 80 GB, and said so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from configs.clusters.hostfile import parse_host, read_hostfile
from configs.clusters.load import examples, load_cluster
from configs.clusters.schema import Hosts, Local, Slurm
from configs.errors import InputError

_SIZE = re.compile(r"(?:(\d+)x)?(\d+)x(\d+(?:\.\d+)?)\s*GB", re.IGNORECASE)
USUAL = 80e9  # bytes of a GPU whose memory nobody told


@dataclass(frozen=True)
class Cluster:
    """machines × gpus GPUs of `memory` bytes."""

    machines: int
    gpus: int
    memory: float

    @property
    def ranks(self) -> int:
        return self.machines * self.gpus

    @classmethod
    def of(cls, text: str) -> Cluster:
        """Read `8x80GB` or `4x8x80GB`. Raises InputError on anything else."""
        match = _SIZE.fullmatch(text.strip())
        if match is None or not int(match[2]) or match[1] == "0" or not float(match[3]):
            raise InputError(
                f"{text}: is no cluster; write GPUs x memory, for example 8x80GB, machines x GPUs x "
                "memory, for example 4x8x80GB, or name a cluster file"
            )
        return cls(int(match[1] or 1), int(match[2]), float(match[3]) * 1e9)

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU{'s' * (self.gpus > 1)} of {self.memory / 1e9:g} GB"
        return gpus if self.machines == 1 else f"{self.machines} machines, each {gpus}"


def cluster_size(text: str | None, gpu_memory: float | None) -> tuple[Cluster, str]:
    """The cluster that `text` names, and a word on what was assumed ("" where nothing was).

    text: a size, a cluster file or an example's name; None: the GPUs of this machine. gpu_memory:
    bytes of each GPU, for all but a size, which tells it. Raises InputError where there are no GPUs
    to plan for, or both tell a memory.
    """
    if text is None:
        return _here(gpu_memory)
    if Path(text).suffix not in (".yaml", ".yml") and text not in examples():
        if gpu_memory is not None:
            raise InputError(f"--gpu-memory: {text} tells the memory; leave one of them out")
        return Cluster.of(text), ""
    cluster = load_cluster(text)
    if isinstance(cluster, Local):
        return _here(gpu_memory)
    if isinstance(cluster, Hosts):
        machines, gpus = _of_hosts(cluster, text)
    else:
        machines, gpus = cluster.nodes, cluster.gpus
    if not gpus:
        kind = "machine" if isinstance(cluster, Slurm) else "pod"
        raise InputError(f"{text}: gpus: 0 of each {kind}; a plan reckons with GPUs, so give them")
    told = (
        "" if gpu_memory else f"{text} does not tell a GPU's memory: 80 GB assumed; --gpu-memory 40"
    )
    return Cluster(machines, gpus, gpu_memory or USUAL), told


def _of_hosts(cluster: Hosts, text: str) -> tuple[int, int]:
    """Machines, and GPUs of each. Raises InputError where slots are not told or differ."""
    hosts = [parse_host(line) for line in cluster.hosts]
    if cluster.hostfile is not None:
        hosts = read_hostfile(Path(cluster.hostfile))
    slots = {host.slots for host in hosts}
    if len(slots) > 1 or None in slots:
        said = ", ".join(f"{h.name} {'?' if h.slots is None else h.slots}" for h in hosts)
        raise InputError(
            f"{text}: a plan wants the same number of slots on every machine ({said}); write "
            "`slots=8` behind each name, or a size such as 4x8x80GB"
        )
    return len(hosts), int(slots.pop() or 0)


def _here(memory: float | None) -> tuple[Cluster, str]:
    """The GPUs of this machine; without one, eight of 80 GB, and a word that says so."""
    import torch

    if not torch.cuda.is_available():
        cluster = Cluster(1, 8, memory or USUAL)
        return cluster, (
            f"no GPU here, so 8x{cluster.memory / 1e9:g}GB is assumed; name yours behind the config"
        )
    found = float(torch.cuda.get_device_properties(0).total_memory)
    return Cluster(1, torch.cuda.device_count(), memory or found), ""
