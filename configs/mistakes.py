"""A config that the schema refuses → one helpful sentence per mistake, all of them at once.

In: the plain values of a config and pydantic's errors. Out: `Mistake(path, message)` in the words
of the person's file. Two things stand between pydantic and that. A union reports the errors of
every branch (`filters: korean_wbe` gives two, one about a mapping): only the branch whose shape the
value has is kept. And pydantic checks across keys only where all keys are right: so the wrong keys
are taken out and the rest is checked again, and what is then said about something that was taken
out is dropped.
"""

from __future__ import annotations

import copy
import re
from typing import Any, NamedTuple

from pydantic import ValidationError

from configs.keys import (
    Form,
    Forms,
    choices,
    expected,
    field_forms,
    nearest,
    suggest_key,
    written,
)
from configs.schema import Config, Section
from configs.yaml12 import KeyPath

_ROUNDS = 4


class Mistake(NamedTuple):
    """path: keys and list indices from the top. missing: the path is not in the config.

    across: each key by itself is right, they do not go together.
    """

    path: KeyPath
    message: str
    missing: bool = False
    across: bool = False


def mistakes(
    data: dict[Any, Any], error: ValidationError, schema: type[Section] = Config
) -> list[Mistake]:
    """Every mistake in `data`, which `schema` refused with `error`."""
    found: dict[KeyPath, Mistake] = {}
    taken_out: list[KeyPath] = []
    rest = copy.deepcopy(data)
    for _ in range(_ROUNDS):
        fresh = [
            mistake
            for mistake in _translate(rest, error, schema)
            if mistake.path not in found and not _touches(mistake.path, taken_out)
        ]
        found.update({mistake.path: mistake for mistake in fresh})
        removed = [path for m in fresh if not m.missing and (path := _take_out(rest, m.path))]
        taken_out += removed
        if not removed:
            break
        try:
            schema.model_validate(rest)
            break
        except ValidationError as again:
            error = again
    return [m for m in found.values() if not (m.missing and _misspelt(m.path, found))]


def _misspelt(path: KeyPath, found: dict[KeyPath, Mistake]) -> bool:
    """Whether a missing key is there after all, under a name that is already complained of."""
    meant = f"did you mean {path[-1]}?"
    return any(m.path[:-1] == path[:-1] and m.message.endswith(meant) for m in found.values())


def _touches(path: KeyPath, taken_out: list[KeyPath]) -> bool:
    """Whether something at, below or above `path` was taken out: then it may be our doing."""
    return any(path == gone[: len(path)] or gone == path[: len(gone)] for gone in taken_out)


def _take_out(data: dict[Any, Any], path: KeyPath) -> KeyPath | None:
    """Delete the nearest mapping key at or above `path`; returns its path."""
    while path:
        holder: Any = data
        for part in path[:-1]:
            try:
                holder = holder[part]
            except (KeyError, IndexError, TypeError):
                return None
        if isinstance(holder, dict):
            holder.pop(path[-1], None)
            return path
        path = path[:-1]
    return None


def _translate(
    data: dict[Any, Any], error: ValidationError, schema: type[Section]
) -> list[Mistake]:
    right: dict[KeyPath, Mistake] = {}
    misfits: dict[KeyPath, Mistake] = {}
    for item in error.errors(include_url=False):
        path, forms, value, fits, section = _settle(item["loc"], data, schema)
        kind = item["type"]
        if not fits:
            misfits.setdefault(path, Mistake(path, _wrong(value, forms)))
        elif section is not None and (kind in ("extra_forbidden", "invalid_key") or not forms):
            above = ".".join(str(part) for part in path[:-1] if not isinstance(part, int))
            message = f"no such key; {suggest_key(path[-1], section, above, schema)}"
            right.setdefault(path, Mistake(path, message))
        elif kind == "missing":
            what = _description(section, path)
            right.setdefault(path, Mistake(path, f"missing; {what}", missing=True))
        elif kind == "value_error":
            for mistake in _from_validator(path, str(item["ctx"]["error"]), value):
                right.setdefault(mistake.path, mistake)
        else:
            right.setdefault(path, Mistake(path, _wrong(value, forms)))
    for path, mistake in misfits.items():
        if not any(other[: len(path)] == path for other in right):
            right[path] = mistake
    return list(right.values())


def _settle(
    location: tuple[int | str, ...], data: Any, schema: type[Section]
) -> tuple[KeyPath, Forms, Any, bool, Any]:
    """pydantic's location → (path in the config, forms there, value, branch fits, section).

    In a union the location names the branch that was tried: it is no part of the path, and the
    error counts only if the value has that branch's shape.
    """
    path: KeyPath = ()
    forms: Forms = (Form("section", schema),)
    value, section = data, None
    inside: Forms = forms  # the branch of `forms` whose shape the value has
    for part in location:
        if len(inside) > 1:
            shape = _shape(value)
            if _branch_shape(str(part), inside) != shape:
                return path, forms, value, False, section
            inside = tuple(form for form in inside if form.shape == shape)[:1]
            continue
        form = inside[0] if inside else Form("scalar", Any)
        if part == "[key]":
            break
        path = (*path, part)
        if form.kind == "section":
            section = form.python
            known = part in section.model_fields
            forms = field_forms(section, str(part)) if known else ()
        elif form.items:
            index = part if form.kind == "tuple" and isinstance(part, int) else 0
            forms = form.items[min(index, len(form.items) - 1)]
            section = None
        inside = forms
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
    return path, forms, value, True, section


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return "mapping"
    return "list" if isinstance(value, list) else "scalar"


def _branch_shape(tag: str, forms: Forms) -> str:
    sections = [form.python.__name__ for form in forms if form.kind == "section"]
    if tag.startswith("dict[") or any(re.search(rf"\b{name}\b", tag) for name in sections):
        return "mapping"
    return "list" if tag.startswith(("list[", "tuple[")) else "scalar"


def _wrong(value: Any, forms: Forms) -> str:
    shown = f"'{value}'" if isinstance(value, str) and len(value) <= 60 else written(value)
    message = f"{shown} is not {expected(forms)}"
    shapes = {form.shape for form in forms}
    if isinstance(value, str) and "list" in shapes and (found := choices(_items(forms))):
        near = nearest(value, [*choices(forms), *found])
        return (
            f"{message}; did you mean {near if near in choices(forms) else f'[{near}]'}?"
            if near
            else message
        )
    if isinstance(value, str) and shapes == {"list"}:
        return f"{message}; did you mean [{value}]?"
    if isinstance(value, dict) and shapes == {"list"}:
        return f"{message}; put '- ' before the first key of each item"
    if isinstance(value, int | float) and any(form.python is str for form in forms):
        return f"{message}; put it in quotes"
    if not isinstance(value, dict | list) and value is not None:
        options = choices(forms) or ([True, False] if forms and forms[0].python is bool else [])
        near = nearest(value, options)
        if near is not None:
            return f"{message}; did you mean {written(near)}?"
    return message


def _items(forms: Forms) -> Forms:
    return next((form.items[0] for form in forms if form.kind == "list"), ())


def _description(section: Any, path: KeyPath) -> str:
    if section is None:
        return "the list is too short"
    description = section.model_fields[str(path[-1])].description
    forms = field_forms(section, str(path[-1]))
    return f"give {expected(forms)}: {description}"


def _from_validator(path: KeyPath, message: str, value: Any) -> list[Mistake]:
    """A validator of the schema may name keys below its section: `key.path: what`, a line each."""
    result = []
    for line in message.split("\n"):
        named = re.match(r"([\w.-]+): (.+)", line)
        below: KeyPath = ()
        if named:
            below = _below(value, named[1])
        if below and named:
            result.append(Mistake((*path, *below), named[2], across=True))
        else:
            mistake = Mistake(path, line, across=True)
            if line.startswith("is "):  # about this one value: "is not a count"
                shown = f"'{value}'" if isinstance(value, str) else written(value)
                mistake = Mistake(path, f"{shown} {line}")
            result.append(mistake)
    return result


def _below(value: Any, dotted: str) -> KeyPath:
    """`phases.0.mixture.ko.web` → the path that exists in `value` (keys may hold dots), or ()."""
    path: KeyPath = ()
    parts = dotted.split(".")
    while parts:
        if isinstance(value, list) and parts[0].isdigit() and int(parts[0]) < len(value):
            path, value = (*path, int(parts[0])), value[int(parts[0])]
            parts = parts[1:]
            continue
        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if isinstance(value, dict) and key in value:
                path, value, parts = (*path, key), value[key], parts[length:]
                break
        else:
            return ()
    return path
