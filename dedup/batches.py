"""Documents, one by one or already in Arrow, → batches of at most 1,000 rows and 4 MB of text.

In: the items a reader gives: `Document`, `Failure`, or `Arrow` (rows that never were Python objects).
Out: `RawBatch`es in the same order, each of one kind of document. Small files share a batch: ten
thousand tiny ones would otherwise be ten thousand batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from dedup.records import Document, Failure

MAX_ROWS = 1_000
MAX_TEXT = 4_000_000  # bytes of text in a batch, unless one document alone is longer

SEGMENTS = pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))
BATCH_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("text", pa.large_string()),
        ("segments", SEGMENTS),
        ("url", pa.string()),
        ("meta", pa.string()),
    ]
)


@dataclass
class RawBatch:
    """Documents as read (`BATCH_SCHEMA`, all of one kind), and what failed on the way to them.

    bytes_in: uncompressed bytes of the records of this batch, those that failed included. forms: what
    the files begun in this batch were found to be, and how many of each.
    """

    batch: pa.RecordBatch
    failed: list[Failure] = field(default_factory=list)
    bytes_in: int = 0
    forms: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrow:
    """At most MAX_ROWS text documents in `BATCH_SCHEMA`, and the bytes of their records."""

    batch: pa.RecordBatch
    size: int


def text_batch(
    ids: list[str] | pa.Array,
    texts: pa.LargeStringArray,
    urls: list[str | None] | pa.Array,
    metas: list[str | None] | pa.Array,
) -> pa.RecordBatch:
    """Columns of documents of the kind text."""
    rows = len(texts)
    return pa.RecordBatch.from_arrays(
        [
            ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string()),
            pa.repeat(pa.scalar("text"), rows),
            texts,
            pa.nulls(rows, SEGMENTS),
            urls if isinstance(urls, pa.Array) else pa.array(urls, pa.string()),
            metas if isinstance(metas, pa.Array) else pa.array(metas, pa.string()),
        ],
        schema=BATCH_SCHEMA,
    )


def gather(items: Iterator[Document | Failure | Arrow]) -> Iterator[RawBatch]:
    """Batches of the items, in order. One may hold no document, only failures."""
    waiting = _Waiting()
    for item in items:
        if isinstance(item, Failure):
            waiting.failed.append(item)
            waiting.size += item.size
            continue
        if isinstance(item, Arrow):
            rows, kind, text = item.batch.num_rows, "text", item.batch["text"].nbytes
        else:
            rows, kind, text = 1, item.kind, 3 * len(item.text)  # Hangul takes three bytes
        if waiting.rows and (
            kind != waiting.kind or waiting.rows + rows > MAX_ROWS or waiting.text + text > MAX_TEXT
        ):
            yield waiting.batch()
            waiting = _Waiting()
        waiting.add(item, rows, kind, text)
    if waiting.rows or waiting.failed or waiting.size:
        yield waiting.batch()


class _Waiting:
    """What the next batch will hold."""

    def __init__(self) -> None:
        self.parts: list[pa.RecordBatch] = []
        self.documents: list[Document] = []
        self.failed: list[Failure] = []
        self.kind = ""
        self.rows = self.text = self.size = 0

    def add(self, item: Document | Arrow, rows: int, kind: str, text: int) -> None:
        self.kind = kind
        self.rows += rows
        self.text += text
        self.size += item.size
        if isinstance(item, Arrow):
            self._settle()
            self.parts.append(item.batch)
        else:
            self.documents.append(item)

    def _settle(self) -> None:
        if self.documents:
            self.parts.append(_columns(self.documents))
            self.documents = []

    def batch(self) -> RawBatch:
        self._settle()
        if not self.parts:
            self.parts.append(_columns([]))
        if len(self.parts) == 1:
            return RawBatch(self.parts[0], self.failed, self.size)
        table = pa.Table.from_batches(self.parts, BATCH_SCHEMA).combine_chunks()
        return RawBatch(table.to_batches()[0], self.failed, self.size)


def _columns(rows: list[Document]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([row.id for row in rows], pa.string()),
            pa.array([row.kind for row in rows], pa.string()),
            pa.array([row.text for row in rows], pa.large_string()),
            pa.array(
                [
                    None
                    if row.segments is None
                    else [{"role": role, "text": text} for role, text in row.segments]
                    for row in rows
                ],
                SEGMENTS,
            ),
            pa.array([row.url for row in rows], pa.string()),
            pa.array([row.meta for row in rows], pa.string()),
        ],
        schema=BATCH_SCHEMA,
    )
