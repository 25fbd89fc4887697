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
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json, sha256, write_json

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
        self.content["stages"][name] = {
            "status": "running",
            "keys": keys,
            "inputs": inputs,
            "code": code(),
            "machine": machine(),
            "started": now(),
            "seconds": earlier.get("seconds", 0.0) if same else 0.0,
        }
        self.save()

    def spent(self, name: str, seconds: float) -> None:
        """Add the time of an attempt, finished or not."""
        self.content["stages"][name]["seconds"] += round(seconds, 3)
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

    def forget(self, name: str) -> None:
        self.content["stages"].pop(name, None)
        self.save()

    def save(self) -> None:
        write_json(self.path, self.content)


def digest(value: Any) -> str:
    """sha256 of a JSON value, keys sorted."""
    encoded = json.dumps(value, ensure_ascii=False, sort_keys=True).encode()
    return hashlib.sha256(encoded).hexdigest()


def file_digests(paths: Iterable[Path], earlier: Entry | None) -> list[Entry]:
    """path, bytes, modified and sha256 of each file; `earlier` spares hashing what did not change."""
    known = {
        (item["path"], item["bytes"], item["modified"]): item["sha256"]
        for item in (earlier or {}).get("files", [])
    }
    found = []
    for path in paths:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        found.append(
            {
                "path": key[0],
                "bytes": key[1],
                "modified": key[2],
                "sha256": known.get(key) or sha256(path),
            }
        )
    return found


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
