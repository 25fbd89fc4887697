"""JSONL → documents: a line, a record.

In: a `File`, or the share of a plain one whose lines begin in [begin, end), and its source. Out, in
file order: `Arrow` batches of the plain text documents, and single `Document`s and `Failure`s for the
other lines. Numbers of lines count from the start of the file, so ids do not tell how it was split.

The decision: a block of lines goes through `json_kernel`, which copies the texts straight into an
Arrow column; every line that is not plainly a text with its key goes through `document_of`, as any
record of any format does. Both give the same document (a test compares them, line by line).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from configs.schema import Source
from dedup.batches import MAX_ROWS, MAX_TEXT, Arrow, text_batch
from dedup.containers import File, Oversized, blocks, head
from dedup.extract import codec
from dedup.formats.json_kernel import BLANK, FAST, find_texts
from dedup.records import RAW_BYTES, Document, Failure, Unusable, document_of, given_id
from dedup.utf8 import is_utf8

_MARK = b"6911724083551"
"""Stands in the place of the text while the rest of a line is parsed; a second value under the same
key shows by its being gone."""
_MARKED = int(_MARK)

Item = Document | Failure | Arrow


class _Keys(NamedTuple):
    text: bytes
    name: str
    id: str
    url: str


def read(file: File, source: Source) -> Iterator[Item]:
    """Documents and failures of a JSONL file. Raises Damaged."""
    encoding = None if source.encoding == "auto" else codec(source.encoding)
    if encoding is None and file.end is None and head(file, 2) in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    wide = encoding if encoding and encoding.startswith(("utf-16", "utf-32")) else None
    recode = encoding if encoding not in (None, wide, "utf-8", "utf-8-sig") else None
    keys = None if recode else _keys(source)
    number = file.before
    empty = True
    for block in blocks(file, wide):
        if isinstance(block, Oversized):
            number += 1
            empty = False
            message = f"a line of {block.size:,} bytes, more than dedup.max_record"
            yield Failure(file.path, message, line=number, raw=block.start, size=block.size)
            continue
        if number == 0:
            block = block.removeprefix(b"\xef\xbb\xbf")
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        for item in _block(block, lines, number, keys, recode, file, source):
            empty = False
            yield item
        number += lines
    if empty and file.end is None:
        yield Failure(file.path, "empty file")


def _keys(source: Source) -> _Keys | None:
    """The keys that the fast way reads; None where every line needs the whole of `document_of`."""
    fields = source.fields
    names = [fields.get(field, field) for field in ("text", "id", "url")]
    kinds = ("chat", "parallel", "preference")
    if source.format in kinds or "title" in fields or any(set(n) & set('.[]"\\') for n in names):
        return None
    if len(set(names)) < 3:
        return None
    return _Keys(names[0].encode(), *names)


def _block(
    block: bytes,
    lines: int,
    number: int,
    keys: _Keys | None,
    recode: str | None,
    file: File,
    source: Source,
) -> Iterator[Item]:
    """Items of a block whose first line follows line `number`."""
    if keys is not None:
        table = np.empty((lines, 6), np.int64)
        out = np.empty(len(block), np.uint8)
        data = np.frombuffer(block, np.uint8)
        found = find_texts(data, np.frombuffer(keys.text, np.uint8), out, table)
        assert found == lines
        kinds = table[:, 5]
        slow = lines - np.count_nonzero(kinds == FAST) - np.count_nonzero(kinds == BLANK)
        if 16 * slow <= lines and is_utf8(data):
            yield from _mixed(block, table, out, number, keys, file, source)
            return
    for offset, line in enumerate(block.split(b"\n")[:lines], 1):
        if line and not line.isspace():
            yield _line(line, number + offset, recode, file, source)


def _mixed(
    block: bytes,
    table: np.ndarray,
    out: np.ndarray,
    number: int,
    keys: _Keys,
    file: File,
    source: Source,
) -> Iterator[Item]:
    """Runs of fast lines as batches, and the others between them."""
    prefix = f"{source.name}/{file.name}#"
    loads, dumps = orjson.loads, orjson.dumps
    ids: list[str] = []
    urls: list[str | None] = []
    metas: list[str | None] = []
    ends: list[int] = []
    begin = size = before = 0

    def batch() -> Arrow:
        offsets = np.array([begin, *ends], np.int64) - begin
        texts = pa.LargeStringArray.from_buffers(
            len(ids), pa.py_buffer(offsets), pa.py_buffer(out[begin : ends[-1]])
        )
        return Arrow(text_batch(ids, texts, urls, metas), size)

    for offset, (first, last, opening, closing, end, kind) in enumerate(table.tolist(), 1):
        if kind == BLANK:
            continue
        rest: dict[str, Any] | None = None
        if kind == FAST:
            try:
                rest = loads(block[first:opening] + _MARK + block[closing:last])
            except orjson.JSONDecodeError:
                rest = None
            if rest is not None and rest.pop(keys.name) != _MARKED:
                rest = None
        if rest is None or len(ids) == MAX_ROWS or (ids and end - begin > MAX_TEXT):
            if ids:
                yield batch()
                ids, urls, metas, ends, size = [], [], [], [], 0
            begin = before
        if rest is None:
            yield _line(block[first:last], number + offset, None, file, source)
            begin = before = end
            continue
        given = rest.pop(keys.id, None)
        url = rest.pop(keys.url, None)
        if rest and None in rest.values():
            rest = {key: value for key, value in rest.items() if value is not None}
        ids.append(given_id(given) or f"{prefix}{number + offset}")
        urls.append(url if isinstance(url, str) and url else None)
        metas.append(dumps(rest).decode() if rest else None)
        ends.append(end)
        before = end
        size += last - first + 1
    if ids:
        yield batch()


def _line(
    line: bytes, number: int, recode: str | None, file: File, source: Source
) -> Document | Failure:
    """One line, the careful way."""
    size = len(line) + 1
    try:
        if recode:
            line = line.decode(recode).encode()
        record = orjson.loads(line)
        if not isinstance(record, dict):
            raise Unusable("is not a JSON object; write one object {…} on each line")
        return document_of(record, f"{source.name}/{file.name}#{number}", source, size)
    except Unusable as error:
        message = str(error)
    except UnicodeDecodeError as error:
        message = f"is not {source.encoding} (byte {error.start})"
    except orjson.JSONDecodeError as error:
        message = json_error(line, error)
    return Failure(file.path, message, line=number, raw=line[:RAW_BYTES], size=size)


def json_error(line: bytes, error: orjson.JSONDecodeError) -> str:
    """Why a record is not JSON, for a person."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as broken:
        return f"invalid UTF-8 at byte {broken.start}; for CP949 files set the source's encoding"
    return f"is not JSON ({error})"
