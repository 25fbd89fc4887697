"""Checkpoints of a preference phase: TRL's own folders, with a mark when they are whole.

transformers writes `checkpoint-12/` in place, so a kill in a save leaves a folder that looks finished.
`malmoi.json` is written last, when every file is on the disk: step, what the checkpoint belongs to, and
the size of each file. A folder without it, or with a file of another size, is removed at the next start.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from configs.files import read_json, sync, write_json

MARK = "malmoi.json"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _folders(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    return sorted(found, key=step_of, reverse=True)


def seal(path: Path, belongs: dict[str, Any]) -> None:
    """Mark a written checkpoint as whole. belongs: what a resume must agree with."""
    sizes = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != MARK:
            sync(file)
            sizes[str(file.relative_to(path))] = file.stat().st_size
    write_json(path / MARK, {"step": step_of(path), "belongs": belongs, "files": sizes})


def keep_newest(folder: Path, count: int) -> None:
    """Remove whole checkpoints but the newest `count`."""
    for path in [path for path in _folders(folder) if (path / MARK).is_file()][count:]:
        shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path, belongs: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint that belongs here; what is not whole, or not ours, is removed."""
    for path in _folders(folder):
        if _whole(path) == belongs:
            return path
        shutil.rmtree(path, ignore_errors=True)
    return None


def _whole(path: Path) -> dict[str, Any] | None:
    """What a checkpoint belongs to; None where it is not whole."""
    try:
        mark = read_json(path / MARK)
        same = all((path / name).stat().st_size == size for name, size in mark["files"].items())
        return dict(mark["belongs"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
