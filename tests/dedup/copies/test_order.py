"""Orders, equals and ids of all documents at once, against what Arrow and Python say."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dedup.copies.corpus import _descending
from dedup.copies.names import Names
from dedup.copies.order import digests_in_order, first_of_equals, in_order
from dedup.copies.room import Room


def names_of(ids: list[str]) -> Names:
    data = [name.encode() for name in ids]
    size = np.array([len(part) for part in data], np.int32)
    begin = np.cumsum(size, dtype=np.int64) - size
    return Names(np.frombuffer(b"".join(data) + b"\0", np.uint8), begin, size)


@pytest.fixture(params=["memory", "files"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Room:
    return Room(tmp_path if request.param == "files" else None)


def test_the_order_of_worth_is_that_of_a_table_sorted_by_every_key(room: Room) -> None:
    rng = random.Random(3)
    for count, kinds in ((0, 1), (1, 1), (2_000, 3), (60_000, 2), (60_000, 50_000)):
        draw = np.random.default_rng(count + kinds)
        quality = draw.choice(draw.random(kinds).astype(np.float32), count)
        length = draw.integers(0, kinds, count)
        ids = [f"웹/{rng.randrange(40)}.jsonl#{number}" for number in range(count)]
        ids[: count // 2] = [name[: rng.randint(2, 12)] + chr(0x10 + number % 90) + str(number)
                             for number, name in enumerate(ids[: count // 2])]  # fmt: skip
        rng.shuffle(ids)
        keys = [_descending(quality), np.uint32(2**32 - 1) - length.astype(np.uint32)]
        order = in_order(keys, names_of(ids), count, room)
        table = pa.table({"quality": quality, "length": length, "id": ids})
        by = [("quality", "descending"), ("length", "descending"), ("id", "ascending")]
        expected = table.append_column("row", pa.array(np.arange(count))).sort_by(by)["row"]
        assert order.tolist() == expected.to_pylist()


def test_ids_in_order_are_ordered_by_their_bytes_and_what_ends_comes_first() -> None:
    ids = [
        "b",
        "a",
        "",
        "a\0",
        "ab",
        "abc",
        "abcd",
        "abcde",
        "가",
        "a가",
        "\U0001f600",
        "a" * 40,
        "Z",
    ]
    order = in_order([], names_of(ids), len(ids), Room())
    assert [ids[row] for row in order] == sorted(ids, key=str.encode)
    same = in_order([], names_of(["x"] * 5), 5, Room())
    assert same.tolist() == [0, 1, 2, 3, 4]


def test_qualities_descend_and_what_is_no_number_comes_last() -> None:
    values = np.array([0.5, -1, np.nan, np.inf, 0.0, -0.0, -np.inf, 1e-30], np.float32)
    keys = _descending(values)
    assert np.argsort(keys, kind="stable").tolist() == [3, 0, 7, 4, 5, 1, 6, 2]
    assert keys[4] == keys[5]


def test_the_first_of_equals_is_the_best_also_where_only_the_last_bits_differ(room: Room) -> None:
    draw = np.random.default_rng(5)
    count = 30_000
    digest = draw.integers(0, 100, (count, 2), dtype=np.uint64)
    digest[::2, 0] <<= np.uint64(57)  # the high bits alone take part in the sort
    number_of = draw.permutation(count).astype(np.int32)
    rank_of = np.empty(count, np.int32)
    rank_of[number_of] = np.arange(count)
    survivor = first_of_equals(digest, rank_of, number_of, room)
    best: dict[tuple[int, int], int] = {}
    for rank, number in enumerate(number_of.tolist()):
        assert survivor[rank] == best.setdefault(
            (int(digest[number, 0]), int(digest[number, 1])), rank
        )
    order = digests_in_order(digest)
    assert order.tolist() == np.lexsort((digest[:, 1], digest[:, 0])).tolist()


def test_ids_are_taken_by_number_and_stay_what_they_are() -> None:
    ids = ["가나다", "", "x#1", "\U0001f600/끝"]
    names = names_of(ids)
    assert names.take(np.array([3, 0, 0, 1, 2])).to_pylist() == [ids[3], ids[0], ids[0], "", ids[2]]
    assert [names[number] for number in range(len(names))] == ids
    assert names.take(np.zeros(0, np.int64)).to_pylist() == []
