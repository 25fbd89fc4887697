"""The errors a person can mend, and the one that means "stopped on request".

`InputError` carries one or more lines, each already in the form shown to the person:
`where: what is wrong; what to do`. The command line prints every line as `error: …` and exits 2.
Anything else that escapes a stage is a bug and keeps its stack trace (exit 1).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


class InputError(Exception):
    """A mistake in the config, in the input, or a file that is missing (exit status 2)."""

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines: tuple[str, ...] = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))


class NoSpace(InputError):
    """A disk is full: nothing is lost, and the same command goes on once there is room."""


class Stopped(BaseException):
    """The run was asked to stop and did so in a resumable state (exit status 75).

    Like KeyboardInterrupt it is no Exception: it comes from a signal, in the middle of anything, and
    code that survives all errors of its library must not swallow it.
    """


def missing_extra(module: str, extra: str) -> InputError:
    """The error for an optional dependency that is not installed, with its install line."""
    return InputError(f"{module} is not installed; install it with: pip install 'malmoi[{extra}]'")


# ── a full disk ─────────────────────────────────────────────────────────────────────────────────

# what Rust (safetensors), Arrow and SQLite put into a message of their own
_SAID = ("no space left", "os error 28", "code: 28", "disk quota exceeded", "disk is full")
# torch and NumPy say only that a write came out short; with a disk this full, that is why
_SHORT = ("pytorchstreamwriter", "unexpected pos", "file write failed", "requested and")
_NEARLY_FULL = 16 << 20  # bytes


def is_no_space(error: BaseException, folder: Path | None = None) -> bool:
    """Whether an error, or one that it came from, means that a disk is full.

    folder: where was being written; with it, the short writes that torch and NumPy report without
    any reason count too, if less than 16 MiB are free there.
    """
    for link in _chain(error):
        message = str(link).lower()
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(link, InputError):
            return False  # whoever raised it has said what is wrong
        if any(words in message for words in _SAID):
            return True
        short = any(words in message for words in _SHORT)
        if short and folder is not None and _free(folder) < _NEARLY_FULL:
            return True
    return False


def no_space(error: BaseException, folder: Path) -> str:
    """The line for a full disk: where, how much is free, and what to do."""
    where = getattr(error, "filename", None) or folder
    return (
        f"{where}: no space left on the device ({_free(folder) / 1e6:,.1f} MB free); free some, then "
        "give the same command again: the run goes on from its last whole file"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those in whose handling it was raised."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
