"""What the second pass knows of every document: its id, its place in the order of worth, its digest.

In: the work files of the first pass. Out: a `Corpus`. The order of worth: quality of the source,
quality, length, id. Texts and signatures stay in the files; what is held is wherever `Room` has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.schema import Dedup
from dedup.clean import read_work
from dedup.copies.names import Names, Renamed, load_names, repeated_ids
from dedup.copies.order import in_order
from dedup.copies.room import Room
from dedup.read import Task


@dataclass
class Corpus:
    """Every document that is left; rank 0 is the best.

    A document's number is its place in the work files, task after task; base[t] is the first of
    task t. number_of is by rank; everything else is by number.
    """

    base: NDArray[np.int64]
    rank_of: NDArray[np.int32]
    number_of: NDArray[np.int32]
    names: Names
    digest: NDArray[np.uint64]  # [documents, 2]
    shingles: NDArray[np.uint32]  # 0: not signed
    room: Room

    @property
    def documents(self) -> int:
        return len(self.rank_of)

    def ranks(self, task: Task) -> NDArray[np.int32]:
        """The ranks of a task's documents."""
        return self.rank_of[self.base[task.index] : self.base[task.index + 1]]

    def task_of(self, ranks: NDArray[np.integer]) -> NDArray[np.int64]:
        """The tasks that documents are of."""
        return np.searchsorted(self.base, self.number_of[ranks], side="right") - 1


def load_corpus(tasks: Sequence[Task], dedup: Dedup, work: Path) -> tuple[Corpus, Renamed]:
    """Read what is held of all documents; ids that occur again are made unique.

    Raises OverflowError for 2³¹ documents and more.
    """
    base = np.zeros(len(tasks) + 1, np.int64)
    for task in tasks:
        rows = pq.read_metadata(work / f"{task.index:05}.parquet").num_rows
        base[task.index + 1] = base[task.index] + rows
    documents = int(base[-1])
    if documents >= 2**31 - 1:
        raise OverflowError("2³¹ documents and more; split the corpus")
    room = Room.of(dedup, documents, work)
    renamed = repeated_ids(tasks, work, room)
    names = load_names(tasks, base, work, renamed, room)
    renamed.write(tasks, base, work)
    weights = sorted({source.quality for source in dedup.sources}, reverse=True)
    weight = room.empty(documents if len(weights) > 1 else 0, np.uint32)
    quality, length, shingles = (room.empty(documents, np.uint32) for _ in range(3))
    digest = room.empty((documents, 2), np.uint64)
    for task in tasks:
        at = int(base[task.index])
        for batch in read_work(work, task.index, ["quality", "characters", "digest", "shingles"]):
            part = slice(at, at + batch.num_rows)
            quality[part] = _descending(batch["quality"].to_numpy())
            length[part] = np.uint32(2**32 - 1) - batch["characters"].to_numpy().astype(np.uint32)
            digest[part] = words(batch["digest"], 2, "<u8")
            shingles[part] = batch["shingles"].to_numpy()
            at += batch.num_rows
        if len(weight):
            source = dedup.sources[task.source]
            weight[base[task.index] : at] = weights.index(source.quality)
    keys = [weight, quality, length] if len(weight) else [quality, length]
    number_of = in_order(keys, names, documents, room)
    del weight, quality, length, keys
    rank_of = room.empty(documents, np.int32)
    for begin, end in pieces(documents):
        rank_of[number_of[begin:end]] = np.arange(begin, end, dtype=np.int32)
    return Corpus(base, rank_of, number_of, names, digest, shingles, room), renamed


def pieces(count: int, size: int = 1 << 20) -> Iterator[tuple[int, int]]:
    """[begin, end) after [begin, end): what is done piece by piece needs no second whole array."""
    for begin in range(0, count, size):
        yield begin, min(begin + size, count)


def _descending(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Numbers that ascend where the values descend; what is no number comes last."""
    bits = np.ascontiguousarray(values + np.float32(0)).view(np.uint32)  # -0 becomes 0
    negative = bits >> np.uint32(31) > 0
    ascending = np.where(negative, ~bits, bits | np.uint32(2**31))
    return np.where(np.isnan(values), np.uint32(2**32 - 1), ~ascending)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], whole.type)
    return whole


def words(column: pa.Array, count: int, kind: str) -> NDArray[Any]:
    """A fixed-size binary column as numbers: [rows, count]; what stands under a null is undefined."""
    values = column.buffers()[1]
    rows = column.offset + len(column)
    whole = np.frombuffer(values, kind, count=rows * count) if rows else np.zeros(0, kind)
    return whole.reshape(rows, count)[column.offset :]
