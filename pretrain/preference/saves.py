"""Checkpoints of a preference phase: TRL's own folders, with a mark when they are whole.

transformers writes `checkpoint-12/` in place, so a kill in a save leaves a folder that looks finished.
`malmoi.json` is written last, when every file is on the disk: step, what the checkpoint belongs to, and
the size of each file. A folder without it, or with a file of another size, is removed at the next start.
One that is whole and belongs to other ranks, another ZeRO stage or batch is kept under another name until
the phase is done: the run may go back to them. metrics.jsonl as it was then travels in the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from configs.files import read_json, sync, write_json

MARK = "malmoi.json"


METRICS = "metrics.jsonl"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-").partition(".")[0])


def _folders(folder: Path, *, others: bool) -> list[Path]:
    """Checkpoints, newest first; with `others` also those under another name."""
    found = [
        path
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").partition(".")[0].isdigit()
        and (others or "." not in path.name)
    ]
    return sorted(found, key=step_of, reverse=True)


def seal(path: Path, belongs: dict[str, Any], metrics: Path) -> None:
    """Mark a written checkpoint as whole. belongs: what a resume must agree with."""
    shutil.copyfile(metrics, path / METRICS)
    sizes = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != MARK:
            sync(file)
            sizes[str(file.relative_to(path))] = file.stat().st_size
    write_json(path / MARK, {"step": step_of(path), "belongs": belongs, "files": sizes})


def keep_newest(folder: Path, count: int) -> None:
    """Remove whole checkpoints but the newest `count`; with 0 also those under another name."""
    whole = [path for path in _folders(folder, others=not count) if (path / MARK).is_file()]
    for path in whole[count:]:
        shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path, belongs: dict[str, Any]) -> tuple[Path | None, bool]:
    """The newest whole checkpoint that belongs here, and whether there are whole ones that do not.

    What is not whole is removed.
    """
    own: list[Path] = []
    others = False
    for path in _folders(folder, others=True):
        whole = _whole(path)
        if whole is None:
            shutil.rmtree(path, ignore_errors=True)
        elif whole == belongs:
            own.append(path)
        else:
            others = True
            digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]
            aside = path.with_name(f"checkpoint-{step_of(path)}.{digest}")
            if path != aside:
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
    back = [path.with_name(f"checkpoint-{step_of(path)}") for path in own]
    for path, name in zip(own, back, strict=True):
        if path != name:
            path.rename(name)
    return (back[0] if back else None), others


def _whole(path: Path) -> dict[str, Any] | None:
    """What a checkpoint belongs to; None where it is not whole."""
    try:
        mark = read_json(path / MARK)
        same = all((path / name).stat().st_size == size for name, size in mark["files"].items())
        return dict(mark["belongs"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
