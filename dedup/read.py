"""Sources of the config → tasks of whole files → Arrow batches of documents.

In: `Dedup`. Out: `plan` gives the tasks, `read` the batches of one task: columns id, kind, text,
segments, url, meta, plus the failures (what could not be read) and the bytes that went in. Nothing
is dropped here: every record becomes a document or one `Failure`.

A plan depends on the paths and sizes of the files and on `dedup.shard`, never on the number of
workers, and the ids made here (`<source>/<relative path>#<record number>`) only on the paths, so
every later order and name is the same on every machine. Paths are relative to the one folder that
all paths of a source share.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from configs.errors import InputError
from configs.schema import Dedup, Source
from dedup.containers import bare_suffix
from dedup.extract import codec
from dedup.records import Document, Failure, documents

MAX_ROWS = 1_000
MAX_TEXT = 4_000_000  # bytes of text in a batch, unless one document alone is longer

SEGMENTS = pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))
BATCH_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("text", pa.large_string()),
        ("segments", SEGMENTS),
        ("url", pa.string()),
        ("meta", pa.string()),
    ]
)

SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet", ".pq"),
    "html": (".html", ".htm", ".xhtml"),
    "text": (".txt", ".text", ".md"),
    "warc": (".warc",),
}


@dataclass(frozen=True)
class Task:
    """Whole files of one source, about `dedup.shard` bytes of them: what one worker does at a time.

    index: place in the plan. source: index in `dedup.sources`. files: absolute paths, in reading
    order. bytes: size of the files on disk.
    """

    index: int
    source: int
    files: tuple[str, ...]
    bytes: int


@dataclass
class RawBatch:
    """Documents as read (`BATCH_SCHEMA`, all of one kind), and what failed on the way to them.

    bytes_in: uncompressed bytes of the records of this batch, those that failed included.
    """

    batch: pa.RecordBatch
    failed: list[Failure] = field(default_factory=list)
    bytes_in: int = 0


# ── plan ────────────────────────────────────────────────────────────────────────────────────────


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
        files: set[str] = set()
        for pattern in source.paths:
            found = _files(pattern, source)
            if not found:
                mistakes.append(
                    f"dedup.sources.{number}.paths: {pattern} matches no file; {_hint(pattern)}"
                )
            files.update(found)
        root = source_root(source)
        ordered = sorted(files, key=lambda path: relative(path, root))
        group: list[str] = []
        size = 0
        for path in ordered:
            group.append(path)
            size += Path(path).stat().st_size
            if size >= dedup.shard:
                tasks.append(Task(len(tasks), number, tuple(group), size))
                group, size = [], 0
        if group:
            tasks.append(Task(len(tasks), number, tuple(group), size))
    if mistakes:
        raise InputError(mistakes)
    return tasks


def source_root(source: Source) -> str:
    """The folder that ids are relative to: what all paths of the source have in common."""
    return os.path.commonpath([_base(pattern) for pattern in source.paths])


def relative(path: str, root: str) -> str:
    """Path below the root with forward slashes, as ids carry it."""
    return Path(os.path.relpath(path, root)).as_posix()


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (resolve() would follow links and change ids)


def _base(pattern: str) -> str:
    """The folder before the first wildcard."""
    path = Path(_absolute(pattern))
    if glob.has_magic(pattern) and not path.exists():
        parts = path.parts
        first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        return str(Path(*parts[:first]))
    return str(path if path.is_dir() else path.parent)


def _files(pattern: str, source: Source) -> list[str]:
    path = _absolute(pattern)
    if Path(path).is_file():
        return [path]
    if Path(path).is_dir():
        return _in_folder(path, source)
    found: list[str] = []
    for match in glob.glob(path, recursive=True):  # noqa: PTH207 (the pattern is absolute)
        if Path(match).is_file():
            found.append(match)
        elif not pattern.endswith("**"):  # `data/*` names folders too; `**` has walked them
            found += _in_folder(match, source)
    return found


def _in_folder(folder: str, source: Source) -> list[str]:
    """Files below a folder whose suffix fits the format; hidden ones are left out."""
    if source.format in SUFFIXES:
        wanted: tuple[str, ...] = SUFFIXES[source.format]
    elif source.format in ("chat", "parallel"):
        wanted = SUFFIXES["jsonl"] + SUFFIXES["parquet"]
    else:
        wanted = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            str(Path(at, name))
            for name in names
            if not name.startswith(".") and bare_suffix(name) in wanted
        ]
    return found


def _hint(pattern: str) -> str:
    """What is there instead: the nearest name beside it, or the nearest folder that exists."""
    path = Path(_absolute(pattern))
    if path.is_dir():
        return "the folder holds no file of this format"
    here = path
    while not here.exists() and here != here.parent:
        missing, here = here.name, here.parent
    names = sorted(entry.name for entry in here.iterdir()) if here.is_dir() else []
    plain = re.sub(r"[*?\[\]]", "", missing)
    close = difflib.get_close_matches(plain, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(str(here / name) for name in close)}?"
    if glob.has_magic(missing) and names:
        return f"{here} holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
    return f"the nearest folder that exists is {here}"


# ── read ────────────────────────────────────────────────────────────────────────────────────────


def read(task: Task, dedup: Dedup) -> Iterator[RawBatch]:
    """The documents of a task's files, in order, in batches of at most 1,000 rows and 4 MB of text.

    Bad input never raises: it is in `failed`. A batch may hold no document, only failures.
    """
    source = dedup.sources[task.source]
    root = source_root(source)
    rows: list[Document] = []
    failed: list[Failure] = []
    size = text = 0
    for path in task.files:
        for item in documents(path, relative(path, root), source):
            size += item.size
            if isinstance(item, Failure):
                failed.append(item)
                continue
            length = len(item.text)
            if rows and (
                item.kind != rows[0].kind
                or len(rows) == MAX_ROWS
                or text + 3 * length > MAX_TEXT  # Hangul takes three bytes
            ):
                yield RawBatch(_batch(rows), failed, size - item.size)
                rows, failed, size, text = [], [], item.size, 0
            rows.append(item)
            text += 3 * length
    if rows or failed or size:
        yield RawBatch(_batch(rows), failed, size)


def _batch(rows: list[Document]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([row.id for row in rows], pa.string()),
            pa.array([row.kind for row in rows], pa.string()),
            pa.array([row.text for row in rows], pa.large_string()),
            pa.array(
                [
                    None
                    if row.segments is None
                    else [{"role": role, "text": text} for role, text in row.segments]
                    for row in rows
                ],
                SEGMENTS,
            ),
            pa.array([row.url for row in rows], pa.string()),
            pa.array([row.meta for row in rows], pa.string()),
        ],
        schema=BATCH_SCHEMA,
    )
