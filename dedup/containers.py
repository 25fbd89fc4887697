"""A file → its decompressed bytes, whole, in pieces, or in blocks of whole lines.

In: a `File` (local, remote, or a member of an archive) or a path. Out: iterators that give what can
be read and then raise `Damaged` where the file is broken. Compression (gzip, zstd, bzip2; several
members or frames in one file) is undone by feeding the decompressor small pieces and asking it at the
end whether it is done: the convenient readers of the same libraries take a truncated zstd file for a
short one, and lose up to a buffer of good records before the break in a gzip file.

Memory stays bounded whatever the file says: a decompressor gives at most a few megabytes at a time,
a line longer than the limit is skipped to its end and told as `Oversized`, and a file that must be
read whole stops at the limit. Only plain files can be read from the middle (`begin`, `end`): a gzip
or zstd stream has no place to start at, so a compressed file is always read by one worker.
"""

from __future__ import annotations

import bz2
import codecs
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import zstandard

_PIECES = {".gz": 1 << 14, ".zst": 1 << 11, ".bz2": 1 << 10}
"""Bytes fed to a decompressor at once: what is lost before a corrupt byte, at most, and what a bomb
can become in one call (16 MB for gzip; a zstd block of 4 bytes may stand for 128 kB, 64 MB here)."""
BLOCK = 2 << 20  # bytes of a block of lines, about
RAW_BYTES = 4096  # kept of what cannot be read
RECORD_LIMIT = 256_000_000
"""Bytes of the longest record that is read (`dedup.max_record`)."""


class Damaged(Exception):
    """The file cannot be read beyond this point; the message says why."""


class TooLong(Damaged):
    """A file that must be read whole is longer than the limit."""


@dataclass(frozen=True)
class File:
    """Where bytes lie, and which of them are meant.

    path: absolute path, address, or archive!member, as failures name it. name: the same as ids carry
    it. open: gives the raw bytes from the start, seekable except for members of archives. size: raw
    bytes; None where it is not known. begin, end: the share of a split file (bytes, row groups or
    shards, as its format has them; end None: all of it). before: records of the file before `begin`.
    limit: bytes of the longest record. local: the path of the file itself, where it has one.
    """

    path: str
    name: str
    open: Callable[[], BinaryIO]
    size: int | None = None
    begin: int = 0
    end: int | None = None
    before: int = 0
    limit: int = RECORD_LIMIT
    local: str | None = None
    depth: int = 0


def local_file(path: str, name: str | None = None, **more: Any) -> File:
    """A file of this machine."""
    return File(path, name or path, lambda: open(path, "rb"), local=path, **more)  # noqa: PTH123 (a Path per file would double the time)


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


PACKED = tuple(_CODECS)


def bare_suffix(name: str) -> str:
    """Suffix in lower case once those of compression are off: "a.jsonl.zst" → ".jsonl"."""
    if name.islower() and not name.endswith(PACKED):  # the common case, a million times
        dot = name.rfind(".")
        return name[dot:] if dot > name.rfind("/") + 1 else ""
    path = Path(name.lower())
    while path.suffix in _CODECS:
        path = path.with_suffix("")
    return path.suffix


def compressed(file: File | str) -> bool:
    """Whether the file's name or first bytes say that it is compressed."""
    file = _file(file)
    if Path(file.path).suffix.lower() in _CODECS:
        return True
    with file.open() as raw:
        first = raw.read(4)
    return any(first.startswith(magic) for magic, _ in _CODECS.values())


def _file(file: File | str) -> File:
    return file if isinstance(file, File) else local_file(file)


def chunks(file: File | str) -> Iterator[bytes]:
    """The decompressed bytes of a file, in pieces. Raises Damaged, or OSError where it won't open."""
    file = _file(file)
    with file.open() as raw:
        first = raw.read(min(_PIECES.values()))
        suffix = file.path[file.path.rfind(".") :].lower()
        if suffix not in _CODECS:
            packed = (name for name, (magic, _) in _CODECS.items() if first.startswith(magic))
            suffix = next(packed, "")
        if suffix:
            yield from _decompressed(raw, first, suffix)
            return
        while first:
            yield first
            first = raw.read(1 << 20)


def _decompressed(raw: BinaryIO, first: bytes, suffix: str) -> Iterator[bytes]:
    factory = _CODECS[suffix][1]
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
        piece = raw.read(_PIECES[suffix])
        if piece and decompressor.eof:
            if not piece.strip(b"\x00"):
                continue  # zero padding, as tapes leave it
            decompressor = factory()
    if first and not decompressor.eof:
        raise Damaged("the compressed data end in the middle")


def content(file: File | str) -> bytes:
    """All bytes of a file, decompressed. Raises Damaged, and TooLong above the limit."""
    file = _file(file)
    parts: list[bytes] = []
    size = 0
    for piece in chunks(file):
        size += len(piece)
        if size > file.limit:
            raise TooLong(f"is longer than {file.limit:,} bytes (dedup.max_record)")
        parts.append(piece)
    return b"".join(parts)


def head(file: File | str, size: int = RAW_BYTES) -> bytes:
    """The first bytes of a file, decompressed; what there is of them in a damaged one."""
    start = b""
    try:
        for chunk in chunks(file):
            start += chunk
            if len(start) >= size:
                break
    except Damaged:
        pass
    return start[:size]


# ── lines ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Oversized:
    """One line longer than the limit: its first 4 kB, and its length with the newline."""

    start: bytes
    size: int


def blocks(file: File, encoding: str | None = None) -> Iterator[bytes | Oversized]:
    """Whole lines with their newlines, about 2 MB of them at a time, in file order.

    `encoding`: a codec in which a newline is not the byte 0x0A (UTF-16, UTF-32); its lines are
    given in UTF-8. The last line may lack its newline; a broken last line of a damaged file is lost.
    Of a split plain file the lines that begin in [begin, end) are given.
    """
    if file.end is not None:
        return _whole_lines(_range(file), file.limit)
    pieces = chunks(file)
    if encoding is not None:
        pieces = recoded(pieces, encoding)
    return _whole_lines(pieces, file.limit)


def _whole_lines(pieces: Iterator[bytes], limit: int) -> Iterator[bytes | Oversized]:
    waiting: list[bytes] = []  # whole lines
    rest: list[bytes] = []  # the line that has not ended, and its length
    length = 0
    ready = 0
    start: bytes | None = None  # of a line too long
    try:
        for piece in pieces:
            if start is None and length + len(piece) <= limit:  # no line here can be too long
                cut = piece.rfind(b"\n") + 1
                if cut:
                    waiting += [*rest, piece[:cut]]
                    ready += length + cut
                    rest, length = [piece[cut:]], len(piece) - cut
                else:
                    rest.append(piece)
                    length += len(piece)
                if ready >= BLOCK:
                    yield b"".join(waiting)
                    waiting, ready = [], 0
                continue
            at = 0
            while at < len(piece):
                cut = piece.find(b"\n", at) + 1
                part = piece[at : cut or len(piece)]
                at += len(part)
                length += len(part)
                if start is None and length - bool(cut) > limit:
                    if waiting:
                        yield b"".join(waiting)
                        waiting, ready = [], 0
                    rest.append(part)
                    start = b"".join(each[:RAW_BYTES] for each in rest[:RAW_BYTES])[:RAW_BYTES]
                    start = start.rstrip(b"\n")
                    rest = []
                if start is None:
                    rest.append(part)
                if cut and start is not None:
                    yield Oversized(start, length)
                    start, length = None, 0
                elif cut:
                    waiting += rest
                    ready += length
                    rest, length = [], 0
    except Damaged:
        if waiting:
            yield b"".join(waiting)
        if start is not None:
            yield Oversized(start, length)
        raise
    waiting += rest
    if any(waiting):
        yield b"".join(waiting)
    if start is not None:
        yield Oversized(start, length)


def _range(file: File) -> Iterator[bytes]:
    """The bytes of the lines that begin in [begin, end) of a plain file."""
    assert file.end is not None
    with file.open() as raw:
        at = file.begin
        if at:  # to the first line that begins here: after a newline at begin - 1 or later
            raw.seek(at - 1)
            at -= 1
            while at < file.end - 1:
                piece = raw.read(min(1 << 20, file.end - 1 - at))
                cut = piece.find(b"\n") + 1
                at += cut or len(piece)
                if cut:
                    raw.seek(at)
                    break
                if not piece:
                    return
            else:
                return
        last = b"\n"
        while at < file.end:
            piece = raw.read(min(1 << 20, file.end - at))
            if not piece:
                return
            at += len(piece)
            last = piece
            yield piece
        while not last.endswith(b"\n"):  # the line that begins here and ends beyond
            last = raw.read(1 << 20)
            if not last:
                return
            cut = last.find(b"\n") + 1
            last = last[: cut or len(last)]
            yield last


def recoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Bytes in an encoding → UTF-8. Raises Damaged."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise Damaged(f"is not {encoding} ({error})") from None
