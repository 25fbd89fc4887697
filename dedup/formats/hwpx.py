"""An HWPX file (OWPML, KS X 6101) → one document.

In: a path and the source. Out: its text: paragraphs, tables and text boxes in the order of its
spine, without page headers and footers, comments and memos. Or one failure: an encrypted document,
or a package that would unpack to more than the limits, is refused.

The format: a zip package; META-INF/container.xml names the package file (Contents/content.hpf), its
manifest and spine name the sections and their order. Elements are known by their local names: the
namespaces changed in 2011, 2016 and 2024. The XML is never a tree here, only a stream of events.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote

from configs.schema import Source
from dedup.containers import Damaged, File
from dedup.formats import READERS, ZIP
from dedup.formats.flow import Flow
from dedup.formats.packages import MEMBER_LIMIT, Package, opened
from dedup.records import RAW_BYTES, Document, Failure, Unusable

SECTIONS_LIMIT = MEMBER_LIMIT  # bytes of XML of all sections together
PREFIX_LIMIT = 16 << 20  # bytes of the manifests

_UNREAD = {"header", "footer", "hiddenComment", "fieldBegin"}  # a memo stands in its fieldBegin
_SPACES = {"tab": "\t", "lineBreak": "\n", "nbSpace": " ", "fwSpace": " ", "hyphen": "-"}


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """The document of an HWPX file, or its one failure. HWP 5 called .hwpx is read too."""
    size = 0
    try:
        with opened(file) as raw:
            start = raw.read(RAW_BYTES)
            size = raw.seek(0, 2)
            raw.seek(0)
            if start.startswith(ZIP):
                text = _text(raw)
                yield Document(f"{source.name}/{file.name}#1", "text", text, None, None, None, size)
                return
    except (Unusable, Damaged) as error:
        yield Failure(file.path, str(error), size=size)
        return
    yield from READERS["hwp"](file, file.name, source)


def _text(file: BinaryIO) -> str:
    package = Package(file, "an HWPX document")
    if not any(name.startswith("Contents/") for name in package.names):
        raise Unusable("is a zip file, but no HWPX document")
    _refuse_encrypted(package)
    sections = list(_sections(package))
    if not sections:
        raise Damaged("names no section in its content.hpf")
    flow = Flow()
    left = SECTIONS_LIMIT
    for name in sections:
        if name not in package.names:
            raise Damaged(f"lacks its part {name}")
        reading = _Section(flow)
        package.parse(name, reading.start, reading.end, reading.text, left)
        left -= package.size(name)
    text = flow.text()
    if not text:
        raise Unusable("holds no text")
    return text


def _refuse_encrypted(package: Package) -> None:
    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "encryption-data":
            raise Unusable("is protected by a password; save it without one")

    if "META-INF/manifest.xml" in package.names:
        package.parse("META-INF/manifest.xml", start, limit=PREFIX_LIMIT)


def _sections(package: Package) -> Iterator[str]:
    """The names of the sections in the order of the spine."""
    roots: list[str] = []

    def root(tag: str, attributes: dict[str, str]) -> None:
        if tag == "rootfile" and attributes.get("full-path", "").endswith(".hpf"):
            roots.append(attributes["full-path"])

    if "META-INF/container.xml" in package.names:
        package.parse("META-INF/container.xml", root, limit=PREFIX_LIMIT)
    content = roots[0] if roots else "Contents/content.hpf"
    items: dict[str, str] = {}
    order: list[str] = []

    def item(tag: str, attributes: dict[str, str]) -> None:
        if tag == "item":
            items[attributes.get("id", "")] = unquote(attributes.get("href", ""))
        elif tag == "itemref":
            order.append(attributes.get("idref", ""))

    package.parse(content, item, limit=PREFIX_LIMIT)
    for reference in order:
        href = items.get(reference, "")
        if re.search(r"section\d+\.xml$", href, re.IGNORECASE):
            beside = posixpath.normpath(posixpath.join(posixpath.dirname(content), href))
            yield href if href in package.names else beside


class _Section:
    """The events of a section's XML → paragraphs and tables of the flow."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._texts: list[list[str]] = []  # of each open paragraph
        self._rows: list[int] = []  # of each open table
        self._unread = 0  # depth within what is left out
        self._in_text = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._unread or tag in _UNREAD:
            self._unread += 1
        elif tag == "p":
            self._flow.begin()
            self._texts.append([])
        elif tag == "t":
            self._in_text += 1
        elif tag in _SPACES and self._texts and self._in_text:
            self._texts[-1].append(_SPACES[tag])
        elif tag == "tbl":
            self._flow.open_table()
            self._rows.append(0)
        elif tag == "tr" and self._rows:
            self._rows[-1] += 1
        elif tag == "tc" and self._rows:
            self._flow.open_cell(self._rows[-1])

    def end(self, tag: str) -> None:
        if self._unread:
            self._unread -= 1
        elif tag == "p" and self._texts:
            self._flow.end("".join(self._texts.pop()))
        elif tag == "t":
            self._in_text -= 1
        elif tag == "tbl" and self._rows:
            self._rows.pop()
            self._flow.close_table()

    def text(self, characters: str) -> None:
        if self._in_text and self._texts and not self._unread:
            self._texts[-1].append(characters)
