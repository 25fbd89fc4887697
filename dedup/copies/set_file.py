"""Shingle sets of chosen documents, in one file that is mapped.

In: rows of Parquet files with a `text` column (work files of this run, documents of an earlier one).
Out: `Sets` over a file of 64-bit hashes, each set ascending. Only the documents that share a bucket
are read, and only the row groups in which one of them lies.

The decision: every part knows where in the file it begins (the number of shingles, repeats included,
bounds the number of hashes), so processes write at once and nothing passes between them but sizes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dedup.copies.minhash import shingle_sets
from dedup.copies.room import Room
from dedup.copies.verify import Sets
from dedup.executor import Cluster, Tell, run_tasks


@dataclass(frozen=True)
class Part:
    """Some rows of a Parquet file (ascending), and the numbers their documents have in `Sets`.

    room: hashes that the sets can be at most.
    """

    path: Path
    rows: NDArray[np.integer]
    numbers: NDArray[np.integer]
    room: int


@dataclass(frozen=True)
class _Shingling:
    """The sets of a part, written from one place of the file on."""

    part: Part
    first: int
    shingle: int
    target: Path

    def __str__(self) -> str:
        return str(self.part.path)


def write_sets(
    parts: list[Part],
    documents: int,
    shingle: int,
    target: Path,
    *,
    workers: int,
    say: Callable[[int, int], None],
    cluster: Cluster | None = None,
    room: Room | None = None,
) -> Sets:
    """Write the sets of all parts to `target`; documents in no part have an empty one.

    documents: how many numbers there are; where their sets are is held in `room`. say: told how many
    parts of how many are done.
    """
    room = room or Room()
    begin = room.full(documents, 0, np.int64)
    size = room.full(documents, 0, np.int64)
    items = []
    first = 0
    for part in parts:
        items.append(_Shingling(part, first, shingle, target))
        first += part.room
    target.write_bytes(b"")
    finished = 0

    def note(item: _Shingling, result: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
        nonlocal finished
        begin[item.part.numbers], size[item.part.numbers] = result
        finished += 1
        say(finished, len(items))

    run_tasks(_write_part, items, workers, cluster=cluster, on_done=note)
    empty = np.zeros(1, np.uint64)
    mapped = np.memmap(target, np.uint64, mode="r") if target.stat().st_size else empty
    return Sets(begin, size, np.asarray(mapped))


def _write_part(item: _Shingling, tell: Tell) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns where each row's set begins in the file, and its size, in hashes."""
    begins, sizes = [], []
    at = item.first
    handle = os.open(item.target, os.O_WRONLY)
    try:
        for texts, inside in _texts(item.part):
            ends, hashes = shingle_sets(texts, inside, shingle=item.shingle)
            write_at(handle, hashes, 8 * at)
            begins.append(at + ends[:-1])
            sizes.append(np.diff(ends))
            at += len(hashes)
    finally:
        os.close(handle)
    return np.concatenate(begins), np.concatenate(sizes)


def _texts(part: Part) -> Iterator[tuple[pa.LargeStringArray, NDArray[np.int64]]]:
    """Texts of the row groups that hold a row of the part, and which of them are meant."""
    with pq.ParquetFile(part.path) as file:
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            inside = part.rows[(part.rows >= begin) & (part.rows < end)] - begin
            begin = end
            if not len(inside):
                continue
            table = file.read_row_group(group, columns=["text"], use_threads=False)
            column = table["text"].combine_chunks()
            for texts in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                mine = inside[(inside >= 0) & (inside < len(texts))]
                if len(mine):
                    yield texts, mine
                inside = inside - len(texts)


def write_at(handle: int, values: NDArray[np.generic], offset: int) -> None:
    """Write an array's bytes at a byte offset of an open file, all of them."""
    left = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while left:
        written = os.pwrite(handle, left, offset)
        left, offset = left[written:], offset + written
