"""What the second pass knows of every document: its id, its place in the order of worth, its digest.

In: the work files of the first pass. Out: a `Corpus`. The order of worth: quality of the source,
quality, length, id. Texts and signatures stay in the files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.schema import Dedup
from dedup.read import Task

Renamed = dict[str, dict[str, str]]
"""{task: {record: new id}} of ids that occurred before."""


@dataclass
class Corpus:
    """Every document that is left; rank 0 is the best. Arrays by rank, but rank_of and ids by number.

    A document's number is its place in the work files, task after task; base[t] is the first of
    task t.
    """

    base: NDArray[np.int64]
    rank_of: NDArray[np.int64]
    ids: pa.Array
    task: NDArray[np.int32]
    digest: NDArray[np.uint64]  # [documents, 2]
    signed: NDArray[np.bool_]
    shingles: NDArray[np.int64]

    @property
    def documents(self) -> int:
        return len(self.rank_of)

    def number_of(self) -> NDArray[np.int64]:
        """The number of the document of each rank."""
        numbers = np.empty(self.documents, np.int64)
        numbers[self.rank_of] = np.arange(self.documents)
        return numbers


def load_corpus(tasks: list[Task], dedup: Dedup, work: Path) -> tuple[Corpus, Renamed]:
    """Read what is held of all documents; ids that occur again are made unique."""
    base = np.zeros(len(tasks) + 1, np.int64)
    renamed = _repeated_ids(tasks, work)
    columns = ["id", "quality", "characters", "digest", "shingles"]
    if renamed:
        columns.append("record")
    parts: list[pa.Table] = []
    for task in tasks:
        table = pq.read_table(work / f"{task.index:05}.parquet", columns=columns, use_threads=False)
        base[task.index + 1] = base[task.index] + table.num_rows
        weight = np.full(table.num_rows, dedup.sources[task.source].quality)
        table = table.append_column("weight", pa.array(weight))
        large = table["id"].cast(pa.large_string())
        parts.append(table.set_column(table.schema.get_field_index("id"), "id", large))
    whole = pa.concat_tables(parts)
    parts.clear()
    ids = one_array(whole["id"])
    if renamed:
        new = ids.to_pylist()
        records = one_array(whole["record"]).to_numpy()
        for task in tasks:
            names = renamed.get(str(task.index), {})
            for number in range(base[task.index], base[task.index + 1]) if names else ():
                new[number] = names.get(str(records[number]), new[number])
        ids = pa.array(new, pa.large_string())
    whole = whole.set_column(whole.schema.get_field_index("id"), "id", ids)
    order = pc.sort_indices(
        whole,
        sort_keys=[
            ("weight", "descending"),
            ("quality", "descending"),
            ("characters", "descending"),
            ("id", "ascending"),
        ],
    ).to_numpy()
    order = order.astype(np.int64)
    rank_of = np.empty(len(order), np.int64)
    rank_of[order] = np.arange(len(order))
    digest = words(one_array(whole["digest"]), 2, "<u8")[order]
    shingles = one_array(whole["shingles"]).to_numpy()[order]
    task_of = np.repeat(np.arange(len(tasks), dtype=np.int32), np.diff(base))[order]
    return Corpus(base, rank_of, ids, task_of, digest, shingles > 0, shingles), renamed


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


def first_of_equals(digest: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each document the first, in order of worth, with the same digest."""
    if not len(digest):
        return np.zeros(0, np.int64)
    order = np.lexsort((digest[:, 1], digest[:, 0]))  # stable: best first among equals
    ordered = digest[order]
    fresh = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = order[np.flatnonzero(fresh)][np.cumsum(fresh) - 1]
    survivor = np.empty(len(digest), np.int64)
    survivor[order] = first
    return survivor


def _repeated_ids(tasks: list[Task], work: Path) -> Renamed:
    """New ids for all but the first of the records, kept or removed, that share one.

    The first is that of the earliest task and record; the others get `~2`, `~3`, … after their id.
    """
    counted: Counter[str] = Counter()
    tables = []
    for task in tasks:
        for name in (f"{task.index:05}.parquet", f"{task.index:05}.removed.parquet"):
            table = pq.read_table(work / name, columns=["id", "record"], use_threads=False)
            number = pa.array(np.full(table.num_rows, task.index, np.int32))
            tables.append(table.append_column("task", number))
    whole = pa.concat_tables(tables)
    counts = whole.group_by("id").aggregate([("id", "count")])
    twice = counts.filter(pc.greater(counts["id_count"], 1))["id"]
    if not len(twice):
        return {}
    suffixed = counts.filter(pc.match_substring_regex(counts["id"], r"~\d+$"))["id"]
    taken = set(suffixed.to_pylist())
    repeated = whole.filter(pc.is_in(whole["id"], twice.combine_chunks()))
    repeated = repeated.sort_by([("task", "ascending"), ("record", "ascending")])
    renamed: Renamed = {}
    for row in repeated.to_pylist():
        name = row["id"]
        counted[name] += 1
        if counted[name] == 1:
            continue
        while f"{name}~{counted[name]}" in taken:
            counted[name] += 1
        renamed.setdefault(str(row["task"]), {})[str(row["record"])] = f"{name}~{counted[name]}"
    return renamed
