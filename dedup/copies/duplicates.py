"""The second pass, over all documents at once: which are copies of which, and which copy stays.

In: the work files of the first pass, and the indexes of the earlier runs of `dedup.against`. Out:
<task>.outcome.parquet beside each work file, row by row: the id (made unique), the step and reason of
a removal, the id that is finally kept and the similarity to it, the cluster and its size.

Exact copies fall first: to an earlier run's document, or to the first of their kind in the order of
worth (corpus.py). What is left is compared within the sources that sign alike (same shingle,
permutations, bands and rows; thresholds and modes may differ, a document goes at its own).

What is held per document: its id, four numbers for the order, sixteen bytes of digest, eight per
band, and a little more for those that share a bucket (comparison.py). Measured on a million documents
with 25 bands of 128 permutations: 330 bytes per document at the peak, 200 with `on_disk`.

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
from dedup.copies.corpus import first_of_equals, load_corpus
from dedup.copies.index import Signing
from dedup.copies.outcome import (
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
    renamed: {task: {record: new id}} of ids that occurred before.
    """

    clusters: dict[str, int] = field(default_factory=dict)
    similarities: dict[str, int] = field(default_factory=dict)
    largest: list[dict[str, str | int]] = field(default_factory=list)
    near: list[dict[str, int | float]] = field(default_factory=list)
    renamed: dict[str, dict[str, str]] = field(default_factory=dict)
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
    begin = time.perf_counter()
    say("exact", 0, len(tasks))
    corpus, found.renamed = load_corpus(tasks, dedup, work)
    documents = corpus.documents
    survivor = first_of_equals(corpus.digest)
    reason = np.arange(documents)
    similarity = np.ones(documents)
    alone = survivor == np.arange(documents)
    if earlier.indexes:
        known = earlier.same_text(corpus.digest)
        there = (known >= 0) & alone
        reason[there] = documents + known[there]
        similarity[there] = 2.0
        alone &= ~there
    corpus.digest = np.zeros((0, 2), np.uint64)
    found.seconds["exact"] = round(time.perf_counter() - begin, 3)

    begin = time.perf_counter()
    for near, pool in _pools(tasks, dedup).items():
        members = np.flatnonzero(np.isin(corpus.task, [task.index for task in pool]) & alone)
        members = members[corpus.signed[members]]
        comparison = Comparison(
            near, pool, members, corpus, earlier, dedup, work, workers, say, cluster
        )
        chosen, likeness = comparison.run()
        found.near.append(comparison.figures)
        gone = chosen >= 0
        reason[members[gone]] = comparison.named(chosen[gone])
        similarity[members[gone]] = likeness[gone]
    decision = decide(corpus, survivor, reason, similarity, tasks, dedup)
    found.seconds["near"] = round(time.perf_counter() - begin, 3)
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
