"""`malmoi status RUN`: running, done or failed, why, how far, and the exact command that goes on.

In: a run folder, in whatever state a kill, a full disk or another machine left it. Out: a `Status`.
Nothing is written, nothing asked of the run: the lock says whether somebody holds the folder,
`command.json` who and how it ended, lineage.json which stages are finished, the trainer's own files how
far it is. A file that is half-written or missing makes the answer poorer, never wrong.

The decision: a run that is neither held nor recorded as ended was killed. That needs no process to
have said anything, so it is right in the instant after a SIGKILL.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json
from configs.load import load
from launch import holder as holders
from launch.console import amount, duration
from launch.stop_request import requested

STAGES = ("dedup", "tokenizer", "pretrain")
MARKS = ("lineage.json", holders.COMMAND, "dedup/report.json", "pretrain/report.json")
"""Files of which a run folder has one; before the first there is its lock, with a name in it."""
TRAINING_LOCK = ".training.lock"
TAIL = 65_536  # bytes from the end of a log in which its last record is looked for
QUIET = 600.0  # seconds without a new figure after which a running training's silence is told


@dataclass(frozen=True)
class Status:
    """How a run stands.

    state: queued (a Slurm job waits or begins); running; stopping (asked to, or its launcher is gone and the ranks still save); stopped (on
    request); failed; done; new (nothing has run yet). stages: stage → done, running or waiting. step
    and steps: optimizer steps of the training, of all phases where they are known. quiet: seconds
    since the last figure. holder: who holds the folder, or held it last.
    """

    run: str
    state: str
    why: str
    stages: dict[str, str]
    resume: str | None = None
    stage: str | None = None
    phase: str | None = None
    step: int | None = None
    phase_step: int | None = None
    phase_steps: int | None = None
    loss: float | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    quiet: float | None = None
    checkpoint: str | None = None
    holder: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def is_run(folder: Path) -> bool:
    """Whether a folder is, or was begun as, a run's."""
    return any((folder / name).is_file() for name in MARKS) or holders.holder(folder) is not None


def check_run(folder: Path) -> None:
    """Raise InputError where a folder is no run's, and name the runs that lie in it."""
    if is_run(folder):
        return
    if not folder.exists():
        inside = sorted(path for path in folder.parent.glob("*") if is_run(path))
        what = "no such folder"
    else:
        inside = (
            sorted(path for path in folder.glob("*") if is_run(path)) if folder.is_dir() else []
        )
        what = "holds no run"
        if not inside and is_run(folder.parent):
            inside = [folder.parent]
    hint = f"did you mean {', '.join(map(str, inside[:5]))}?" if inside else (
        "give a run folder such as runs/quickstart"
    )  # fmt: skip
    raise InputError(f"{folder}: {what}; {hint}")


def status(folder: Path) -> Status:
    """How the run in `folder` stands. Raises InputError where the folder is no run's."""
    check_run(folder)
    # asked first: who let go of the folder has written down before how it ended
    is_held = holders.held(folder / holders.LOCK)
    command = holders.last_command(folder)
    last = holders.holder(folder)
    by = last or holders.Holder.of(command)
    notes: list[str] = []
    stages = _stages(folder, command, notes)
    state, why = _state(folder, is_held, command, last, stages)
    if state not in ("running", "stopping") and (queued := _in_queue(folder)):
        state, why = "queued", queued
    argv, directory = _words(command, by)
    if command.get("outcome") == "done":
        argv = _following(argv, stages)
    training = _training(folder)
    stage = next((name for name, said in stages.items() if said == "running"), None)
    if state == "running" and (training.get("quiet") or 0) > QUIET and stage == "pretrain":
        notes.append(
            f"no new figure for {duration(training['quiet'])}: look at {folder / 'logs'}, or end it "
            f"with malmoi stop {folder}"
        )
    return Status(
        run=str(folder),
        state=state,
        why=why,
        stages=stages,
        resume=None
        if state in ("done", "running", "queued")
        else holders.resume_command(argv, directory, folder),
        stage=stage,
        checkpoint=_checkpoint(folder),
        holder=asdict(by) if by is not None else None,
        notes=notes,
        **training,
    )


def _words(command: dict[str, Any], by: holders.Holder | None) -> tuple[Sequence[str], str]:
    argv = command.get("argv")
    if isinstance(argv, list) and argv:
        return [str(word) for word in argv], str(command.get("directory") or "")
    return (by.argv, by.directory) if by is not None and by.argv else ((), "")


def _following(argv: Sequence[str], stages: dict[str, str]) -> list[str]:
    """The command for the stage behind the one that `malmoi STAGE CONFIG` has finished."""
    waiting = next((name for name, said in stages.items() if said != "done"), None)
    at = 3 if list(argv[1:2]) == ["launch"] else 1
    if waiting is None or list(argv[at : at + 1]) not in [[name] for name in STAGES]:
        return list(argv)
    return [*argv[:at], waiting, *argv[at + 1 :]]


def _state(
    folder: Path,
    is_held: bool,
    command: dict[str, Any],
    last: holders.Holder | None,
    stages: dict[str, str],
) -> tuple[str, str]:
    asked = requested(folder)
    if is_held:
        if asked is not None:
            return "stopping", f"asked to by {asked}; it finishes its step and saves"
        return "running", ""
    elsewhere = last is not None and last.host != platform.node()
    if elsewhere and _recent(folder / holders.LOCK) and holders.beats(folder):
        return ("stopping", f"asked to by {asked}") if asked is not None else ("running", "")
    if holders.held(folder / TRAINING_LOCK):
        return "stopping", "its launcher is gone; the ranks finish their step, save and leave"
    outcome = command.get("outcome")
    if outcome in ("stopped", "failed"):
        return str(outcome), str(command.get("why") or "")
    if stages and all(said == "done" for said in stages.values()):
        return "done", ""
    if outcome == "done":
        return "new", "the stages that were asked for are done, others have not run"
    if command or last is not None or _not_left(folder):
        gone = f"process {last.pid} on {last.host}" if last is not None else "its process"
        return "failed", (
            f"{gone} is gone without a word: it was killed (SIGKILL, out of memory), or the machine "
            "went down"
        )
    if any(said == "running" for said in stages.values()):
        return "failed", "a stage was begun and never ended, and no process holds the folder"
    return "new", "nothing has run yet"


def _in_queue(folder: Path) -> str:
    """What Slurm says of the job that was submitted for this run; "" where there is none to wait for."""
    try:
        jobs = [str(job) for job in read_json(folder / "slurm.json")["jobs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if not jobs or shutil.which("squeue") is None:
        return ""
    words = ["squeue", "--noheader", "--jobs", ",".join(jobs), "--format", "%i %T (%r)"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=15)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return f"Slurm job {'; '.join(lines)}; scancel {' '.join(jobs)} takes it back" if lines else ""


def _not_left(folder: Path) -> bool:
    """Whether the lock still names a holder: a clean end empties it."""
    try:
        return (folder / holders.LOCK).stat().st_size > 0
    except OSError:
        return False


def _recent(path: Path) -> bool:
    try:
        return abs(time.time() - path.stat().st_mtime) < 10 * holders.FRESH  # clocks may differ
    except OSError:
        return False


def _stages(folder: Path, command: dict[str, Any], notes: list[str]) -> dict[str, str]:
    """What the config asks for, and what lineage.json says of it."""
    wanted: list[str] = []
    try:
        config = load(str(folder / "config.yaml"))
        wanted = [name for name in STAGES if getattr(config, name) is not None]
    except InputError as error:
        if (folder / "config.yaml").exists():
            notes.append(error.lines[0])
        wanted = [name for name in STAGES if name in command.get("stages", [])]
    found: dict[str, Any] = {}
    if (folder / "lineage.json").is_file():
        try:
            found = read_json(folder / "lineage.json")["stages"]
        except (OSError, ValueError, KeyError, TypeError):
            notes.append(f"{folder / 'lineage.json'}: cannot be read; what is finished is unknown")
    names = [name for name in STAGES if name in wanted or name in found]
    said = {
        name: found[name].get("status", "waiting") if name in found else "waiting" for name in names
    }
    return {
        name: value if value in ("done", "running") else "waiting" for name, value in said.items()
    }


# ── how far a training is ───────────────────────────────────────────────────────────────────────


def _training(folder: Path) -> dict[str, Any]:
    """The last whole step of metrics.jsonl, and where it stands in its phase."""
    stage = folder / "pretrain"
    found: dict[str, Any] = {}
    metrics = stage / "metrics.jsonl"
    record = next((r for r in _last(metrics) if "loss" in r), None)
    if record is not None:
        found = {
            name: record.get(name)
            for name in ("phase", "step", "loss", "tokens", "tokens_per_second")
        }
    tuned = sorted((stage / "preference").glob("*/metrics.jsonl"))
    if tuned and tuned[-1].stat().st_mtime >= (metrics.stat().st_mtime if metrics.is_file() else 0):
        later = next((r for r in _last(tuned[-1]) if "loss" in r), None)
        if later is not None:  # steps of a preference phase are counted from 1
            metrics, record = tuned[-1], later
            found = {
                name: record.get(name)
                for name in ("phase", "step", "loss", "tokens", "tokens_per_second")
            }
    progress = next((r for r in _last(stage / ".progress.jsonl") if r.get("unit") == "steps"), None)
    if progress is not None:
        done, total = progress.get("done"), progress.get("total")
        found |= {
            "phase": progress.get("step"),
            "phase_step": int(done) if done is not None else None,
            "phase_steps": int(total) if total is not None else None,
        }
    if record is not None or progress is not None:
        times = [p.stat().st_mtime for p in (metrics, stage / ".progress.jsonl") if p.is_file()]
        found["quiet"] = round(max(0.0, time.time() - max(times)), 1)
    return found


def _last(path: Path) -> list[dict[str, Any]]:
    """The whole JSON records at the end of a log, the newest first; a half-written one is left out."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - TAIL))
            lines = handle.read().split(b"\n")
    except OSError:
        return []
    records = []
    for line in reversed(lines[:-1]):  # what stands behind the last newline is not whole
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _checkpoint(folder: Path) -> str | None:
    tuned = [
        mark.parent for mark in (folder / "pretrain").glob("preference/*/checkpoint-*/malmoi.json")
    ]
    if tuned:  # of a preference phase, which comes after all others
        newest = max(tuned, key=lambda path: (path.parent.name, int(path.name.partition("-")[2])))
        return str(newest.relative_to(folder / "pretrain"))
    try:
        name = (folder / "pretrain" / "checkpoints" / "latest").read_text().strip()
    except (OSError, ValueError):
        return None
    return name if (folder / "pretrain" / "checkpoints" / name).is_dir() else None


# ── for a reader ────────────────────────────────────────────────────────────────────────────────


def said(found: Status) -> str:
    """The status as a person reads it."""
    lines = [f"{found.run}: {found.state}"]
    if found.why:
        lines += [f"  {line}" for line in found.why.splitlines()]
    if found.stages:
        lines.append("  " + ", ".join(f"{name} {value}" for name, value in found.stages.items()))
    by = holders.Holder.of(found.holder) if found.holder else None
    if by is not None:
        verb = "held by" if found.state in ("running", "stopping") else "last held by"
        lines.append(f"  {verb} {by}")
    if found.step is not None:
        parts = [f"step {found.step:,}"]
        if found.phase and found.phase_steps:
            parts.append(f"phase {found.phase} {found.phase_step:,} of {found.phase_steps:,}")
        if found.loss is not None:
            parts.append(f"loss {found.loss:.3f}")
        if found.tokens:
            parts.append(f"{amount(found.tokens)} tokens")
        if found.tokens_per_second and found.state == "running":
            parts.append(f"{found.tokens_per_second:,.0f} tokens/s")
        if found.quiet is not None:
            parts.append(f"{duration(found.quiet)} ago")
        lines.append("  " + ", ".join(parts))
    if found.checkpoint:
        lines.append(f"  newest checkpoint {found.checkpoint}")
    lines += [f"  {note}" for note in found.notes]
    if found.resume:
        lines.append(f"  go on with: {found.resume}")
    return "\n".join(lines)


def as_json(found: Status) -> str:
    return json.dumps(asdict(found), ensure_ascii=False)
