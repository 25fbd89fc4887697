"""The second pass, over all documents at once: which are copies of which, and which copy stays.

In: the work files of the first pass. Out: <task>.outcome.parquet beside each of them, row by row: the
id (made unique), the step and reason of a removal, the id that is finally kept and the similarity to
it, the size of the cluster. The texts themselves are not held: per document there are its id, four
numbers for the order, sixteen bytes of digest, eight per band and one per permutation (about 450
bytes with 25 bands of 128 permutations, 750 at the peak), and the shingle sets of the documents that
share a bucket, in a file that is mapped.

The order of worth: quality of the source, quality, length, id. Exact copies fall first, to the first
of their kind in that order; what is left is compared within the sources that sign alike (same
shingle, permutations, bands and rows; thresholds may differ, a document goes at its own). A removed
document always names one that stays: the copy of a near copy names what the near copy went for,
with the similarity to that. Its text with white space collapsed is the near copy's, so the similarity
is that of the near copy.

The decision: one deterministic pass in one process, threads where nothing is shared. The result
depends on neither the number of workers nor the order of the tasks (only the `~2` that a repeated id
gets does, and it says so in the report).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.files import write_json
from configs.schema import Dedup, Near
from dedup.bands import band_keys, group
from dedup.clean import read_work
from dedup.documents import parquet_writer
from dedup.executor import Tell, run_tasks
from dedup.filters import near_for
from dedup.keep import Selection, select
from dedup.minhash import shingle_sets
from dedup.read import Task
from dedup.verify import Sets

OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("step", pa.string()),  # exact or near; null: it stays
        pa.field("kept_id", pa.string()),
        pa.field("similarity", pa.float64()),
        pa.field("cluster_size", pa.int32(), nullable=False),  # 0 for what goes
    ]
)

Say = Callable[[str, float, float], None]
"""Called with a step, how much of it is done, and of how much."""


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
    tasks: list[Task], dedup: Dedup, work: Path, *, workers: int, say: Say
) -> Duplicates:
    """Decide over every document that the first pass left, and write the outcomes."""
    found = Duplicates()
    begin = time.perf_counter()
    say("exact", 0, len(tasks))
    corpus = _load(tasks, dedup, work, found)
    survivor = _first_of_equals(corpus.digest)
    found.seconds["exact"] = round(time.perf_counter() - begin, 3)

    begin = time.perf_counter()
    documents = len(corpus.rank_of)
    reason = np.arange(documents)
    similarity = np.ones(documents)
    alone = survivor == np.arange(documents)
    for near, pool in _pools(tasks, dedup).items():
        members = np.flatnonzero(np.isin(corpus.task, [task.index for task in pool]) & alone)
        members = members[corpus.signed[members]]
        chosen = _near(near, pool, dedup, corpus, members, work, workers, say, found)
        gone = chosen.reason >= 0
        reason[members[gone]] = members[chosen.reason[gone]]
        similarity[members[gone]] = chosen.similarity[gone]
    kept, likeness = _final(corpus, survivor, reason, similarity, dedup, tasks)
    found.seconds["near"] = round(time.perf_counter() - begin, 3)
    _describe(found, corpus, kept, survivor, likeness)
    _write(tasks, work, corpus, kept, survivor, likeness)
    write_json(work / "duplicates.json", asdict(found))
    return found


@dataclass
class _Corpus:
    """Every document that is left; rank 0 is the best. Arrays by rank, but rank_of by number.

    A document's number is its place in the work files, task after task; base[t] is the first of
    task t.
    """

    base: NDArray[np.int64]
    rank_of: NDArray[np.int64]
    ids: pa.Array  # by number
    task: NDArray[np.int32]
    digest: NDArray[np.uint64]  # [documents, 2]
    signed: NDArray[np.bool_]
    shingles: NDArray[np.int64]


def _load(tasks: list[Task], dedup: Dedup, work: Path, found: Duplicates) -> _Corpus:
    base = np.zeros(len(tasks) + 1, np.int64)
    columns = ["record", "id", "quality", "characters", "digest", "shingles"]
    parts: list[pa.Table] = []
    for task in tasks:
        table = pq.read_table(work / f"{task.index:05}.parquet", columns=columns, use_threads=False)
        base[task.index + 1] = base[task.index] + table.num_rows
        weight = np.full(table.num_rows, dedup.sources[task.source].quality)
        table = table.append_column("weight", pa.array(weight))
        large = table["id"].cast(pa.large_string())
        parts.append(table.set_column(table.schema.get_field_index("id"), "id", large))
    whole = pa.concat_tables(parts).combine_chunks()
    found.renamed = _repeated_ids(tasks, work)
    ids = _column(whole, "id")
    if found.renamed:
        new = ids.to_pylist()
        records = _column(whole, "record").to_numpy()
        for task in tasks:
            names = found.renamed.get(str(task.index), {})
            for number in range(base[task.index], base[task.index + 1]) if names else ():
                new[number] = names.get(str(records[number]), new[number])
        ids = pa.array(new, pa.large_string())
    whole = whole.set_column(whole.schema.get_field_index("id"), "id", ids)
    order = pc.sort_indices(
        whole,
        sort_keys=[
            ("weight", "descending"),
            ("quality", "descending"),
            ("characters", "descending"),
            ("id", "ascending"),
        ],
    ).to_numpy()
    order = order.astype(np.int64)
    rank_of = np.empty(len(order), np.int64)
    rank_of[order] = np.arange(len(order))
    digest = _words(_column(whole, "digest"), 2, "<u8")
    task_of = np.repeat(np.arange(len(tasks), dtype=np.int32), np.diff(base))
    shingles = _column(whole, "shingles").to_numpy()[order]
    return _Corpus(base, rank_of, ids, task_of[order], digest[order], shingles > 0, shingles)


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def _words(column: pa.Array, words: int, kind: str) -> NDArray[Any]:
    """A fixed-size binary column as numbers: [rows, words]; what stands under a null is undefined."""
    values = column.buffers()[1]
    rows = column.offset + len(column)
    whole = np.frombuffer(values, kind, count=rows * words) if rows else np.zeros(0, kind)
    return whole.reshape(rows, words)[column.offset :]


def _repeated_ids(tasks: list[Task], work: Path) -> dict[str, dict[str, str]]:
    """New ids for all but the first of the records, kept or removed, that share one.

    The first is that of the earliest task and record; the others get `~2`, `~3`, … after their id.
    """
    counted: Counter[str] = Counter()
    tables = []
    for task in tasks:
        for name in (f"{task.index:05}.parquet", f"{task.index:05}.removed.parquet"):
            table = pq.read_table(work / name, columns=["id", "record"], use_threads=False)
            number = pa.array(np.full(table.num_rows, task.index, np.int32))
            tables.append(table.append_column("task", number))
    whole = pa.concat_tables(tables)
    counts = whole.group_by("id").aggregate([("id", "count")])
    twice = counts.filter(pc.greater(counts["id_count"], 1))["id"]
    if not len(twice):
        return {}
    suffixed = counts.filter(pc.match_substring_regex(counts["id"], r"~\d+$"))["id"]
    taken = set(suffixed.to_pylist())
    repeated = whole.filter(pc.is_in(whole["id"], twice.combine_chunks()))
    repeated = repeated.sort_by([("task", "ascending"), ("record", "ascending")])
    renamed: dict[str, dict[str, str]] = {}
    for row in repeated.to_pylist():
        name = row["id"]
        counted[name] += 1
        if counted[name] == 1:
            continue
        while f"{name}~{counted[name]}" in taken:
            counted[name] += 1
        renamed.setdefault(str(row["task"]), {})[str(row["record"])] = f"{name}~{counted[name]}"
    return renamed


def _first_of_equals(digest: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each document the first, in order of worth, with the same digest."""
    if not len(digest):
        return np.zeros(0, np.int64)
    order = np.lexsort((digest[:, 1], digest[:, 0]))  # stable: best first among equals
    ordered = digest[order]
    fresh = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    first = order[np.flatnonzero(fresh)][np.cumsum(fresh) - 1]
    survivor = np.empty(len(digest), np.int64)
    survivor[order] = first
    return survivor


# ── near copies ─────────────────────────────────────────────────────────────────────────────────


def _pools(tasks: list[Task], dedup: Dedup) -> dict[Near, list[Task]]:
    """Tasks by how they sign. The key's threshold means nothing."""
    pools: dict[Near, list[Task]] = {}
    for task in tasks:
        near = near_for(dedup.sources[task.source], dedup)
        if near is not None:
            pools.setdefault(near.model_copy(update={"threshold": 1.0}), []).append(task)
    return pools


def _near(
    near: Near,
    pool: list[Task],
    dedup: Dedup,
    corpus: _Corpus,
    members: NDArray[np.int64],
    work: Path,
    workers: int,
    say: Say,
    found: Duplicates,
) -> Selection:
    """Select among `members` (ranks, ascending); the selection counts in places of `members`."""
    count = len(members)
    place = np.full(len(corpus.rank_of), -1, np.int64)
    place[members] = np.arange(count)
    bands = [np.empty(count, np.uint64) for _ in range(near.bands)]
    sketches = np.empty((count, near.permutations), np.uint8)
    thresholds = sorted({_threshold(task, dedup) for task in pool})
    setting = np.zeros(count, np.uint8)
    for done, task in enumerate(pool):
        say("bands", done, len(pool))
        at = corpus.base[task.index]
        for batch in read_work(work, task.index, ["signature"]):
            places = place[corpus.rank_of[at : at + batch.num_rows]]
            at += batch.num_rows
            mine = places >= 0
            signatures = _words(batch["signature"], near.permutations, "<u4")[mine]
            places = places[mine]
            for band, keys in zip(bands, band_keys(signatures, near.bands, near.rows), strict=True):
                band[places] = keys
            sketches[places] = signatures  # the low byte of each minimum
            setting[places] = thresholds.index(_threshold(task, dedup))

    def one_by_one() -> Iterator[NDArray[np.uint64]]:
        while bands:
            yield bands.pop(0)

    buckets = group(one_by_one(), count)
    path = work / f"sets-{near.shingle}.u64"
    sets = _sets(near, pool, corpus, members[buckets.documents], place, work, path, workers, say)
    chosen = select(
        buckets,
        sets,
        sketches,
        np.array(thresholds),
        setting,
        workers=workers,
        on_block=lambda done, total: say("near", done, total),
    )
    del sets
    path.unlink(missing_ok=True)
    found.near.append(
        {
            "documents": count,
            "in_buckets": len(buckets.documents),
            "buckets": len(buckets.room) - 1,
            "largest_bucket": buckets.largest,
            "pairs_met": chosen.compared,
            "pairs_verified": chosen.verified,
            "crowded_buckets": chosen.crowded,
        }
    )
    return chosen


def _threshold(task: Task, dedup: Dedup) -> float:
    near = near_for(dedup.sources[task.source], dedup)
    assert near is not None
    return near.threshold


@dataclass(frozen=True)
class _Shingling:
    """The sets of some rows of a task, written from one place of the file on."""

    task: Task
    rows: NDArray[np.int64]
    first: int
    shingle: int
    work: Path
    path: Path

    def __str__(self) -> str:
        return f"{self.work / f'{self.task.index:05}.parquet'}"


def _sets(
    near: Near,
    pool: list[Task],
    corpus: _Corpus,
    wanted: NDArray[np.int64],
    place: NDArray[np.int64],
    work: Path,
    path: Path,
    workers: int,
    say: Say,
) -> Sets:
    """Shingle sets of the documents in buckets (`wanted`, ranks), in a mapped file."""
    is_wanted = np.zeros(len(corpus.rank_of), bool)
    is_wanted[wanted] = True
    begin = np.zeros(int(place.max(initial=-1)) + 1, np.int64)
    size = np.zeros_like(begin)
    items = []
    first = 0
    for task in pool:
        ranks = corpus.rank_of[corpus.base[task.index] : corpus.base[task.index + 1]]
        rows = np.flatnonzero(is_wanted[ranks])
        if len(rows):
            items.append(_Shingling(task, rows, first, near.shingle, work, path))
            first += int(corpus.shingles[ranks[rows]].sum())
    path.write_bytes(b"")
    finished = 0

    def note(item: _Shingling, result: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
        nonlocal finished
        ranks = corpus.rank_of[corpus.base[item.task.index] + item.rows]
        begin[place[ranks]], size[place[ranks]] = result
        finished += 1
        say("sets", finished, len(items))

    run_tasks(_write_sets, items, workers, on_done=note)
    empty = np.zeros(1, np.uint64)
    mapped = np.memmap(path, np.uint64, mode="r") if path.stat().st_size else empty
    return Sets(begin, size, np.asarray(mapped))


def _write_sets(item: _Shingling, tell: Tell) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns where each row's set begins in the file, and its size, in hashes."""
    begins, sizes = [], []
    at, row = item.first, 0
    handle = os.open(item.path, os.O_WRONLY)
    try:
        for batch in read_work(item.work, item.task.index, ["text"]):
            inside = (item.rows >= row) & (item.rows < row + batch.num_rows)
            ends, hashes = shingle_sets(
                batch["text"], item.rows[inside] - row, shingle=item.shingle
            )
            _write_at(handle, hashes, 8 * at)
            begins.append(at + ends[:-1])
            sizes.append(np.diff(ends))
            at += len(hashes)
            row += batch.num_rows
    finally:
        os.close(handle)
    return np.concatenate(begins), np.concatenate(sizes)


def _write_at(handle: int, hashes: NDArray[np.uint64], offset: int) -> None:
    left = memoryview(hashes.tobytes())
    while left:
        written = os.pwrite(handle, left, offset)
        left, offset = left[written:], offset + written


# ── the outcome ─────────────────────────────────────────────────────────────────────────────────


def _final(
    corpus: _Corpus,
    survivor: NDArray[np.int64],
    reason: NDArray[np.int64],
    similarity: NDArray[np.float64],
    dedup: Dedup,
    tasks: list[Task],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each rank the rank that is finally kept for it, and the similarity to that one.

    A copy whose own source keeps near copies (near: none, or a higher threshold) does not follow
    its equal into removal: the first such stays, and its later equals with the same claim are copies of it.
    """
    kept = reason[survivor]
    likeness = similarity[survivor]
    follows = np.flatnonzero((survivor != np.arange(len(survivor))) & (kept != survivor))
    if len(follows):
        limit = np.full(len(dedup.sources), np.inf)
        for number, source in enumerate(dedup.sources):
            near = near_for(source, dedup)
            limit[number] = near.threshold if near is not None else np.inf
        source_of = np.array([task.source for task in tasks])
        stays: dict[int, int] = {}
        for rank in follows.tolist():
            least = limit[source_of[corpus.task[rank]]]
            if not corpus.signed[rank] or likeness[rank] < least:
                kept[rank] = stays.setdefault(int(survivor[rank]), rank)
                likeness[rank] = 1.0
    return kept, likeness


def _describe(
    found: Duplicates,
    corpus: _Corpus,
    kept: NDArray[np.int64],
    survivor: NDArray[np.int64],
    likeness: NDArray[np.float64],
) -> None:
    sizes = np.bincount(kept, minlength=len(kept))
    counted = Counter(sizes[sizes > 1].tolist())
    found.clusters = {str(size): counted[size] for size in sorted(counted)}
    gone = likeness[kept != np.arange(len(kept))]
    bins = Counter((np.floor(gone * 50 + 1e-9) / 50).round(2).tolist())
    found.similarities = {f"{low:.2f}": bins[low] for low in sorted(bins)}
    number_of = np.empty(len(kept), np.int64)
    number_of[corpus.rank_of] = np.arange(len(kept))
    largest = np.argsort(-sizes, kind="stable")[:10]
    found.largest = [
        {"id": corpus.ids[int(number_of[rank])].as_py(), "documents": int(sizes[rank])}
        for rank in largest.tolist()
        if sizes[rank] > 1
    ]


def _write(
    tasks: list[Task],
    work: Path,
    corpus: _Corpus,
    kept: NDArray[np.int64],
    survivor: NDArray[np.int64],
    likeness: NDArray[np.float64],
) -> None:
    sizes = np.bincount(kept, minlength=len(kept)).astype(np.int32)
    number_of = np.empty(len(kept), np.int64)
    number_of[corpus.rank_of] = np.arange(len(kept))
    for task in tasks:
        begin, end = corpus.base[task.index], corpus.base[task.index + 1]
        ranks = corpus.rank_of[begin:end]
        stays = kept[ranks] == ranks
        same_text = survivor[kept[ranks]] == survivor[ranks]
        step = pa.array(np.where(same_text, "exact", "near"), pa.string(), mask=stays)
        kept_id = corpus.ids.take(pa.array(number_of[kept[ranks]])).cast(pa.string())
        table = pa.table(
            {
                "id": corpus.ids.slice(begin, end - begin).cast(pa.string()),
                "step": step,
                "kept_id": pc.if_else(pa.array(stays), pa.scalar(None, pa.string()), kept_id),
                "similarity": pa.array(likeness[ranks], mask=stays),
                "cluster_size": np.where(stays, sizes[ranks], 0).astype(np.int32),
            },
            schema=OUTCOME_SCHEMA,
        )
        with parquet_writer(work / f"{task.index:05}.outcome.parquet", OUTCOME_SCHEMA) as writer:
            writer.write_table(table)
