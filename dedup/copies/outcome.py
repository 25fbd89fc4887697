"""What the second pass decided, written row by row beside the work files.

In: for each document the one that is the reason it goes, and the order of worth. Out:
<task>.outcome.parquet (`OUTCOME_SCHEMA`): step and reason of a removal, the id that is finally kept,
the similarity to it, the cluster and its size.

A removed document always names one that stays: the copy of a near copy names what the near copy went
for, with the similarity to that. Its text with white space collapsed is the near copy's, so the
similarity is that of the near copy.

The decision: where near copies are only annotated (`near.mode: annotate`) they stay, and their
cluster is the document they would have gone for. So clusters are the same in both modes, stars around
the best document, never chains; and exact copies go in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

from configs.schema import Dedup
from dedup.copies.against import Earlier
from dedup.copies.comparison import Found
from dedup.copies.corpus import Corpus, pieces
from dedup.copies.room import Room
from dedup.documents import parquet_writer
from dedup.read import Task
from dedup.text.filters import near_for

REASONS = {"exact": "same text", "near": "near copy"}

OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("step", pa.string()),  # exact or near; null: it stays
        pa.field("reason", pa.string()),
        pa.field("kept_id", pa.string()),
        pa.field("similarity", pa.float64()),
        pa.field("cluster_id", pa.string()),  # null for what goes
        pa.field("cluster_size", pa.int32(), nullable=False),  # 0 for what goes
    ]
)


_LARGEST = 10
"""Clusters that are named in the report."""


@dataclass
class Reasons:
    """What each document goes for, by rank: itself where it stays, and how alike the two are.

    Numbers from `documents` on are earlier documents, of which a similarity of 2 says that the text is
    the same.
    """

    of: NDArray[np.int64]
    similarity: NDArray[np.float64]

    @classmethod
    def of_none(cls, documents: int, room: Room) -> Reasons:
        """Everything stays."""
        of = room.empty(documents, np.int64)
        for begin, end in pieces(documents):
            of[begin:end] = np.arange(begin, end)
        return cls(of, room.full(documents, 1, np.float64))

    def for_same_text(self, ranks: NDArray[np.int32], earlier: NDArray[np.int64]) -> None:
        """These go for earlier documents with the same text."""
        self.of[ranks] = len(self.of) + earlier
        self.similarity[ranks] = 2.0

    def note(self, found: Found) -> None:
        """What a comparison found."""
        _note(
            found.inside, found.chosen.reason, found.chosen.similarity, found.ahead, found.before,
            found.ranks, self.of, self.similarity,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _note(inside, reason, value, ahead, before, ranks, of, similarity):  # type: ignore[no-untyped-def]
    for i in range(len(inside)):
        if reason[i] < 0 or inside[i] < ahead:
            continue
        rank = ranks[inside[i] - ahead]
        leader = inside[reason[i]]
        of[rank] = ranks[leader - ahead] if leader >= ahead else len(of) + before[leader]
        similarity[rank] = value[i]


@dataclass
class Decision:
    """For each rank: which document stays for it, which its cluster is named after, how alike.

    Numbers from `documents` on are earlier documents: documents + k is earlier[k]. kept[r] is r where
    r stays. exact[r]: it goes as an exact copy. sizes: documents in each cluster, by its number; an
    earlier document counts as one of its own.
    """

    kept: NDArray[np.int64]
    cluster: NDArray[np.int64]
    similarity: NDArray[np.float64]
    exact: NDArray[np.bool_]
    earlier: NDArray[np.int64]
    sizes: NDArray[np.int32]


def decide(
    corpus: Corpus,
    survivor: NDArray[np.int32],
    reasons: Reasons,
    tasks: Sequence[Task],
    dedup: Dedup,
) -> Decision:
    """Follow each document to what is kept for it. survivor: the first with the same text, by rank.

    A copy whose own source keeps near copies (near: none, or a higher threshold) does not follow its
    equal into removal: the first such stays, and later equals with the same claim are its copies.
    """
    documents, room = corpus.documents, corpus.room
    limit = np.full(len(dedup.sources), np.inf)
    annotated = np.zeros(len(dedup.sources), np.bool_)
    for number, source in enumerate(dedup.sources):
        near = near_for(source, dedup)
        if near is not None:
            limit[number] = near.threshold
            annotated[number] = near.mode == "annotate"
    decision = Decision(
        room.empty(documents, np.int64),
        room.empty(documents, np.int64),
        room.empty(documents, np.float64),
        room.empty(documents, np.bool_),
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
    )
    _follow(
        survivor,
        reasons.of,
        reasons.similarity,
        np.array([task.source for task in tasks]),
        corpus.base,
        corpus.number_of,
        corpus.shingles,
        limit,
        annotated,
        room.full(documents, -1, np.int32),
        decision.kept,
        decision.cluster,
        decision.similarity,
        decision.exact,
    )
    used = np.zeros(0, np.int64)
    for codes in _pieces_of(decision.kept, decision.cluster):
        used = np.union1d(used, codes[codes >= documents])
    for codes in _pieces_of(decision.kept, decision.cluster):
        outside = codes >= documents
        codes[outside] = documents + np.searchsorted(used, codes[outside])
    decision.earlier = used - documents
    decision.sizes = room.full(documents + len(used), 0, np.int32)
    decision.sizes[documents:] = 1
    _add(decision.cluster, decision.sizes)
    return decision


def _pieces_of(*arrays: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for array in arrays:
        for begin, end in pieces(len(array)):
            yield array[begin:end]


@njit(nogil=True, cache=True)
def _follow(  # type: ignore[no-untyped-def]
    survivor, reason, alike, source_of, base, number_of, shingles, limit, annotated,
    standing, kept, cluster, similarity, exact,
):  # fmt: skip
    """Fill kept, cluster, similarity and exact; `standing` remembers who stays for which survivor."""
    documents = len(survivor)
    for rank in range(documents):
        first = np.int64(survivor[rank])
        known = alike[first] > 1
        near_copy = reason[first] != first and not known
        cluster[rank] = reason[first]
        kept[rank] = reason[first]
        similarity[rank] = min(alike[first], 1.0)
        if near_copy:
            task = np.searchsorted(base, number_of[first], side="right") - 1
            if annotated[source_of[task]]:  # stays all the same
                kept[rank] = first
                similarity[rank] = 1.0
            elif first != rank:
                number = number_of[rank]
                task = np.searchsorted(base, number, side="right") - 1
                source = source_of[task]
                own = shingles[number] == 0 or similarity[rank] < limit[source]
                if own or annotated[source]:
                    if standing[first] < 0:
                        standing[first] = np.int32(rank)
                    stands = np.int64(standing[first])
                    if stands != rank:
                        cluster[rank] = cluster[stands]
                    elif own:
                        cluster[rank] = rank
                    kept[rank] = stands
                    similarity[rank] = 1.0
        exact[rank] = known or (kept[rank] < documents and survivor[kept[rank]] == first)


@njit(nogil=True, cache=True)
def _add(cluster, sizes):  # type: ignore[no-untyped-def]
    for one in cluster:
        sizes[one] += 1


def largest_clusters(
    decision: Decision, corpus: Corpus, earlier: Earlier
) -> list[dict[str, str | int]]:
    """The ten with most documents: id and documents."""
    largest = np.zeros(0, np.int64)
    for begin, end in pieces(len(decision.sizes)):
        codes = np.concatenate([largest, np.arange(begin, end)])
        codes = codes[decision.sizes[codes] > 1]
        largest = codes[np.argsort(-decision.sizes[codes], kind="stable")[:_LARGEST]]
    found: list[dict[str, str | int]] = []
    for code in largest.tolist():
        outside = code - corpus.documents
        name = (
            earlier.names(decision.earlier[outside : outside + 1])[0]
            if outside >= 0
            else corpus.names[int(corpus.number_of[code])]
        )
        found.append({"id": name, "documents": int(decision.sizes[code])})
    return found


def cluster_sizes(decision: Decision) -> dict[str, int]:
    """{documents in a cluster: clusters}, singles left out."""
    counted: Counter[int] = Counter()
    for begin, end in pieces(len(decision.sizes)):
        sizes, counts = np.unique(decision.sizes[begin:end], return_counts=True)
        counted.update(dict(zip(sizes.tolist(), counts.tolist(), strict=True)))
    return {str(size): counted[size] for size in sorted(counted) if size > 1}


def similarity_bins(decision: Decision) -> dict[str, int]:
    """{lower bound of a 0.02 bin: removals}."""
    bins: Counter[float] = Counter()
    for begin, end in pieces(len(decision.kept)):
        goes = decision.kept[begin:end] != np.arange(begin, end)
        gone = decision.similarity[begin:end][goes]
        lows, counts = np.unique((np.floor(gone * 50 + 1e-9) / 50).round(2), return_counts=True)
        bins.update(dict(zip(lows.tolist(), counts.tolist(), strict=True)))
    return {f"{low:.2f}": bins[low] for low in sorted(bins)}


def write_outcomes(
    decision: Decision, corpus: Corpus, earlier: Earlier, tasks: Sequence[Task], work: Path
) -> None:
    """Write <task>.outcome.parquet for every task."""
    for task in tasks:
        begin, end = (int(number) for number in corpus.base[task.index : task.index + 2])
        ranks = corpus.ranks(task)
        kept = decision.kept[ranks]
        stays = kept == ranks
        exact = decision.exact[ranks]
        gone = np.flatnonzero(~stays)
        stay = np.flatnonzero(stays)
        cluster = decision.cluster[ranks]
        table = pa.table(
            {
                "id": corpus.names.take(np.arange(begin, end)).cast(pa.string()),
                "step": pa.array(np.where(exact, "exact", "near"), pa.string(), mask=stays),
                "reason": _spread(
                    _reasons(decision, earlier, exact[gone], kept[gone], corpus), gone, end - begin
                ),
                "kept_id": _spread(
                    _names(decision, earlier, kept[gone], corpus, cluster=False), gone, end - begin
                ),
                "similarity": pa.array(decision.similarity[ranks], mask=stays),
                "cluster_id": _spread(
                    _names(decision, earlier, cluster[stay], corpus, cluster=True),
                    stay,
                    end - begin,
                ),
                "cluster_size": np.where(stays, decision.sizes[cluster], 0).astype(np.int32),
            },
            schema=OUTCOME_SCHEMA,
        )
        path = work / f"{task.index:05}.outcome.parquet"
        with parquet_writer(path, OUTCOME_SCHEMA, scratch=True) as writer:
            writer.write_table(table)


def _spread(values: pa.Array, rows: NDArray[np.int64], count: int) -> pa.Array:
    """A column of `count` rows with those values in those rows, ascending; null elsewhere."""
    places = np.zeros(count, np.int64)
    places[rows] = np.arange(len(rows))
    absent = np.ones(count, np.bool_)
    absent[rows] = False
    return values.take(pa.array(places, mask=absent))


def _names(
    decision: Decision, earlier: Earlier, codes: NDArray[np.int64], corpus: Corpus, *, cluster: bool
) -> pa.Array:
    """The ids of documents, of earlier ones that of the document or of the cluster it was put into."""
    documents = corpus.documents
    outside = np.flatnonzero(codes >= documents)
    inside = np.flatnonzero(codes < documents)
    own = corpus.names.take(corpus.number_of[codes[inside]]).cast(pa.string())
    if not len(outside):
        return own
    numbers = decision.earlier[codes[outside] - documents]
    names = pa.array(earlier.clusters(numbers) if cluster else earlier.names(numbers), pa.string())
    places = np.empty(len(codes), np.int64)
    places[inside] = np.arange(len(inside))
    places[outside] = len(inside) + np.arange(len(outside))
    return pa.concat_arrays([own, names]).take(pa.array(places))


def _reasons(
    decision: Decision,
    earlier: Earlier,
    exact: NDArray[np.bool_],
    kept: NDArray[np.int64],
    corpus: Corpus,
) -> pa.Array:
    """Why documents go; those that go for an earlier one with the run it is of."""
    said = pa.array(np.where(exact, REASONS["exact"], REASONS["near"]), pa.string())
    outside = kept >= corpus.documents
    if not outside.any():
        return said
    labels = earlier.labels_of(decision.earlier[kept[outside] - corpus.documents])
    where = pa.array([f" in {label}" for label in labels], pa.string())
    ends = _spread(where, np.flatnonzero(outside), len(kept))
    return pc.binary_join_element_wise(said, pc.fill_null(ends, ""), "")
