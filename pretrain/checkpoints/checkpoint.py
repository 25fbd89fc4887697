"""Checkpoint folders: whole or absent, verified before they are used, and which of them are kept.

`checkpoints/step-00000100/` holds DeepSpeed's files, `state.json` (where training stands),
`identity.json` (what it belongs to) and `manifest.json` (sha256 of every file);
`checkpoints/latest` names the newest.

DeepSpeed writes in place, without fsync or checksum, so a kill during a save leaves a folder that
looks finished. Here it writes to `step-….tmp` (saver.py); then every file is flushed and digested,
the manifest written, and the folder renamed. A resume compares every digest and takes the newest
checkpoint that is sound. The cost is one reading of the files at each end.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json, sha256, sync, write_json, write_text
from configs.schema import Checkpoint
from pretrain.checkpoints.identity import Identity, differences
from pretrain.checkpoints.state import LeftOut, State, read_state

READERS = 4  # files digested at a time; hashing leaves Python's lock alone


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def found(folder: Path) -> list[Path]:
    """Checkpoints by name, newest first; partial ones end in .tmp and are not among them."""
    return sorted(
        (path for path in folder.glob("step-*") if path.is_dir() and path.suffix != ".tmp"),
        reverse=True,
    )


# ── whole or absent ─────────────────────────────────────────────────────────────────────────────


def seal(partial: Path, target: Path) -> int:
    """Flush and digest a written folder, and give it its name; its size in bytes."""

    def digest(path: Path) -> str:
        sync(path)
        return sha256(path)

    files = sorted(path for path in partial.rglob("*") if path.is_file())
    with ThreadPoolExecutor(READERS) as readers:
        digests = list(readers.map(digest, files))
    names = [path.relative_to(partial).as_posix() for path in files]
    size = sum(path.stat().st_size for path in files)
    write_json(partial / "manifest.json", dict(zip(names, digests, strict=True)))
    if target.exists():
        remove(target)
    partial.rename(target)
    sync(target.parent)
    write_text(target.parent / "latest", target.name + "\n")
    return size


def damage(checkpoint: Path) -> str | None:
    """Which file of a checkpoint is not as it was written; None where all are."""
    try:
        digests: dict[str, str] = read_json(checkpoint / "manifest.json")
    except (OSError, ValueError):
        return "manifest.json"
    if not isinstance(digests, dict) or "state.json" not in digests:
        return "manifest.json"

    def sound(name: str) -> bool:
        path = checkpoint / name
        return path.is_file() and sha256(path) == digests[name]

    with ThreadPoolExecutor(READERS) as readers:
        for name, good in zip(digests, readers.map(sound, digests), strict=True):
            if not good:
                return name
    return None


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that no half of it can be taken for a whole one."""
    gone = checkpoint.with_name(checkpoint.name + ".old.tmp")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def remove_halves(folder: Path) -> None:
    """Delete what a save, a conversion or a removal that was killed has left there."""
    for path in folder.glob("*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# ── which to keep ───────────────────────────────────────────────────────────────────────────────


def kept(folder: Path, settings: Checkpoint, newest: int, rewind: int | None = None) -> set[Path]:
    """The checkpoints that stay: the last `keep`, every `keep_every` steps, and the best.

    rewind: how many steps a rollback would leave out before a jump (None: none will be rolled back);
    the newest checkpoint that lies so far back stays too, so that whatever step jumps, what is left out
    does not depend on where checkpoints happen to lie.

    Those of steps after `newest` do not: a run that has come to this step again passed them over, for
    they are damaged or saw what was left out.
    """
    candidates = [path for path in found(folder) if step_of(path) <= newest]
    stay = set(candidates[: settings.keep])
    if settings.keep_every is not None:
        stay |= {path for path in candidates if step_of(path) % settings.keep_every == 0}
    if settings.keep_best is not None:
        scores = {path: _score(path, settings.keep_best) for path in candidates}
        rated = [path for path in candidates if scores[path] is not None]
        stay |= set(sorted(rated, key=lambda path: (scores[path], path))[:1])
    if rewind is not None:
        stay |= set([path for path in candidates if step_of(path) <= newest - rewind][:1])
    return stay


def check_best(settings: Checkpoint, known: Collection[str]) -> None:
    """Raise InputError where the best is to be kept by text that is not held out."""
    if settings.keep_best is not None and settings.keep_best not in known:
        these = ", ".join(sorted(known)) or "none"
        raise InputError(
            f"pretrain.checkpoint.keep_best: no held-out text of {settings.keep_best}; there is of: "
            f"{these}; name one of them, or add documents of it (dedup.heldout keeps some back)"
        )


def _score(checkpoint: Path, name: str) -> float | None:
    """Held-out bits per byte of a source or language when the checkpoint was saved."""
    try:
        state = read_state(checkpoint)
    except (OSError, ValueError, TypeError):  # damaged: nothing is known of it
        return None
    return state.bits_per_byte.get(name) if state.bits_step == state.step else None


def prune(
    folder: Path,
    settings: Checkpoint,
    newest: int,
    held: Sequence[str] = (),
    rewind: int | None = None,
) -> None:
    """Delete what is not to be kept. held: names of folders that are being read elsewhere."""
    stay = kept(folder, settings, newest, rewind)
    for path in found(folder):
        if path not in stay and path.name not in held:
            remove(path)


# ── which to take ───────────────────────────────────────────────────────────────────────────────


def newest(
    folder: Path,
    identity: Identity,
    phase: int,
    *,
    left_out: Sequence[LeftOut] = (),
    warn: Callable[[str], Any] = print,
) -> tuple[Path, State] | None:
    """The newest sound checkpoint inside a phase, and its state; None where there is none.

    left_out: what the run is known to have left out; a checkpoint whose weights saw it is passed over.
    Damaged ones are named through `warn` and passed over. Raises InputError where the newest sound one
    belongs to another base, tokenizer, data or settings, and names the keys.
    """
    for path in found(folder):
        state = _readable(path)
        if state is not None and state.identity == identity.digest:
            if state.phase < phase:
                return None  # so do all older ones: what they led to is in the phase's start
            if state.phase > phase:
                continue
        bad = damage(path)
        if bad is not None:
            warn(f"{path}: {bad} is not as it was written; an older checkpoint is taken")
            continue
        state = read_state(path)
        _check_identity(path, state, identity)
        if state.phase == phase and all(state.never_saw(entry) for entry in left_out):
            return path, state
    return None


def _readable(checkpoint: Path) -> State | None:
    """The state, without a look at the large files; None where it is not as it was written."""
    try:
        digests = read_json(checkpoint / "manifest.json")
        if sha256(checkpoint / "state.json") == digests["state.json"]:
            return read_state(checkpoint)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _check_identity(path: Path, state: State, now: Identity) -> None:
    if state.identity == now.digest:
        return
    file = path / "identity.json"
    saved = read_json(file) if file.is_file() else None
    lines = ["its digest differs, and it is older than the record of settings"]
    if saved is not None:
        lines = differences(saved, now)
    if lines:
        raise InputError(
            f"{path}: was saved with another base, tokenizer, data or settings of pretrain "
            f"({'; '.join(lines)}); restore the config that it was made with, or move "
            f"{path.parents[1]} aside to start anew"
        )


# ── beside the checkpoints ──────────────────────────────────────────────────────────────────────


def load(engine: Any, checkpoint: Path) -> None:
    """Load weights and optimizer state into an engine; every rank calls it.

    Two faults of DeepSpeed 0.19 are mended: where ZeRO-3 loads the universal form, it gives every group
    of parameters the first one's weight decay, and all of them one step counter, which each counts up.
    """
    optimizer = engine.basic_optimizer
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    if path is None:
        raise RuntimeError(f"{checkpoint}: DeepSpeed found nothing to load")
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update(own)  # the same as were saved: they are part of the identity
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = copy.deepcopy(state["step"])


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to `step`; a half-written last line goes too."""
    if not path.is_file():
        return
    kept_lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] <= step:
            kept_lines.append(line + "\n")
    write_text(path, "".join(kept_lines))
