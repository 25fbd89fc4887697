"""Buckets: who shares a whole band of minima with whom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dedup.bands import Buckets, band_keys, group


def pairs_of(buckets: Buckets) -> set[tuple[int, int]]:
    members: dict[int, list[int]] = {}
    for document in range(len(buckets.start) - 1):
        for bucket in buckets.of[buckets.start[document] : buckets.start[document + 1]]:
            members.setdefault(int(bucket), []).append(document)
    return {(a, b) for inside in members.values() for a in inside for b in inside if a < b}


def signatures(seed: int, documents: int, values: int, count: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, values, (documents, count), dtype=np.uint32)


def test_two_documents_share_a_bucket_exactly_when_a_whole_band_agrees() -> None:
    for seed, (bands, rows) in enumerate([(1, 1), (4, 2), (25, 5), (8, 16)]):
        found = signatures(seed, 70, 3 if rows < 4 else 2, 128)
        found[3] = found[40]
        buckets = group(band_keys(found, bands, rows), len(found))
        cut = found[:, : bands * rows].reshape(len(found), bands, rows)
        expected = {
            (a, b)
            for a in range(len(found))
            for b in range(a + 1, len(found))
            if (cut[a] == cut[b]).all(axis=1).any()
        }
        assert pairs_of(buckets) == expected


def test_every_bucket_has_room_for_its_members_and_at_least_two() -> None:
    found = signatures(3, 200, 3, 20)
    buckets = group(band_keys(found, 10, 2), len(found))
    room = np.diff(buckets.room)
    assert room.min() >= 2
    assert buckets.largest == room.max()
    assert np.array_equal(np.bincount(buckets.of, minlength=len(room)), room)
    assert np.array_equal(buckets.documents, np.flatnonzero(np.diff(buckets.start)))


def test_nothing_in_common_is_no_bucket() -> None:
    found = np.arange(60, dtype=np.uint32).reshape(3, 20)
    buckets = group(band_keys(found, 4, 5), 3)
    assert len(buckets.documents) == 0
    assert buckets.largest == 0
    assert group(iter([]), 0).largest == 0


def test_the_same_minima_in_another_band_are_another_key() -> None:
    keys = band_keys(np.array([[7, 7, 7, 7]], np.uint32), 2, 2)
    assert keys[0, 0] != keys[1, 0]
