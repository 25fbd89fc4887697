"""A record's fields → a document, or the reason why it is none.

In: a record (a mapping, as JSON or a table row gives it), the id it gets if it has none, the source.
Out: a `Document`; `Unusable` is raised where the record holds none. Which kind of document it becomes
(text, chat, parallel, preference) is decided by the source's format, or with `auto` by its fields:
`messages` makes a dialogue, `ko` and `en` a pair, `chosen` and `rejected` a preference.

A selector names a field: dotted for nested ones (`doc.body`), `[]` for every item of a list, whose
strings are joined by newlines (`paragraph[].form`). Nothing is repaired silently: a line with one
invalid byte or a lone surrogate is kept apart whole, for its owner to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from configs.schema import Source

RAW_BYTES = 4096
Kind = Literal["text", "parallel", "chat", "preference"]

ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Failure:
    """A record, or the rest of a file, that could not be read: one failed document.

    path: absolute, an address, or archive!member. line: the record's number from 1 (line, row or WARC record), offset: its byte
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


def document_of(record: dict[str, Any], id: str, source: Source, size: int | None) -> Document:
    """The document a record holds. size: its bytes; None for those of its text.

    Raises Unusable with the reason where the record holds no document.
    """
    fields = source.fields
    kind = _kind(record, source)
    segments: list[tuple[str, str]] | None = None
    if kind == "chat":
        key = fields.get("messages") or ("messages" if "messages" in record else "conversations")
        used = {key}
        segments = turns_of(get(record, key), key)
    elif kind == "parallel":
        sides = {side: fields.get(side, side) for side in ("ko", "en")}
        used = set(sides.values())
        segments = [(side, _string(record, key)) for side, key in sides.items()]
    elif kind == "preference":
        keys = [fields.get(side, side) for side in ("prompt", "chosen", "rejected")]
        used = set(keys)
        segments = _preference(record, *keys)
    else:
        key = fields.get("text", "text")
        used = {key}
        text = _string(record, key)
        if "title" in fields:
            used.add(fields["title"])
            title = get(record, fields["title"])
            if isinstance(title, str) and title.strip() and not text.startswith(title.strip()):
                text = f"{clean(title)}\n\n{text}"
    if segments is not None:
        text = "\n".join(content for _, content in segments)
    given = get(record, fields.get("id", "id"))
    url = get(record, fields.get("url", "url"))
    used |= {fields.get("id", "id"), fields.get("url", "url")}
    return Document(
        given_id(given) or id,
        kind,
        text,
        segments,
        url if isinstance(url, str) and url else None,
        meta_of(record, used),
        size if size is not None else len(text.encode()),
    )


def _kind(record: dict[str, Any], source: Source) -> Kind:
    fields = source.fields
    if source.format in ("chat", "parallel", "preference"):
        return source.format
    if source.format == "auto" and not isinstance(get(record, fields.get("text", "text")), str):
        if "messages" in fields or "messages" in record or "conversations" in record:
            return "chat"
        if all(isinstance(get(record, fields.get(side, side)), str) for side in ("ko", "en")):
            return "parallel"
        if all(get(record, fields.get(side, side)) for side in ("chosen", "rejected")):
            return "preference"
    return "text"


def given_id(given: Any) -> str | None:
    """A record's own id as ids are written; None where it has none that can serve."""
    if isinstance(given, bool) or not isinstance(given, (str, int)) or given == "":
        return None
    return str(given)


def meta_of(record: Mapping[str, Any], used: set[str]) -> str | None:
    """JSON of what else the record has; the fields that were used, nested ones too, are left out."""
    rest = {key: value for key, value in record.items() if key not in used and value is not None}
    for selector in used:
        first, _, leaf = selector.partition(".")
        top = first.replace("[]", "")
        if selector in record or top not in rest:
            continue
        inner = rest[top]
        if "[]" in selector:
            del rest[top]
        elif leaf and isinstance(inner, Mapping):
            rest[top] = {key: value for key, value in inner.items() if key != leaf}
            if not rest[top]:
                del rest[top]
    if not rest:
        return None
    try:
        return orjson.dumps(rest, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (orjson.JSONEncodeError, UnicodeError):
        return None


def get(record: Any, selector: str) -> Any:
    """The value a selector names: keys of mappings, numbers of list items, [] for all; else None."""
    if isinstance(record, Mapping) and selector in record:
        return record[selector]
    if "[]" in selector:
        strings = [item for item in each(record, selector) if isinstance(item, str)]
        return "\n".join(strings) if strings else None
    for part in selector.split("."):
        if isinstance(record, Mapping):
            record = record.get(part)
        elif isinstance(record, list) and part.isdigit() and int(part) < len(record):
            record = record[int(part)]
        else:
            return None
    return record


def each(record: Any, selector: str) -> Iterator[Any]:
    """Every value that a selector with [] names, in order."""
    part, _, rest = selector.partition(".")
    name, levels = part.replace("[]", ""), part.count("[]")
    values = [get(record, name) if name else record]
    for _ in range(levels):
        values = [item for value in values if isinstance(value, list) for item in value]
    for value in values:
        if rest:
            yield from each(value, rest)
        else:
            yield value


def _string(record: dict[str, Any], selector: str) -> str:
    value = get(record, selector)
    if value is None:
        there = ", ".join(list(record)[:8])
        raise Unusable(f"has no field {selector} (it has: {there}); name it in the source's fields")
    if not isinstance(value, str):
        raise Unusable(f"field {selector} is not a string but {type(value).__name__}")
    text = clean(value)
    if not text:
        raise Unusable(f"field {selector} is empty")
    return text


def clean(text: str) -> str:
    """Without NUL and the white space round it."""
    return text.replace("\x00", "").strip() if "\x00" in text else text.strip()


def _preference(
    record: dict[str, Any], prompt: str, chosen: str, rejected: str
) -> list[tuple[str, str]]:
    """The prompt's turns, then (chosen, text) and (rejected, text). Raises Unusable.

    The prompt is a string, a list of turns, or the turns that both answers, given as whole
    dialogues, begin with.
    """
    asked = get(record, prompt)
    answers = [get(record, side) for side in (chosen, rejected)]
    dialogues = [
        turns_of(answer, side) if isinstance(answer, list) else None
        for answer, side in zip(answers, (chosen, rejected), strict=True)
    ]
    turns: list[tuple[str, str]] = []
    if isinstance(asked, list):
        turns = turns_of(asked, prompt)
    elif isinstance(asked, str) and clean(asked):
        turns = [("user", clean(asked))]
    ends: list[str] = []
    for dialogue, side in zip(dialogues, (chosen, rejected), strict=True):
        if dialogue is None:
            ends.append(_string(record, side))
            continue
        if dialogue[-1][0] != "assistant":
            raise Unusable(f"field {side} does not end with the assistant's answer")
        before = dialogue[:-1]
        if before and turns and before != turns[-len(before) :]:
            raise Unusable(f"field {side} begins with other turns than the prompt")
        turns = turns or before
        ends.append(dialogue[-1][1])
    if not turns:
        raise Unusable(f"has no prompt: no field {prompt}, and its answers are no dialogues")
    if ends[0] == ends[1]:
        raise Unusable(f"fields {chosen} and {rejected} are the same")
    return [*turns, ("chosen", ends[0]), ("rejected", ends[1])]


def turns_of(value: Any, selector: str) -> list[tuple[str, str]]:
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
        if not isinstance(content, str) or not clean(content):
            raise Unusable(f"turn {number} has no text")
        turns.append((role, clean(content)))
    return turns
