"""How many GPUs a plan reckons with: a size in words, or the cluster file that a launch would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import InputError
from launch.cluster_size import Cluster, cluster_size


@pytest.mark.parametrize(
    "text", ["8", "8x", "x80GB", "0x80GB", "8x0GB", "0x8x80GB", "eight", "8x80"]
)
def test_what_is_no_cluster_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="8x80GB"):
        cluster_size(text, None)


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "machines", "gpus"),
    [
        ("kind: slurm\nnodes: 4\ngpus: 8\n", 4, 8),
        ("kind: hosts\nhosts: [a slots=2, b slots=2, c slots=2]\n", 3, 2),
        ("kind: hosts\nhostfile: hostfile\n", 2, 8),
        ("kind: kubernetes\nimage: x\nvolume: v\nnodes: 2\ngpus: 4\n", 2, 4),
    ],
)
def test_a_cluster_file_tells_machines_and_gpus_and_the_memory_stands_beside_it(
    text: str, machines: int, gpus: int, tmp_path: Path
) -> None:
    (tmp_path / "hostfile").write_text("a slots=8\nb slots=8\n")
    path = write(tmp_path, text)
    assert cluster_size(path, 40e9) == (Cluster(machines, gpus, 40e9), "")
    assumed, note = cluster_size(path, None)
    assert assumed == Cluster(machines, gpus, 80e9)
    assert "80 GB assumed" in note and "--gpu-memory" in note


def test_a_bundled_example_is_a_cluster_too() -> None:
    assert cluster_size("hosts", 80e9)[0] == Cluster(2, 8, 80e9)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("kind: slurm\nnodes: 4\n", "gpus: 0 of each machine"),
        ("kind: hosts\nhosts: [a slots=2, b slots=4]\n", "same number of slots.*a 2, b 4"),
        ("kind: hosts\nhosts: [a, b]\n", r"same number of slots.*a \?, b \?"),
        ("kind: slurm\nnode: 4\n", "node.*nodes"),
    ],
)
def test_a_file_that_leaves_the_gpus_open_is_refused_with_what_to_write(
    text: str, wrong: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=wrong):
        cluster_size(write(tmp_path, text), None)


def test_a_size_and_a_memory_beside_it_are_one_too_many() -> None:
    with pytest.raises(InputError, match="tells the memory"):
        cluster_size("8x80GB", 40e9)
