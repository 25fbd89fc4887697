"""What went into a run and what came out: lineage.json, the truth that MLflow mirrors.

Per stage: the config keys that decide its output, digests of its inputs, the code, the machine, the
time, and a digest of every output file. From it `run.py` decides what is finished and unchanged.
A file is hashed once; while its size and modification time stay the same its digest is reused.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json, sha256, write_json
from configs.machine import cores

Entry = dict[str, Any]


class Lineage:
    """lineage.json of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lineage.json"
        self.folder = folder
        self.content: Entry = {"malmoi": code()["version"], "stages": {}}
        if self.path.is_file():
            try:
                self.content = read_json(self.path)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{self.path}:{error.lineno}:{error.colno}: is not JSON; restore it, or move it "
                    "away to start the run's stages anew"
                ) from None

    def stage(self, name: str) -> Entry | None:
        return self.content["stages"].get(name)

    def begin(self, name: str, keys: Entry, inputs: Entry) -> None:
        """Note that a stage starts, or goes on, with these keys and inputs."""
        earlier = self.stage(name) or {}
        same = earlier.get("keys") == keys and earlier.get("inputs") == inputs
        attempt = {"started": now(), "seconds": None, "machine": machine(), "code": code()}
        self.content["stages"][name] = {
            "status": "running",
            "keys": keys,
            "inputs": inputs,
            "code": code(),
            "machine": machine(),
            "attempts": [*earlier.get("attempts", []), attempt] if same else [attempt],
            "started": now(),
            "seconds": earlier.get("seconds", 0.0) if same else 0.0,
        }
        self.save()

    def spent(self, name: str, seconds: float) -> None:
        """Add the time of an attempt, finished or not."""
        self.content["stages"][name]["seconds"] += round(seconds, 3)
        self.content["stages"][name]["attempts"][-1]["seconds"] = round(seconds, 3)
        self.save()

    def finish(self, name: str, files: Iterable[Path]) -> None:
        """Note that a stage is done, with a digest of each of its files."""
        entry = self.content["stages"][name]
        entry["status"] = "done"
        entry["ended"] = now()
        entry["outputs"] = {
            str(path.relative_to(self.folder)): sha256(path) for path in sorted(files)
        }
        entry["digest"] = digest(entry["outputs"])
        self.save()

    def output_changed(self, name: str, path: Path) -> None:
        """Note that a file of a finished stage was written anew (the card, with its scores)."""
        entry = self.stage(name) or {}
        key = str(path.relative_to(self.folder))
        if key in entry.get("outputs", {}) and path.is_file():
            entry["outputs"][key] = sha256(path)
            entry["digest"] = digest(entry["outputs"])
            self.save()

    def forget(self, name: str) -> None:
        self.content["stages"].pop(name, None)
        self.save()

    def save(self) -> None:
        write_json(self.path, self.content)


def digest(value: Any) -> str:
    """sha256 of a JSON value, keys sorted."""
    encoded = json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
    return hashlib.sha256(encoded).hexdigest()


_ONE_BY_ONE = 10_000
"""Files up to which each has an entry and its content is hashed. A million would take minutes to hash
before the stage begins, and 250 MB of lineage.json."""


def file_digests(paths: Iterable[Path], earlier: Entry | None) -> list[Entry]:
    """path, bytes, modified and sha256 of each file; `earlier` spares hashing what did not change.

    Of more than 10,000 files: an entry per folder, with the number of its files, their bytes, the
    latest change, and the sha256 of their names, sizes and times instead of their content.
    """
    paths = list(paths)
    if len(paths) > _ONE_BY_ONE:
        return _by_folder(paths)
    known = {
        (item["path"], item["bytes"], item["modified"]): item["sha256"]
        for item in (earlier or {}).get("files", [])
    }

    def entry(path: Path) -> Entry:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        content = known.get(key) or sha256(path)
        return {"path": key[0], "bytes": key[1], "modified": key[2], "sha256": content}

    with ThreadPoolExecutor(cores()) as threads:  # hashing lets go of the interpreter
        return list(threads.map(entry, paths))


def _by_folder(paths: list[Path]) -> list[Entry]:
    folders: dict[str, list[tuple[str, int, int]]] = {}
    for path in map(str, paths):
        status = os.stat(path)  # noqa: PTH116 (a million times)
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append((name, status.st_size, status.st_mtime_ns))
    return [
        {
            "path": f"{folder}/",
            "files": len(files),
            "bytes": sum(size for _, size, _ in files),
            "modified": max(changed for _, _, changed in files),
            "sha256": digest(sorted(files)),
        }
        for folder, files in folders.items()
    ]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def code() -> Entry:
    """Version of this package, and the commit where it runs from a checkout."""
    try:
        number = version("malmoi")
    except PackageNotFoundError:
        number = "unknown"
    root = Path(__file__).resolve().parent.parent
    commit = None
    if (root / ".git").exists():
        try:
            commit = subprocess.run(
                ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            commit = None
    return {"version": number, "commit": commit}


@cache
def machine() -> Entry:
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
