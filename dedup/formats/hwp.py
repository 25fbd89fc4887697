"""An HWP 5 file (Hangul 2002 and later) → one document.

In: a path and the source. Out: its text: paragraphs, tables and text boxes in reading order,
without page headers and footers and hidden comments. Or one failure that says what the file is:
documents with a password, distribution copies (배포용 문서), DRM and HWP 3 are refused by name.

The format: a compound file; its streams BodyText/Section0 … are records, mostly deflated. A
record's header is 32 bits: tag (10), level in the tree (10), size (12; 4095: the size follows in 32
more). Text is UTF-16 with control characters below 32, some of which take one unit and the others
eight. Source: 한글 문서 파일 형식 5.0, revision 1.3, sections 3.2.1, 4.1 and 4.3 (Hancom).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from configs.schema import Source
from dedup.containers import Damaged, File
from dedup.formats import OLE, READERS, ZIP
from dedup.formats.compound import kind, streams_of
from dedup.formats.flow import Flow
from dedup.formats.packages import MEMBER_LIMIT, opened
from dedup.records import RAW_BYTES, Document, Failure, Unusable

_PARA_TEXT, _CTRL_HEADER, _LIST_HEADER, _TABLE = 67, 71, 72, 77
_REFUSED = (
    (1, "is protected by a password; save it without one"),
    (2, "is a distribution copy (배포용 문서), whose text is encrypted; ask for the original"),
    (4, "is protected by DRM"),
    (8, "is encrypted with a certificate (공인 인증서)"),
    (10, "is protected by DRM with a certificate (공인 인증서)"),
)
_UNREAD = {b"daeh", b"toof", b"tmct"}  # head, foot, tcmt backwards: header, footer, hidden comment
_LBT = b" lbt"  # "tbl "

# Control characters that take one unit of 16 bits, and what they stand for; the others take eight.
_SINGLE = {
    0: "",
    10: "\n",
    13: "",
    24: "-",
    25: "",
    26: "",
    27: "",
    28: "",
    29: "",
    30: " ",
    31: " ",
}
_TAB = 9


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """The document of an HWP file, or its one failure. HWPX called .hwp is read too."""
    size = 0
    try:
        with opened(file) as raw:
            start = raw.read(RAW_BYTES)
            size = raw.seek(0, 2)
            raw.seek(0)
            if not start.startswith(ZIP):
                text = _text(raw, start)
                yield Document(f"{source.name}/{file.name}#1", "text", text, None, None, None, size)
                return
    except (Unusable, Damaged) as error:
        yield Failure(file.path, str(error), size=size)
        return
    yield from READERS["hwpx"](file, file.name, source)


def _text(file: BinaryIO, start: bytes) -> str:
    if start.startswith(b"HWP Document File V"):
        raise Unusable(
            "is an HWP 3 document (Hangul 96/97); open it in Hangul and save it as .hwpx"
        )
    if not start.startswith(OLE):
        raise Unusable("is no HWP document by its content")
    with streams_of(file) as streams:
        header = _stream(streams, "FileHeader") if streams.exists("FileHeader") else b""
        if not header.startswith(b"HWP Document File"):
            raise Unusable(f"{kind(file)}; it is no HWP document")
        if len(header) < 40:
            raise Damaged("its FileHeader ends in the middle")
        version, flags = struct.unpack_from("<II", header, 32)
        if version >> 24 != 5:
            raise Unusable(f"is HWP version {version >> 24}, not 5")
        for bit, words in _REFUSED:
            if flags >> bit & 1:
                raise Unusable(words)
        sections = [
            entry
            for entry in streams.listdir()
            if entry[0] == "BodyText" and re.fullmatch(r"Section\d+", entry[-1])
        ]
        if not sections:
            raise Damaged("holds no BodyText")
        flow = Flow()
        left = MEMBER_LIMIT
        for section in sorted(sections, key=lambda entry: int(entry[-1][len("Section") :])):
            data = _stream(streams, "/".join(section))
            if flags & 1:
                data = _inflated(data, section[-1], left)
            left -= len(data)
            _add(flow, data, section[-1])
    text = flow.text()
    if not text:
        raise Unusable("holds no text")
    return text


def _stream(streams: Any, name: str) -> bytes:
    try:
        return streams.openstream(name).read()
    except Exception as error:  # olefile raises whatever a broken sector makes it stumble over
        raise Damaged(f"its stream {name} is broken ({error})") from None


def _inflated(data: bytes, name: str, limit: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=-15)
    try:
        out = decompressor.decompress(data, max(1, limit))
    except zlib.error as error:
        raise Damaged(f"its {name} is broken ({error})") from None
    if decompressor.unconsumed_tail:
        raise Unusable(f"unpacks to more than {MEMBER_LIMIT >> 20} MiB")
    if not decompressor.eof:
        raise Damaged(f"its {name} ends in the middle")
    return out


def _add(flow: Flow, data: bytes, name: str) -> None:
    """The records of a section as paragraphs and tables. Raises Damaged."""
    tables: list[list[int]] = []  # of each open one: level of its control, whether cells follow
    unread: int | None = None  # level of a control whose paragraphs are left out
    for tag, level, record in _records(data, name):
        if unread is not None and level > unread:
            continue
        unread = None
        while tables and level <= tables[-1][0]:
            tables.pop()
            flow.close_table()
        if tag == _PARA_TEXT:
            flow.paragraph(_paragraph(record))
        elif tag == _CTRL_HEADER and record[:4] in _UNREAD:
            unread = level
        elif tag == _CTRL_HEADER and record[:4] == _LBT:
            tables.append([level, 0])
            flow.open_table()
        elif tag == _TABLE and tables and level == tables[-1][0] + 1:
            tables[-1][1] = 1
        elif tag == _LIST_HEADER and tables and level == tables[-1][0] + 1 and tables[-1][1]:
            row = struct.unpack_from("<H", record, 10)[0] if len(record) >= 12 else 0
            flow.open_cell(row)
    while tables:
        tables.pop()
        flow.close_table()


def _records(data: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """(tag, level, content) of each record."""
    at = 0
    while at < len(data):
        try:
            header = struct.unpack_from("<I", data, at)[0]
            at += 4
            size = header >> 20
            if size == 0xFFF:
                size = struct.unpack_from("<I", data, at)[0]
                at += 4
        except struct.error:
            raise Damaged(f"its {name} ends in the middle of a record") from None
        if at + size > len(data):
            raise Damaged(f"its {name} ends in the middle of a record")
        yield header & 0x3FF, header >> 10 & 0x3FF, data[at : at + size]
        at += size


def _paragraph(record: bytes) -> str:
    """The text of a PARA_TEXT record. A lone surrogate, as bugs of old editors leave, is U+FFFD."""
    units = np.frombuffer(record[: len(record) & ~1], dtype="<u2")
    parts: list[str] = []
    start = 0
    for at in np.flatnonzero(units < 32).tolist():
        if at < start:
            continue  # within the eight units of a control
        parts.append(units[start:at].tobytes().decode("utf-16-le", "replace"))
        code = int(units[at])
        parts.append("\t" if code == _TAB else _SINGLE.get(code, ""))
        start = at + (1 if code in _SINGLE else 8)
    parts.append(units[start:].tobytes().decode("utf-16-le", "replace"))
    return "".join(parts)
