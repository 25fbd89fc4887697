"""Room for what the second pass holds of every document: in memory, or in mapped files.

In: shapes. Out: numpy arrays. In memory they are what `np.empty` gives; on disk each is a file of the
work folder that is mapped and already unlinked, so its pages are the kernel's to take back, it is gone
with its array, and a killed run leaves nothing.

The decision: one switch for all arrays instead of code of its own for what is too large. A kernel walks
a mapped array as it walks any other; what is written at random places (the outcome of the selection)
is slow only once it no longer fits into the page cache. Files are allocated in full at once: a full
disk must be an error here, not a SIGBUS in a kernel.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import Dedup

MANY = 20_000_000
"""Documents from which `on_disk: auto` holds what it holds per document in files."""

_SMALL = 1 << 16
"""Bytes up to which an array is not worth a file."""


class Room:
    """Where arrays are made. folder: of the mapped files; None: memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @classmethod
    def of(cls, dedup: Dedup, documents: int, work: Path) -> Room:
        """As `dedup.on_disk` says for that many documents."""
        mapped = documents >= MANY if dedup.on_disk == "auto" else dedup.on_disk
        return cls(work if mapped else None)

    @property
    def mapped(self) -> bool:
        return self.folder is not None

    def empty(self, shape: int | tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        """An array of undefined values. Raises OSError where the disk is full."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        if self.folder is None or size <= _SMALL:
            return np.empty(shape, kind)
        handle, name = tempfile.mkstemp(prefix=".", suffix=".map", dir=self.folder)
        with os.fdopen(handle, "r+b") as file:
            os.unlink(name)  # noqa: PTH108 (a name, not a Path)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.asarray(np.memmap(file, kind, mode="r+", shape=shape))

    def full(
        self, shape: int | tuple[int, ...], value: float, kind: type[np.generic]
    ) -> NDArray[Any]:
        """An array of one value."""
        array = self.empty(shape, kind)
        array.fill(value)
        return array
