"""The first pass over a task's files: read → normalise → filter → PII → decontaminate → sign.

In: one task of the plan. Out, in the work folder: <task>.parquet, what goes on to deduplication with
its digest and signature; <task>.removed.parquet and <task>.failed.jsonl, what does not; and last of
all <task>.json, the counts, whose presence means that the task is done.

The decision: each task stands alone and leaves only files, so tasks run in any order on any machine,
and one that died is simply run again. Documents are signed here, after masking, because the
signature and the digest must be of the text as it is written.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.files import write_json
from configs.schema import Dedup
from dedup import utf8
from dedup.copies.digest import dialogue_digests, digests
from dedup.copies.minhash import sign
from dedup.documents import (
    REMOVED_SCHEMA,
    SEGMENT,
    as_batch,
    parquet_writer,
    raw_field,
    write_failed,
)
from dedup.executor import Tell
from dedup.mix import count_lengths
from dedup.read import RawBatch, Task, read
from dedup.text import decontaminate, filters, normalize, pii
from dedup.text.custom import load_filter

EXAMPLES = 3
"""Documents shown per reason; each cut to this many characters:"""
EXAMPLE_CHARACTERS = 200

REMOVED_WORK_SCHEMA = REMOVED_SCHEMA.append(pa.field("record", pa.int64(), nullable=False))


def work_schema(permutations: int) -> pa.Schema:
    """What is known of a document between the passes.

    record: its number in the task, removed ones counted. digest: of the text with white space
    collapsed (and of the roles, where there are any). signature: little-endian uint32 minima, null
    where near copies are not looked for.
    """
    return pa.schema(
        [
            pa.field("record", pa.int64(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("text", pa.large_string(), nullable=False),
            pa.field("segments", pa.list_(SEGMENT)),
            pa.field("url", pa.string()),
            pa.field("meta", pa.string()),
            pa.field("quality", pa.float32(), nullable=False),
            pa.field("characters", pa.int64(), nullable=False),
            pa.field("digest", pa.binary(16), nullable=False),
            pa.field("shingles", pa.int64(), nullable=False),
            pa.field("signature", pa.binary(4 * permutations)),
        ]
    )


@dataclass(frozen=True)
class Cleaning:
    """One task with what it needs: picklable, and named by its files in an error."""

    task: Task
    dedup: Dedup
    work: Path
    most: int | None = None  # bytes of records after which it stops: a sample

    def __str__(self) -> str:
        return str(self.task)


@dataclass
class Cleaned:
    """What a task did, as its mark <task>.json has it. removed and examples by "step/reason".
    lengths: of the documents read, as mix.py counts them.

    repaired: texts whose mojibake was undone. forms: files by the form they were read as. failed: one entry per file with failures: path, records, and line, offset, error of the first.
    """

    documents_in: int = 0
    documents_failed: int = 0
    documents: int = 0
    bytes_in: int = 0
    characters_in: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pii: dict[str, int] = field(default_factory=dict)
    repaired: int = 0
    forms: dict[str, int] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def mark_of(work: Path, index: int) -> Path:
    """The file whose presence says that a task's first pass is done."""
    return work / f"{index:05}.json"


def clean_task(item: Cleaning, tell: Tell) -> Cleaned:
    """Run the first pass over a task; `tell` hears how many documents were read."""
    cleaned = Cleaned()
    chain_of_steps = _Steps(item, cleaned)
    failures: list[dict[str, Any]] = []
    stem = item.work / f"{item.task.index:05}"
    with ExitStack() as files:
        kept = files.enter_context(
            parquet_writer(
                Path(f"{stem}.parquet"), work_schema(chain_of_steps.permutations), scratch=True
            )
        )
        removed = files.enter_context(
            parquet_writer(Path(f"{stem}.removed.parquet"), REMOVED_WORK_SCHEMA, scratch=True)
        )
        for raw in chain_of_steps.timed("read", read(item.task, item.dedup)):
            failures += [_failure(failed) for failed in raw.failed]
            for form, count in raw.forms.items():
                cleaned.forms[form] = cleaned.forms.get(form, 0) + count
            for batch in chain_of_steps.batches(raw):
                removed.write_batch(batch)
            if chain_of_steps.left is not None and chain_of_steps.left.num_rows:
                with chain_of_steps.clock("write"):
                    kept.write_batch(chain_of_steps.left)
                cleaned.documents += chain_of_steps.left.num_rows
            tell(raw.batch.num_rows)
            if item.most is not None and cleaned.bytes_in >= item.most:
                break
    cleaned.documents_failed = len(failures)
    cleaned.documents_in += len(failures)
    cleaned.failed = _by_file(failures)
    if failures:
        write_failed(Path(f"{stem}.failed.jsonl"), failures)
    cleaned.seconds = {step: round(seconds, 3) for step, seconds in chain_of_steps.seconds.items()}
    write_json(mark_of(item.work, item.task.index), asdict(cleaned))
    return cleaned


def _by_file(failures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per file: its first failure, and how many records failed."""
    files: dict[str, dict[str, Any]] = {}
    for failure in failures:
        first = {key: failure[key] for key in ("path", "line", "offset", "error")}
        files.setdefault(failure["path"], {**first, "records": 0})["records"] += 1
    return list(files.values())


def _failure(failed: Any) -> dict[str, Any]:
    return {
        "path": failed.path,
        "line": failed.line,
        "offset": failed.offset,
        "error": failed.error,
        "raw": raw_field(failed.raw),
    }


class _Steps:
    """The chain of steps of one source. After `batches(raw)`, `left` is what goes on."""

    def __init__(self, item: Cleaning, cleaned: Cleaned) -> None:
        source = item.dedup.sources[item.task.source]
        self.source = source
        self.dedup = item.dedup
        self.cleaned = cleaned
        near = filters.near_for(source, item.dedup)
        self.permutations = near.permutations if near else 4
        self.pii: str = filters.pii_for(source, item.dedup)
        self.custom = [load_filter(name) for name in item.dedup.custom_filters]
        self.contamination = _contamination(tuple(item.dedup.decontaminate))
        self.seconds: dict[str, float] = defaultdict(float)
        self.left: pa.RecordBatch | None = None
        self.record = 0

    @contextmanager
    def clock(self, step: str) -> Iterator[None]:
        begin = time.process_time()
        try:
            yield
        finally:
            self.seconds[step] += time.process_time() - begin

    def timed(self, step: str, batches: Iterator[RawBatch]) -> Iterator[RawBatch]:
        while True:
            with self.clock(step):
                raw = next(batches, None)
            if raw is None:
                return
            yield raw

    def batches(self, raw: RawBatch) -> Iterator[pa.RecordBatch]:
        """Take a batch through the steps; yields what each removes, in `REMOVED_WORK_SCHEMA`."""
        batch = raw.batch
        rows = batch.num_rows
        self.cleaned.documents_in += rows
        self.cleaned.bytes_in += raw.bytes_in
        self.left = None
        if not rows:
            return
        records = pa.array(np.arange(self.record, self.record + rows))
        self.record += rows
        batch = batch.append_column("record", records)
        batch = batch.append_column("quality", pa.array(np.ones(rows, np.float32)))
        characters = utf8.lengths(batch["text"])
        self.cleaned.characters_in += int(characters.sum())
        count_lengths(self.cleaned.lengths, pa.array(characters))
        structured = batch["segments"].null_count < rows
        for step in (self._normalise, self._filter, self._mask, self._decontaminate):
            if not batch.num_rows:
                return
            name = step.__name__.lstrip("_").replace("mask", "pii")
            with self.clock(name):
                batch, reasons = step(batch, structured)
                gone = self._removed(batch, name, reasons)
            if gone is not None:
                yield gone
                batch = batch.filter(pa.array([reason is None for reason in reasons]))
        if batch.num_rows:
            with self.clock("sign"):
                self.left = self._sign(batch, structured)

    # ── the steps: batch → batch of the same rows, and a reason for each row that goes ──────────

    def _normalise(
        self, batch: pa.RecordBatch, structured: bool
    ) -> tuple[pa.RecordBatch, list[str | None]]:
        batch = _rewrite(batch, structured, normalize.normalize)
        # Normalising leaves nothing of a text of white space; segments are joined with newlines.
        texts = pc.utf8_trim_whitespace(batch["text"]) if structured else batch["text"]
        empty = pc.equal(pc.binary_length(texts), 0)
        return batch, ["empty" if bare else None for bare in empty.to_pylist()]

    def _filter(
        self, batch: pa.RecordBatch, structured: bool
    ) -> tuple[pa.RecordBatch, list[str | None]]:
        limits = filters.limits_for(self.source, self.dedup, batch["kind"][0].as_py())
        reasons: list[str | None] = [None] * batch.num_rows
        if limits is not None:
            judged = filters.judge(batch["text"], limits, self.source.language)
            batch = _replace(batch, "quality", pa.array(judged.quality, pa.float32()))
            if not structured:  # a cut line would part the rendering from the segments
                batch = _replace(batch, "text", judged.texts)
            reasons = list(judged.reasons)
            self.cleaned.repaired += judged.repaired
        for custom in self.custom:
            own = custom(batch)
            reasons = [first or second for first, second in zip(reasons, own, strict=True)]
        return batch, reasons

    def _mask(
        self, batch: pa.RecordBatch, structured: bool
    ) -> tuple[pa.RecordBatch, list[str | None]]:
        if self.pii == "keep":
            return batch, [None] * batch.num_rows
        found = [0] * batch.num_rows

        def masking(texts: pa.LargeStringArray) -> pa.LargeStringArray:
            masked = pii.mask(texts)
            for kind, count in masked.kinds.items():
                self.cleaned.pii[kind] = self.cleaned.pii.get(kind, 0) + count
            if not structured:
                found[:] = masked.counts
            else:
                owners = chain.from_iterable(
                    [row] * size for row, size in enumerate(_turns(batch["segments"]))
                )
                for row, count in zip(owners, masked.counts, strict=True):
                    found[row] += count
            return masked.texts

        batch = _rewrite(batch, structured, masking)
        drop = self.pii == "drop"
        return batch, ["personal data" if drop and count else None for count in found]

    def _decontaminate(
        self, batch: pa.RecordBatch, structured: bool
    ) -> tuple[pa.RecordBatch, list[str | None]]:
        if self.contamination is None:
            return batch, [None] * batch.num_rows
        return batch, self.contamination.hits(batch["text"])

    def _sign(self, batch: pa.RecordBatch, structured: bool) -> pa.RecordBatch:
        texts = batch["text"]
        near = filters.near_for(self.source, self.dedup, batch["kind"][0].as_py())
        rows = batch.num_rows
        if near is not None:
            signatures = sign(texts, shingle=near.shingle, count=near.permutations)
            shingles = signatures.shingles
            values = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(4 * near.permutations),
                rows,
                [None, pa.py_buffer(signatures.values.astype("<u4"))],
            )
        else:
            shingles = np.zeros(rows, np.int64)
            values = pa.nulls(rows, pa.binary(4 * self.permutations))
        columns: dict[str, Any] = {name: batch[name] for name in batch.schema.names}
        columns["characters"] = utf8.lengths(texts)
        columns["digest"] = dialogue_digests(batch["segments"]) if structured else digests(texts)
        columns["shingles"] = shingles
        columns["signature"] = values
        return as_batch(columns, work_schema(self.permutations))

    def _removed(
        self, batch: pa.RecordBatch, step: str, reasons: list[str | None]
    ) -> pa.RecordBatch | None:
        """The rows with a reason, counted, for the audit trail; never with unmasked PII in it."""
        rows = [row for row, reason in enumerate(reasons) if reason is not None]
        if not rows:
            return None
        gone = batch.take(pa.array(rows))
        texts = gone["text"]
        if self.pii != "keep" and step in ("normalise", "filter"):
            texts = pii.mask(texts).texts
        why = [reason for reason in reasons if reason is not None]
        ids = gone["id"].to_pylist()
        labels = why if step != "decontaminate" else ["evaluation text"] * len(why)
        for reason, count in Counter(labels).items():
            key = f"{step}/{reason}"
            self.cleaned.removed[key] = self.cleaned.removed.get(key, 0) + count
            shown = self.cleaned.examples.setdefault(key, [])
            for row in (row for row, other in enumerate(labels) if other == reason):
                if len(shown) == EXAMPLES:
                    break
                text = texts[row].as_py()[:EXAMPLE_CHARACTERS]
                shown.append({"id": ids[row], "text": text})
        count = len(rows)
        return as_batch(
            {
                "id": gone["id"],
                "source": [self.source.name] * count,
                "step": [step] * count,
                "reason": why,
                "kept_id": [None] * count,
                "similarity": [None] * count,
                "text": texts if self.dedup.keep_removed_text else [None] * count,
                "url": gone["url"],
                "record": gone["record"],
            },
            REMOVED_WORK_SCHEMA,
        )


@lru_cache(maxsize=1)
def _contamination(paths: tuple[str, ...]) -> decontaminate.Contamination | None:
    """The evaluation texts, once per process."""
    return decontaminate.Contamination.from_files(list(paths)) if paths else None


def _replace(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index(name), name, column)


def _turns(segments: pa.ListArray) -> list[int]:
    """Number of segments of each row."""
    return pc.fill_null(pc.list_value_length(segments), 0).to_pylist()


def _rewrite(
    batch: pa.RecordBatch,
    structured: bool,
    function: Callable[[pa.LargeStringArray], pa.LargeStringArray],
) -> pa.RecordBatch:
    """Apply a function of texts: to `text`, or to every segment, of which `text` is then made."""
    if not structured:
        return _replace(batch, "text", function(batch["text"]))
    turns = pc.list_flatten(batch["segments"])
    texts = function(pc.struct_field(turns, "text").cast(pa.large_string()))
    short = texts.cast(pa.string())
    ends = np.concatenate([[0], np.cumsum(_turns(batch["segments"]))]).astype(np.int32)
    offsets = pa.array(ends, pa.int32())
    renewed = pa.StructArray.from_arrays(
        [pc.struct_field(turns, "role"), short], fields=list(SEGMENT)
    )
    batch = _replace(batch, "segments", pa.ListArray.from_arrays(offsets, renewed))
    plain = pc.binary_join(pa.ListArray.from_arrays(offsets, short), "\n")
    return _replace(batch, "text", plain.cast(pa.large_string()))


def read_work(work: Path, index: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """What the first pass left of a task, row group by row group."""
    with pq.ParquetFile(work / f"{index:05}.parquet") as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns, use_threads=False)
            yield from table.combine_chunks().to_batches()
