"""`malmoi stop RUN`: end a run as Ctrl-C would, wherever its holder is, and say what came of it.

In: a run folder. Out: the `Status` once nobody holds the folder. A holder on this machine gets SIGTERM;
one elsewhere, or somebody else's, finds the request in the folder (stop_request.py). Either way the step
is finished and a checkpoint saved, so the wait is as long as ranks may take for that.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

from configs.errors import InputError
from launch import holder as holders
from launch.console import duration
from launch.status import Status, check_run, status
from launch.stop_request import clear, request

GRACE = 60.0  # seconds beyond what the ranks may take
LOOK = 0.2


def stop(folder: Path, seconds: float | None = None) -> tuple[Status, bool]:
    """Ask the run in `folder` to stop and wait until it has. Whether there was anything to stop.

    seconds: longest wait; default: what its ranks may take to save. Raises InputError where the folder
    is no run's, where the request cannot be written, and where it still runs after the wait.
    """
    check_run(folder)
    before = status(folder)
    if before.state not in ("running", "stopping"):
        return before, False
    by = holders.holder(folder)
    if not _signalled(by):
        me = holders.Holder.here()
        try:
            request(folder, f"{me.user} on {me.host}", datetime.now().astimezone().isoformat())
        except OSError as error:
            raise InputError(
                f"{folder}: the request to stop cannot be written ({error.strerror}); "
                f"{by or 'another process'} holds it: ask them, or end that process"
            ) from None
    wait = seconds if seconds is not None else _patience(folder)
    print(f"asked {by or 'the ranks'} to stop; waiting up to {duration(wait)}", file=sys.stderr)
    deadline = time.monotonic() + wait
    while (now := status(folder)).state in ("running", "stopping"):
        if time.monotonic() > deadline:
            raise InputError(
                f"{folder}: still runs after {duration(wait)} (it was asked to stop, and will when "
                f"its step is done); look at {folder / 'logs'}, or give this command again"
            )
        time.sleep(LOOK)
    clear(folder)
    return now, True


def _signalled(by: holders.Holder | None) -> bool:
    """Whether a SIGTERM could be sent to the holder."""
    if by is None or not by.lives_here():
        return False
    try:
        os.kill(by.pid, signal.SIGTERM)
    except (PermissionError, ProcessLookupError):
        return False
    return True


def _patience(folder: Path) -> float:
    from launch.clusters.local import seconds_to_stop

    return seconds_to_stop(folder / "pretrain") + GRACE
