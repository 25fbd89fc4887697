"""One file → its documents and failures, record by record.

In: a path, its relative path (for ids) and the source. Out: `Document`s and `Failure`s in file
order. A record is a JSON object, a Parquet row, a WARC response, an HTML page or a text file; which
kind of document it becomes (text, chat, parallel) is decided by the source's format, or with `auto`
by its fields: `messages` makes a dialogue, `ko` and `en` a pair.

One record that cannot be used is one failure; so is the unreadable rest of a file, and a file that
is empty. Nothing is repaired silently: a line with one invalid byte or a lone surrogate is kept
apart whole, for its owner to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from configs.schema import Source
from dedup import containers
from dedup.containers import Damaged
from dedup.extract import codec, decode, extract

RAW_BYTES = 4096
Kind = Literal["text", "parallel", "chat"]

ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """A record, or the rest of a file, that could not be read: one failed document.

    path: absolute. line: the record's number from 1 (line, row or WARC record), offset: its byte
    offset in a decompressed WARC; both None where the whole file failed. raw: its first 4 kB.
    size: its bytes, as far as they were read.
    """

    path: str
    error: str
    line: int | None = None
    offset: int | None = None
    raw: bytes = b""
    size: int = 0


class Document(NamedTuple):
    """A document as read. segments: (role, text) pairs; meta: JSON of what else the record had."""

    id: str
    kind: Kind
    text: str
    segments: list[tuple[str, str]] | None
    url: str | None
    meta: str | None
    size: int


class Unusable(ValueError):
    """A record that is no document; the message says why."""


def documents(path: str, name: str, source: Source) -> Iterator[Document | Failure]:
    """Documents and failures of a file, in order; `name` is the path as ids carry it."""
    number = 0
    try:
        if Path(path).stat().st_size == 0:
            yield Failure(path, "empty file")
            return
        form = _form(path, source)
        for item in _READERS[form](path, name, source):
            number = max(number, getattr(item, "line", None) or number + 1)
            yield item
    except Damaged as error:
        after = f" after record {number}" if number else " before its first record"
        yield Failure(path, f"truncated{after}: {error}", raw=_start(path) if not number else b"")
    except OSError as error:
        yield Failure(path, f"cannot be opened: {error.strerror or error}")


def _start(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(RAW_BYTES)


def _form(path: str, source: Source) -> str:
    """How the file is laid out: by its suffix, else by its first bytes."""
    if source.format in ("jsonl", "parquet", "html", "text", "warc"):
        return source.format
    suffix = containers.bare_suffix(path)
    if suffix in (".parquet", ".pq"):
        return "parquet"
    if source.format in ("chat", "parallel"):
        return "jsonl"
    by_suffix = {
        ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".html": "html", ".htm": "html",
        ".xhtml": "html", ".warc": "warc", ".txt": "text", ".text": "text", ".md": "text",
    }  # fmt: skip
    if suffix in by_suffix:
        return by_suffix[suffix]
    start = containers.head(path).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"WARC/"):
        return "warc"
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"{"):
        return "jsonl"
    if start[:200].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "html"
    return "text"


# ── readers, one per layout ─────────────────────────────────────────────────────────────────────


def _jsonl(path: str, name: str, source: Source) -> Iterator[Document | Failure]:
    encoding = None if source.encoding == "auto" else codec(source.encoding)
    wide = encoding if encoding and encoding.startswith(("utf-16", "utf-32")) else None
    recode = encoding if encoding not in (None, wide, "utf-8", "utf-8-sig") else None
    empty = True
    for number, line in enumerate(containers.lines(path, wide), 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line or line.isspace():
            continue
        empty = False
        size = len(line) + 1
        try:
            if recode:
                line = line.decode(recode).encode()
            record = orjson.loads(line)
            if not isinstance(record, dict):
                raise Unusable("is not a JSON object; write one object {…} on each line")
            yield _document(record, f"{source.name}/{name}#{number}", source, size)
        except Unusable as error:
            yield Failure(path, str(error), line=number, raw=line[:RAW_BYTES], size=size)
        except UnicodeDecodeError as error:
            message = f"is not {source.encoding} (byte {error.start})"
            yield Failure(path, message, line=number, raw=line[:RAW_BYTES], size=size)
        except orjson.JSONDecodeError as error:
            message = _json_error(line, error)
            yield Failure(path, message, line=number, raw=line[:RAW_BYTES], size=size)
    if empty:
        yield Failure(path, "empty file")


def _json_error(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as broken:
        return f"invalid UTF-8 at byte {broken.start}; for CP949 files set the source's encoding"
    return f"is not JSON ({error})"


def _parquet(path: str, name: str, source: Source) -> Iterator[Document | Failure]:
    number = 0
    for number, record in enumerate(containers.rows(path), 1):
        try:
            yield _document(record, f"{source.name}/{name}#{number}", source, None)
        except Unusable as error:
            raw = orjson.dumps(record, default=str)
            yield Failure(path, str(error), line=number, raw=raw[:RAW_BYTES], size=len(raw))
    if number == 0:
        yield Failure(path, "empty file")


def _warc(path: str, name: str, source: Source) -> Iterator[Document | Failure]:
    for page in containers.responses(path):
        charset = page.charset if source.encoding == "auto" else source.encoding
        item = _html(
            page.body, path, f"{source.name}/{name}#{page.number}", charset, page.url,
            page.number, page.offset, {"date": page.date},
        )  # fmt: skip
        yield item


def _page(path: str, name: str, source: Source) -> Iterator[Document | Failure]:
    charset = None if source.encoding == "auto" else source.encoding
    body = containers.content(path)
    yield _html(body, path, f"{source.name}/{name}#1", charset, None, 1, None, {})


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
        text = _clean(page.document)
    except ValueError as error:
        return Failure(path, str(error), number, offset, body[:RAW_BYTES], len(body))
    if not text:
        return Failure(path, "the page holds no text", number, offset, body[:RAW_BYTES], len(body))
    meta = {"title": page.title, "charset": page.charset, **meta}
    return Document(id, "text", text, None, url, orjson.dumps(meta).decode(), len(body))


def _text(path: str, name: str, source: Source) -> Iterator[Document | Failure]:
    data = containers.content(path)
    declared = None if source.encoding == "auto" else source.encoding
    try:
        wide = declared is not None or data.startswith((b"\xff\xfe", b"\xfe\xff"))
        if b"\x00" in data[:RAW_BYTES] and not wide:
            raise ValueError("is a binary file")
        text = _clean(decode(data, declared)[0])
        if not text:
            raise ValueError("empty file")
    except ValueError as error:
        yield Failure(path, str(error), raw=data[:RAW_BYTES], size=len(data))
        return
    yield Document(f"{source.name}/{name}#1", "text", text, None, None, None, len(data))


_READERS = {"jsonl": _jsonl, "parquet": _parquet, "warc": _warc, "html": _page, "text": _text}


# ── a record's fields → a document ──────────────────────────────────────────────────────────────


def _document(record: dict[str, Any], id: str, source: Source, size: int | None) -> Document:
    """Raises Unusable with the reason where the record holds no document."""
    fields = source.fields
    kind: Kind = "text"
    if source.format in ("chat", "parallel"):
        kind = source.format
    elif source.format == "auto" and not isinstance(_get(record, fields.get("text", "text")), str):
        if "messages" in fields or "messages" in record or "conversations" in record:
            kind = "chat"
        elif all(isinstance(_get(record, fields.get(side, side)), str) for side in ("ko", "en")):
            kind = "parallel"
    segments: list[tuple[str, str]] | None = None
    if kind == "chat":
        key = fields.get("messages") or ("messages" if "messages" in record else "conversations")
        used = {key}
        segments = _turns(_get(record, key), key)
        text = "\n".join(content for _, content in segments)
    elif kind == "parallel":
        sides = {side: fields.get(side, side) for side in ("ko", "en")}
        used = set(sides.values())
        segments = [(side, _string(record, key)) for side, key in sides.items()]
        text = "\n".join(content for _, content in segments)
    else:
        key = fields.get("text", "text")
        used = {key}
        text = _string(record, key)
        if "title" in fields:
            used.add(fields["title"])
            title = _get(record, fields["title"])
            if isinstance(title, str) and title.strip() and not text.startswith(title.strip()):
                text = f"{_clean(title)}\n\n{text}"
    given = _get(record, fields.get("id", "id"))
    url = _get(record, fields.get("url", "url"))
    used |= {fields.get("id", "id"), fields.get("url", "url")}
    rest = {key: value for key, value in record.items() if key not in used and value is not None}
    try:
        meta = orjson.dumps(rest, default=str, option=orjson.OPT_NON_STR_KEYS) if rest else None
    except (orjson.JSONEncodeError, UnicodeError):
        meta = None
    named = isinstance(given, (str, int)) and not isinstance(given, bool) and given != ""
    return Document(
        str(given) if named else id,
        kind,
        text,
        segments,
        url if isinstance(url, str) and url else None,
        meta.decode() if meta else None,
        size if size is not None else len(text.encode()),
    )


def _get(record: Any, selector: str) -> Any:
    """The value a dotted selector names: keys of mappings, or numbers of list items; else None."""
    if isinstance(record, Mapping) and selector in record:
        return record[selector]
    for part in selector.split("."):
        if isinstance(record, Mapping):
            record = record.get(part)
        elif isinstance(record, list) and part.isdigit() and int(part) < len(record):
            record = record[int(part)]
        else:
            return None
    return record


def _string(record: dict[str, Any], selector: str) -> str:
    value = _get(record, selector)
    if value is None:
        there = ", ".join(list(record)[:8])
        raise Unusable(f"has no field {selector} (it has: {there}); name it in the source's fields")
    if not isinstance(value, str):
        raise Unusable(f"field {selector} is not a string but {type(value).__name__}")
    text = _clean(value)
    if not text:
        raise Unusable(f"field {selector} is empty")
    return text


def _clean(text: str) -> str:
    return text.replace("\x00", "").strip() if "\x00" in text else text.strip()


def _turns(value: Any, selector: str) -> list[tuple[str, str]]:
    """Turns of a dialogue as (role, text). OpenAI's and ShareGPT's spellings; Raises Unusable."""
    if not isinstance(value, list) or not value:
        raise Unusable(f"field {selector} is not a list of turns")
    turns = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, Mapping):
            raise Unusable(f"turn {number} of {selector} is not a mapping")
        role = ROLES.get(str(turn.get("role", turn.get("from", ""))).lower())
        if role is None:
            given = turn.get("role", turn.get("from"))
            raise Unusable(f"turn {number} has the role {given!r}, not system, user or assistant")
        content = turn.get("content", turn.get("value"))
        if isinstance(content, list):  # OpenAI's content parts
            parts = [part.get("text") for part in content if isinstance(part, Mapping)]
            content = "\n".join(part for part in parts if isinstance(part, str))
        if not isinstance(content, str) or not _clean(content):
            raise Unusable(f"turn {number} has no text")
        turns.append((role, _clean(content)))
    return turns
