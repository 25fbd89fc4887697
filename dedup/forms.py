"""What form a file has, and its documents by the reader of that form.

In: a `File` and its source. Out: the documents and failures of the file, in order, and (with
`format: auto`) the form that was found: by the name's suffix, else by the first bytes; `.json` may be
lines or one value, which only its content tells.

One record that cannot be used is one failure; so is the unreadable rest of a file, and a file that
is empty. Archives (tar, zip) are opened whatever the format: it speaks of their members.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module

from configs.schema import Source
from dedup import containers, formats
from dedup.batches import Arrow
from dedup.containers import Damaged, File, TooLong, bare_suffix
from dedup.records import RAW_BYTES, Document, Failure

Item = Document | Failure | Arrow

_OWN: dict[str, tuple[str, str]] = {  # form → module of dedup.formats, function
    "jsonl": ("jsonl", "read"),
    "json": ("json_values", "read"),
    "nikl": ("nikl", "read"),
    "parquet": ("parquet", "read"),
    "html": ("pages", "read_html"),
    "text": ("pages", "read_text"),
    "warc": ("pages", "read_warc"),
    "wiki": ("wiki", "read"),
    "hub": ("hub", "read"),
    "archive": ("archives", "read"),
}

SUFFIXES: dict[str, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "json": (".json",),
    "nikl": (".json",),
    "parquet": (".parquet", ".pq"),
    "html": (".html", ".htm", ".xhtml"),
    "text": (".txt", ".text", ".md"),
    "warc": (".warc", ".wet"),
    "wiki": (".xml",),
    "archive": (".tar", ".tgz", ".tbz2", ".zip"),
    **formats.SUFFIXES,
}
_BY_SUFFIX = {
    suffix: form
    for form, suffixes in reversed(SUFFIXES.items())
    if form not in ("json", "nikl")
    for suffix in suffixes
}
ARCHIVES = SUFFIXES["archive"]


def suffixes_of(source: Source) -> frozenset[str]:
    """The suffixes of the files that a folder of this source is searched for."""
    form = source.format
    if form == "kakao":
        wanted: tuple[str, ...] = (".txt", ".csv")
    elif form in ("chat", "parallel", "preference"):
        wanted = SUFFIXES["jsonl"] + SUFFIXES["parquet"] + SUFFIXES.get("csv", ())
    elif form in SUFFIXES:
        wanted = SUFFIXES[form]
    else:
        wanted = tuple(_BY_SUFFIX)
    return frozenset(wanted) | frozenset(ARCHIVES)


def documents(
    file: File, source: Source, told: Callable[[str], None] | None = None
) -> Iterator[Item]:
    """Documents and failures of a file, in order; `told` hears the form that was found."""
    number = file.before
    try:
        if file.size == 0:
            yield Failure(file.path, "empty file")
            return
        form = form_of(file, source)
        if told is not None:
            told(form)
        for item in reader(form)(file, source):
            if isinstance(item, Arrow):
                number += item.batch.num_rows
            else:
                number = max(number, getattr(item, "line", None) or number + 1)
            yield item
    except TooLong as error:
        yield Failure(file.path, str(error), raw=_start(file), size=file.size or 0)
    except Damaged as error:
        first = number == file.before
        after = " before its first record" if first else f" after record {number}"
        yield Failure(file.path, f"truncated{after}: {error}", raw=_start(file) if first else b"")
    except OSError as error:
        yield Failure(file.path, f"cannot be opened: {error.strerror or error}")


def _start(file: File) -> bytes:
    if file.depth:
        return b""  # a member's bytes went by
    with file.open() as raw:
        return raw.read(RAW_BYTES)


def reader(form: str) -> Callable[[File, Source], Iterator[Item]]:
    """The function that reads a form. Its module is imported when it is first asked for."""
    if form in _OWN:
        module, name = _OWN[form]
        found: Callable[[File, Source], Iterator[Item]] = getattr(
            import_module(f"dedup.formats.{module}"), name
        )
        return found
    return lambda file, source: formats.READERS[form](file, file.name, source)


def form_of(file: File, source: Source) -> str:
    """How the file is laid out: by its suffix, else by its first bytes."""
    if source.format == "hub":
        return "hub"
    suffix = bare_suffix(file.path)
    if suffix in ARCHIVES:
        return "archive"
    if source.format in _OWN or source.format in formats.READERS:
        return source.format
    form = _BY_SUFFIX.get(suffix)
    if form in ("parquet", "html", "warc"):
        return form
    if suffix == ".json":
        return _json(containers.head(file), source)
    if source.format in ("chat", "parallel", "preference"):
        return form if form in formats.READERS else "jsonl"
    if form == "jsonl":
        return form
    head = containers.head(file)
    if form in ("text", "csv"):
        kakao = any(name == "kakao" and fits(head) for name, fits in formats.SNIFF)
        return "kakao" if kakao else form
    if form == "wiki":
        return form if b"<mediawiki" in head else "html" if b"<html" in head.lower() else "text"
    return form or _by_content(head)


def _json(head: bytes, source: Source) -> str:
    """Lines, or one value: a whole object on the first line, or a list of them."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if "records" in source.fields:
        return "json"
    if source.format == "auto" and re.search(rb'"document"\s*:\s*\[', head):
        return "nikl"
    line = start.partition(b"\n")[0].strip()
    if not start.startswith((b"{", b"[")) or (line.startswith(b'{"') and line.endswith(b"}")):
        return "jsonl"
    return "json" if start.startswith(b"[") or line == b"{" else "jsonl"


def _by_content(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"WARC/"):
        return "warc"
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"{"):
        return "jsonl"
    for form, fits in formats.SNIFF:
        if fits(head):
            return form
    if b"<mediawiki" in start[:1000]:
        return "wiki"
    if start[:200].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "html"
    if head[257:262] == b"ustar" or head.startswith(b"PK\x03\x04"):
        return "archive"
    return "text"
