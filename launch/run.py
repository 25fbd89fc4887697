"""Stages in order; what is finished and unchanged is skipped.

A stage runs when lineage.json does not say that it finished with these very keys and inputs. If an
earlier result is there that other keys or inputs made, it is set aside by rename
(`dedup.before-1`), never overwritten. The inputs of a stage are digests of what it reads: when
deduplication runs again and writes the same documents, the tokenizer is not trained again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import InputError, NoSpace, is_no_space, no_space
from configs.files import read_json, write_text
from configs.load import changed_keys, dump, output_keys
from configs.schema import Config
from launch.console import Console, duration
from launch.holder import lock, recorded
from launch.inputs import changes, inputs_of, refuse
from launch.lineage import Entry, Lineage
from launch.machines import Machines

if TYPE_CHECKING:
    from launch.tracking import Tracker

STAGES = ("dedup", "tokenizer", "pretrain")
FOLDERS = {"dedup": ["dedup"], "tokenizer": ["tokenizer"], "pretrain": ["pretrain", "model"]}


@dataclass(frozen=True)
class Decision:
    """What is to be done about a stage, and why.

    action: "skip" (finished, unchanged), "start", "resume" (killed half way, unchanged) or "again"
    (something changed: the earlier output is set aside first). aside: only these folders of it.
    """

    stage: str
    action: Literal["skip", "start", "resume", "again"]
    reasons: tuple[str, ...] = ()
    keys: Entry = field(default_factory=dict, repr=False)
    inputs: Entry = field(default_factory=dict, repr=False)
    aside: tuple[str, ...] = ()

    def line(self) -> str:
        said = {
            "skip": "finished and unchanged, skipped",
            "start": "starts",
            "resume": "goes on where it was stopped",
            "again": "runs again",
        }[self.action]
        return f"{self.stage}: {said}" + "".join(f"\n    {reason}" for reason in self.reasons)


def configured(config: Config) -> list[str]:
    """The stages a config describes, in order."""
    return [stage for stage in STAGES if getattr(config, stage) is not None]


def decide(config: Config, lineage: Lineage, stage: str) -> Decision:
    """Compare a stage's keys and inputs with what lineage.json says made its output."""
    keys = output_keys(config, stage)
    earlier = lineage.stage(stage)
    inputs = inputs_of(config, lineage, stage, earlier)
    if earlier is None:
        leftover = [name for name in FOLDERS[stage] if (lineage.folder / name).exists()]
        if leftover:
            why = (f"{leftover[0]}/ is there, but lineage.json does not know it",)
            return Decision(stage, "again", why, keys, inputs)
        return Decision(stage, "start", (), keys, inputs)
    reasons = [
        f"{key} changed: {_value(earlier['keys'], key)} → {_value(keys, key)}"
        for key in changed_keys(earlier["keys"], keys)
    ]
    changed_inputs = changes(earlier["inputs"], inputs)
    reasons += changed_inputs
    if reasons and not changed_inputs and _only_preference(earlier["keys"], keys):
        # the phases before are as they were: their weights are gone on from
        aside = ("pretrain/preference", "pretrain/report.json", "model")
        return Decision(stage, "again", tuple(reasons), keys, inputs, aside)
    if reasons:
        return Decision(stage, "again", tuple(reasons), keys, inputs)
    if earlier["status"] != "done":
        return Decision(stage, "resume", (), keys, inputs)
    gone = [name for name in earlier["outputs"] if not (lineage.folder / name).is_file()]
    if gone:
        why = (f"{gone[0]} is gone" + (f" and {len(gone) - 1} more" if len(gone) > 1 else ""),)
        return Decision(stage, "again", why, keys, inputs)
    return Decision(stage, "skip", (), keys, inputs)


def _only_preference(before: Entry, now: Entry) -> bool:
    """Whether two trainings with other phases differ in their preference phases alone."""
    if "pretrain" not in now:
        return False
    others = [
        {**keys, "pretrain": {**keys["pretrain"], "phases": kept}}
        for keys in (before, now)
        if (kept := [p for p in keys["pretrain"]["phases"] if p.get("objective") != "preference"])
    ]
    return len(others) == 2 and not changed_keys(others[0], others[1])


def dry_run(config: Config, folder: Path, stages: Sequence[str]) -> list[str]:
    """What `run_stages` would do, a line a stage. Reads digests; writes nothing."""
    refuse(config, stages)
    lineage = Lineage(folder)
    lines, earlier_runs = [], None
    for stage in stages:
        if earlier_runs:
            lines.append(
                f"{stage}: runs after {earlier_runs} (skipped if its input comes out unchanged)"
                if lineage.stage(stage)
                else f"{stage}: starts"
            )
            continue
        decision = decide(config, lineage, stage)
        lines.append(decision.line())
        if decision.action != "skip":
            earlier_runs = stage
    return lines


def run_stages(
    config: Config,
    folder: Path,
    stages: Sequence[str],
    console: Console,
    *,
    machines: Machines | None = None,
    at_end: Callable[[], None] | None = None,
) -> dict[str, Decision]:
    """Run, resume or skip each stage; returns what was decided.

    machines: where stages run; None: on this machine. at_end: called when all are done, while the run
    folder is still held and tracked; what it writes is mirrored too. Raises InputError for the person's mistakes (a full disk is one), Stopped or
    KeyboardInterrupt after a stop. Whatever is raised, lineage.json says "running" for a stage that
    did not end, and the same call resumes.
    """
    from launch.tracking import Tracker

    refuse(config, stages)
    decisions: dict[str, Decision] = {}
    with _room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder), recorded(folder, stages):
            write_text(folder / "config.yaml", dump(config))
            lineage = Lineage(folder)
            with Tracker(config, folder, console) as tracker:
                for stage in stages:
                    decision = decide(config, lineage, stage)
                    if not decisions:
                        console.say(f"{config.name} → {folder}")
                    decisions[stage] = decision
                    console.say(decision.line())
                    if decision.action != "skip":
                        _run_one(decision, config, lineage, tracker, console, machines)
                if at_end is not None:
                    at_end()
    return decisions


def _run_one(
    decision: Decision,
    config: Config,
    lineage: Lineage,
    tracker: Tracker,
    console: Console,
    machines: Machines | None,
) -> None:
    """Run or resume one stage, with its log, its time and its entry in lineage.json."""
    stage, folder = decision.stage, lineage.folder
    if decision.action == "again":
        _set_aside(folder, decision.aside or FOLDERS[stage], console)
    if stage == "pretrain":  # they are what the model before this one said
        (folder / "replies.json").unlink(missing_ok=True)
    lineage.begin(stage, decision.keys, decision.inputs)
    started = time.monotonic()
    tracker.begin(stage, resumed=decision.action == "resume")
    if stage != "pretrain":  # whose ranks write logs of their own
        console.log_to(folder / "logs" / f"{stage}-{os.uname().nodename}-0.log")
    try:
        console.note(decision.line())
        _run_stage(decision, config, folder, console, machines)
        console.note(f"{stage}: done in {duration(time.monotonic() - started)}")
    except BaseException as error:
        console.note(f"{stage}: {type(error).__name__}: {error}".rstrip(": "))
        raise
    finally:
        console.close()
        console.log_to(None)
        with suppress(OSError):  # on a full disk: the error that is on its way says more
            lineage.spent(stage, time.monotonic() - started)
    lineage.finish(stage, _outputs(folder, stage))
    tracker.end(stage, lineage)
    console.say(f"{stage}: done in {duration(time.monotonic() - started)}")


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Turn a full disk, wherever it is met, into words."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_no_space(error, folder):
            raise NoSpace(no_space(error, folder)) from error
        raise


def _run_stage(
    decision: Decision, config: Config, folder: Path, console: Console, machines: Machines | None
) -> None:
    from launch.clusters.local import Here

    stage, where = decision.stage, machines or Here()
    if stage == "pretrain":
        from pretrain.prepared import is_prepared

        if decision.action != "resume" or not is_prepared(config, folder):
            from pretrain.stage import prepare  # torch and transformers: five seconds

            prepare(config, folder, log=console.log)
        where.train(config, folder, console.log)
        return
    with where.for_data(stage, config, folder, console.log) as placed:
        if stage == "dedup":
            from dedup.stage import run as deduplicate

            deduplicate(placed, folder, log=console.log)
        else:
            from tokenizer.stage import run as train_tokenizer

            train_tokenizer(placed, folder, log=console.log)


def _outputs(folder: Path, stage: str) -> list[Path]:
    """The files that make a stage's result; reports, states and checkpoints are not among them."""
    found: list[Path] = []
    if stage == "dedup":
        for name in ("documents", "removed", "failed"):
            found += (folder / "dedup" / name).glob("*.*")
    elif stage == "tokenizer":
        found += (path for path in (folder / "tokenizer").iterdir() if path.name != "report.json")
    else:
        found += (folder / "model").rglob("*")
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _set_aside(folder: Path, names: Sequence[str], console: Console) -> None:
    """Rename folders of a run to `<name>.before-<n>`."""
    for name in names:
        path = folder / name
        if path.exists():
            number = 1
            while (aside := folder / f"{name}.before-{number}").exists():
                number += 1
            path.rename(aside)
            console.say(f"    the earlier {name}/ is now {aside.name}/")


def _value(keys: Entry, dotted: str) -> str:
    """A key's value for a message; "(unset)" where it is not there."""
    value: Any = keys
    for part in dotted.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return "(unset)"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def reports(folder: Path) -> dict[str, Entry]:
    """report.json of each stage that has one."""
    return {
        stage: read_json(folder / stage / "report.json")
        for stage in STAGES
        if (folder / stage / "report.json").is_file()
    }
