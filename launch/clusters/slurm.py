"""`malmoi launch` on a Slurm cluster: submit, follow, stop, and end as the job ends.

In: a `Job` for a `Slurm` cluster, on a machine that has sbatch and sees the run folder. Out: the job's
own end: nothing where it is done, Stopped where it was stopped and can go on, InputError with the
job's own lines where a person has to mend something. What the job prints is in
`logs/slurm-<job>.out` of the run folder and is shown from there, as are its state and, while it waits,
the reason that Slurm gives.

The decision: the job does not need this process. When it is killed, the same command finds the job by
`slurm.json` and follows it; Ctrl-C asks the job to save and stop, a second one cancels it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.clusters.schema import Slurm
from configs.errors import InputError, Stopped
from configs.files import read_json, write_json, write_text
from configs.progress import Log, Progress
from launch.clusters.job import Job
from launch.clusters.sbatch import script
from launch.console import EVENT
from launch.holder import last_command

RECORD = "slurm.json"
LOOK = (1.0, 5.0)  # seconds between two looks at the queue: after a change, and later
LONG = 60.0  # seconds without a change after which a job is looked at less often
PATIENCE = 60.0  # seconds in which Slurm has to answer a question
LAST_LINES = 12

SILENT = "SILENT"
"""No state of a job: Slurm's controller is away, or too busy to answer."""

_ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING"}
_ALIVE |= {"REQUEUE_HOLD", "REQUEUE_FED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "STOPPED"}


@dataclass(frozen=True)
class State:
    """A job, or the tasks of an array taken together, as Slurm describes it.

    name: PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, … why: Slurm's reason while it waits. status:
    exit status of the script. nodes: the allocation, "" while there is none.
    """

    name: str
    why: str = ""
    status: int = 0
    nodes: str = ""
    restarts: int = 0

    @property
    def alive(self) -> bool:
        return self.name in _ALIVE


def dry_run(job: Job) -> str:
    """The batch scripts that would be submitted."""
    return "\n".join(script(job, stages) for stages in _submissions(job))


def launch(job: Job, log: Log) -> None:
    """Submit the job, or find it in the queue, and follow it to its end; see the module."""
    _need("sbatch", "scontrol", "scancel")
    scripts = [script(job, stages) for stages in _submissions(job)]
    found = _in_queue(job, scripts)
    if found:
        log(
            Progress(
                "launch", "queue", message=f"job {', '.join(found)} is there already: followed"
            )
        )
    identifiers = found or _submit(job, scripts, log)
    for number in identifiers:
        _follow(number, job, log, identifiers)
    (job.folder / RECORD).unlink(missing_ok=True)


def _submissions(job: Job) -> list[list[str]]:
    """The stages of each job: an array of data tasks is a job of its own, the training waits for it."""
    assert isinstance(job.cluster, Slurm)
    data = [stage for stage in job.stages if stage != "pretrain"]
    if job.cluster.array > 1 and data and "pretrain" in job.stages:
        return [data, ["pretrain"]]
    return [job.stages]


# ── submitting ──────────────────────────────────────────────────────────────────────────────────


def _submit(job: Job, scripts: Sequence[str], log: Log) -> list[str]:
    """sbatch, each job behind the one before; their numbers."""
    logs = job.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    numbers: list[str] = []
    for position, text in enumerate(scripts):
        file = job.folder / ("slurm.sbatch" if position == 0 else f"slurm-{position}.sbatch")
        write_text(file, text)
        words = ["sbatch", "--parsable", f"--output={_pattern(logs)}"]
        if numbers:
            words += [f"--dependency=afterok:{numbers[-1]}", "--kill-on-invalid-dep=yes"]
        done = _ask([*words, str(file)])
        if done.returncode != 0:
            for number in numbers:
                _ask(["scancel", number])
            raise InputError([f"{job.cluster_source}: {line}" for line in _said(done)])
        numbers.append(done.stdout.strip().split(";")[0])
        log(Progress("launch", "queue", message=f"job {numbers[-1]} submitted ({file})"))
    write_json(job.folder / RECORD, {"jobs": numbers, "scripts": _digest(scripts)})
    return numbers


def _pattern(logs: Path) -> str:
    """The log's name for sbatch, in which % and \\ mean something."""
    folder = str(logs)
    if "\\" in folder:
        raise InputError(f"{folder}: sbatch cannot write below a folder with \\ in its name")
    return folder.replace("%", "%%") + "/slurm-%A.out"


def _in_queue(job: Job, scripts: Sequence[str]) -> list[str]:
    """The numbers of this job where an earlier launch of it still waits or runs.

    Raises InputError where what is there was launched with other keys.
    """
    try:
        record = read_json(job.folder / RECORD)
        numbers, digest = [str(number) for number in record["jobs"]], record["scripts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    states = [_state(number) for number in numbers]
    if any(state is not None and state.name == SILENT for state in states):
        raise InputError(
            f"job {', '.join(numbers)}: may still run or wait, and Slurm's controller does not answer; "
            "give the same command again when it does (scontrol ping)"
        )
    alive = [n for n, state in zip(numbers, states, strict=True) if state and state.alive]
    if not alive:
        return []
    if digest != _digest(scripts):
        raise InputError(
            f"{job.folder}: job {', '.join(alive)} still runs or waits, with other keys; wait for it, or "
            f"end it (scancel {' '.join(alive)}) and give the same command again"
        )
    return alive


def _digest(scripts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(scripts).encode("utf-8")).hexdigest()


# ── following ───────────────────────────────────────────────────────────────────────────────────


def _follow(number: str, job: Job, log: Log, all_numbers: Sequence[str]) -> None:
    """Show a job's state and lines until it has ended; raise as it ended.

    A machine that fails ends no job that may go on with fewer, unless it is the first: then the same
    command goes on.
    """
    output = _Output(job.folder / "logs" / f"slurm-{number}.out")
    changed, told, asked, unknown = time.monotonic(), "", 0, 0
    last, ran = State("PENDING"), False
    interrupted: type[BaseException] | None = None
    while True:
        try:
            state = _state(number)
            unknown = unknown + 1 if state is None else 0
            if state is None and (unknown > 5 or not last.alive):
                break  # forgotten by the controller
            silent = state is not None and state.name == SILENT  # the job needs no controller
            last = last if state is None or silent else state
            ran |= last.name == "RUNNING"
            words = _words(number, last)
            if silent:
                words += "; Slurm's controller does not answer"
            if words != told:
                told, changed = words, time.monotonic()
                log(Progress("launch", "event", unit=EVENT, message=f"job {number} {words}"))
            output.show()
            if not last.alive:
                break
            time.sleep(LOOK[0] if asked or time.monotonic() - changed < LONG else LOOK[1])
        except (KeyboardInterrupt, Stopped) as stop:
            asked += 1
            interrupted = interrupted or type(stop)
            if not _stop(number, last, all_numbers, hard=asked > 1, log=log) and asked > 1:
                raise interrupted from None
    output.show()
    # both are Slurm's words for the end of the machine that the script ran on
    failed = last.name == "NODE_FAIL" or (ran and last.why == "JobLaunchFailure")
    if failed and interrupted is None:
        raise Stopped(f"job {number} ({last.name}): the machine that led it failed")
    _end(number, last, job, output, interrupted)


def _stop(number: str, state: State, numbers: Sequence[str], *, hard: bool, log: Log) -> bool:
    """Ask a running job to save and leave; cancel one that waits, and one that was asked before.

    Whether Slurm took it: a controller that is away does not.
    """
    now = _state(number) or state  # it may have started since it was looked at
    state = state if now.name == SILENT else now
    later = numbers[numbers.index(number) + 1 :]
    for other in later:
        _ask(["scancel", other])
    if hard or state.name == "PENDING":
        done = _ask(["scancel", number])
        said = f"job {number} cancelled"
    else:
        done = _ask(["scancel", "--batch", "--signal=TERM", number])
        said = f"job {number} asked to save and stop; once more Ctrl-C cancels it"
    if taken := done.returncode == 0:
        log(Progress("launch", "stopping", message=said))
    else:
        why = (done.stderr.strip() or f"scancel ended with {done.returncode}").splitlines()[-1]
        said = f"job {number} goes on, for Slurm did not take the request ({why}); "
        said += f"later: scancel {number}" if hard else "once more Ctrl-C leaves it to itself"
        log(Progress("launch", "event", unit=EVENT, message=said))
    return taken


def _end(
    number: str,
    state: State,
    job: Job,
    output: _Output,
    interrupted: type[BaseException] | None,
) -> None:
    """Return where the job is done; else raise what it ended with."""
    outcome = last_command(job.folder).get("outcome") if state.alive else None
    if state.name == "COMPLETED" or outcome == "done":  # forgotten by the controller, and done
        return
    if interrupted is not None:
        raise interrupted
    if state.status == 2 and output.mistakes:
        raise InputError(output.mistakes)
    if state.status in (75, 130) or state.name in ("CANCELLED", "PREEMPTED", "REVOKED"):
        raise Stopped
    said = {
        "TIMEOUT": "its time limit came before it had saved; the same command goes on from the last "
        "checkpoint (more time, or a larger signal_seconds, saves in time)",
        "OUT_OF_MEMORY": "it needed more memory than slurm.memory gives",
    }.get(state.name, f"it ended with status {state.status}")
    raise RuntimeError(
        "\n".join([f"job {number} ({state.name}): {said}; {output.path} ends so:", *output.tail])
    )


class _Output:
    """The job's log, shown as it grows. Lines that begin with `error: ` are kept, not shown twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mistakes: list[str] = []
        self.tail: list[str] = []
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def show(self) -> None:
        try:
            with self.path.open("rb") as handle:
                handle.seek(self._position)
                content = handle.read()
        except OSError:
            return
        self._position += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for raw in lines:
            line = raw.decode("utf-8", errors="replace")
            self.tail = [*self.tail, line][-LAST_LINES:]
            if line.startswith("error: "):
                self.mistakes.append(line.removeprefix("error: "))
            else:
                print(line, file=sys.stderr, flush=True)


def _words(number: str, state: State) -> str:
    if state.name == "PENDING":
        return f"waits ({state.why or 'no reason given'})" + (
            f", {state.restarts}. time" if state.restarts else ""
        )
    where = f" on {state.nodes}" if state.nodes and state.nodes != "(null)" else ""
    return f"{state.name.lower()}{where}"


# ── asking Slurm ────────────────────────────────────────────────────────────────────────────────


def _state(number: str) -> State | None:
    """What scontrol says of a job; None where it has forgotten it, SILENT where it does not answer."""
    done = _ask(["scontrol", "show", "job", "--oneliner", number])
    if done.returncode != 0:
        return None if "Invalid job id" in done.stderr else State(SILENT)
    states = [parsed for line in done.stdout.splitlines() if (parsed := _parsed(line))]
    if not states:
        return None
    for chosen in (  # of an array: the first task that runs, waits or failed says most
        [state for state in states if state.name == "RUNNING"],
        [state for state in states if state.alive],
        [state for state in states if state.name != "COMPLETED"],
    ):
        if chosen:
            return chosen[0]
    return states[0]


def _parsed(line: str) -> State | None:
    found = {key: match[1] for key in ("JobState", "Reason", "ExitCode", "NodeList", "Restarts")
             if (match := re.search(rf"(?:^|\s){key}=(\S*)", line))}  # fmt: skip
    if "JobState" not in found:
        return None
    code, _, by_signal = found.get("ExitCode", "0:0").partition(":")
    status = int(code) if code.isdigit() else 0
    if not status and by_signal.isdigit() and int(by_signal):
        status = 128 + int(by_signal)
    return State(
        found["JobState"],
        "" if found.get("Reason") == "None" else found.get("Reason", ""),
        status,
        found.get("NodeList", ""),
        int(found["Restarts"]) if found.get("Restarts", "").isdigit() else 0,
    )


def _ask(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands, not to be reached by this terminal's Ctrl-C."""
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            start_new_session=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"{words[0]} gave no answer")


def _said(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = [
        line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines() if line.strip()
    ]
    return lines or [f"sbatch ended with status {done.returncode}"]


def _need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise InputError(
            f"{missing[0]}: is not on this machine; give the command where Slurm's commands are, or "
            "print the script with --dry-run and submit it there"
        )
