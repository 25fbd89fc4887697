"""The machines of a cluster: each one's own check, and what only shows between them.

In: a cluster file. Out: `Finding`s: of every machine what `machine.py` says there; then whether they run
the same code, how far their clocks are apart, whether they see the same folder, and how fast they
exchange what training exchanges (bandwidth.py, started on all of them at once).
"""

from __future__ import annotations

from pathlib import Path

from configs.clusters.schema import Cluster, Hosts, Kubernetes, Local, Slurm
from launch.doctor.finding import Finding
from launch.doctor.hosts import over_ssh
from launch.doctor.kubernetes import by_kubectl
from launch.doctor.machine import look
from launch.doctor.slurm import by_slurm


def look_at(cluster: Cluster, folder: Path) -> list[Finding]:
    """Every finding of a cluster. folder: where runs will lie, on all of its machines."""
    if isinstance(cluster, Hosts):
        return over_ssh(cluster, folder)
    if isinstance(cluster, Slurm):
        return by_slurm(cluster, folder)
    if isinstance(cluster, Kubernetes):
        return [*look(folder), *by_kubectl(cluster)]
    assert isinstance(cluster, Local)
    return look(folder)
