"""The errors a person can mend, and the one that means "stopped on request".

`InputError` carries one or more lines, each already in the form shown to the person:
`where: what is wrong; what to do`. The command line prints every line as `error: …` and exits 2.
Anything else that escapes a stage is a bug and keeps its stack trace (exit 1).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path


class InputError(Exception):
    """A mistake in the config, in the input, or a file that is missing (exit status 2)."""

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines: tuple[str, ...] = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))


class Stopped(Exception):
    """The run was asked to stop and did so in a resumable state (exit status 75)."""


def missing_extra(module: str, extra: str) -> InputError:
    """The error for an optional dependency that is not installed, with its install line."""
    return InputError(f"{module} is not installed; install it with: pip install 'malmoi[{extra}]'")


def is_no_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_space(error: OSError, folder: Path) -> str:
    """The line for a full disk: where, how much is free, and what to do."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    return (
        f"{error.filename or folder}: no space left on the device ({free / 1e6:,.1f} MB free); free "
        "some, then give the same command again: the run goes on from its last whole file"
    )
