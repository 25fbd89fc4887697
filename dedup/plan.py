"""Sources of the config → tasks, each about `dedup.shard` bytes: some files, or a share of one.

In: `Dedup`. Out: `Task`s, none of more than `_FILES` files. A plan depends on the paths and sizes of the files and on `dedup.shard`,
never on the number of workers; so every later order and name is the same on every machine.

The decision: one big file is shared out, so that a corpus of one file keeps all cores busy. Plain
JSONL is cut by bytes (the reader moves each cut to the next line), Parquet by row groups, a Wikipedia
dump by bytes (the reader looks for the next bzip2 stream), a Hugging Face dataset by its shards. Ids
count lines from the file's start, so the newlines before each cut are counted here, once, at the
speed of the disk. gzip, zstd and bzip2 cannot be entered in the middle: such a file is one task.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from configs.errors import InputError
from configs.machine import cores
from configs.schema import Dedup, Source
from dedup.containers import PACKED, File, compressed, local_file
from dedup.extract import codec
from dedup.forms import form_of
from dedup.paths import Found, find, hint, is_remote, relative, source_root

_FILES = 10_000
"""Files in one task at most: opening them takes longer than reading them, and a million tiny ones
should keep every core busy and cost little when a worker dies."""
_UNPACKED = 3
"""Bytes of text in a byte of gzip, zstd or bzip2, about: a task is as long as its text."""


class Part(NamedTuple):
    """A file, or [begin, end) of one, in the unit of its format. before: its records before begin."""

    path: str
    size: int | None
    changed: str
    begin: int = 0
    end: int | None = None
    before: int = 0


@dataclass(frozen=True)
class Task:
    """About `dedup.shard` bytes of one source: what one worker does at a time.

    index: place in the plan. source: index in `dedup.sources`. files: absolute paths of the local
    files, in reading order. bytes: their size on disk, of a share of a file the share. parts: what is
    read, remote files too.
    """

    index: int
    source: int
    files: tuple[str, ...]
    bytes: int
    parts: tuple[Part, ...] = ()

    def __str__(self) -> str:
        last = f" … {os.path.basename(self.parts[-1].path)}" if len(self.parts) > 1 else ""  # noqa: PTH119
        return f"{self.parts[0].path}{last}"

    def fingerprint(self) -> Iterator[str]:
        """A line for each part that changes when its file does: for whether a run can go on."""
        for part in self.parts:
            yield "\t".join(map(str, (self.index, self.source, *part)))


def plan(dedup: Dedup) -> list[Task]:
    """Every file of every source, in the order of its relative path, grouped into tasks.

    Raises InputError with a line for each path that matches no file and each unknown encoding.
    """
    mistakes: list[str] = []
    if not dedup.sources:
        mistakes.append("dedup.sources: is empty; name at least one source with its paths")
    tasks: list[Task] = []
    for number, source in enumerate(dedup.sources):
        if source.encoding != "auto" and codec(source.encoding) is None:
            mistakes.append(
                f"dedup.sources.{number}.encoding: {source.encoding} is no character set; "
                "write auto, utf-8 or cp949"
            )
        files, missing = _files(source, f"dedup.sources.{number}.paths")
        mistakes += missing
        if mistakes:
            continue  # only to find the other mistakes
        group: list[Part] = []
        text = 0
        for part in _parts(files, source, dedup):
            alone = part.end is not None
            if group and (alone or text >= dedup.shard or len(group) == _FILES):
                tasks.append(_task(len(tasks), number, group))
                group, text = [], 0
            group.append(part)
            text += (part.size or 0) * (_UNPACKED if _is_packed(part.path) else 1)
            if alone:
                tasks.append(_task(len(tasks), number, group))
                group, text = [], 0
        if group:
            tasks.append(_task(len(tasks), number, group))
    if mistakes:
        raise InputError(mistakes)
    return tasks


def _task(index: int, source: int, parts: list[Part]) -> Task:
    here = dict.fromkeys(part.path for part in parts if not is_remote(part.path))
    size = sum(part.size or 0 for part in parts)
    return Task(index, source, tuple(here), size, tuple(parts))


def _is_packed(path: str) -> bool:
    return path[-4:].lower().endswith(PACKED)


def _files(source: Source, key: str) -> tuple[list[Found], list[str]]:
    """The files in the order of their relative path, none twice; and the mistakes."""
    if source.format == "hub":
        from dedup.formats.hub import data_sets

        return data_sets(source, key)
    found: dict[str, Found] = {}
    mistakes: list[str] = []
    for pattern in source.paths:
        try:
            matches = find(pattern, source)
        except InputError as error:
            mistakes += [f"{key}: {line}" for line in error.lines]
            continue
        if not matches:
            mistakes.append(f"{key}: {pattern} matches no file; {hint(pattern)}")
        found.update((match.path, match) for match in matches)
    root = source_root(source)
    return sorted(found.values(), key=lambda file: relative(file.path, root)), mistakes


# ── sharing out big files ───────────────────────────────────────────────────────────────────────


def _parts(files: list[Found], source: Source, dedup: Dedup) -> Iterator[Part]:
    for file in files:
        pieces = round((file.size or 0) / dedup.shard)
        if pieces < 2 and source.format != "hub":
            yield Part(*file)
            continue
        cuts = _cuts(file, source, dedup, pieces)
        if not cuts:
            yield Part(*file)
        for begin, end, before, size in cuts:
            yield Part(file.path, size, file.changed, begin, end, before)


def _cuts(
    file: Found, source: Source, dedup: Dedup, pieces: int
) -> list[tuple[int, int, int, int | None]]:
    """(begin, end, records before, bytes) of each share; [] where the file is read as one."""
    if source.format == "hub":
        from dedup.formats.hub import shards

        return [(shard, shard + 1, 0, None) for shard in range(shards(file.path, source))]
    if is_remote(file.path):
        return []
    assert file.size is not None
    form = form_of(local_file(file.path, limit=dedup.max_record), source)
    if form == "parquet":
        from dedup.formats.parquet import shares

        groups = shares(file.path, pieces)
        return [
            (begin, end, before, file.size // max(1, len(groups))) for begin, end, before in groups
        ]
    begins = [file.size * piece // pieces for piece in range(pieces + 1)]
    sizes = np.diff(begins).tolist()
    if form == "wiki" and file.path.endswith(".bz2"):
        zeros = [0] * pieces
        return list(zip(begins[:-1], begins[1:], zeros, sizes, strict=True))
    encoding = codec(source.encoding) if source.encoding != "auto" else None
    wide = encoding is not None and encoding.startswith(("utf-16", "utf-32"))
    if form != "jsonl" or wide or compressed(file.path) or _wide(file.path):
        return []
    before = _records_before(file, tuple(begins))
    return list(zip(begins[:-1], begins[1:], before, sizes, strict=True))


def _wide(path: str) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(2) in (b"\xff\xfe", b"\xfe\xff")


@lru_cache(maxsize=1024)
def _records_before(file: Found, begins: tuple[int, ...]) -> list[int]:
    """Lines before the first that begins at or after each begin: 1 + newlines before begin - 1.

    Counted once per process and state of the file.
    """
    edges = [0, *(begin - 1 for begin in begins[1:-1])]
    with ThreadPoolExecutor(min(8, cores())) as threads:
        counts = threads.map(partial(_count, file.path), edges[:-1], edges[1:])
        return [0, *(np.cumsum(list(counts)) + 1).tolist()]


def _count(path: str, begin: int, end: int) -> int:
    """Newlines among the bytes [begin, end) of a file."""
    buffer = bytearray(1 << 20)
    found = 0
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        file.seek(begin)
        while begin < end:
            got = file.readinto(memoryview(buffer)[: min(len(buffer), end - begin)])
            if not got:
                break
            found += int(np.count_nonzero(np.frombuffer(buffer, np.uint8, got) == 10))
            begin += got
    return found


def file_of(part: Part, root: str, limit: int) -> File:
    """What a reader reads from."""
    share = {"begin": part.begin, "end": part.end, "before": part.before, "limit": limit}
    name = relative(part.path, root)
    if is_remote(part.path):
        from dedup.paths import open_remote

        path = part.path
        return File(path, name, lambda: open_remote(path), size=part.size, **share)  # type: ignore[arg-type]
    return local_file(part.path, name, size=part.size, **share)
