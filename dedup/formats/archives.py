"""Archives (tar under any compression, zip) → the documents of their members.

In: a `File`; its source, whose format speaks of the members. Out: their documents and failures in the
archive's order, with names such as `pages.tar.gz!2024/a.html`. Members whose suffix does not fit the
format are passed over, as files in a folder are; archives in archives are opened, three deep.

Every member is unpacked before it is read: small ones in memory, others into a temporary file, so
that readers can open it twice and seek in it. The decision against bombs: unpacking stops with one
failure as soon as an archive has given more than 200 times its own size, and more than 1 GB. Names
that are neither UTF-8 nor marked are CP949, which is what Korean Windows writes.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from configs.schema import Source
from dedup.batches import Arrow
from dedup.containers import Damaged, File, bare_suffix, chunks
from dedup.forms import documents, suffixes_of
from dedup.paths import readable
from dedup.records import Document, Failure

DEPTH = 3
RATIO, ALLOWED = 200, 1_000_000_000
_IN_MEMORY = 8 << 20  # bytes of a member


def read(file: File, source: Source) -> Iterator[Document | Failure | Arrow]:
    """Documents and failures of all members. Raises Damaged."""
    if file.depth == DEPTH:
        yield Failure(file.path, f"an archive in an archive, more than {DEPTH} deep")
        return
    wanted = suffixes_of(source)
    found = False
    budget = _Budget(file)
    members = _zip(file) if _is_zip(file) else _tar(file)
    for name, member in members:
        parts = name.split("/")
        if bare_suffix(parts[-1]) not in wanted or any(
            part.startswith(".") or part == "__MACOSX" for part in parts
        ):
            continue
        found = True
        path = f"{file.path}!{name}"
        try:
            with _unpacked(member, budget) as content:
                inside = replace(
                    content, path=path, name=f"{file.name}!{name}", limit=file.limit,
                    depth=file.depth + 1,
                )  # fmt: skip
                yield from documents(inside, source)
        except _Bomb as error:
            yield Failure(path, str(error))
            return
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            yield Failure(path, f"cannot be unpacked: {error}")
    if not found:
        yield Failure(file.path, "holds no member whose name fits the source's format")


def _is_zip(file: File) -> bool:
    with file.open() as raw:
        return raw.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


class _Bomb(Exception):
    """The archive unpacks to more than can be honest."""


class _Budget:
    """What an archive may still give."""

    def __init__(self, file: File) -> None:
        self.left = max(ALLOWED, RATIO * file.size) if file.size is not None else None

    def spend(self, size: int) -> None:
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise _Bomb(
                    f"unpacks to more than {RATIO} times the archive's size; the rest of the archive "
                    "is not read"
                )


@contextmanager
def _unpacked(member: IO[bytes], budget: _Budget) -> Iterator[File]:
    """A member as a file that can be opened again and again."""
    start = bytearray()
    while len(start) < _IN_MEMORY:
        piece = member.read(1 << 20)
        if not piece:
            break
        budget.spend(len(piece))
        start += piece
    if len(start) < _IN_MEMORY:
        data = bytes(start)
        yield File("", "", lambda: cast(BinaryIO, io.BytesIO(data)), size=len(data))
        return
    with tempfile.TemporaryDirectory(prefix="malmoi-") as folder:
        place = Path(folder, "member")
        with place.open("wb") as out:
            out.write(start)
            while piece := member.read(1 << 20):
                budget.spend(len(piece))
                out.write(piece)
        yield File("", "", lambda: place.open("rb"), size=place.stat().st_size, local=str(place))


def _zip(file: File) -> Iterator[tuple[str, IO[bytes]]]:
    try:
        archive = zipfile.ZipFile(file.open())
    except (zipfile.BadZipFile, OSError) as error:
        raise Damaged(f"broken zip ({error})") from None
    with archive:
        for info in archive.infolist():
            if not info.is_dir():
                with _Member(archive, info) as member:
                    yield _zip_name(info), cast(IO[bytes], member)


class _Member:
    """A zip's member, opened when it is first read: many are passed over."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._archive, self._info = archive, info
        self._file: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        if self._file is None:
            self._file = self._archive.open(self._info)  # RuntimeError where it is encrypted
        return self._file.read(size)

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _zip_name(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if info.flag_bits & 0x800 or name.isascii():
        return name
    try:
        raw = name.encode("cp437")  # what zipfile took the bytes for
    except UnicodeEncodeError:
        return name
    for encoding in ("utf-8", "cp949"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return name


def _tar(file: File) -> Iterator[tuple[str, IO[bytes]]]:
    stream = _Stream(file)
    try:
        with tarfile.open(
            fileobj=cast(BinaryIO, stream), mode="r|", errors="surrogateescape"
        ) as archive:
            for info in archive:
                if not info.isfile():
                    continue
                member = archive.extractfile(info)
                if member is not None:
                    yield readable(info.name.removeprefix("./")), member
                cast(Any, archive).members.clear()  # or a million names stay in memory
    except (tarfile.TarError, EOFError) as error:
        raise Damaged(f"broken tar ({error})") from None


class _Stream:
    """The decompressed bytes of a tar, of any compression, read on and on."""

    def __init__(self, file: File) -> None:
        self._chunks = chunks(file)
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part = self._rest[:size]
            self._rest = self._rest[size:]
            size -= len(part)
            parts.append(part)
        return b"".join(parts)
