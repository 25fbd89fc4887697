"""A cluster's file: what is right is read, what is wrong is said with its place and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.clusters.hostfile import Host, read_hostfile
from configs.clusters.load import examples, load_cluster
from configs.clusters.schema import Hosts, Slurm
from configs.errors import InputError


def written(folder: Path, text: str, name: str = "cluster.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def mistakes(source: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_cluster(source)
    return [line.removeprefix(f"{source}:") for line in caught.value.lines]


def test_every_bundled_example_is_right_and_of_the_kind_it_is_named_for() -> None:
    assert {"local", "hosts"} <= set(examples())
    for name in examples():
        assert load_cluster(name).kind == name


def test_a_path_in_the_file_starts_at_the_file(tmp_path: Path) -> None:
    cluster = load_cluster(written(tmp_path, "kind: hosts\nhostfile: my/hosts\nmin_nodes: 3\n"))
    assert isinstance(cluster, Hosts)
    assert (cluster.hostfile, cluster.min_nodes) == (str(tmp_path / "my" / "hosts"), 3)


def test_wrong_keys_are_compared_with_those_of_the_kind_and_all_told_at_once(
    tmp_path: Path,
) -> None:
    text = "kind: slurm\nnode: 2\npartitoin: a\nsignal_seconds: 5\ngpus: two\n"
    said = mistakes(written(tmp_path, text))
    assert [line.split(":")[:3] for line in said] == [
        ["2", "1", " node"],
        ["3", "1", " partitoin"],
        ["4", "1", " signal_seconds"],
        ["5", "1", " gpus"],
    ]
    assert "did you mean nodes?" in said[0] and "did you mean partition?" in said[1]
    assert "from 60 to 65,535" in said[2] and "whole number" in said[3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: slrum\n", "1:1: kind: 'slrum' is no kind; did you mean slurm?"),
        ("nodes: 2\n", "1:1: kind: missing; write one of local, hosts, slurm, kubernetes"),
        ("kind: [slurm]\n", "1:1: kind: 'a list' is no kind"),
        ("- a\n", "1:1: is no cluster"),
        ("", "1:1: is no cluster"),
        ("kind: local\ngpus: 2\n", "2:1: gpus: no such key; did you mean processes?"),
        ("kind: local\nprocesses: 0\n", "2:1: processes: 0 is not a whole number"),
        ("kind: hosts\n", "give the machines once"),
        ("kind: hosts\nhosts: [a, a slots=2]\n", "2:1: hosts: names a twice"),
        ("kind: hosts\nhosts: [a]\nmin_nodes: 2\n", "3:1: min_nodes: asks for 2 of 1 machines"),
        ("kind: hosts\nhosts: ['-oProxyCommand=x']\n", "2:9: hosts.0: '-oProxyCommand=x' is not a"),
        ("kind: hosts\nhosts: [a slots=0]\n", "2:9: hosts.0: 'a slots=0' is a machine without"),
        ("kind: local\nenvironment: {A: 1}\n", "2:15: environment.A: 1 is not text; put it in quo"),
    ],
)
def test_a_wrong_cluster_is_answered_with_place_and_remedy(
    tmp_path: Path, text: str, says: str
) -> None:
    said = mistakes(written(tmp_path, text))
    assert len(said) == 1 and says in said[0]


def test_a_name_that_is_no_file_and_no_example_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean hosts"):
        load_cluster("host")
    written(tmp_path, "kind: local\n")
    with pytest.raises(InputError, match=r"did you mean .*cluster\.yaml"):
        load_cluster(str(tmp_path / "clutser.yaml"))


def test_a_deepspeed_hostfile_is_read_and_each_wrong_line_named(tmp_path: Path) -> None:
    text = "# my machines\nnode0 slots=8\n\nme@node1   slots = 4 # slow\n10.0.0.3\n"
    path = Path(written(tmp_path, text, "hostfile"))
    assert read_hostfile(path) == [Host("node0", 8), Host("me@node1", 4), Host("10.0.0.3")]
    path.write_text("node0 slots=8\nnode1 slots=eight\nnode0\n-v slots=1\n")
    with pytest.raises(InputError) as caught:
        read_hostfile(path)
    two, three, four = caught.value.lines
    assert two.startswith(f"{path}:2: 'node1 slots=eight' is not a machine")
    assert three.startswith(f"{path}:3: node0 stands in line 1 too")
    assert four.startswith(f"{path}:4: '-v slots=1' is not a machine")
    path.write_text("# none yet\n")
    with pytest.raises(InputError, match="names no machine"):
        read_hostfile(path)


def test_slurm_takes_what_sbatch_takes(tmp_path: Path) -> None:
    text = "kind: slurm\nnodes: 4\ngpus: 8\ntime: 2-00:00:00\nextra: ['--exclusive']\n"
    cluster = load_cluster(written(tmp_path, text))
    assert isinstance(cluster, Slurm)
    assert (cluster.nodes, cluster.time, cluster.extra) == (4, "2-00:00:00", ["--exclusive"])
