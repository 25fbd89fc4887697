"""Files that are either whole or absent, and their digests.

Every output of this project appears by write → fsync → rename, so a reader never sees half a file
and a killed stage leaves only names that end in `.tmp`. Such a name carries the process and the host
that were writing, so that hosts of a cluster never write to one file, and so that a later run can tell
what nobody will finish any more (`remove_leftovers`).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LEFTOVER = re.compile(r"^\..*\.(?P<process>\d+)(?:@(?P<host>[^@/]*))?\.tmp$", re.DOTALL)

_ABANDONED = 3600.0
"""Seconds after which nobody writes on to a file: for those of hosts that cannot be asked."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it into place.

    On any exception the temporary file is removed and `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}@{_host()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files, directly in `folder`, of `atomic` calls that were killed.

    Those of this host whose process is gone; those of other hosts that nobody has written to for an
    hour. A file that a living process still writes stays.
    """
    for path in folder.glob(".*.tmp"):
        found = _LEFTOVER.match(path.name)
        if found is None:
            continue
        with suppress(OSError):  # somebody else was faster
            here = found["host"] in (None, _host())
            if not _lives(int(found["process"])) if here else _quiet(path):
                path.unlink(missing_ok=True)


def _host() -> str:
    return platform.node().replace("/", "_").replace("@", "_")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # there, and somebody else's
        return True
    return True


def _quiet(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _ABANDONED


def sync(path: Path) -> None:
    """Flush a file's, or a folder's, content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with the bytes as given (no newline translation)."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: UTF-8, two spaces, keys in the order given."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
