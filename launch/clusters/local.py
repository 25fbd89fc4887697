"""Training ranks on this machine: torchrun starts them, this file watches them.

The ranks live in sessions of their own, so a Ctrl-C reaches only this process, which passes it on as
SIGTERM: every rank finishes its step, saves and leaves; a second Ctrl-C kills them all. They report
through two files in `pretrain/`: `.progress.jsonl` (rank 0's `Progress`, drawn here) and
`.outcome.json` (done, stopped, or a person's mistake, which must not be tried again as a crash would
be). A rank that crashes is restarted by torchrun, up to `pretrain.max_restarts` times, and resumes
from the last checkpoint.

No rank is left behind: torchrun ends when this process dies, the ranks when torchrun dies. While they
still save, torchrun holds `.training.lock` of the run folder, and another start is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from configs.errors import InputError, Stopped
from configs.machine import cores
from configs.progress import Log, Progress
from configs.schema import Pretrain
from launch.rank import OUTCOME_BYTES, die_with_parent, read_outcome

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


def run_ranks(config: Pretrain, folder: Path, *, log: Log) -> None:
    """Train on this machine until the run is done.

    Raises InputError for a mistake a rank found, Stopped or KeyboardInterrupt after a stop that
    left a checkpoint, RuntimeError when the restarts are used up (the logs say why).
    """
    stage, logs = folder / "pretrain", folder / "logs"
    processes, environment = _ranks(config, log)
    patience = seconds_to_stop(stage)
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(patience))
    for path in (stage, logs):
        path.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", "1", "--nproc-per-node", str(processes),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        "--max-restarts", str(config.max_restarts),
        "-m", "launch.rank", str(folder),
    ]  # fmt: skip
    with _lock(folder) as held, (logs / "torchrun.log").open("ab") as output:
        earlier = {path: path.stat().st_size for path in logs.iterdir()}
        progress, outcome = stage / ".progress.jsonl", stage / ".outcome.json"
        progress.write_bytes(b"")
        outcome.write_bytes(b" " * OUTCOME_BYTES)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_before_torchrun,
            pass_fds=[held],
            env=environment,
        )
        _watch(child, stage, log)
    result = read_outcome(outcome) or {"status": "crashed", "lines": []}
    if result["status"] == "error":
        raise InputError([str(line) for line in _lines(result)])
    if result["status"] == "stopped":
        raise Stopped
    if child.returncode != 0 or result["status"] != "done":
        raise RuntimeError(_crash(logs, child.returncode, earlier))


def _lines(result: dict[str, object]) -> list[object]:
    lines = result["lines"]
    return lines if isinstance(lines, list) else [lines]


def _before_torchrun() -> None:
    """In torchrun's process: it ends with this one, and a time limit's signal is not its death.

    Slurm may send SIGUSR1 to every process of a job; the ranks take it as a request to stop.
    """
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


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


def _watch(child: subprocess.Popen[bytes], stage: Path, log: Log) -> None:
    """Pass on progress until torchrun has ended, by itself or because it was made to."""
    progress, outcome, position = stage / ".progress.jsonl", stage / ".outcome.json", 0
    try:
        while child.poll() is None:
            position = _relay(progress, position, log)
            if (read_outcome(outcome) or {}).get("status") == "error":
                _end(child, seconds=10)
                break
            time.sleep(0.2)
    except (KeyboardInterrupt, Stopped):
        log(Progress("pretrain", "stopping", message="finishing the step and saving"))
        _end(child, seconds=seconds_to_stop(stage))
        raise
    except BaseException:
        _end(child, seconds=10)
        raise
    _relay(progress, position, log)


# ── what the ranks run on ───────────────────────────────────────────────────────────────────────


def _ranks(config: Pretrain, log: Log) -> tuple[int, dict[str, str]]:
    """How many ranks there are, and their environment.

    A toy (random weights) with more processes than GPUs trains on the CPU, where any number of ranks
    can run; a real base cannot be meant so.

    Raises InputError where a real base is given more processes than there are GPUs.
    """
    import torch

    gpus = torch.cuda.device_count()
    processes = max(1, gpus) if config.processes == "auto" else config.processes
    on_cpu = gpus == 0
    if 0 < gpus < processes:
        said = f"{processes} processes, and this machine has {gpus} GPU{'s' if gpus > 1 else ''}"
        if not isinstance(config.base, dict):
            raise InputError(f"pretrain.processes: {said}; write {gpus}, or auto for all of them")
        log(Progress("pretrain", "ranks", message=f"{said}: this toy trains on the CPU"))
        on_cpu = True
    threads = max(1, cores() // processes) if config.threads == "auto" else config.threads
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "PYTHONSAFEPATH": "1",  # a file in the working directory must not stand for a package
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **KEEP_MEMORY,
    }
    if on_cpu:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return processes, environment


@contextmanager
def _lock(folder: Path) -> Iterator[int]:
    """Hold `.training.lock`, a descriptor that torchrun inherits and so holds as long as it lives.

    Raises InputError where ranks of an earlier start are still there (their launcher was killed).
    """
    with (folder / ".training.lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: ranks of an earlier start still save their last step; give the same "
                "command again when they have ended (logs/ says how far they are)"
            ) from None
        yield handle.fileno()


# ── watching and ending ─────────────────────────────────────────────────────────────────────────


def _relay(progress: Path, position: int, log: Log) -> int:
    """Pass on the whole lines written since `position`; return the new position."""
    with progress.open("rb") as handle:
        handle.seek(position)
        content = handle.read()
    whole = content.rfind(b"\n") + 1
    for line in content[:whole].splitlines():
        log(Progress(**json.loads(line)))
    return position + whole


def _end(child: subprocess.Popen[bytes], *, seconds: float) -> None:
    """SIGTERM, then after `seconds` SIGKILL to all. Ctrl-C kills at once, another SIGTERM waits on."""
    deadline = time.monotonic() + seconds
    child.send_signal(signal.SIGTERM)
    while True:
        try:
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
            return
        except Stopped:
            continue
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            _kill(child)
            return


def _kill(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to torchrun and all below it: every rank has a session of its own."""
    try:
        torchrun = psutil.Process(child.pid)
        family = [torchrun, *torchrun.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[1:], timeout=10)
    child.wait()


def _crash(logs: Path, status: int, earlier: dict[Path, int]) -> str:
    """The last words of every log since this start. earlier: sizes of the logs before it."""
    lines = [f"training ended with status {status}; the last lines of each log:"]
    for path in [*sorted(logs.glob("pretrain-*.log")), logs / "torchrun.log"]:
        new = path.read_bytes()[earlier.get(path, 0) :].decode("utf-8", errors="replace")
        if new.strip():
            lines += [f"── {path}", *new.splitlines()[-12:]]
    return "\n".join(lines)
