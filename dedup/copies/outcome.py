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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.schema import Dedup
from dedup.copies.against import Earlier
from dedup.copies.corpus import Corpus
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


@dataclass
class Decision:
    """For each rank: which document stays for it, which its cluster is named after, how alike.

    Numbers from `documents` on are earlier documents: documents + k is earlier[k]. kept[r] is r where
    r stays. exact[r]: it goes as an exact copy.
    """

    kept: NDArray[np.int64]
    cluster: NDArray[np.int64]
    similarity: NDArray[np.float64]
    exact: NDArray[np.bool_]
    earlier: NDArray[np.int64]

    @property
    def stays(self) -> NDArray[np.bool_]:
        return self.kept == np.arange(len(self.kept))

    def sizes(self) -> NDArray[np.int64]:
        """Documents in each cluster; an earlier document counts as one of its own."""
        sizes = np.bincount(self.cluster, minlength=len(self.kept) + len(self.earlier))
        sizes[len(self.kept) :] += 1
        return sizes


def decide(
    corpus: Corpus,
    survivor: NDArray[np.int64],
    reason: NDArray[np.int64],
    similarity: NDArray[np.float64],
    tasks: Sequence[Task],
    dedup: Dedup,
) -> Decision:
    """Follow each document to what is kept for it.

    survivor: the first document with the same text, by rank. reason and similarity, for survivors:
    what they go for, themselves where they stay; numbers from `documents` on are earlier documents,
    of which a similarity of 2 says that the text is the same.

    A copy whose own source keeps near copies (near: none, or a higher threshold) does not follow its
    equal into removal: the first such stays, and later equals with the same claim are its copies.
    """
    ranks = np.arange(corpus.documents)
    known = similarity > 1
    limit = np.full(len(dedup.sources), np.inf)
    annotated = np.zeros(len(dedup.sources), bool)
    for number, source in enumerate(dedup.sources):
        near = near_for(source, dedup)
        if near is not None:
            limit[number] = near.threshold
            annotated[number] = near.mode == "annotate"
    source_of = np.array([task.source for task in tasks])[corpus.task]
    first = survivor == ranks
    cluster = reason[survivor]
    likeness = np.minimum(similarity, 1)[survivor]
    near_copies = (reason != ranks) & ~known & first
    shown = near_copies & annotated[source_of]  # near copies that stay all the same
    kept = np.where(shown, ranks, reason)[survivor]
    likeness[shown[survivor]] = 1.0
    stays: dict[int, int] = {}
    for rank in np.flatnonzero(near_copies[survivor] & ~shown[survivor] & ~first).tolist():
        source = source_of[rank]
        own = not corpus.signed[rank] or likeness[rank] < limit[source]
        if own or annotated[source]:
            stands = stays.setdefault(int(survivor[rank]), rank)
            if stands == rank and own:
                cluster[rank] = rank
            elif stands != rank:
                cluster[rank] = cluster[stands]
            kept[rank] = stands
            likeness[rank] = 1.0
    documents = corpus.documents
    same = np.append(survivor, np.full(1, -1))
    exact = known[survivor] | (same[np.minimum(kept, documents)] == survivor)
    used = np.unique(np.concatenate([kept[kept >= documents], cluster[cluster >= documents]]))
    for codes in (kept, cluster):
        outside = codes >= documents
        codes[outside] = documents + np.searchsorted(used, codes[outside])
    return Decision(kept, cluster, likeness, exact, used - documents)


def largest_clusters(
    decision: Decision, corpus: Corpus, earlier: Earlier
) -> list[dict[str, str | int]]:
    """The ten with most documents: id and documents."""
    sizes = decision.sizes()
    largest = np.argsort(-sizes, kind="stable")[:10]
    numbers = corpus.number_of()
    found: list[dict[str, str | int]] = []
    for code in largest[sizes[largest] > 1].tolist():
        outside = code - corpus.documents
        name = (
            earlier.names(decision.earlier[outside : outside + 1])[0]
            if outside >= 0
            else corpus.ids[int(numbers[code])].as_py()
        )
        found.append({"id": name, "documents": int(sizes[code])})
    return found


def cluster_sizes(decision: Decision) -> dict[str, int]:
    """{documents in a cluster: clusters}, singles left out."""
    sizes = decision.sizes()
    counted = Counter(sizes[sizes > 1].tolist())
    return {str(size): counted[size] for size in sorted(counted)}


def similarity_bins(decision: Decision) -> dict[str, int]:
    """{lower bound of a 0.02 bin: removals}."""
    gone = decision.similarity[~decision.stays]
    bins = Counter((np.floor(gone * 50 + 1e-9) / 50).round(2).tolist())
    return {f"{low:.2f}": bins[low] for low in sorted(bins)}


def write_outcomes(
    decision: Decision, corpus: Corpus, earlier: Earlier, tasks: Sequence[Task], work: Path
) -> None:
    """Write <task>.outcome.parquet for every task."""
    documents = corpus.documents
    sizes = decision.sizes().astype(np.int32)
    numbers = np.concatenate([corpus.number_of(), documents + np.arange(len(decision.earlier))])
    ids, clusters = corpus.ids, corpus.ids
    labels: pa.Array = pa.array([""], pa.string())
    if len(decision.earlier):
        names = earlier.names(decision.earlier)
        ids = pa.concat_arrays([ids, pa.array(names, ids.type)])
        annotated = np.unique(decision.cluster[decision.stays])
        if len(annotated) and annotated[-1] >= documents:
            names = earlier.clusters(decision.earlier)
        clusters = pa.concat_arrays([clusters, pa.array(names, ids.type)])
        told = [f" in {label}" for label in earlier.labels_of(decision.earlier)]
        labels = pa.array(["", *told], pa.string())
    stays_all = decision.stays
    for task in tasks:
        begin, end = corpus.base[task.index], corpus.base[task.index + 1]
        ranks = corpus.rank_of[begin:end]
        stays = stays_all[ranks]
        kept = decision.kept[ranks]
        step = pa.array(np.where(decision.exact[ranks], "exact", "near"), pa.string())
        reason = pa.array(
            np.where(decision.exact[ranks], REASONS["exact"], REASONS["near"]), pa.string()
        )
        which = np.where(kept >= documents, kept - documents + 1, 0)
        reason = pc.binary_join_element_wise(reason, labels.take(pa.array(which)), "")
        cluster = clusters.take(pa.array(numbers[decision.cluster[ranks]])).cast(pa.string())
        keep = pa.array(stays)
        nothing = pa.scalar(None, pa.string())
        table = pa.table(
            {
                "id": corpus.ids.slice(begin, end - begin).cast(pa.string()),
                "step": pc.if_else(keep, nothing, step),
                "reason": pc.if_else(keep, nothing, reason),
                "kept_id": pc.if_else(
                    keep, nothing, ids.take(pa.array(numbers[kept])).cast(pa.string())
                ),
                "similarity": pa.array(decision.similarity[ranks], mask=stays),
                "cluster_id": pc.if_else(keep, cluster, nothing),
                "cluster_size": np.where(stays, sizes[decision.cluster[ranks]], 0).astype(np.int32),
            },
            schema=OUTCOME_SCHEMA,
        )
        with parquet_writer(work / f"{task.index:05}.outcome.parquet", OUTCOME_SCHEMA) as writer:
            writer.write_table(table)
