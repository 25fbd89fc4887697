"""A program that is there while a context is open, and everything below it gone afterwards."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from configs.errors import Stopped


def start(
    words: Sequence[str], output: Path, more: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output at the end of a file.

    more: variables beside those of this process.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | dict(more or {}),
        )


@contextmanager
def started(words: Sequence[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`start`, and at the end `end` with a minute's patience."""
    child = start(words, output)
    try:
        yield child
    finally:
        end(child, 60.0)


def end(child: subprocess.Popen[bytes], seconds: float) -> None:
    """SIGTERM, and after `seconds` SIGKILL to it and all below."""
    if child.poll() is not None:
        return
    family = psutil.Process(child.pid).children(recursive=True)
    child.terminate()
    deadline = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < deadline:
        with suppress(Stopped):  # asked again: it is on its way
            time.sleep(0.1)
    if child.poll() is None:
        for process in [*family, child]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        child.wait()
