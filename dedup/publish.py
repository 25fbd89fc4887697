"""The last pass over a task: work file + outcome → documents, removed and failed files.

In: what the first pass left and what the second decided, row by row. Out, by atomic rename:
documents/<task>.parquet, removed/<task>.parquet, failed/<task>.jsonl (each only where there is
something to hold) and <task>.published.json in the work folder, which says that this is done.

The decision: one output file per task, so the work is as parallel as the reading was, the order of
documents is that of the input, and a killed run repeats one file.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.files import atomic, write_json
from configs.schema import Dedup
from dedup.clean import EXAMPLE_CHARACTERS, EXAMPLES, read_work
from dedup.copies.names import new_ids, suffix_path
from dedup.copies.outcome import REASONS
from dedup.documents import REMOVED_SCHEMA, SCHEMA, as_batch, parquet_writer, split_of
from dedup.executor import Tell
from dedup.mix import count_lengths, count_scripts
from dedup.read import Task

_ROWS = 8_192
_BYTES = 16_000_000  # of a row group before compression, whichever comes first

NEAR = f"near/{REASONS['near']}"
_NEAR_CHARACTERS = 20_000
"""Of an example of a near copy; the report cuts it to where it begins to differ."""


@dataclass(frozen=True)
class Publishing:
    """One task and where its output goes."""

    task: Task
    dedup: Dedup
    work: Path
    out: Path

    def __str__(self) -> str:
        return f"{self.out / 'documents' / f'{self.task.index:05}.parquet'}"


@dataclass
class Published:
    """What a task put out, as its mark has it."""

    documents: int = 0
    heldout: int = 0
    bytes_out: int = 0
    characters_out: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    scripts: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def published_mark(work: Path, index: int) -> Path:
    """The file whose presence says that a task's output is whole."""
    return work / f"{index:05}.published.json"


def publish_task(item: Publishing, tell: Tell) -> Published:
    """Write the output of one task; `tell` hears the documents it has looked at."""
    done = Published()
    name = f"{item.task.index:05}"
    failed = item.work / f"{name}.failed.jsonl"
    if failed.exists():
        with atomic(item.out / "failed" / f"{name}.jsonl") as temporary:
            shutil.copyfile(failed, temporary)
    with ExitStack() as files:
        documents = _Rows(files, item.out / "documents" / f"{name}.parquet", SCHEMA)
        removed = _Rows(files, item.out / "removed" / f"{name}.parquet", REMOVED_SCHEMA)
        for batch in _removed_before(item):
            removed.add(batch)
        for batch, outcome in _beside(item):
            if outcome["step"].null_count == batch.num_rows:  # spares a copy of all texts
                documents.add(_documents(item, batch, outcome, done))
            else:
                stays = pc.is_null(outcome["step"])
                documents.add(_documents(item, batch.filter(stays), outcome.filter(stays), done))
                gone = pc.invert(stays)
                removed.add(_duplicates(item, batch.filter(gone), outcome.filter(gone), done))
            tell(batch.num_rows)
        documents.close()
        removed.close()
    write_json(published_mark(item.work, item.task.index), asdict(done))
    return done


class _Rows:
    """A Parquet file in row groups of a steady size; not there at all without a row."""

    def __init__(self, files: ExitStack, path: Path, schema: pa.Schema) -> None:
        self._open: Callable[[], pq.ParquetWriter] = lambda: files.enter_context(
            parquet_writer(path, schema)
        )
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        self._waiting.append(batch)
        rows = sum(waiting.num_rows for waiting in self._waiting)
        if rows >= _ROWS or sum(waiting.nbytes for waiting in self._waiting) >= _BYTES:
            self.close()

    def close(self) -> None:
        """Write what waits; the file itself is closed by the stack it was opened on."""
        if self._waiting:
            self._writer = self._writer or self._open()
            self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=2**30)
            self._waiting = []


def _beside(item: Publishing) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The work file's batches with the outcome's rows of the same documents."""
    path = item.work / f"{item.task.index:05}.outcome.parquet"
    outcomes = pq.read_table(path, use_threads=False).combine_chunks()
    columns = ["id", "kind", "text", "segments", "url", "meta", "quality", "characters"]
    row = 0
    for batch in read_work(item.work, item.task.index, columns):
        part = outcomes.slice(row, batch.num_rows).combine_chunks()
        yield batch, part.to_batches()[0]
        row += batch.num_rows


def _removed_before(item: Publishing) -> Iterator[pa.RecordBatch]:
    """Rows of the first pass's audit trail, under the ids they have now."""
    path = suffix_path(item.work, item.task.index)
    suffix = np.load(path) if path.exists() else None
    row = 0
    with pq.ParquetFile(item.work / f"{item.task.index:05}.removed.parquet") as file:
        for batch in file.iter_batches(use_threads=False):
            columns: dict[str, Any] = {name: batch[name] for name in REMOVED_SCHEMA.names}
            if suffix is not None:
                columns["id"] = new_ids(batch["id"], suffix[row : row + batch.num_rows])
            row += batch.num_rows
            yield as_batch(columns, REMOVED_SCHEMA)


def _documents(
    item: Publishing, batch: pa.RecordBatch, outcome: pa.RecordBatch, done: Published
) -> pa.RecordBatch:
    source = item.dedup.sources[item.task.source]
    rows = batch.num_rows
    split = [split_of(name, item.dedup.heldout) for name in outcome["cluster_id"].to_pylist()]
    done.documents += rows
    done.heldout += split.count("heldout")
    done.characters_out += pc.sum(batch["characters"]).as_py() or 0
    count_lengths(done.lengths, batch["characters"])
    count_scripts(done.scripts, batch["text"])
    done.bytes_out += pc.sum(pc.binary_length(batch["text"])).as_py() or 0
    return as_batch(
        {
            **{
                name: batch[name] for name in ("kind", "text", "segments", "url", "quality", "meta")
            },
            "id": outcome["id"],
            "source": [source.name] * rows,
            "language": [None if source.language == "any" else source.language] * rows,
            "split": split,
            "cluster_id": outcome["cluster_id"],
            "cluster_size": outcome["cluster_size"],
            "licence": [source.licence or None] * rows,
        },
        SCHEMA,
    )


def _duplicates(
    item: Publishing, batch: pa.RecordBatch, outcome: pa.RecordBatch, done: Published
) -> pa.RecordBatch:
    source = item.dedup.sources[item.task.source].name
    pairs = zip(outcome["step"].to_pylist(), outcome["reason"].to_pylist(), strict=True)
    keys = [f"{step}/{reason}" for step, reason in pairs]
    for key, count in Counter(keys).items():
        done.removed[key] = done.removed.get(key, 0) + count
        shown = done.examples.setdefault(key, [])
        length = _NEAR_CHARACTERS if key == NEAR else EXAMPLE_CHARACTERS
        for row in (row for row, other in enumerate(keys) if other == key):
            if len(shown) == EXAMPLES:
                break
            shown.append(
                {
                    "id": outcome["id"][row].as_py(),
                    "kept_id": outcome["kept_id"][row].as_py(),
                    "similarity": outcome["similarity"][row].as_py(),
                    "text": batch["text"][row].as_py()[:length],
                }
            )
    rows = batch.num_rows
    return as_batch(
        {
            "id": outcome["id"],
            "source": [source] * rows,
            "step": outcome["step"],
            "reason": outcome["reason"],
            "kept_id": outcome["kept_id"],
            "similarity": outcome["similarity"],
            "text": batch["text"] if item.dedup.keep_removed_text else [None] * rows,
            "url": batch["url"],
        },
        REMOVED_SCHEMA,
    )
