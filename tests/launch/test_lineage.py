"""What lineage.json says of the files that a stage reads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from launch import lineage
from launch.inputs import changes


def write(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.txt" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(f"문서 {number}", encoding="utf-8")
    return paths


def test_each_file_has_its_digest(tmp_path: Path) -> None:
    paths = write(tmp_path, 5)
    found = lineage.file_digests(paths, None)
    assert [item["sha256"] for item in found] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    ]
    again = lineage.file_digests(paths, {"files": [{**item, "sha256": "known"} for item in found]})
    assert {item["sha256"] for item in again} == {"known"}  # unchanged files are not read again


def test_very_many_files_have_an_entry_for_each_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "_ONE_BY_ONE", 6)
    paths = write(tmp_path / "a", 5) + write(tmp_path / "b", 3)
    before = {"files": lineage.file_digests(paths, None)}
    assert [(item["path"], item["files"]) for item in before["files"]] == [
        (f"{tmp_path}/a/", 5),
        (f"{tmp_path}/b/", 3),
    ]
    assert lineage.file_digests(list(reversed(paths)), None)[::-1] == before["files"]
    os.utime(paths[6], ns=(1, 1))
    now = {"files": lineage.file_digests(paths, None)}
    assert changes(before, now) == [f"input changed: {tmp_path}/b/"]
