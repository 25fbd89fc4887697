"""Ids that occur again, over several tasks, against the rule in plain Python."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup.copies import names
from dedup.copies.names import load_names, new_ids, repeated_ids, suffix_path
from dedup.copies.room import Room
from dedup.read import Task


def write(path: Path, rows: list[tuple[int, str]]) -> None:
    table = pa.table(
        {"record": pa.array([row[0] for row in rows], pa.int64()),
         "id": pa.array([row[1] for row in rows], pa.string())}
    )  # fmt: skip
    pq.write_table(table, path, row_group_size=37, use_dictionary=False)


def by_rule(tasks: list[list[tuple[int, str]]]) -> dict[tuple[int, int], str]:
    """The new id of every (task, record): the first keeps its own, the next get the next free one."""
    taken = {name for records in tasks for _, name in records}
    counted: dict[str, int] = {}
    given = {}
    for task, records in enumerate(tasks):
        for record, name in sorted(records):
            number = counted.get(name, 0) + 1
            while number > 1 and f"{name}~{number}" in taken:
                number += 1
            counted[name] = number
            given[task, record] = name if number == 1 else f"{name}~{number}"
    return given


@pytest.mark.parametrize("at_once", [2_000_000, 6])
def test_all_but_the_first_of_an_id_get_the_next_number_that_makes_no_id_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(names, "_AT_ONCE", at_once)
    rng = random.Random(at_once)
    for kinds in (5, 60, 100_000):
        pool = [f"글{n}" for n in range(kinds)] + ["x", "x~2", "x~3", "x~04", "~2", "", "글1~2"]
        kept = [[(n, rng.choice(pool)) for n in range(0, 300, 2)] for _ in range(4)]
        removed = [[(n, rng.choice(pool)) for n in range(1, 200, 2)] for _ in range(4)]
        kept.append([])
        removed.append([])
        tasks = [Task(index, 0, (), 0) for index in range(5)]
        for index in range(5):
            write(tmp_path / f"{index:05}.parquet", kept[index])
            write(tmp_path / f"{index:05}.removed.parquet", removed[index])
        expected = by_rule([a + b for a, b in zip(kept, removed, strict=True)])
        base = np.cumsum([0, *map(len, kept)])
        renamed = repeated_ids(tasks, tmp_path, Room())
        found = load_names(tasks, base, tmp_path, renamed, Room())
        renamed.write(tasks, base, tmp_path)
        plain = [name for part in (*kept, *removed) for _, name in part]
        assert renamed.count == len(plain) - len(set(plain))
        numbers = iter(range(len(found)))
        for index in range(5):
            for record, _ in kept[index]:
                assert found[next(numbers)] == expected[index, record]
            path = suffix_path(tmp_path, index)
            suffix = np.load(path) if path.exists() else np.zeros(len(removed[index]), np.int32)
            ids = new_ids(pa.array([name for _, name in removed[index]], pa.string()), suffix)
            assert ids.to_pylist() == [expected[index, record] for record, _ in removed[index]]


def test_where_every_id_occurs_once_nothing_is_held_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path / "00000.parquet", [(n, f"a{n}") for n in range(100)])
    write(tmp_path / "00000.removed.parquet", [(100, "b")])
    task = Task(0, 0, (), 0)
    renamed = repeated_ids([task], tmp_path, Room())
    renamed.write([task], np.array([0, 100]), tmp_path)
    assert (renamed.suffix, renamed.count, renamed.bytes) == (None, 0, 0)
    assert not list(tmp_path.glob("*.npy"))
