"""A run that goes on from another run's checkpoint: train the stable part once, decay from any step.

In: `pretrain.start_from`, a checkpoint folder, or a run folder for its newest checkpoint. Out: that
checkpoint as this run's own, optimizer included, with the metrics up to its step; training then resumes
from it as from any other. Files are linked where the disk allows, so a fork takes no space.

What the two configs must share is what decided the steps so far: base, tokenizer, documents, seed,
optimizer, the phases before. Of the phase that is forked, `tokens` (or epochs), `schedule`, `lr` and
`mixture` may differ, and all phases after it. `tokens` still counts from the phase's start: a stable
part of 8B and `decay: 2B tokens` make 10B, and the fork is bit for bit the run that planned them.
"""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json, sync, write_json
from pretrain.checkpoints import checkpoint
from pretrain.checkpoints.history import FINISHED
from pretrain.checkpoints.identity import Identity, differences
from pretrain.checkpoints.state import State, read_state

FORKED = "forked.json"  # in the stage's folder: what was forked, when all of it is there
FREE = ("tokens", "epochs", "schedule", "lr", "mixture")
"""Keys of the forked phase that may differ."""


def source_checkpoint(start_from: str) -> Path:
    """The checkpoint folder that `pretrain.start_from` means.

    Raises InputError where there is none, or it is damaged.
    """
    path = Path(start_from)
    if not (path / "state.json").is_file():
        places = (path / "pretrain" / "checkpoints", path / "checkpoints", path)
        found = next((found for place in places if (found := checkpoint.found(place))), None)
        if not found:
            raise InputError(
                f"pretrain.start_from: {start_from} holds no checkpoint; name a run folder, or one of "
                "the step-… folders in its pretrain/checkpoints"
            )
        path = found[0]
    bad = checkpoint.damage(path)
    if bad is not None:
        raise InputError(
            f"pretrain.start_from: {path}: {bad} is not as it was written; name another checkpoint"
        )
    return path


def fork(start_from: str, stage: Path, identity: Identity, steps_of: Any) -> None:
    """Make the checkpoint of another run this run's own, once.

    stage: this run's pretrain folder. steps_of: phase index → optimizer steps that this config gives
    it. Raises InputError where the two runs do not share what they must, or nothing is left to train.
    """
    own, mark = stage / "checkpoints", stage / FORKED
    if mark.is_file():
        return
    path = source_checkpoint(start_from)
    state = read_state(path)
    _check(path, state, identity, steps_of)
    state = replace(state, identity=identity.digest, resumed=0)
    if state.phase:
        _link_phases(path.parents[1], stage, state.phase, identity)
    metrics = path.parents[1] / "metrics.jsonl"
    if metrics.is_file():
        shutil.copyfile(metrics, stage / "metrics.jsonl")
        checkpoint.truncate_metrics(stage / "metrics.jsonl", state.step)
    partial = own / f"{path.name}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    _link_tree(path, partial, leave_out={"state.json", "identity.json", "manifest.json"})
    write_json(partial / "state.json", asdict(state))
    write_json(partial / "identity.json", identity.as_json())
    checkpoint.seal(partial, own / path.name)
    write_json(mark, {"checkpoint": str(path)})


def _check(path: Path, state: State, identity: Identity, steps_of: Any) -> None:
    phases = identity.settings["phases"]
    if state.phase >= len(phases):
        raise InputError(
            f"pretrain.start_from: {path} is of phase {state.phase}, and this config has phases 0 to "
            f"{len(phases) - 1}; keep the phases up to that one"
        )
    saved = read_json(path / "identity.json")
    shared = replace(identity, settings=_shared(identity.settings, state.phase))
    lines = differences({**saved, "settings": _shared(saved["settings"], state.phase)}, shared)
    if lines:
        raise InputError(
            f"pretrain.start_from: {path} belongs to a run that differs in what a fork must share "
            f"({'; '.join(lines)}); only {', '.join(FREE)} of phase {state.phase} and later phases may "
            "change"
        )
    steps = steps_of(state.phase)
    if state.phase_step >= steps:
        raise InputError(
            f"pretrain.phases.{state.phase}.tokens: make {steps} steps, and {path} has done "
            f"{state.phase_step} of them; tokens count from the phase's start, so give it more"
        )


def _shared(settings: dict[str, Any], phase: int) -> dict[str, Any]:
    """The settings that decided the steps up to a checkpoint in this phase."""
    kept = copy.deepcopy(settings)
    kept.pop("start_from", None)
    kept["phases"] = kept["phases"][: phase + 1]
    forked = kept["phases"][-1]
    for name in FREE:
        forked.pop(name, None)
    forked |= {"tokens": 1, "mixture": {"any": 1.0}}  # so that the schema takes it
    return kept


def _link_phases(source: Path, stage: Path, phase: int, identity: Identity) -> None:
    """Weights of the model's shape for the engine to load before the checkpoint replaces them, and the
    record of the phases before."""
    folders = sorted((source / "phases").glob("[0-9]*"), key=lambda path: int(path.name))
    folders = [path for path in folders if int(path.name) >= phase]
    if not folders:
        raise InputError(
            f"pretrain.start_from: {source / 'phases'} has no weights of phase {phase} or later; "
            "a checkpoint in a later phase can be forked only beside them"
        )
    target = stage / "phases" / str(phase)
    partial = target.with_name(target.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    _link_tree(folders[0], partial, leave_out={FINISHED})
    record = read_json(folders[0] / FINISHED)[:phase]
    for entry in record:
        entry["state"]["identity"] = identity.digest
        entry["identity"] = identity.as_json()
    write_json(partial / FINISHED, record)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    sync(target.parent)


def _link_tree(source: Path, target: Path, leave_out: set[str]) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir() or path.name in leave_out:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:
            shutil.copyfile(path, place)
