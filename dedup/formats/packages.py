"""Files that must be read at any place: zip packages of XML, and compound files.

In: a `File`. Out: `opened`, a seekable file; `Package`, the members of a zip with a limit on what
each may unpack to, and their XML as events.

The decision: nothing is unpacked whole on trust. A member's declared size is checked against the
limit before it is opened (zipfile reads no further than that size), and a document type, the only
place of XML that can define entities, ends the reading.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast
from xml.parsers import expat

from dedup import containers
from dedup.containers import Damaged, File
from dedup.formats import OLE, ZIP
from dedup.records import Unusable

MEMBER_LIMIT = 256 << 20  # bytes a member may unpack to, unless its reader streams it
FILE_LIMIT = 2 << 30  # bytes a compressed document is spooled to disk
_PIECE = 1 << 16


@contextmanager
def opened(file: File) -> Iterator[BinaryIO]:
    """The bytes of the file, open for seeking; of a compressed one, or a member, a temporary copy.

    Raises Damaged, Unusable for one that unpacks to more than `FILE_LIMIT`, or OSError.
    """
    if file.local is not None:
        with file.open() as plain:
            start = plain.read(len(OLE))
            plain.seek(0)
            if start.startswith((ZIP, OLE, b"HWP Docu")):
                yield plain
                return
    with tempfile.TemporaryFile() as spool:
        for chunk in containers.chunks(file):
            spool.write(chunk)
            if spool.tell() > FILE_LIMIT:
                raise Unusable(f"unpacks to more than {FILE_LIMIT >> 20} MiB")
        spool.seek(0)
        yield cast(BinaryIO, spool)


class Package:
    """A zip file whose members are XML. Raises Unusable, for what is refused, and Damaged."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise Damaged(f"is no whole zip file, as {what} is ({error})") from None
        self.names = self._zip.namelist()

    def check(self, name: str, limit: int = MEMBER_LIMIT) -> None:
        """Raises Unusable for a member that is locked, or unpacks to more than `limit` bytes."""
        member = self._zip.getinfo(name)
        if member.flag_bits & 1:
            raise Unusable("is protected by a password; save it without one")
        if member.file_size > limit:
            raise Unusable(
                f"its part {name} would unpack from {member.compress_size:,} to "
                f"{member.file_size:,} bytes; the limit is {limit:,}"
            )

    def size(self, name: str) -> int:
        """Bytes of a member, unpacked."""
        return self._zip.getinfo(name).file_size

    def pieces(self, name: str, limit: int = MEMBER_LIMIT) -> Iterator[bytes]:
        """The bytes of a member, unpacked, in pieces."""
        if name not in self.names:
            raise Damaged(f"lacks its part {name}")
        self.check(name, limit)
        try:
            with self._zip.open(name) as member:
                while piece := member.read(_PIECE):
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise Damaged(f"its part {name} is broken ({error})") from None

    def content(self, name: str, limit: int = MEMBER_LIMIT) -> bytes:
        return b"".join(self.pieces(name, limit))

    def parse(
        self,
        name: str,
        start: Callable[[str, dict[str, str]], None],
        end: Callable[[str], None] | None = None,
        text: Callable[[str], None] | None = None,
        limit: int = MEMBER_LIMIT,
    ) -> None:
        """Call back for every element and text of a member, names without their namespaces."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = lambda tag, attributes: start(_local(tag), attributes)
        if end is not None:
            parser.EndElementHandler = lambda tag: end(_local(tag))
        if text is not None:
            parser.CharacterDataHandler = text
        try:
            for piece in self.pieces(name, limit):
                parser.Parse(piece)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise Damaged(f"its part {name} is broken XML ({error})") from None

    def refuse_doctypes(self, name: str, limit: int) -> None:
        """Raises Unusable where a member has a document type. Reads to its first element."""
        parser = expat.ParserCreate()
        seen: list[str] = []
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = lambda tag, attributes: seen.append(tag)
        try:
            for piece in self.pieces(name, limit):
                parser.Parse(piece)
                if seen:
                    return
        except expat.ExpatError as error:
            raise Damaged(f"its part {name} is broken XML ({error})") from None


def _local(tag: str) -> str:
    return tag.rsplit(" ", 1)[-1]


def _refuse_doctype(*declared: object) -> None:
    raise Unusable("declares a document type, which its format never does; it is not read")
