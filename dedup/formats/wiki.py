"""Wikipedia dumps (`pages-articles.xml.bz2`) → documents: an article, a text.

In: a MediaWiki XML dump, plain or compressed, streamed; of a split one the articles whose `<page>`
begins in the bzip2 streams that begin in [begin, end). Out: a document per page of namespace 0 that
is no redirect, its id made of the page id. `wikitext` renders the text (extra `wiki`).

The decision: pages are cut out of the XML by their tags, which cannot occur inside escaped text, and
parsed one by one. So a broken page is one failure, and a multistream dump can be entered at any
stream: the only compressed file that several workers can share.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import orjson

from configs.schema import Source
from dedup.containers import Damaged, File, chunks
from dedup.formats.wikitext import parser, plain
from dedup.records import RAW_BYTES, Document, Failure

_STREAM = b"BZh91AY&SY"  # a bzip2 stream's header and its first block's; always at a byte's border
_OPEN, _CLOSE = b"<page>", b"</page>"


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """Articles and failures of a dump. Raises Damaged."""
    parser()  # where the extra is missing, it is said before anything is read
    number = 0
    for number, page in enumerate(_pages(file), 1):
        if isinstance(page, int):
            message = f"a page of {page:,} bytes, more than dedup.max_record"
            yield Failure(file.path, message, number, size=page)
            continue
        try:
            item = _document(page, f"{source.name}/{file.name}")
        except (ElementTree.ParseError, ValueError) as error:
            yield Failure(file.path, str(error), number, None, page[:RAW_BYTES], len(page))
            continue
        if item is not None:
            yield item
    if number == 0 and file.end is None:
        raise Damaged("holds no <page>; is it a pages-articles dump?")


# ── XML → pages ─────────────────────────────────────────────────────────────────────────────────


def _pages(file: File) -> Iterator[bytes | int]:
    """The bytes of each page that begins in the file, or in the file's share; the length of one too
    long."""
    waiting = b""
    inside = False
    dropped = 0  # bytes of a page too long that were let go
    beyond = 0  # of the bytes that wait, those that came after the share
    for piece, owned in _pieces(file):
        waiting += piece
        beyond += 0 if owned else len(piece)
        while True:
            if not inside:
                at = waiting.find(_OPEN)
                if at < 0:
                    waiting = waiting[-len(_OPEN) + 1 :]
                    break
                if at >= len(waiting) - beyond:
                    return  # it begins in the next share
                waiting, inside, dropped = waiting[at:], True, 0
            end = waiting.find(_CLOSE)
            if end < 0:
                if len(waiting) > file.limit:
                    dropped += len(waiting) - len(_CLOSE)
                    waiting = waiting[-len(_CLOSE) :]
                break
            end += len(_CLOSE)
            yield dropped + end if dropped or end > file.limit else waiting[:end]
            waiting, inside = waiting[end:], False
        beyond = min(beyond, len(waiting))
        if beyond and not inside and not _begun(waiting, beyond):
            return
    if inside:
        raise Damaged("the dump ends in the middle of a page")


def _begun(waiting: bytes, beyond: int) -> bool:
    """Whether a `<page>` may have begun in the last bytes, before those beyond the share."""
    return any(waiting.endswith(_OPEN[:size]) for size in range(beyond + 1, len(_OPEN)))


def _pieces(file: File) -> Iterator[tuple[bytes, bool]]:
    """Decompressed pieces, and whether they belong to the file's share."""
    if file.end is None:
        for piece in chunks(file):
            yield piece, True
        return
    with file.open() as raw:
        raw.seek(file.begin)
        start = _next_stream(raw, file.begin, file.end)
        if start < 0:
            return
        raw.seek(start)
        decompressor = bz2.BZ2Decompressor()
        at = start  # of the stream
        read_to = start
        data = b""
        while True:
            data = data or raw.read(1 << 14)
            if not data:
                break
            read_to = raw.tell()
            try:
                out = decompressor.decompress(data)
            except OSError as error:
                raise Damaged(f"broken compression ({error})") from None
            if out:
                yield out, at < file.end
            data = b""
            if decompressor.eof:
                data = decompressor.unused_data
                at = read_to - len(data)
                decompressor = bz2.BZ2Decompressor()
        if at < file.end and read_to > at:
            raise Damaged("the compressed data end in the middle")


def _next_stream(raw: Any, begin: int, end: int) -> int:
    """Where the first stream begins in [begin, end); -1 for none."""
    at = begin
    rest = b""
    while at < end + len(_STREAM):
        piece = raw.read(1 << 20)
        if not piece:
            return -1
        found = (rest + piece).find(_STREAM)
        if found >= 0:
            start = at - len(rest) + found
            return start if start < end else -1
        at += len(piece)
        rest = (rest + piece)[-len(_STREAM) + 1 :]
    return -1


def _document(page: bytes, prefix: str) -> Document | None:
    tree = ElementTree.fromstring(page)
    if tree.findtext("ns", "0") != "0" or tree.find("redirect") is not None:
        return None
    markup = tree.findtext("revision/text") or ""
    number, title = tree.findtext("id") or "", tree.findtext("title") or ""
    if re.match(r"\s*#(?:redirect|넘겨주기)", markup, re.IGNORECASE):
        return None
    text = plain(markup)
    if not text:
        raise ValueError("the article holds no text")
    meta = orjson.dumps({"title": title, "page": number}).decode()
    if not text.startswith(title):
        text = f"{title}\n\n{text}"
    return Document(f"{prefix}#{number}", "text", text, None, None, meta, len(page))
