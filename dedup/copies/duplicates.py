"""The second pass, over all documents at once: which are copies of which, and which copy stays.

In: the work files of the first pass, and the indexes of the earlier runs of `dedup.against`. Out:
<task>.outcome.parquet beside each work file, row by row: the id (made unique), the step and reason of
a removal, the id that is finally kept and the similarity to it, the cluster and its size.

Exact copies fall first: to an earlier run's document, or to the first of their kind in the order of
worth (corpus.py). What is left is compared within the sources that sign alike (same shingle,
permutations, bands and rows; thresholds and modes may differ, a document goes at its own).

What is held per document: its id, some numbers for the order, sixteen bytes of digest, eight per
band, and a little more for those that share a bucket (comparison.py); with `on_disk` in files that are
mapped (room.py), beside a word of eight bytes while something is sorted. Counted with 25 bands of 128
permutations and a fifth of the documents in buckets (tests/dedup/copies/test_memory.py): 290 bytes per
further document at the peak; with `on_disk` 18, 27 while the index is written, and the rest of the 290
in mapped files.

The decision: one deterministic pass in one process, threads where nothing is shared. The result
depends on neither the number of workers nor the order of the tasks (only the `~2` that a repeated id
gets does, and it says so in the report).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from configs.files import write_json
from configs.schema import Dedup
from dedup.copies.against import Earlier
from dedup.copies.comparison import Comparison, Say
from dedup.copies.corpus import load_corpus, pieces
from dedup.copies.index import Signing
from dedup.copies.order import first_of_equals
from dedup.copies.outcome import (
    Reasons,
    cluster_sizes,
    decide,
    largest_clusters,
    similarity_bins,
    write_outcomes,
)
from dedup.executor import Cluster
from dedup.read import Task
from dedup.text.filters import near_for


@dataclass
class Duplicates:
    """What the pass found, as its mark duplicates.json has it.

    clusters: {documents in a cluster: clusters}, singles left out. similarities: {lower bound of a
    0.02 bin: removals}. largest: the clusters with most documents. near: figures of each comparison.
    renamed_ids: records whose id occurred before.
    """

    clusters: dict[str, int] = field(default_factory=dict)
    similarities: dict[str, int] = field(default_factory=dict)
    largest: list[dict[str, str | int]] = field(default_factory=list)
    near: list[dict[str, int | float]] = field(default_factory=list)
    renamed_ids: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def find_duplicates(
    tasks: list[Task],
    dedup: Dedup,
    work: Path,
    earlier: Earlier,
    *,
    workers: int,
    say: Say,
    cluster: Cluster | None = None,
) -> Duplicates:
    """Decide over every document that the first pass left, and write the outcomes.

    Only the shingle sets are made on the cluster, where there is one.
    """
    found = Duplicates()
    begin_at = time.perf_counter()
    say("exact", 0, len(tasks))
    corpus, renamed = load_corpus(tasks, dedup, work)
    found.renamed_ids = renamed.count
    del renamed
    documents, room = corpus.documents, corpus.room
    survivor = first_of_equals(corpus.digest, corpus.rank_of, corpus.number_of, room)
    reasons = Reasons.of_none(documents, room)
    alone = room.empty(documents, np.bool_)
    for begin, end in pieces(documents):
        alone[begin:end] = survivor[begin:end] == np.arange(begin, end)
    for task in tasks if earlier.indexes else ():
        first, last = corpus.base[task.index : task.index + 2]
        known = earlier.same_text(corpus.digest[first:last])
        ranks = corpus.ranks(task)
        there = (known >= 0) & alone[ranks]
        reasons.for_same_text(ranks[there], known[there])
        alone[ranks[there]] = False
    corpus.digest = np.zeros((0, 2), np.uint64)
    found.seconds["exact"] = round(time.perf_counter() - begin_at, 3)

    begin_at = time.perf_counter()
    for near, pool in _pools(tasks, dedup).items():
        comparison = Comparison(
            near, pool, alone, corpus, earlier, dedup, work, workers, say, cluster
        )
        reasons.note(comparison.run())
        found.near.append(comparison.figures)
        del comparison
    decision = decide(corpus, survivor, reasons, tasks, dedup)
    del survivor, reasons, alone
    found.seconds["near"] = round(time.perf_counter() - begin_at, 3)
    found.clusters = cluster_sizes(decision)
    found.similarities = similarity_bins(decision)
    found.largest = largest_clusters(decision, corpus, earlier)
    write_outcomes(decision, corpus, earlier, tasks, work)
    write_json(work / "duplicates.json", asdict(found))
    return found


def _pools(tasks: list[Task], dedup: Dedup) -> dict[Signing, list[Task]]:
    """Tasks by how they sign."""
    pools: dict[Signing, list[Task]] = {}
    for task in tasks:
        near = near_for(dedup.sources[task.source], dedup)
        if near is not None:
            pools.setdefault(Signing.of(near), []).append(task)
    return pools
