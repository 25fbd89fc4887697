"""JSON that is not one record a line → documents: AI-Hub's files, exports, whole data sets in a list.

In: a `File` holding one JSON value, and its source. `fields: {records: "data[].paragraphs[]"}` names
the list whose items are the records; without it the items of a list, or the value itself. The other
fields speak of a record, `[]` in them of every item of a list (`text[][].sentence`), joined by
newlines. Out: documents and failures; the number in an id counts the records of the file.

The decision: a file is never in memory as a whole. The way to the records is walked byte by byte by
a small kernel that only knows strings and brackets, and each record is then parsed by orjson, so one
bad record is one failure; a record above the limit is skipped. No streaming parser does both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numba import njit

from configs.schema import Source
from dedup.containers import Damaged, File, chunks, recoded
from dedup.extract import codec
from dedup.formats.jsonl import json_error
from dedup.records import RAW_BYTES, Document, Failure, Unusable, document_of

_SPACE = b" \t\r\n"
_BLOCK = 1 << 20


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """Documents and failures of a JSON file. Raises Damaged where it is cut or no JSON."""
    number = 0
    for number, value in enumerate(values(file, source.fields.get("records", ""), source), 1):
        if isinstance(value, Failure):
            yield value
            continue
        record, raw = value
        try:
            if not isinstance(record, dict):
                raise Unusable("is not a JSON object; name the list of records in fields.records")
            yield document_of(record, f"{source.name}/{file.name}#{number}", source, len(raw))
        except Unusable as error:
            yield Failure(file.path, str(error), number, None, raw[:RAW_BYTES], len(raw))
    if number == 0:
        yield Failure(file.path, "holds no record; name their list in fields.records")


def values(file: File, way: str, source: Source) -> Iterator[tuple[Any, bytes] | Failure]:
    """Every value that a way such as "data[].paragraphs[]" leads to, parsed, with its bytes.

    Without a way the items of a list, else the value itself. Raises Damaged.
    """
    encoding = "utf-8" if source.encoding == "auto" else codec(source.encoding) or "utf-8"
    stream = _Stream(file, encoding)
    steps: list[str] = []
    for part in way.split(".") if way else []:
        name = part.replace("[]", "")
        steps += ([name] if name else []) + ["[]"] * part.count("[]")
    if not way and stream.peek() == b"[":
        steps = ["[]"]
    number = 0
    for raw in _walk(stream, steps):
        number += 1
        if isinstance(raw, int):
            message = f"a record of {raw:,} bytes, more than dedup.max_record"
            yield Failure(file.path, message, number, size=raw)
            continue
        try:
            yield orjson.loads(raw), raw
        except orjson.JSONDecodeError as error:
            yield Failure(
                file.path, json_error(raw, error), number, None, raw[:RAW_BYTES], len(raw)
            )
    if stream.peek():
        raise Damaged("more stands after the JSON value; is it JSONL?")


def _walk(stream: _Stream, steps: list[str]) -> Iterator[bytes | int]:
    """The bytes of each value at the end of the steps; the length alone of one too long."""
    opening = stream.peek()
    if not steps:
        yield stream.value(keep=True)
    elif steps[0] == "[]" and opening == b"[":
        for _ in stream.items(b"]"):
            yield from _walk(stream, steps[1:])
    elif steps[0] != "[]" and opening == b"{":
        for _ in stream.items(b"}"):
            key = stream.value(keep=True)
            stream.expect(b":")
            if key == orjson.dumps(steps[0]) or _same(key, steps[0]):
                yield from _walk(stream, steps[1:])
            else:
                stream.value(keep=False)
    else:
        stream.value(keep=False)


def _same(key: bytes | int, name: str) -> bool:
    if isinstance(key, int) or b"\\" not in key:
        return False
    try:
        return bool(orjson.loads(key) == name)
    except orjson.JSONDecodeError:
        return False


@njit(nogil=True, cache=True)
def _end_of_value(data: np.ndarray, state: np.ndarray) -> int:
    """Bytes of data up to the end of the value that goes on in them, or -1: it goes on beyond.

    state, int64 [4]: depth, in a string, after a backslash, in a bare word; kept between calls.
    """
    depth, string, escaped, bare = state[0], state[1], state[2], state[3]
    for at in range(len(data)):
        c = data[at]
        if string:
            if escaped:
                escaped = 0
            elif c == 0x5C:
                escaped = 1
            elif c == 0x22:
                string = 0
                if depth == 0:
                    return at + 1
            continue
        if bare and depth == 0:
            if c == 0x2C or c == 0x5D or c == 0x7D or c == 0x3A or c <= 32:
                return at
            continue
        if c == 0x22:
            string = 1
        elif c == 0x7B or c == 0x5B:
            depth += 1
        elif c == 0x7D or c == 0x5D:
            depth -= 1
            if depth <= 0:
                return at + 1
        elif depth == 0:
            bare = 1
    state[0], state[1], state[2], state[3] = depth, string, escaped, bare
    return -1


class _Stream:
    """A file's bytes with a place in them; what went by is forgotten."""

    def __init__(self, file: File, encoding: str) -> None:
        self._limit = file.limit
        pieces = chunks(file)
        if encoding not in ("utf-8", "utf-8-sig"):
            pieces = recoded(pieces, encoding)
        self._pieces = pieces
        self._data = b""
        self._at = 0
        self._more()
        if self._data.startswith(b"\xef\xbb\xbf"):
            self._at = 3

    def _more(self) -> bool:
        """The next pieces in place of what has been read."""
        parts: list[bytes] = []
        size = 0
        while size < _BLOCK:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            size += len(piece)
        self._data, self._at = b"".join(parts), 0
        return size > 0

    def peek(self) -> bytes:
        """The next byte that is no white space; b"" at the end."""
        while True:
            while self._at < len(self._data):
                byte = self._data[self._at : self._at + 1]
                if byte not in _SPACE:
                    return byte
                self._at += 1
            if not self._more():
                return b""

    def expect(self, byte: bytes) -> None:
        found = self.peek()
        if found != byte:
            raise Damaged(f"is not JSON: {found!r} stands where {byte!r} should")
        self._at += 1

    def items(self, closing: bytes) -> Iterator[None]:
        """Once for each item of the list or mapping that begins here; the caller reads it."""
        self._at += 1
        if self.peek() == closing:
            self._at += 1
            return
        while True:
            yield
            if self.peek() == closing:
                self._at += 1
                return
            self.expect(b",")

    def value(self, *, keep: bool) -> bytes | int:
        """The bytes of the value that begins here; their number if they are not kept, or too many."""
        if self.peek() in (b"", b",", b":", b"]", b"}"):
            raise Damaged("is not JSON: a value is missing")
        state = np.zeros(4, np.int64)
        parts: list[bytes] = []
        size = 0
        while True:
            end = _end_of_value(np.frombuffer(self._data, np.uint8)[self._at :], state)
            part = self._data[self._at :] if end < 0 else self._data[self._at : self._at + end]
            size += len(part)
            if size > self._limit:
                keep, parts = False, []
            if keep:
                parts.append(part)
            if end >= 0:
                self._at += end
                return b"".join(parts) if keep else size
            if not self._more():
                if state[0] == 0 and state[3]:
                    return b"".join(parts) if keep else size
                raise Damaged("the JSON ends in the middle of a value")
