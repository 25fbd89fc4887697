"""The ids of all documents, and which of them occurred before.

In: the work files of the first pass. Out: `Names`, bytes and places in two arrays, wherever `Room` has
them; and for every record whose id occurred before the number that makes it unique (`x`, `x~2`, `x~3`).

The decision: ids are strings only for the rows at hand. A string per document in Python costs sixty
bytes and more, in Arrow sixteen and the id; here it is twelve and the id, which may lie in a file.
Repeated ids are found by sorting 64-bit hashes, then only those whose hash occurs twice are read again
and compared as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from dedup.copies.room import Room
from dedup.read import Task
from dedup.utf8 import buffers, column

_AT_ONCE = 2_000_000
"""Records with a repeated id that are looked at at a time: a few hundred bytes each."""


@dataclass
class Names:
    """Ids by number: document d's is data[begin[d] : begin[d] + size[d]]."""

    data: NDArray[np.uint8]
    begin: NDArray[np.int64]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.begin)

    def __getitem__(self, number: int) -> str:
        begin = int(self.begin[number])
        return self.data[begin : begin + int(self.size[number])].tobytes().decode("utf-8")

    def take(self, numbers: NDArray[np.integer]) -> pa.LargeStringArray:
        """The ids of some documents."""
        ends = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(self.size[numbers], out=ends[1:])
        data = np.empty(int(ends[-1]) + 1, np.uint8)
        _gather(self.data, self.begin, numbers, ends, data)
        return column(ends, data)


def load_names(
    tasks: Sequence[Task], base: NDArray[np.int64], work: Path, renamed: Renamed, room: Room
) -> Names:
    """The ids of what the first pass left; base[t] is the number of task t's first document."""
    data = room.empty(_most_bytes(tasks, work) + renamed.bytes + 1, np.uint8)
    names = Names(data, room.empty(int(base[-1]), np.int64), room.empty(int(base[-1]), np.int32))
    at = 0
    for task in tasks:
        number = int(base[task.index])
        for ids, suffix in renamed.kept(task, work):
            ends, written = buffers(new_ids(ids, suffix))
            begin, last = int(ends[0]), int(ends[-1])
            data[at : at + last - begin] = written[begin:last]
            names.begin[number : number + len(ids)] = ends[:-1] - begin + at
            names.size[number : number + len(ids)] = np.diff(ends)
            at += last - begin
            number += len(ids)
    return names


def new_ids(ids: pa.Array, suffix: NDArray[np.int32] | None) -> pa.Array:
    """Ids with `~` and the number where there is one (0: none)."""
    if suffix is None or not suffix.any():
        return ids
    ids = ids.cast(pa.large_string())
    numbers = pa.array(suffix).cast(pa.large_string())
    longer = pc.binary_join_element_wise(ids, numbers, pa.scalar("~", pa.large_string()))
    return pc.if_else(pa.array(suffix > 0), longer, ids)


# ── ids that occur again ────────────────────────────────────────────────────────────────────────


@dataclass
class Renamed:
    """What is put after ids: suffix[first[t] + i] is that of task t's record i, those kept first and
    then those removed, in the order of their files; 0: nothing. None where no id occurs twice.

    count: records with a suffix. bytes: what they take in all.
    """

    first: NDArray[np.int64]
    suffix: NDArray[np.int32] | None = None
    count: int = 0
    bytes: int = 0

    def kept(self, task: Task, work: Path) -> Iterator[tuple[pa.Array, NDArray[np.int32] | None]]:
        """The ids of what a task left, with what is put after each."""
        at = int(self.first[task.index])
        for ids in _column(work / f"{task.index:05}.parquet", "id"):
            end = at + len(ids)
            yield ids, None if self.suffix is None else self.suffix[at:end]
            at = end

    def write(self, tasks: Sequence[Task], base: NDArray[np.int64], work: Path) -> None:
        """Leave <task>.suffix.npy, for the removed records of each task that has a new id there."""
        for task in tasks:
            path = suffix_path(work, task.index)
            path.unlink(missing_ok=True)
            if self.suffix is None:
                continue
            first, last = self.first[task.index : task.index + 2]
            mine = self.suffix[first + base[task.index + 1] - base[task.index] : last]
            if mine.any():
                np.save(path, mine)


def suffix_path(work: Path, index: int) -> Path:
    """Where the numbers after the ids of a task's removed records are; not there without one."""
    return work / f"{index:05}.suffix.npy"


def repeated_ids(tasks: Sequence[Task], work: Path, room: Room) -> Renamed:
    """Numbers for all but the first of the records, kept or removed, that share an id.

    The first is that of the earliest task and record; the others get 2, 3, …, leaving out what would
    make an id that there is.
    """
    rows = [sum(pq.read_metadata(path).num_rows for path in _files(task, work)) for task in tasks]
    first = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
    hashes = room.empty(int(first[-1]), np.uint64)
    taken: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    at = 0
    for task in tasks:
        for path in _files(task, work):
            for ids in _column(path, "id"):
                part = hashes[at : at + len(ids)]
                numbered = np.empty(len(ids), np.bool_)
                _hash(*buffers(ids), part, numbered)
                if numbered.any():
                    taken.append(part[numbered])
                at += len(ids)
    hashes.sort()
    twice = _twice(hashes)
    del hashes
    renamed = Renamed(first)
    if not len(twice):
        return renamed
    known = np.unique(np.concatenate(taken))
    suffix = room.full(int(first[-1]), 0, np.int32)
    for begin in range(0, len(twice), _AT_ONCE // 2):
        _number(tasks, work, twice[begin : begin + _AT_ONCE // 2], known, first, suffix)
    renamed.suffix = suffix
    for begin in range(0, len(suffix), 1 << 20):
        part = suffix[begin : begin + (1 << 20)]
        part = part[part > 0]
        renamed.count += len(part)
        renamed.bytes += int((np.floor(np.log10(np.maximum(part, 1))) + 2).sum())
    return renamed


def _number(
    tasks: Sequence[Task],
    work: Path,
    twice: NDArray[np.uint64],
    taken: NDArray[np.uint64],
    first: NDArray[np.int64],
    suffix: NDArray[np.int32],
) -> None:
    """Number the records whose id has one of these hashes."""
    tables = []
    for task in tasks:
        at = int(first[task.index])
        for path in _files(task, work):
            table = pq.read_table(path, columns=["id", "record"], use_threads=False)
            table = table.combine_chunks()
            for ids, records in zip(table["id"].chunks, table["record"].chunks, strict=True):
                found = np.empty(len(ids), np.uint64)
                _hash(*buffers(ids), found, np.empty(len(ids), np.bool_))
                place = np.minimum(np.searchsorted(twice, found), len(twice) - 1)
                rows = np.flatnonzero(twice[place] == found)
                if len(rows):
                    chosen = pa.array(rows)
                    tables.append(
                        pa.table(
                            {
                                "id": ids.take(chosen),
                                "task": np.full(len(rows), task.index, np.int32),
                                "record": records.take(chosen),
                                "row": at + rows,
                            }
                        )
                    )
                at += len(ids)
    whole = pa.concat_tables(tables).sort_by([("task", "ascending"), ("record", "ascending")])
    counted: Counter[str] = Counter()
    for batch in whole.to_batches(max_chunksize=10_000):
        for name, row in zip(batch["id"].to_pylist(), batch["row"].to_pylist(), strict=True):
            counted[name] += 1
            if counted[name] == 1:
                continue
            while len(taken) and _there(f"{name}~{counted[name]}", taken):
                counted[name] += 1
            suffix[row] = counted[name]


def _there(name: str, taken: NDArray[np.uint64]) -> bool:
    """Whether an id that ends in a number is one of those with these hashes."""
    found = np.empty(1, np.uint64)
    _hash(*buffers(pa.array([name], pa.large_string())), found, np.empty(1, np.bool_))
    place = int(np.searchsorted(taken, found[0]))
    return place < len(taken) and bool(taken[place] == found[0])


def _files(task: Task, work: Path) -> tuple[Path, Path]:
    return work / f"{task.index:05}.parquet", work / f"{task.index:05}.removed.parquet"


def _column(path: Path, name: str) -> Iterator[pa.Array]:
    """A column of a Parquet file, row group by row group."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[name], use_threads=False)
            yield from table[name].chunks


def _most_bytes(tasks: Sequence[Task], work: Path) -> int:
    """At most so many bytes do all ids take: they are written plain, a length before each."""
    total = 0
    for task in tasks:
        metadata = pq.read_metadata(work / f"{task.index:05}.parquet")
        place = metadata.schema.names.index("id")
        for group in range(metadata.num_row_groups):
            total += metadata.row_group(group).column(place).total_uncompressed_size
    return total


@njit(nogil=True, cache=True)
def _hash(offsets, data, hashes, numbered):  # type: ignore[no-untyped-def]
    """A 64-bit hash of every id, and whether it ends in `~` and digits."""
    for row in range(len(offsets) - 1):
        value = np.uint64(0x9E3779B97F4A7C15)
        for at in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
            value ^= value >> np.uint64(29)
        value *= np.uint64(0xFF51AFD7ED558CCD)
        hashes[row] = value ^ (value >> np.uint64(32))
        at = offsets[row + 1] - 1
        while at >= offsets[row] and 48 <= data[at] <= 57:
            at -= 1
        numbered[row] = at >= offsets[row] and data[at] == 126 and at < offsets[row + 1] - 1


@njit(nogil=True, cache=True)
def _twice(ordered):  # type: ignore[no-untyped-def]
    """The values that occur more than once in an ascending array."""
    count = 0
    for i in range(1, len(ordered)):
        count += ordered[i] == ordered[i - 1] and (i < 2 or ordered[i] != ordered[i - 2])
    found = np.empty(count, np.uint64)
    at = 0
    for i in range(1, len(ordered)):
        if ordered[i] == ordered[i - 1] and (i < 2 or ordered[i] != ordered[i - 2]):
            found[at] = ordered[i]
            at += 1
    return found


@njit(nogil=True, cache=True)
def _gather(data, begin, numbers, ends, out):  # type: ignore[no-untyped-def]
    for i in range(len(numbers)):
        at = begin[numbers[i]]
        for k in range(ends[i + 1] - ends[i]):
            out[ends[i] + k] = data[at + k]
