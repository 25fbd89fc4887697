"""A file → its raw records: lines of JSONL, rows of Parquet, responses of a WARC archive, or bytes.

In: a path. Out: iterators that give what can be read and then raise `Damaged` where the file is
broken. Compression (gzip, zstd, bzip2; several members or frames in one file) is undone by feeding
the decompressor small pieces and asking it at the end whether it is done: the convenient readers of
the same libraries take a truncated zstd file for a short one, and lose up to a buffer of good records
before the break in a gzip file.
"""

from __future__ import annotations

import bz2
import codecs
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType

PIECE = 1 << 14  # bytes fed to a decompressor at once: what is lost before a corrupt byte, at most


class Damaged(Exception):
    """The file cannot be read beyond this point; the message says why."""


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, /) -> bytes: ...


_CODECS: dict[str, tuple[bytes, Callable[[], Any]]] = {
    ".gz": (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    ".zst": (
        b"\x28\xb5\x2f\xfd",
        lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
    ),
    ".bz2": (b"BZh", bz2.BZ2Decompressor),
}


def bare_suffix(name: str) -> str:
    """Suffix in lower case once those of compression are off: "a.jsonl.zst" → ".jsonl"."""
    path = Path(name.lower())
    while path.suffix in _CODECS:
        path = path.with_suffix("")
    return path.suffix


def chunks(path: str) -> Iterator[bytes]:
    """The decompressed bytes of a file, in pieces. Raises Damaged, or OSError where it won't open."""
    with Path(path).open("rb") as file:
        first = file.read(PIECE)
        named = _CODECS.get(Path(path).suffix.lower())
        factory = named[1] if named else None
        for magic, make in _CODECS.values():
            if factory is None and first.startswith(magic):
                factory = make
        if factory is None:
            while first:
                yield first
                first = file.read(1 << 20)
            return
        decompressor: _Decompressor = factory()
        piece = first
        while piece:
            try:
                out = decompressor.decompress(piece)
                if out:
                    yield out
                while decompressor.eof and decompressor.unused_data.strip(b"\x00"):
                    rest = decompressor.unused_data
                    decompressor = factory()
                    out = decompressor.decompress(rest)
                    if out:
                        yield out
            except (zlib.error, zstandard.ZstdError, OSError, EOFError) as error:
                raise Damaged(f"broken compression ({error})") from None
            piece = file.read(PIECE)
            if piece and decompressor.eof:
                if not piece.strip(b"\x00"):
                    continue  # zero padding, as tapes leave it
                decompressor = factory()
        if first and not decompressor.eof:
            raise Damaged("the compressed data end in the middle")


def content(path: str) -> bytes:
    """All bytes of a file, decompressed."""
    return b"".join(chunks(path))


def head(path: str, size: int = 4096) -> bytes:
    """The first bytes of a file, decompressed; what there is of them in a damaged one."""
    start = b""
    try:
        for chunk in chunks(path):
            start += chunk
            if len(start) >= size:
                break
    except Damaged:
        pass
    return start[:size]


def lines(path: str, encoding: str | None = None) -> Iterator[bytes]:
    """Lines without their newline, in UTF-8 as found; a broken last line of a damaged file is lost.

    `encoding`: a codec in which a newline is not the byte 0x0A (UTF-16, UTF-32); its lines are
    given in UTF-8.
    """
    pieces = chunks(path)
    if encoding is not None:
        pieces = _recoded(pieces, encoding)
    rest = b""
    for piece in pieces:
        first, *parts = piece.split(b"\n")
        if not parts:
            rest += first
            continue
        yield rest + first
        *whole, rest = parts
        yield from whole
    if rest:
        yield rest


def _recoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise Damaged(f"is not {encoding} ({error})") from None


def rows(path: str) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file as mappings. Raises Damaged."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=500, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"unreadable Parquet ({str(error).splitlines()[0]})") from None


class Response:
    """One HTTP response of a WARC file that carries HTML."""

    __slots__ = ("body", "charset", "date", "number", "offset", "url")

    def __init__(
        self, number: int, offset: int, url: str, date: str, charset: str | None, body: bytes
    ) -> None:
        self.number, self.offset, self.url = number, offset, url
        self.date, self.charset, self.body = date, charset, body


class _Stream:
    """The decompressed bytes as the file object that fastwarc reads from."""

    def __init__(self, path: str) -> None:
        self._chunks = chunks(path)
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


def responses(path: str) -> Iterator[Response]:
    """The successful HTML responses of a WARC file (.warc, .warc.gz, .warc.zst), in file order.

    `number` counts all records of the file from 1, `offset` is the byte offset in the decompressed
    stream. Other records (requests, images, errors, redirects, empty bodies) are no documents.
    Raises Damaged.
    """
    stream = _Stream(path)
    number = 0
    try:
        for record in ArchiveIterator(cast(BinaryIO, stream), parse_http=False):
            number += 1
            if record.record_type != WarcRecordType.response or not record.is_http:
                continue
            length = record.content_length
            record.freeze()
            if record.content_length < length:
                raise Damaged("the last record ends in the middle")
            record.parse_http(auto_decode="all")
            headers = record.http_headers
            status = headers.status_code if headers is not None else None
            if status is not None and not 200 <= status < 300:
                continue
            body = record.reader.read()
            kind = (record.http_content_type or "").lower()
            if not body.strip() or not _is_html(kind, body):
                continue
            yield Response(
                number,
                record.stream_pos,
                (record.headers.get("WARC-Target-URI") or "").strip("<>"),
                record.headers.get("WARC-Date") or "",
                record.http_charset,
                body,
            )
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
