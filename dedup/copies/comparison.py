"""Documents that are signed alike, compared: bands propose, the exact similarity decides.

In: the members (ranks in the order of worth), the signatures in the work files, and the indexes of
earlier runs. Out: for each member what it goes for, and how alike the two are.

Held are eight bytes per member and band; and of those that share a bucket one byte per permutation
and, in a file that is mapped, their shingle sets. `on_disk` maps band keys and sketches too.

The decision: the signatures are read twice, for the keys of all members and then for the sketches of
those that share a bucket, which are few. Holding all sketches would cost a byte per permutation and
document, reading them again costs a second per million.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.banding import recall
from configs.schema import Dedup, Near
from dedup.clean import read_work
from dedup.copies.against import Earlier
from dedup.copies.bands import band_keys, group
from dedup.copies.corpus import Corpus, words
from dedup.copies.index import Signing
from dedup.copies.keep import select
from dedup.copies.set_file import Part, write_sets
from dedup.copies.verify import least_agreement
from dedup.executor import Cluster
from dedup.read import Task
from dedup.text.filters import near_for

MANY = 20_000_000
"""Documents from which `on_disk: auto` holds band keys and sketches in files."""

_BANDS = 4
"""Bands sorted at a time where memory allows it: 22 bytes per document each."""

Say = Callable[[str, float, float], None]
"""Called with a step, how much of it is done, and of how much."""


class Comparison:
    """Documents that are signed alike, compared: `members` (ranks, ascending) by their places.

    In the selection the earlier documents come first: numbers below `ahead` are theirs, number
    ahead + p is that of members[p].
    """

    def __init__(
        self,
        signing: Signing,
        pool: list[Task],
        members: NDArray[np.int64],
        corpus: Corpus,
        earlier: Earlier,
        dedup: Dedup,
        work: Path,
        workers: int,
        say: Say,
        cluster: Cluster | None = None,
    ) -> None:
        self.signing = signing
        self.pool = pool
        self.members = members
        self.corpus = corpus
        self.work = work
        self.workers = workers
        self.cluster = cluster
        self.say = say
        self.place = np.full(corpus.documents, -1, np.int64)
        self.place[members] = np.arange(len(members))
        self.near = [_near(task, dedup) for task in pool]
        self.thresholds = sorted({near.threshold for near in self.near})
        self.earlier = earlier
        self.before = np.zeros(0, np.int64)  # numbers in `earlier` of those ahead
        self.figures: dict[str, int | float] = {}
        self.mapped = len(members) >= MANY if dedup.on_disk == "auto" else dedup.on_disk

    def run(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For each member the number in the selection of what it goes for, or −1; and how alike."""
        signing, count = self.signing, len(self.members)
        bands = self._band_keys()
        ahead = np.zeros((0, signing.permutations), np.uint32)
        parts: list[Part] = []
        sketches = None
        if self.earlier.indexes:
            least = least_agreement(signing.permutations, self.thresholds[0])
            sketches = self._sketches(np.arange(count))
            candidates = self.earlier.near(signing, bands, sketches, least)
            self.before, ahead, parts = (
                candidates.documents, candidates.signatures, candidates.parts,
            )  # fmt: skip
        first = band_keys(ahead, signing.bands, signing.rows)

        def one_by_one() -> Iterator[NDArray[np.uint64]]:
            for number in range(signing.bands):
                band = bands[number]
                bands[number] = np.zeros(0, np.uint64)
                yield np.concatenate([first[number], band]) if len(ahead) else band

        total = len(ahead) + count
        at_once = 1 if self.mapped else min(self.workers, _BANDS)
        inside, buckets = group(one_by_one(), total, workers=at_once).compact()
        new = inside[inside >= len(ahead)] - len(ahead)
        old = inside[: len(inside) - len(new)]
        low = ahead.astype(np.uint8)[old]
        newer = self._sketches(new) if sketches is None else sketches[new]
        del sketches
        path = self.work / f"sets-{signing.shingle}.u64"
        number = np.full(total, -1, np.int64)
        number[inside] = np.arange(len(inside))
        sets = write_sets(
            [*_renumbered(parts, number), *self._parts(number[len(ahead) :])],
            len(inside),
            signing.shingle,
            path,
            workers=self.workers,
            say=lambda done, of: self.say("sets", done, of),
            cluster=self.cluster,
        )
        chosen = select(
            buckets,
            sets,
            np.concatenate([low, newer]) if len(low) else newer,
            np.array([*self.thresholds, 1.0]),
            np.concatenate([np.full(len(old), len(self.thresholds), np.uint8), self._setting(new)]),
            workers=self.workers,
            on_block=lambda done, total: self.say("near", done, total),
        )
        del sets
        path.unlink(missing_ok=True)
        self.figures = {
            "documents": count,
            "bands": signing.bands,
            "rows": signing.rows,
            "recall_at_threshold": round(
                recall(self.thresholds[0], signing.bands, signing.rows), 6
            ),
            "in_buckets": len(new),
            "buckets": len(buckets.room) - 1,
            "largest_bucket": buckets.largest,
            "pairs_met": chosen.compared,
            "pairs_verified": chosen.verified,
            "crowded_buckets": chosen.crowded,
            "earlier_candidates": len(self.before),
        }
        reason = np.full(count, -1, np.int64)
        similarity = np.zeros(count)
        gone = chosen.reason[len(old) :] >= 0
        reason[new[gone]] = inside[chosen.reason[len(old) :][gone]]
        similarity[new[gone]] = chosen.similarity[len(old) :][gone]
        return reason, similarity

    def named(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ranks of the selection's numbers; for those ahead, documents + their number in `earlier`."""
        ahead = len(self.before)
        outside = numbers < ahead
        ranks = np.empty(len(numbers), np.int64)
        ranks[outside] = self.corpus.documents + self.before[numbers[outside]]
        ranks[~outside] = self.members[numbers[~outside] - ahead]
        return ranks

    def _signatures(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
        """Places and signatures of the members, batch by batch."""
        for done, task in enumerate(self.pool):
            self.say("bands", done, len(self.pool))
            at = self.corpus.base[task.index]
            for batch in read_work(self.work, task.index, ["signature"]):
                places = self.place[self.corpus.rank_of[at : at + batch.num_rows]]
                at += batch.num_rows
                mine = places >= 0
                yield (
                    places[mine],
                    words(batch["signature"], self.signing.permutations, "<u4")[mine],
                )

    def _band_keys(self) -> list[NDArray[np.uint64]]:
        shape = (self.signing.bands, len(self.members))
        bands = list(self._array("bands.map", shape, np.uint64))
        for places, signatures in self._signatures():
            keys = band_keys(signatures, self.signing.bands, self.signing.rows)
            for band, mine in zip(bands, keys, strict=True):
                band[places] = mine
        return bands

    def _sketches(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The low byte of each minimum of the members at some places (ascending)."""
        shape = (len(places), self.signing.permutations)
        sketches = self._array("sketches.map", shape, np.uint8)
        number = np.full(len(self.members), -1, np.int64)
        number[places] = np.arange(len(places))
        for at, signatures in self._signatures():
            mine = number[at] >= 0
            sketches[number[at][mine]] = signatures[mine]
        return sketches

    def _array(self, name: str, shape: tuple[int, int], kind: type[np.generic]) -> NDArray[Any]:
        """In memory, or in a mapped file of the work folder."""
        size = shape[0] * shape[1] * np.dtype(kind).itemsize
        if not self.mapped or not size:
            return np.empty(shape, kind)
        path = self.work / name
        path.unlink(missing_ok=True)  # what maps an earlier one keeps it
        with path.open("wb") as handle:
            if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a SIGBUS
                os.posix_fallocate(handle.fileno(), 0, size)
            else:
                handle.truncate(size)
        return np.memmap(path, kind, mode="r+", shape=shape)

    def _setting(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Which of the thresholds the members at some places go at."""
        of_task = np.zeros(len(self.corpus.base), np.uint8)
        for task, near in zip(self.pool, self.near, strict=True):
            of_task[task.index] = self.thresholds.index(near.threshold)
        return of_task[self.corpus.task[self.members[places]]]

    def _parts(self, number: NDArray[np.int64]) -> list[Part]:
        """Where the texts of the members with a number are."""
        parts = []
        for task in self.pool:
            base = self.corpus.base
            ranks = self.corpus.rank_of[base[task.index] : base[task.index + 1]]
            places = self.place[ranks]
            rows = np.flatnonzero((places >= 0) & (number[places] >= 0))
            if len(rows):
                parts.append(
                    Part(
                        self.work / f"{task.index:05}.parquet",
                        rows,
                        number[places[rows]],
                        int(self.corpus.shingles[ranks[rows]].sum()),
                    )
                )
        return parts


def _renumbered(parts: list[Part], number: NDArray[np.int64]) -> list[Part]:
    """Parts of the earlier documents that are in a bucket, by their numbers there."""
    found = []
    for part in parts:
        mine = number[part.numbers] >= 0
        if mine.any():
            found.append(Part(part.path, part.rows[mine], number[part.numbers[mine]], part.room))
    return found


def _near(task: Task, dedup: Dedup) -> Near:
    near = near_for(dedup.sources[task.source], dedup)
    assert near is not None
    return near
