"""Is a file still what it was? Its SHA-256, and how not to compute it twice.

In: paths. Out: digests, and a record of the file each was taken from: size, times of change, inode.
While these are as recorded the digest is taken as read.

The decision: 70 GB of token shards take a core a minute to hash where it has instructions for it, five
where it has none, and longer to read from a network disk; so that is done once for every copy of them
and not at every start. Any write
through the file system changes the record, and so does copying, restoring or moving to another disk,
so the digest is then computed again. What it cannot see is a disk that returns other bytes than it
was given without anybody writing; `verified.json` may be deleted to have everything read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from configs.files import sha256
from configs.machine import cores

Stamp = list[int]  # bytes, modified (ns), changed (ns), inode
Seen = dict[str, tuple[Stamp, str]]  # {path: (stamp, digest)}


def stamp(path: Path) -> Stamp:
    """What changes whenever somebody writes to, replaces or moves in a file."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def digests(paths: Iterable[Path], seen: Seen) -> Seen:
    """The digests of files, several read at a time; of those that are as they were `seen`, without.

    Raises OSError where a file cannot be read.
    """

    def one(path: Path) -> tuple[Stamp, str]:
        now = stamp(path)
        before = seen.get(str(path))
        return before if before is not None and list(before[0]) == now else (now, sha256(path))

    chosen = list(paths)
    with ThreadPoolExecutor(min(8, cores())) as pool:
        return {str(path): found for path, found in zip(chosen, pool.map(one, chosen), strict=True)}
