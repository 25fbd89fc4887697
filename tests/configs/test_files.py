"""Files appear whole or not at all, and what a killed process leaves is found and removed."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.files import atomic, remove_leftovers

WRITE = """
import sys, time
from pathlib import Path
from configs.files import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(60)
"""


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with pytest.raises(ValueError, match="changed my mind"), atomic(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        raise ValueError("changed my mind")
    assert not list(tmp_path.iterdir())
    with atomic(target) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "whole"


def test_two_hosts_that_write_the_same_file_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for host in ("node-a.example.org", "node-b.example.org", "odd@host"):
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        with atomic(tmp_path / "a.json") as temporary:
            temporary.write_text(host)
            names.add(temporary.name)
    assert len(names) == 3
    assert all(name.startswith(".a.json.") and name.endswith(".tmp") for name in names)


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path / "a.json")],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    half = tmp_path / process.stdout.readline().strip()
    remove_leftovers(tmp_path)
    assert half.read_text() == "half"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    old = tmp_path / f".b.json.{process.pid}.tmp"  # as earlier versions named them
    old.write_text("half")
    (tmp_path / ".mine.tmp").write_text("not ours")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]


def test_files_of_another_host_go_once_nobody_has_written_for_an_hour(tmp_path: Path) -> None:
    fresh, old = (tmp_path / f".a.{number}@elsewhere.tmp" for number in (1, 2))
    for path in (fresh, old):
        path.write_text("half")
    before = time.time() - 7200
    os.utime(old, (before, before))
    remove_leftovers(tmp_path)
    assert fresh.exists() and not old.exists()
