"""Training ranks on this machine: torchrun starts them, this file watches them.

The ranks live in a session of their own, so a Ctrl-C reaches only this process, which passes it on
as SIGTERM: every rank finishes its step, saves and leaves. They report through two files in
`pretrain/`: `.progress.jsonl` (rank 0's `Progress`, drawn here) and `.outcome.json` (done, stopped, or
a person's mistake, which must not be tried again as a crash would be). A rank that crashes is
restarted by torchrun, up to `pretrain.max_restarts` times, and resumes from the last checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from configs.errors import InputError, Stopped
from configs.files import read_json
from configs.progress import Log, Progress
from configs.schema import Pretrain

KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
"""glibc gives every step's large buffers back to the kernel and faults them in again; about 7 % on a CPU."""

SAVE_SECONDS = 300  # how long ranks may take to save after being asked to stop


def run_ranks(config: Pretrain, folder: Path, *, log: Log) -> None:
    """Train on this machine until the run is done.

    Raises InputError for a mistake a rank found, Stopped or KeyboardInterrupt after a stop that
    left a checkpoint, RuntimeError when the restarts are used up (the logs say why).
    """
    processes = _processes(config)
    stage = folder / "pretrain"
    stage.mkdir(parents=True, exist_ok=True)
    progress, outcome = stage / ".progress.jsonl", stage / ".outcome.json"
    progress.write_bytes(b"")
    outcome.unlink(missing_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", "1", "--nproc-per-node", str(processes),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        "--max-restarts", str(config.max_restarts),
        "--shutdown-timeout", str(SAVE_SECONDS),
        "-m", "launch.rank", str(folder),
    ]  # fmt: skip
    with (folder / "logs" / "torchrun.log").open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            env=_environment(config, processes),
        )
    position = 0
    try:
        while child.poll() is None:
            position = _relay(progress, position, log)
            if outcome.exists() and read_json(outcome)["status"] == "error":
                _end(child, seconds=10)
                break
            time.sleep(0.2)
    except (KeyboardInterrupt, Stopped):
        log(Progress("pretrain", "stopping", message="finishing the step and saving"))
        _end(child, seconds=SAVE_SECONDS)
        raise
    except BaseException:
        _end(child, seconds=10)
        raise
    _relay(progress, position, log)
    result = read_json(outcome) if outcome.exists() else {"status": "crashed"}
    if result["status"] == "error":
        raise InputError(result["lines"])
    if result["status"] == "stopped":
        raise Stopped
    if child.returncode != 0 or result["status"] != "done":
        raise RuntimeError(_crash(folder, child.returncode))


def _processes(config: Pretrain) -> int:
    if config.processes != "auto":
        return config.processes
    import torch

    return max(1, torch.cuda.device_count())


def _environment(config: Pretrain, processes: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // processes) if config.threads == "auto" else config.threads
    root = str(Path(__file__).resolve().parents[2])
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **KEEP_MEMORY,
    }


def _die_with_parent() -> None:
    """Ask the kernel to stop torchrun, and so its ranks, when this process is killed."""
    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


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
    """SIGTERM, then after `seconds` SIGKILL to the whole session. A second Ctrl-C kills at once."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _crash(folder: Path, status: int) -> str:
    """The last words of the ranks' logs."""
    lines = [f"training ended with status {status}; the last lines of each log:"]
    for path in sorted((folder / "logs").glob("pretrain-*.log")):
        lines += [f"── {path}", *path.read_text(errors="replace").splitlines()[-12:]]
    return "\n".join(lines)
