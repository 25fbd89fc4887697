"""Parquet → documents: a row, a record.

In: a `File`, of a split one its row groups [begin, end), and its source. Out: `Arrow` batches whose
text column is the file's own bytes wherever no row has to be trimmed, `Document`s and `Failure`s for
the rest. The text may lie in a struct (`fields: {text: doc.text}`), as FineWeb-2 and CulturaX derivates
have it.

The decision: Python sees a text only where it must change (white space or NUL at its ends), and the
other columns only to make `meta` of them. Rows without a usable text, and whole files whose records
are dialogues or pairs, go through `document_of` like the records of any other format.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numba import njit

from configs.schema import Source
from dedup.batches import MAX_TEXT, Arrow, text_batch
from dedup.containers import Damaged, File
from dedup.formats.json_kernel import wide_space
from dedup.records import (
    RAW_BYTES,
    Document,
    Failure,
    Unusable,
    clean,
    document_of,
    given_id,
    meta_of,
)

_ROWS = 500
_STRINGS = (pa.string(), pa.large_string(), pa.string_view())


def read(file: File, source: Source) -> Iterator[Document | Failure | Arrow]:
    """Documents and failures of a Parquet file. Raises Damaged."""
    number = file.before
    try:
        with pq.ParquetFile(file.local or file.open(), buffer_size=1 << 20) as table:
            count = table.num_row_groups
            groups = range(file.begin, count if file.end is None else file.end)
            plain = _plain(table.schema_arrow, source)
            for batch in table.iter_batches(_ROWS, row_groups=list(groups), use_threads=False):
                if plain is None:
                    yield from _slow(batch, number, file, source)
                else:
                    yield from _fast(batch, number, plain, file, source)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"unreadable Parquet ({str(error).splitlines()[0]})") from None
    if number == 0 and file.end is None:
        yield Failure(file.path, "empty file")


def shares(path: str, pieces: int) -> list[tuple[int, int, int]]:
    """(first row group, end, rows before) of about equal shares; [] where the file cannot be split."""
    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            sizes = np.array([group.total_byte_size for group in groups], np.float64)
            rows = [group.num_rows for group in groups]
    except (pa.ArrowException, OSError, ValueError):
        return []
    if len(groups) < 2 or not sizes.sum():
        return []
    middles = np.cumsum(sizes) - sizes / 2
    share = np.floor(middles * pieces / sizes.sum())
    cuts = [0, *(np.flatnonzero(np.diff(share)) + 1).tolist(), len(groups)]
    return [(begin, end, sum(rows[:begin])) for begin, end in pairwise(cuts)]


def _plain(schema: pa.Schema, source: Source) -> list[str] | None:
    """The way to the text column, where all rows with a text are plain texts; else None."""
    if source.format in ("chat", "parallel", "preference") or "title" in source.fields:
        return None
    if any("[" in selector or "." in source.fields.get(field, "") for field, selector in
           source.fields.items() if field != "text"):  # fmt: skip
        return None
    selector = source.fields.get("text", "text")
    way = [selector] if selector in schema.names else selector.split(".")
    if way[0] not in schema.names:
        return None
    kind = schema.field(way[0]).type
    for name in way[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return way if kind in _STRINGS else None


@njit(nogil=True, cache=True)
def _judge(data: np.ndarray, ends: np.ndarray, valid: np.ndarray, trim: np.ndarray) -> None:
    """trim: True for texts that begin or end with white space, or hold NUL; valid: False if empty."""
    for row in range(len(trim)):
        begin, end = ends[row], ends[row + 1]
        if begin == end:
            valid[row] = False
            continue
        first, last = data[begin], data[end - 1]
        trim[row] = (
            first <= 32 or last <= 32 or wide_space(data, begin, end)
        )  # control characters are few: Python may look twice
        for at in range(begin, end):
            if data[at] == 0:
                trim[row] = True
                break


def _fast(
    batch: pa.RecordBatch, number: int, way: list[str], file: File, source: Source
) -> Iterator[Document | Failure | Arrow]:
    texts = batch[way[0]]
    for name in way[1:]:
        texts = pc.struct_field(texts, name)
    texts = texts.cast(pa.large_string())
    rows = len(texts)
    try:
        texts.validate(full=True)  # Parquet promises UTF-8, Arrow does not look
    except pa.ArrowInvalid:
        yield from _slow(batch, number, file, source)
        return
    valid = texts.is_valid().to_numpy(zero_copy_only=False).copy()
    if not valid.all():
        texts = pc.fill_null(texts, "")
    trim = np.zeros(rows, np.bool_)
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + rows + 1]
    _judge(np.frombuffer(data if data is not None else b"", np.uint8), ends, valid, trim)
    if trim.any():
        places = np.flatnonzero(trim)
        trimmed = [clean(texts[int(row)].as_py()) for row in places]
        valid[places] &= np.array([bool(text) for text in trimmed])
        texts = pc.replace_with_mask(texts, pa.array(trim), pa.array(trimmed, pa.large_string()))
    others = _others(batch, way, source)
    prefix = f"{source.name}/{file.name}#"
    ids = _ids(others, source, prefix, number)
    urls = [_url(record.get(source.fields.get("url", "url"))) for record in others]
    used = {source.fields.get(name, name) for name in ("id", "url")} | {".".join(way)}
    metas = [meta_of(record, used) for record in others]
    ends = np.asarray(texts.buffers()[1]).view(np.int64)[texts.offset : texts.offset + rows + 1]
    begin = 0
    for row in range(rows):
        if not valid[row]:
            yield from _run(begin, row, ids, texts, urls, metas, ends)
            begin = row + 1
            yield from _slow(batch.slice(row, 1), number + row, file, source)
        elif row > begin and ends[row + 1] - ends[begin] > MAX_TEXT:
            yield from _run(begin, row, ids, texts, urls, metas, ends)
            begin = row
    yield from _run(begin, rows, ids, texts, urls, metas, ends)


def _run(
    begin: int,
    end: int,
    ids: list[str],
    texts: pa.LargeStringArray,
    urls: list[str | None],
    metas: list[str | None],
    ends: np.ndarray,
) -> Iterator[Arrow]:
    if begin < end:
        rows = slice(begin, end)
        part = text_batch(ids[rows], texts.slice(begin, end - begin), urls[rows], metas[rows])
        yield Arrow(part, int(ends[end] - ends[begin]))


def _others(batch: pa.RecordBatch, way: list[str], source: Source) -> list[dict[str, Any]]:
    """The rows without their texts. Raises ValueError where a string is not UTF-8."""
    if len(way) == 1:
        left = batch.drop_columns(way)
        return left.to_pylist() if left.num_columns else [{}] * batch.num_rows
    return [_without(record, way) for record in batch.to_pylist()]


def _without(record: dict[str, Any], way: list[str]) -> dict[str, Any]:
    inner = record[way[0]]
    if len(way) == 1:
        return {key: value for key, value in record.items() if key != way[0]}
    if inner is not None:
        inner = _without(inner, way[1:])
        record = {**record, way[0]: inner or None}
    return record


def _ids(others: list[dict[str, Any]], source: Source, prefix: str, number: int) -> list[str]:
    key = source.fields.get("id", "id")
    return [
        given_id(record.get(key)) or f"{prefix}{number + row}"
        for row, record in enumerate(others, 1)
    ]


def _url(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _slow(
    batch: pa.RecordBatch, number: int, file: File, source: Source
) -> Iterator[Document | Failure]:
    for row in range(batch.num_rows):
        number += 1
        raw, error = b"", ""
        try:
            record = batch.slice(row, 1).to_pylist()[0]
            yield document_of(record, f"{source.name}/{file.name}#{number}", source, None)
            continue
        except UnicodeDecodeError as broken:
            error = f"invalid UTF-8 in a column ({broken.reason})"
        except Unusable as unusable:
            error = str(unusable)
            raw = orjson.dumps(record, default=str, option=orjson.OPT_NON_STR_KEYS)
        yield Failure(file.path, error, line=number, raw=raw[:RAW_BYTES], size=len(raw))
