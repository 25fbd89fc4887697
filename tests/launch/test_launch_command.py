"""`malmoi launch` before any machine is spoken to: mistakes, dry runs, and what hosts are compared by."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.clusters.hostfile import Host
from configs.clusters.schema import Hosts
from configs.errors import InputError
from launch.clusters.agent import Meeting, parse_nodes
from launch.clusters.checks import address_of, differences
from launch.clusters.command import make_job
from launch.clusters.hosts import hosts_of
from launch.clusters.identity import code, commit, facts, packages, probe
from launch.clusters.ssh import ssh_words

ROOT = Path(__file__).resolve().parents[2]
TWO = Hosts(kind="hosts", hosts=["node0 slots=1", "me@node1"])


def malmoi(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_mistakes_in_cluster_stage_config_and_override_are_told_at_once_within_two_seconds(
    tmp_path: Path,
) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("kind: hosts\nhosts: [a]\nprot: 5\n")
    started = time.monotonic()
    done = malmoi("launch", str(cluster), "pretrian", "quickstart", "pretrain.zero_stag=2")
    took = time.monotonic() - started
    assert done.returncode == 2 and "Traceback" not in done.stderr
    stage, key, override = done.stderr.splitlines()
    assert stage == "error: pretrian: is no stage; did you mean pretrain?"
    assert key == f"error: {cluster}:3:1: prot: no such key; did you mean port?"
    assert "did you mean zero_stage?" in override
    assert took < 6  # two on an idle machine


def test_a_stage_that_the_config_does_not_have_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("name: mine\ndedup: {sources: [{name: a, language: ko, paths: [x]}]}\n")
    with pytest.raises(InputError, match="has no tokenizer section"):
        make_job("local", "tokenizer", str(config), [])


def test_the_cluster_decides_ranks_and_threads_and_auto_leaves_the_configs_own(
    tmp_path: Path,
) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("kind: local\nprocesses: 3\n")
    given = ["pretrain.processes=1", "pretrain.threads=5", f"dir={tmp_path / 'run'}"]
    job = make_job(str(cluster), "pretrain", "quickstart", given)
    assert job.config.pretrain is not None
    assert (job.config.pretrain.processes, job.config.pretrain.threads) == (3, 5)
    assert job.folder == tmp_path / "run" and job.stages == ["pretrain"]
    assert job.command.startswith(f"malmoi launch {cluster} pretrain quickstart pretrain.proc")
    assert make_job("local", "run", "quickstart", []).stages == ["dedup", "tokenizer", "pretrain"]


def test_a_dry_run_says_what_would_run_where_and_speaks_to_nobody(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("kind: hosts\nhosts: [nowhere.invalid slots=2, neither.invalid]\n")
    done = malmoi("launch", str(cluster), "run", "quickstart", f"dir={tmp_path}/r", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "dedup: starts" in done.stdout and "nowhere.invalid: ranks: 2" in done.stdout
    assert "neither.invalid: ranks: one per GPU" in done.stdout
    assert not (tmp_path / "r").exists()


def test_hosts_come_from_the_list_or_the_file_and_min_nodes_has_to_fit(tmp_path: Path) -> None:
    assert hosts_of(TWO) == [Host("node0", 1), Host("me@node1")]
    path = tmp_path / "hostfile"
    path.write_text("a slots=2\nb slots=2\n")
    assert hosts_of(Hosts(kind="hosts", hostfile=str(path))) == [Host("a", 2), Host("b", 2)]
    with pytest.raises(InputError, match="names 2 machines, and min_nodes asks for 3"):
        hosts_of(Hosts(kind="hosts", hostfile=str(path), min_nodes=3))


def test_ssh_gets_the_persons_words_first_and_a_quoted_command() -> None:
    cluster = TWO.model_copy(
        update={"ssh": ["-F", "my config"], "user": "anna", "folder": "/a b", "python": "/p"}
    )
    cluster = cluster.model_copy(update={"environment": {"NCCL_DEBUG": "WARN; rm"}})
    words = ssh_words(cluster, Host("node0"), ["train", "--run", "/r'x"])
    assert words[:3] == ["ssh", "-F", "my config"] and words[-2] == "node0"
    assert words[words.index("-l") + 1] == "anna" and "BatchMode=yes" in words
    assert words[-1] == (
        "cd '/a b' && exec env 'PYTHONPATH=/a b' 'NCCL_DEBUG=WARN; rm' /p -m launch.clusters.node "
        "train --run '/r'\"'\"'x'"
    )
    assert "-l" not in ssh_words(cluster, Host("me@node1"), ["check"])


def test_a_machine_with_other_files_or_packages_is_told_apart() -> None:
    assert differences(code(), commit(), packages()) == []
    other = code() | {"launch/run.py": "0", "launch/new.py": "1"}
    (said,) = differences(other, "f" * 40, packages())
    assert "has another malmoi: launch/new.py and 1 more differ" in said
    (said,) = differences(code(), commit(), packages() | {"torch": "2.0.0"})
    assert said.startswith("has other packages: torch 2.0.0, here")


def test_what_is_written_into_the_run_folder_is_seen_or_the_reason_told(tmp_path: Path) -> None:
    token = "a1b2"
    probe(tmp_path, token).write_text(token)
    here = facts(tmp_path, token, None)
    assert here["sees"] == "" and json.loads(json.dumps(here)) == here
    probe(tmp_path, token).write_text("another")
    assert facts(tmp_path, token, None)["sees"] == "has another file there"


@pytest.mark.parametrize(
    ("interface", "reached", "cards", "address"),
    [
        (None, "10.0.0.5", {"lo": "127.0.0.1", "eth0": "10.0.0.5"}, "10.0.0.5"),
        (None, "127.0.1.1", {"lo": "127.0.0.1", "eth0": "10.0.0.5"}, "10.0.0.5"),
        ("ib0", "10.0.0.5", {"eth0": "10.0.0.5", "ib0": "10.9.0.5"}, "10.9.0.5"),
    ],
)
def test_others_reach_a_machine_where_ssh_did_or_at_the_card_that_is_named(
    interface: str | None, reached: str, cards: dict[str, str], address: str
) -> None:
    cluster = TWO.model_copy(update={"interface": interface})
    said = {"host": "a", "address": reached, "cards": cards}
    assert address_of(cluster, said, several=True) == address


def test_a_card_that_is_not_there_is_answered_with_those_that_are() -> None:
    cluster = TWO.model_copy(update={"interface": "ib7"})
    said = {"host": "a", "address": "", "cards": {"lo": "127.0.0.1", "eth0": "10.0.0.5"}}
    with pytest.raises(InputError, match="no network card ib7 that is up; it has lo, eth0"):
        address_of(cluster, said, several=True)


def test_the_first_machine_hosts_the_rendezvous() -> None:
    meeting = Meeting("10.0.0.1:29400", "job", parse_nodes("1:2"), "10.0.0.1", 7.0)
    assert "is_host=1" in " ".join(meeting.words()) and "1:2" in meeting.words()
    other = Meeting("10.0.0.1:29400", "job", parse_nodes("2"), "10.0.0.2")
    assert "is_host" not in " ".join(other.words()) and other.nodes == (2, 2)
