"""How much each word counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenizer.counts import counts_writer, merge_counts, read_counts
from tokenizer.tally import COUNTS, PARTITIONS, Tally
from tokenizer.weights import balanced, lowest_count


def table(rows: list[tuple[str, str, int]]) -> pa.Table:
    names = ("source", "word", "count")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=COUNTS)


def merged(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    """A merged file of counts, as `count_words` leaves it."""
    part = path.with_suffix(".part")
    with counts_writer(part, "form") as writer:
        tally = Tally()
        tally.add_table(table(rows))
        for partition in range(PARTITIONS):
            writer.append(tally.partition(partition))
        writer.close(0)
    merge_counts([part], path)
    return path


def test_a_source_weighs_its_size_to_the_power_of_balance() -> None:
    counts = table([("big", " 가", 300), ("big", " 나", 100), ("small", " 가", 4)])
    chosen, weights = balanced(counts, 0.5)
    assert chosen == [" 가", " 나"]
    assert weights.tolist() == [300 + 40, 100]  # factor (400 / 4) ** 0.5 = 10
    assert balanced(counts, 1.0)[1].tolist() == [304, 100]
    assert balanced(counts, 0.0)[1].tolist() == [700, 100]


def test_rare_words_are_left_out_by_their_true_count() -> None:
    counts = table([("big", " 가", 300), ("small", " 나", 1), ("small", " 다", 2)])
    assert balanced(counts, 0.5, 2)[0] == [" 가", " 다"]
    assert balanced(COUNTS.empty_table(), 0.5, 2)[1].dtype == np.int64


def test_the_lowest_count_leaves_no_more_words_than_asked(tmp_path: Path) -> None:
    rows = [("a", f" 낱말{index}", 1 + index % 5) for index in range(1000)]
    rows += [("b", f" 낱말{index}", 1) for index in range(500)]  # these count once more
    path = merged(tmp_path / "counts.parquet", rows)
    for most in (1, 90, 100, 300, 999, 1000, 5000):
        count = lowest_count(path, most)
        kept = len(set(read_counts(path, count)["word"].to_pylist()))
        assert kept <= most
        assert count == 1 or len(set(read_counts(path, count - 1)["word"].to_pylist())) > most
    assert lowest_count(path) == 1


def test_words_above_the_highest_count_told_apart_are_kept_together(tmp_path: Path) -> None:
    path = merged(tmp_path / "counts.parquet", [("a", " 가", 10**6), ("a", " 나", 10**7)])
    assert lowest_count(path, 1) == 1 << 16
