"""torchrun and the ranks below it, on one machine: start, look after, end.

In: the run folder and where the ranks of all machines meet. Out: `Outcome`. The ranks live in sessions of
their own and report through files of the run: `pretrain/.outcome.json` (done, stopped, a person's
mistake, a full disk: none of which another try would mend) and one heartbeat each (beats.py). A rank that
dies is restarted by torchrun; one that hangs is made to: the stack of every rank here goes to its log,
and all of them are killed, which torchrun takes for a failure like any other. `pretrain.max_restarts`
counts both.

No rank is left behind: torchrun ends when its starter dies, the ranks when torchrun dies. While any of
them lives it holds `.training.lock` of the run folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from configs.errors import InputError, NoSpace, Stopped
from configs.machine import cores
from configs.schema import Pretrain
from launch.clusters.beats import Watch
from launch.rank import OUTCOME_BYTES, die_with_parent, read_outcome

ROOT = Path(__file__).resolve().parents[2]

KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
"""glibc gives every step's large buffers back to the kernel and faults them in again; about 7 % on a CPU."""

UNMEASURED = 300.0
"""Seconds that ranks have to stop in, at least, while no save of theirs has been measured."""

SLOW_DISK = 100e6  # bytes per second that a first save is trusted to write
STATE_OF_WEIGHTS = (
    7  # a checkpoint of AdamW: fp32 weights and two moments beside weights of two bytes
)
MARGIN = 4  # a shared disk may be that much slower than it was
DUMP = 1.2  # seconds in which the ranks write their stacks before they are killed
LOOK = 0.5  # seconds between two looks at the heartbeats


@dataclass(frozen=True)
class Outcome:
    """How training ended. status: done, stopped, error (a person's mistake), full (a disk) or crashed."""

    status: str
    lines: tuple[str, ...] = ()

    @classmethod
    def read(cls, stage: Path) -> Outcome:
        """What the ranks left, or "crashed" where they left nothing."""
        values = read_outcome(stage / ".outcome.json") or {}
        lines = values.get("lines", [])
        said = lines if isinstance(lines, list) else [lines]
        return cls(str(values.get("status", "crashed")), tuple(map(str, said)))

    def done(self) -> bool:
        """Whether training is done; False where it is not and the ranks left no reason.

        Raises what the ranks' reason means: NoSpace, InputError or Stopped.
        """
        if self.status == "full":
            raise NoSpace(self.lines)
        if self.status == "error":
            raise InputError(self.lines)
        if self.status == "stopped":
            raise Stopped
        return self.status == "done"

    @property
    def final(self) -> bool:
        """Whether ranks that still run should be ended: another try would meet the same."""
        return self.status in ("error", "full")


def prepare_folder(folder: Path) -> None:
    """Empty the files through which the ranks of this start will report."""
    from launch.clusters.beats import clear

    stage = folder / "pretrain"
    for path in (stage, folder / "logs"):
        path.mkdir(parents=True, exist_ok=True)
    clear(stage)
    (stage / ".progress.jsonl").write_bytes(b"")
    (stage / ".outcome.json").write_bytes(b" " * OUTCOME_BYTES)


def seconds_to_stop(stage: Path) -> float:
    """How long ranks may take to finish their step, save and leave, after being asked to.

    From the slowest of the last saves (`saves.json`, written by the saver), with a margin; before the
    first one from the size of the weights.
    """
    try:
        saves = json.loads((stage / "saves.json").read_bytes())
        slowest = max(float(save["save_seconds"]) + float(save["step_seconds"]) for save in saves)
    except (OSError, ValueError, KeyError, TypeError):
        weights = sum(path.stat().st_size for path in (stage / "base").glob("*.safetensors"))
        return max(UNMEASURED, STATE_OF_WEIGHTS * weights / SLOW_DISK)
    return 60.0 + MARGIN * slowest


def rank_environment(
    threads: int | str, processes: int, *, on_cpu: bool, more: Mapping[str, str]
) -> dict[str, str]:
    """The environment of ranks on this machine. threads: of each; auto divides the cores."""
    each = max(1, cores() // processes) if threads == "auto" else threads
    environment = os.environ | {
        "OMP_NUM_THREADS": str(each),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "PYTHONSAFEPATH": "1",  # a file in the working directory must not stand for a package
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **KEEP_MEMORY,
    }
    if on_cpu:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return environment | dict(more)


class Torchrun:
    """torchrun on this machine, from start to end.

    meeting: its words for nodes and rendezvous. processes: ranks here. held: descriptors of locks,
    which it inherits. note: told what a person should know (a hang).
    """

    def __init__(
        self,
        folder: Path,
        settings: Pretrain,
        meeting: Sequence[str],
        processes: int,
        environment: dict[str, str],
        log: Path,
        held: Sequence[int],
        note: Callable[[str], None],
    ) -> None:
        self.folder, self.stage, self._note = folder, folder / "pretrain", note
        hang = None if settings.hang_seconds == "auto" else settings.hang_seconds
        self.watch = Watch(self.stage, hang)
        self.log = log
        self._logs = sorted(folder.glob("logs/*.log"))
        self._earlier = {path: path.stat().st_size for path in self._logs}
        self._looked = 0.0
        patience = seconds_to_stop(self.stage)
        command = [
            sys.executable, "-m", "torch.distributed.run",
            *meeting, "--nproc-per-node", str(processes),
            "--max-restarts", str(settings.max_restarts),
            "-m", "launch.rank", str(folder),
        ]  # fmt: skip
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_before_torchrun,
                pass_fds=held,
                env=environment | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(patience))},
            )

    def running(self) -> bool:
        """Whether torchrun still runs; ranks that hang are dealt with by the way."""
        if self.child.poll() is not None:
            return False
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            self.watch.look()
            self._restart_hung()
        return True

    def here(self) -> list[psutil.Process]:
        """The ranks of this machine."""
        try:
            return psutil.Process(self.child.pid).children()
        except psutil.NoSuchProcess:
            return []

    def _restart_hung(self) -> None:
        here = {process.pid: process for process in self.here()}
        mine = platform.node()
        hung = [b for b in self.watch.hung() if b.host == mine and b.pid in here]
        if not hung:
            return
        told = ", ".join(f"rank {b.rank} ({b.doing}, after step {b.step})" for b in hung)
        silence = min(self.watch.silent(b.rank) for b in hung)
        self._note(
            f"no life for {silence:.0f} s: {told} on {mine}; the stacks of its ranks are in "
            f"{self.folder / 'logs'}, and they are started again from the last checkpoint"
        )
        # SIGCONT, late: one that was stopped can write, too, and does not go on for long
        for number, seconds in ((signal.SIGUSR2, DUMP), (signal.SIGCONT, 0.3), (signal.SIGKILL, 0)):
            for process in here.values():
                _signal(process, number)
            time.sleep(seconds)
        for beat in hung:  # the next look starts afresh
            (self.stage / ".ranks" / f"{beat.rank}.json").unlink(missing_ok=True)
            self.watch.forget(beat.rank)

    def ask_to_stop(self) -> None:
        """The ranks finish their step, save and leave."""
        _signal(self.child, signal.SIGTERM)

    def end(self, *, seconds: float) -> None:
        """SIGTERM, then after `seconds` SIGKILL to all. Ctrl-C kills at once, another SIGTERM waits."""
        deadline = time.monotonic() + seconds
        self.ask_to_stop()
        while True:
            try:
                while self.running():
                    if time.monotonic() > deadline:
                        self.kill()
                        return
                    time.sleep(0.05)
                return
            except Stopped:
                continue
            except KeyboardInterrupt:
                self.kill()
                return

    def kill(self) -> None:
        """SIGKILL to torchrun and all below it: every rank has a session of its own."""
        try:
            torchrun = psutil.Process(self.child.pid)
            family = [torchrun, *torchrun.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(family[1:], timeout=10)
        self.child.wait()

    def last_words(self) -> str:
        """The last lines of every log since this start."""
        lines = [f"training ended with status {self.child.returncode}; the last lines of each log:"]
        for path in [*sorted(self.log.parent.glob("pretrain-*.log")), self.log]:
            new = path.read_bytes()[self._earlier.get(path, 0) :].decode("utf-8", errors="replace")
            if new.strip():
                lines += [f"── {path}", *new.splitlines()[-12:]]
        return "\n".join(lines)


def _before_torchrun() -> None:
    """In torchrun's process: it ends with this one, and a time limit's signal is not its death.

    Slurm may send SIGUSR1 to every process of a job; the ranks take it as a request to stop.
    """
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _signal(process: Any, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(number)


@contextmanager
def training_lock(folder: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold `.training.lock`: a descriptor that torchrun inherits and so holds as long as it lives.

    shared: with the other machines of the same training. Raises InputError where ranks of an earlier
    start are still there (their launcher was killed).
    """
    with (folder / ".training.lock").open("a+") as handle:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: ranks of an earlier start still save their last step; give the same "
                "command again when they have ended (logs/ says how far they are)"
            ) from None
        yield handle.fileno()
