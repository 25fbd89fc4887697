"""Buckets: who shares a whole band of minima with whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dedup.copies.bands import Grouped, band_keys, group
from dedup.copies.room import Room


def pairs_of(grouped: Grouped) -> set[tuple[int, int]]:
    members: dict[int, list[int]] = {}
    buckets = grouped.buckets
    for at, document in enumerate(grouped.inside.tolist()):
        for bucket in buckets.of[buckets.start[at] : buckets.start[at + 1]]:
            members.setdefault(int(bucket), []).append(document)
    return {(a, b) for inside in members.values() for a in inside for b in inside if a < b}


def signatures(seed: int, documents: int, values: int, count: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, values, (documents, count), dtype=np.uint32)


def test_two_documents_share_a_bucket_exactly_when_a_whole_band_agrees() -> None:
    for seed, (bands, rows) in enumerate([(1, 1), (4, 2), (25, 5), (8, 16)]):
        found = signatures(seed, 70, 3 if rows < 4 else 2, 128)
        found[3] = found[40]
        grouped = group(band_keys(found, bands, rows), len(found))
        cut = found[:, : bands * rows].reshape(len(found), bands, rows)
        expected = {
            (a, b)
            for a in range(len(found))
            for b in range(a + 1, len(found))
            if (cut[a] == cut[b]).all(axis=1).any()
        }
        assert pairs_of(grouped) == expected


def test_every_bucket_has_room_for_its_members_and_at_least_two() -> None:
    found = signatures(3, 200, 3, 20)
    inside, number, buckets = group(band_keys(found, 10, 2), len(found))
    room = np.diff(buckets.room)
    assert room.min() >= 2
    assert buckets.largest == room.max()
    assert np.array_equal(np.bincount(buckets.of, minlength=len(room)), room)
    assert np.diff(buckets.start).min() > 0
    assert np.array_equal(inside, np.flatnonzero(number >= 0))
    assert np.array_equal(number[inside], np.arange(len(inside)))


def test_nothing_in_common_is_no_bucket() -> None:
    found = np.arange(60, dtype=np.uint32).reshape(3, 20)
    inside, number, buckets = group(band_keys(found, 4, 5), 3)
    assert (len(inside), number.tolist(), buckets.largest) == (0, [-1, -1, -1], 0)
    assert group(iter([]), 0).buckets.largest == 0


def test_the_same_minima_in_another_band_are_another_key() -> None:
    keys = band_keys(np.array([[7, 7, 7, 7]], np.uint32), 2, 2)
    assert keys[0, 0] != keys[1, 0]


def test_keys_that_differ_only_in_the_bits_left_out_of_the_sort_are_told_apart() -> None:
    """1,000 documents leave 54 bits to sort by: the last ten decide within a run."""
    rng = np.random.default_rng(5)
    keys = [
        rng.integers(0, 20, 1_000, dtype=np.uint64) << np.uint64(50)
        | rng.integers(0, 3, 1_000, dtype=np.uint64)
        for _ in range(6)
    ]
    keys.append(np.full(1_000, 7, np.uint64))
    keys.append(np.arange(1_000, dtype=np.uint64) % np.uint64(600))
    expected = {
        (int(a), int(b))
        for band in keys
        for value in np.unique(band)
        for inside in [np.flatnonzero(band == value)]
        for i, a in enumerate(inside)
        for b in inside[i + 1 :]
    }
    one, three = (group(iter(keys), 1_000, workers=workers) for workers in (1, 3))
    assert pairs_of(one) == expected
    assert same(one, three)
    assert np.diff(one.buckets.room)[-1] == 2  # of the last band: 399 and 999


def same(one: Grouped, other: Grouped) -> bool:
    """Whether two groupings are equal in every array."""
    pairs = [*zip(one[:2], other[:2], strict=True), *zip(one.buckets, other.buckets, strict=True)]
    return all(np.array_equal(first, second) for first, second in pairs)


def test_the_buckets_are_the_same_in_whatever_order_the_keys_lie_and_in_mapped_files(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(4)
    found = signatures(9, 30_000, 40, 20)
    order = rng.permutation(len(found)).astype(np.int32)
    here = group(band_keys(found, 4, 5), len(found))
    assert 2 < len(here.inside) < len(found)
    there = group(
        band_keys(found[order], 4, 5), len(found), document_of=order, workers=2, room=Room(tmp_path)
    )
    assert same(here, there)
    assert isinstance(there.number.base, np.memmap)
    assert not list(tmp_path.iterdir())
