"""Pages → documents: an HTML file, a text file, and the pages of a WARC or WET archive.

In: a `File` and its source. Out: a document per page. Of a WARC file the successful HTML responses
are pages (requests, images, errors, redirects and empty bodies are no documents), and the
`conversion` records, which is all that a WET file holds: text that somebody else extracted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, cast

import orjson
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from configs.schema import Source
from dedup.containers import Damaged, File, chunks, content, local_file
from dedup.extract import decode, extract
from dedup.records import RAW_BYTES, Document, Failure, clean


def read_html(file: File, source: Source) -> Iterator[Document | Failure]:
    """One HTML file."""
    charset = None if source.encoding == "auto" else source.encoding
    id = f"{source.name}/{file.name}#1"
    yield _html(content(file), file.path, id, charset, None, 1, None, {})


def read_text(file: File, source: Source) -> Iterator[Document | Failure]:
    """One text file."""
    data = content(file)
    declared = None if source.encoding == "auto" else source.encoding
    try:
        wide = declared is not None or data.startswith((b"\xff\xfe", b"\xfe\xff"))
        if b"\x00" in data[:RAW_BYTES] and not wide:
            raise ValueError("is a binary file")
        text = clean(decode(data, declared)[0])
        if not text:
            raise ValueError("empty file")
    except ValueError as error:
        yield Failure(file.path, str(error), raw=data[:RAW_BYTES], size=len(data))
        return
    yield Document(f"{source.name}/{file.name}#1", "text", text, None, None, None, len(data))


def read_warc(file: File, source: Source) -> Iterator[Document | Failure]:
    """A WARC or WET file, plain or compressed. Raises Damaged."""
    for page in responses(file):
        if isinstance(page, Failure):
            yield page
            continue
        id = f"{source.name}/{file.name}#{page.number}"
        if page.converted:
            yield _converted(page, id, file.path)
            continue
        charset = page.charset if source.encoding == "auto" else source.encoding
        yield _html(
            page.body, file.path, id, charset, page.url, page.number, page.offset,
            {"date": page.date},
        )  # fmt: skip


def _html(
    body: bytes,
    path: str,
    id: str,
    charset: str | None,
    url: str | None,
    number: int,
    offset: int | None,
    meta: dict[str, str],
) -> Document | Failure:
    try:
        page = extract(body, charset)
        text = clean(page.document)
    except ValueError as error:
        return Failure(path, str(error), number, offset, body[:RAW_BYTES], len(body))
    if not text:
        return Failure(path, "the page holds no text", number, offset, body[:RAW_BYTES], len(body))
    meta = {"title": page.title, "charset": page.charset, **meta}
    return Document(id, "text", text, None, url, orjson.dumps(meta).decode(), len(body))


def _converted(page: Response, id: str, path: str) -> Document | Failure:
    """A conversion record: plain text in UTF-8."""
    try:
        text = clean(page.body.decode("utf-8-sig"))
        if not text:
            raise ValueError("the record holds no text")
    except ValueError as error:
        raw = page.body[:RAW_BYTES]
        return Failure(path, str(error), page.number, page.offset, raw, len(page.body))
    meta = {"date": page.date, **({"languages": page.charset} if page.charset else {})}
    return Document(
        id, "text", text, None, page.url or None, orjson.dumps(meta).decode(), len(page.body)
    )


# ── the records of a WARC file ──────────────────────────────────────────────────────────────────


class Response:
    """One HTTP response that carries HTML, or one conversion record (`converted`) with its text.

    charset: what the HTTP header named; of a conversion record the languages it names.
    """

    __slots__ = ("body", "charset", "converted", "date", "number", "offset", "url")

    def __init__(
        self, record: WarcRecord, number: int, charset: str | None, body: bytes, converted: bool
    ) -> None:
        self.number, self.offset = number, record.stream_pos
        self.url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
        self.date = record.headers.get("WARC-Date") or ""
        self.charset, self.body, self.converted = charset, body, converted


class _Stream:
    """The decompressed bytes as the file object that fastwarc reads from."""

    def __init__(self, file: File) -> None:
        self._chunks = chunks(file)
        self._rest = b""
        self._position = 0
        self.damage: str | None = None

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            try:
                self._rest = next(self._chunks)
            except StopIteration:
                return b""
            except Damaged as error:
                self.damage = str(error)
                return b""
        if size < 0:
            size = len(self._rest)
        piece, self._rest = self._rest[:size], self._rest[size:]
        self._position += len(piece)
        return piece


def responses(file: File | str) -> Iterator[Response | Failure]:
    """The pages of a WARC file (.warc, .warc.gz, .warc.zst), in file order.

    `number` counts all records of the file from 1, `offset` is the byte offset in the decompressed
    stream. A record above the file's limit is a Failure. Raises Damaged.
    """
    file = local_file(file) if isinstance(file, str) else file
    stream = _Stream(file)
    number = 0
    try:
        for record in ArchiveIterator(cast(BinaryIO, stream), parse_http=False):
            number += 1
            kind = record.record_type
            converted = kind == WarcRecordType.conversion
            if not converted and not (kind == WarcRecordType.response and record.is_http):
                continue
            length = record.content_length
            if length > file.limit:
                message = f"a record of {length:,} bytes, more than dedup.max_record"
                yield Failure(file.path, message, number, record.stream_pos, b"", length)
                continue
            record.freeze()
            if record.content_length < length:
                raise Damaged("the last record ends in the middle")
            if converted:
                languages = record.headers.get("WARC-Identified-Content-Language")
                yield Response(record, number, languages, record.reader.read(), True)
                continue
            record.parse_http(auto_decode="all")
            headers = record.http_headers
            status = headers.status_code if headers is not None else None
            if status is not None and not 200 <= status < 300:
                continue
            body = record.reader.read(file.limit)
            content_type = (record.http_content_type or "").lower()
            if not body.strip() or not _is_html(content_type, body):
                continue
            yield Response(record, number, record.http_charset, body, False)
    except (OSError, ValueError, EOFError) as error:
        raise Damaged(f"broken WARC ({error})") from None
    if stream.damage:
        raise Damaged(stream.damage)
    if number == 0:
        raise Damaged("holds no WARC record")


def _is_html(content_type: str, body: bytes) -> bool:
    if content_type:
        return content_type in ("text/html", "application/xhtml+xml")
    start = body[:1024].lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<?xml")) and b"<html" in start
