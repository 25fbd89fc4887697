"""Documents that are signed alike, compared: bands propose, the exact similarity decides.

In: which documents are compared, the signatures in the work files, and the indexes of earlier runs.
Out: for each document what it goes for, and how alike the two are.

Held are eight bytes per member and band; and of those that share a bucket one byte per permutation
and, in a file that is mapped, their shingle sets. `on_disk` maps all of it.

The decision: the signatures are read twice, for the keys of all members and then for the sketches of
those that share a bucket, which are few. Holding all sketches would cost a byte per permutation and
document, reading them again costs a second per million. Only where there are earlier runs are all
sketches held: their documents are sifted by them before any of their texts is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from configs.banding import recall
from configs.schema import Dedup, Near
from dedup.clean import read_work
from dedup.copies.against import Candidates, Earlier
from dedup.copies.bands import Grouped, band_keys, group
from dedup.copies.corpus import Corpus, pieces, words
from dedup.copies.index import Signing
from dedup.copies.keep import Selection, select
from dedup.copies.set_file import Part, write_sets
from dedup.copies.verify import least_agreement
from dedup.executor import Cluster
from dedup.read import Task
from dedup.text.filters import near_for

_BANDS = 4
"""Bands sorted at a time where memory allows it: 8 bytes per document each."""

Say = Callable[[str, float, float], None]
"""Called with a step, how much of it is done, and of how much."""


class Found(NamedTuple):
    """What a comparison found. inside: numbers in the selection, of which those below `ahead` are
    earlier documents, number k being before[k], and ahead + p is that of the member at place p.

    By the order in `inside`: chosen.reason (an order again, or −1) and chosen.similarity. ranks: of
    the members, by place.
    """

    inside: NDArray[np.int32]
    chosen: Selection
    ahead: int
    before: NDArray[np.int64]
    ranks: NDArray[np.int32]


class Comparison:
    """Documents that are signed alike, compared.

    The members are the documents of `pool` that are signed and, by rank, `alone`: the first with their
    text. A member's place is its place among them in the order of worth; its position is its place
    among them in the files.
    """

    def __init__(
        self,
        signing: Signing,
        pool: list[Task],
        alone: NDArray[np.bool_],
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
        self.corpus = corpus
        self.room = corpus.room
        self.work = work
        self.workers = workers
        self.cluster = cluster
        self.say = say
        self.near = [_near(task, dedup) for task in pool]
        self.thresholds = sorted({near.threshold for near in self.near})
        self.earlier = earlier
        self.figures: dict[str, int | float] = {}
        self.place = self.room.full(corpus.documents, 0, np.int32)  # by rank, −1: no member
        self.first = np.zeros(len(pool) + 1, np.int64)  # position of a task's first member
        for at, task in enumerate(pool):
            ranks = corpus.ranks(task)
            mine = ranks[(self._shingles(task) > 0) & alone[ranks]]
            self.place[mine] = 1
            self.first[at + 1] = self.first[at] + len(mine)
        self.ranks = self.room.empty(int(self.first[-1]), np.int32)
        _enumerate(self.place, self.ranks)

    def run(self) -> Found:
        """Compare, and choose what stays; `figures` are those of the report."""
        signing, members = self.signing, int(self.first[-1])
        bands = self._band_keys()
        near = None
        sketches = None
        if self.earlier.indexes:
            least = least_agreement(signing.permutations, self.thresholds[0])
            sketches = self._sketches()
            near = self.earlier.near(signing, bands, sketches, least, self.room)
        ahead = len(near.documents) if near is not None else 0
        grouped = self._group(bands, near, ahead)
        inside, number, buckets = grouped
        old = int(np.searchsorted(inside, ahead))
        path = self.work / f"sets-{signing.shingle}.u64"
        sets = write_sets(
            [
                *_renumbered(near.parts if near is not None else [], number),
                *self._parts(number[ahead:], len(inside) - old),
            ],
            len(inside),
            signing.shingle,
            path,
            workers=self.workers,
            say=lambda done, of: self.say("sets", done, of),
            cluster=self.cluster,
            room=self.room,
        )
        chosen = select(
            buckets,
            sets,
            self._sketches_of(grouped, near, ahead, sketches),
            np.array([*self.thresholds, 1.0]),
            self._settings(number[ahead:], len(inside)),
            workers=self.workers,
            room=self.room,
            on_block=lambda done, total: self.say("near", done, total),
        )
        del sets
        path.unlink(missing_ok=True)
        self.figures = {
            "documents": members,
            "bands": signing.bands,
            "rows": signing.rows,
            "recall_at_threshold": round(
                recall(self.thresholds[0], signing.bands, signing.rows), 6
            ),
            "in_buckets": len(inside) - old,
            "buckets": len(buckets.room) - 1,
            "largest_bucket": buckets.largest,
            "pairs_met": chosen.compared,
            "pairs_verified": chosen.verified,
            "crowded_buckets": chosen.crowded,
            "earlier_candidates": ahead,
        }
        before = near.documents if near is not None else np.zeros(0, np.int64)
        return Found(inside, chosen, ahead, before, self.ranks)

    def _shingles(self, task: Task) -> NDArray[np.uint32]:
        return self.corpus.shingles[self.corpus.base[task.index] : self.corpus.base[task.index + 1]]

    def _places(self, task: Task) -> NDArray[np.int32]:
        """The places of a task's documents, −1 for those that are no members."""
        return self.place[self.corpus.ranks(task)]

    def _group(
        self, bands: list[NDArray[np.uint64]], near: Candidates | None, ahead: int
    ) -> Grouped:
        members = int(self.first[-1])
        document_of = self.room.empty(ahead + members, np.int32)
        document_of[:ahead] = np.arange(ahead)
        for at, task in enumerate(self.pool):
            places = self._places(task)
            part = document_of[ahead + self.first[at] : ahead + self.first[at + 1]]
            part[:] = places[places >= 0] + ahead

        def one_by_one() -> Iterator[NDArray[np.uint64]]:
            for number in range(self.signing.bands):
                band = bands[number]
                bands[number] = np.zeros(0, np.uint64)
                if near is None or not ahead:
                    yield band
                    continue
                whole = self.room.empty(ahead + members, np.uint64)
                whole[:ahead], whole[ahead:] = near.keys[number], band
                yield whole

        return group(
            one_by_one(),
            ahead + members,
            document_of=document_of,
            workers=1 if self.room.mapped else min(self.workers, _BANDS),
            room=self.room,
        )

    def _signatures(
        self, step: Callable[[int, NDArray[np.int32], NDArray[np.uint32]], None]
    ) -> None:
        """Call step(position of the first, places, signatures) for every batch's members; in threads."""
        done = 0

        def one(at: int) -> None:
            places = self._places(self.pool[at])
            position, row = int(self.first[at]), 0
            for batch in read_work(self.work, self.pool[at].index, ["signature"]):
                inside = places[row : row + batch.num_rows]
                row += batch.num_rows
                mine = inside >= 0
                if mine.any():
                    values = words(batch["signature"], self.signing.permutations, "<u4")
                    step(position, inside[mine], values if mine.all() else values[mine])
                    position += int(mine.sum())

        self.say("bands", 0, len(self.pool))
        with ThreadPoolExecutor(self.workers) as threads:
            for _ in threads.map(one, range(len(self.pool))):
                done += 1
                self.say("bands", done, len(self.pool))

    def _band_keys(self) -> list[NDArray[np.uint64]]:
        """The members' keys, one array per band, by position."""
        members = int(self.first[-1])
        bands = [self.room.empty(members, np.uint64) for _ in range(self.signing.bands)]

        def note(position: int, places: NDArray[np.int32], values: NDArray[np.uint32]) -> None:
            keys = band_keys(values, self.signing.bands, self.signing.rows)
            for band, mine in zip(bands, keys, strict=True):
                band[position : position + len(mine)] = mine

        self._signatures(note)
        return bands

    def _sketches(
        self, number: NDArray[np.int32] | None = None, count: int = 0
    ) -> NDArray[np.uint8]:
        """The low byte of each minimum: of all members by position, or by the number (by place) of
        the `count` members that have one."""
        rows = int(self.first[-1]) if number is None else count
        whole = self.room.empty((rows, self.signing.permutations), np.uint8)

        def note(position: int, places: NDArray[np.int32], values: NDArray[np.uint32]) -> None:
            if number is None:
                whole[position : position + len(values)] = values
            else:
                rows = number[places]
                mine = rows >= 0
                whole[rows[mine]] = values[mine]

        self._signatures(note)
        return whole

    def _sketches_of(
        self,
        grouped: Grouped,
        near: Candidates | None,
        ahead: int,
        sketches: NDArray[np.uint8] | None,
    ) -> NDArray[np.uint8]:
        """The sketches of those in a bucket."""
        inside, number, _ = grouped
        if near is None or sketches is None:
            return self._sketches(number, len(inside))
        old = int(np.searchsorted(inside, ahead))
        whole = self.room.empty((len(inside), self.signing.permutations), np.uint8)
        for begin, end in pieces(old):
            whole[begin:end] = near.sketches[inside[begin:end]]
        for at, task in enumerate(self.pool):
            places = self._places(task)
            rows = number[ahead:][places[places >= 0]]
            mine = rows >= 0
            part = sketches[self.first[at] : self.first[at + 1]]
            whole[rows[mine]] = part[mine]
        return whole

    def _settings(self, number: NDArray[np.int32], count: int) -> NDArray[np.uint8]:
        """Which of the thresholds those in a bucket go at; earlier documents never do."""
        setting = self.room.full(count, len(self.thresholds), np.uint8)
        for task, near in zip(self.pool, self.near, strict=True):
            places = self._places(task)
            rows = number[places[places >= 0]]
            setting[rows[rows >= 0]] = self.thresholds.index(near.threshold)
        return setting

    def _parts(self, number: NDArray[np.int32], count: int) -> Iterator[Part]:
        """Where the texts of the `count` members with a number (by place) are."""
        rows_of, number_of = self.room.empty(count, np.int32), self.room.empty(count, np.int32)
        end = 0
        for task in self.pool if count else ():
            places = self._places(task)
            numbers = np.where(places >= 0, number[places], -1)
            rows = np.flatnonzero(numbers >= 0)
            if not len(rows):
                continue
            begin, end = end, end + len(rows)
            rows_of[begin:end], number_of[begin:end] = rows, numbers[rows]
            yield Part(
                self.work / f"{task.index:05}.parquet",
                rows_of[begin:end],
                number_of[begin:end],
                int(self._shingles(task)[rows].sum(dtype=np.int64)),
            )


def _renumbered(parts: list[Part], number: NDArray[np.int32]) -> list[Part]:
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


@njit(nogil=True, cache=True)
def _enumerate(place, ranks):  # type: ignore[no-untyped-def]
    """From 1 and 0, by rank, to the place among the ones, and −1."""
    at = 0
    for rank in range(len(place)):
        if place[rank]:
            place[rank] = np.int32(at)
            ranks[at] = np.int32(rank)
            at += 1
        else:
            place[rank] = np.int32(-1)
