"""One training rank, as torchrun starts it: `python -m launch.rank RUNFOLDER`.

Output goes to logs/pretrain-<host>-<rank>.log. Rank 0 writes its progress, and any rank the outcome,
to files that the launcher reads. A crash leaves with its own status (and is restarted); a stop on
request, a person's mistake and a full disk leave with 0 and say so in the outcome, for a restart
would not mend them. When torchrun dies its ranks die too: nobody else would ever end them.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import json
import os
import platform
import shutil
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from configs.errors import InputError, Stopped, is_no_space, no_space
from configs.load import load
from configs.progress import Progress
from launch import stop_request

OUTCOME_BYTES = 16_384
"""Room for the outcome, written as blanks before training: a full disk cannot keep it from being told."""


def main(folder: Path) -> int:
    rank = int(os.environ.get("RANK", "0"))
    die_with_parent(signal.SIGKILL)
    _to_log(folder / "logs" / f"pretrain-{platform.node()}-{rank}.log")
    faulthandler.register(signal.SIGUSR2, all_threads=True)  # whoever watches asks where it hangs
    if rank == 0:
        stop_request.watch(folder)
    stage = folder / "pretrain"
    if rank == 0:
        _forget_stop(stage / ".outcome.json")
    progress = (stage / ".progress.jsonl").open("a") if rank == 0 else None

    def log(report: Progress) -> None:
        if progress is not None:
            progress.write(json.dumps(asdict(report)) + "\n")
            progress.flush()

    outcome: dict[str, object]
    try:
        from pretrain.stage import run

        run(load(str(folder / "config.yaml")), folder, log=log)
        outcome = {"status": "done"}
    except InputError as error:
        outcome = {"status": "error", "lines": list(error.lines)}
    except (Stopped, KeyboardInterrupt):
        outcome = {"status": "stopped"}
    except Exception as error:
        full = [place for place in _places(folder) if is_no_space(error, place)]
        if not full:
            traceback.print_exc()
            return 1
        quota = getattr(error, "errno", None) == errno.EDQUOT  # which no disk shows
        line = f"{_host()}{no_space(error, full[0] if quota else min(full, key=_free))}"
        _remove_halves(stage)
        outcome = {"status": "full", "lines": [line]}
    if rank == 0 or outcome["status"] in ("error", "full"):
        write_outcome(stage / ".outcome.json", outcome)
    return 0


def _places(folder: Path) -> list[Path]:
    """Folders that a rank writes to; each may lie on a disk of its own (a mount, a link to scratch)."""
    stage = folder / "pretrain"
    own = [folder, stage, stage / "checkpoints", stage / "phases", folder / "model"]
    return [place for place in [*own, Path(os.environ.get("TMPDIR", "/tmp"))] if place.is_dir()]


def _free(place: Path) -> int:
    """Bytes that may still be written there."""
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def _host() -> str:
    """ "node1: " where the ranks are on several machines, whose disks are not all the same."""
    everywhere, here = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return f"{platform.node()}: " if everywhere != here else ""


def write_outcome(path: Path, outcome: dict[str, object]) -> None:
    """Write over the blanks that the launcher left in the file, at once and without growing it."""
    text = json.dumps(outcome).ljust(OUTCOME_BYTES).encode("ascii")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(handle, text, 0)
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget_stop(path: Path) -> None:
    """A machine came back or was lost, and the ranks before these had to stop for that: go on."""
    if (read_outcome(path) or {}).get("status") == "stopped":
        write_outcome(path, {})


def read_outcome(path: Path) -> dict[str, object] | None:
    """What a rank left, None before any did."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when the one that started it ends (Linux)."""
    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def _remove_halves(stage: Path) -> None:
    """Delete files and folders that were never finished: room, and nothing that is needed."""
    for path in sorted(stage.rglob("*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _to_log(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status) if status else sys.exit(0)
