"""Checkpoints that are whole or absent, and verified before they are used.

In: a DeepSpeed engine and the state of the run. Out: `checkpoints/step-00000100/`: DeepSpeed's files,
`state.json` (where training stands: a few integers, for data order, learning rate and random numbers
are functions of them) and `manifest.json` (sha256 of every file); `checkpoints/latest` names it.

DeepSpeed writes in place, without fsync or checksum, so a kill during a save leaves a folder that
looks finished. Here it writes to `step-….tmp`; then every file is flushed, digested and renamed, and
only then is `latest` moved. A resume compares every digest and takes the newest checkpoint that is
sound. The cost is one reading of the files at each end. A checkpoint of another world size is turned
into DeepSpeed's universal form first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json, sha256, sync, write_json, write_text
from pretrain.zero import Ranks


@dataclass(frozen=True)
class State:
    """Where a run stands.

    phase: index of the phase; step: optimizer steps since the start of the run; phase_step: since
    that of the phase; tokens and seconds (of training): since the start of the run; loss_first and
    loss_last: of the phase. world_size and zero_stage are those that wrote the checkpoint; identity
    says what it belongs to.
    """

    phase: int
    step: int
    phase_step: int
    tokens: int
    seconds: float
    loss_first: float
    loss_last: float
    resumed: int
    world_size: int
    zero_stage: int
    identity: str

    @classmethod
    def start(cls, world_size: int, zero_stage: int, identity: str) -> State:
        return cls(0, 0, 0, 0, 0.0, 0.0, 0.0, 0, world_size, zero_stage, identity)

    def after_step(self, tokens: int, loss: float, seconds: float) -> State:
        """The state one optimizer step later."""
        return replace(
            self,
            step=self.step + 1,
            phase_step=self.phase_step + 1,
            tokens=self.tokens + tokens,
            seconds=self.seconds + seconds,
            loss_first=self.loss_first if self.phase_step else loss,
            loss_last=loss,
        )


def _name(step: int) -> str:
    return f"step-{step:08d}"


def save(engine: Any, folder: Path, state: State, ranks: Ranks, *, keep: int) -> Path:
    """Save a checkpoint; every rank calls it. Keeps it and the `keep` − 1 before it.

    Checkpoints of later steps go: a run that has come to this step again passed them over, for they
    are damaged.
    """
    partial, target = folder / f"{_name(state.step)}.tmp", folder / _name(state.step)
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        remove_halves(folder)
    ranks.barrier()
    engine.save_checkpoint(str(folder), tag=partial.name, save_latest=False)
    ranks.barrier()
    if ranks.first:
        for script in folder.glob("zero_to_*.py"):  # DeepSpeed leaves its own tools there
            script.unlink()
        write_json(partial / "state.json", asdict(state))
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for path in files:
            sync(path)
        digests = {str(path.relative_to(partial)): sha256(path) for path in files}
        write_json(partial / "manifest.json", digests)
        if target.exists():
            remove(target)
        partial.rename(target)
        sync(folder)
        write_text(folder / "latest", target.name + "\n")
        before = [path for path in _found(folder) if path.name < target.name]
        for path in _found(folder):
            if path != target and path not in before[: keep - 1]:
                remove(path)
    ranks.barrier()
    return target


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that no half of it can be taken for a whole one."""
    gone = checkpoint.with_name(checkpoint.name + ".old.tmp")
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def remove_halves(folder: Path) -> None:
    """Delete what a save, a conversion or a removal that was killed has left there."""
    for path in folder.glob("*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _found(folder: Path) -> list[Path]:
    """Checkpoints by name, newest first; partial ones end in .tmp and are not among them."""
    return sorted(
        (path for path in folder.glob("step-*") if path.is_dir() and path.suffix != ".tmp"),
        reverse=True,
    )


def damage(checkpoint: Path) -> str | None:
    """Which file of a checkpoint is not as it was written; None where all are."""
    try:
        digests: dict[str, str] = read_json(checkpoint / "manifest.json")
    except (OSError, ValueError):
        return "manifest.json"
    for name, digest in digests.items():
        path = checkpoint / name
        if not path.is_file() or sha256(path) != digest:
            return name
    return None


def newest(folder: Path, identity: str, *, warn: Any = print) -> tuple[Path, State] | None:
    """The newest sound checkpoint and its state; None where there is none.

    Damaged ones are named through `warn` and passed over. Raises InputError where the newest sound
    one belongs to other data, another tokenizer or other settings (`identity`).
    """
    for path in _found(folder):
        bad = damage(path)
        if bad is not None:
            warn(f"{path}: {bad} is not as it was written; an older checkpoint is taken")
            continue
        state = State(**read_json(path / "state.json"))
        if state.identity != identity:
            raise InputError(
                f"{path}: was saved with another base, tokenizer, data or settings of pretrain; "
                f"move {folder.parent} aside to start anew, or restore the config that it was made with"
            )
        return path, state
    return None


def convert(checkpoint: Path, ranks: Ranks) -> Path:
    """The checkpoint in universal form, beside it as `universal.tmp/`: any world size can load it.

    Raises InputError where DeepSpeed's converter fails.
    """
    root = checkpoint.parent / "universal.tmp"
    problem = None
    if ranks.first:
        shutil.rmtree(root, ignore_errors=True)
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
        command += [
            "--input_folder",
            str(checkpoint),
            "--output_folder",
            str(root / checkpoint.name),
        ]
        command += ["--inject_missing_state"]
        done = subprocess.run(
            command,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            problem = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        else:
            write_text(root / "latest", checkpoint.name)
            write_text(root / "latest_universal", checkpoint.name)
    problem = ranks.broadcast(problem)
    if problem:
        raise InputError(
            f"{checkpoint}: was saved by other ranks and cannot be converted for {ranks.world_size} "
            f"({problem}); resume with the number of ranks in its state.json"
        )
    return root / checkpoint.name


def check_stage(checkpoint: Path, saved: int, wanted: int) -> None:
    """Raise InputError where the ZeRO stage changed: the files of each stage have another layout."""
    if saved != wanted:
        raise InputError(
            f"pretrain.zero_stage: {checkpoint} was saved with stage {saved}, the config says {wanted}; "
            f"finish with zero_stage={saved}, or move pretrain/ aside to start anew"
        )


def load(engine: Any, checkpoint: Path) -> None:
    """Load weights and optimizer state into an engine; every rank calls it."""
    path, _ = engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    if path is None:
        raise RuntimeError(f"{checkpoint}: DeepSpeed found nothing to load")


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to `step`; a half-written last line goes too."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))
