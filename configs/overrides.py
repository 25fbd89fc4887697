"""`a.b.c=value` on the command line → a change to the plain values of a config.

In: one override as typed, and the values read from the file. Out: the values changed in place, and
the path that was set, so that a later mistake there can name the override. An override changes what
a key holds; it never turns a preset or `none` into a mapping by the way, because that would drop
the preset silently.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from configs.errors import InputError
from configs.keys import ROOT, Forms, below, branch, written
from configs.yaml12 import KeyPath, Problem, compose, construct


class Override(NamedTuple):
    """text: as typed. path: the keys and list indices it sets."""

    text: str
    path: KeyPath


def apply(text: str, data: dict[Any, Any]) -> Override:
    """Put one `key=value` into `data`. Raises InputError where it has no place to go."""
    where = f"override {text!r}"
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{where}: is not key=value; write for example dedup.near.threshold=0.7")
    problems: list[Problem] = []
    try:
        value = construct(compose(raw, where), problems)
    except InputError as error:
        what = error.lines[0].removeprefix(where).split(": ", 1)[1]
        raise InputError(f"{where}: {key}: the value is not YAML: {what}") from None
    if problems:
        raise InputError([f"{where}: {key}: {problem.message}" for problem in problems])

    path = _split(key.strip())
    holder: Any = data
    for depth, part in enumerate(path):
        above = ".".join(map(str, path[:depth]))
        last = depth == len(path) - 1
        if isinstance(holder, list):
            if not isinstance(part, int):
                raise InputError(f"{where}: {above} is a list; name an item by its number, from 0")
            if part >= len(holder):
                raise InputError(
                    f"{where}: {above} has {len(holder)} items, so the last is {len(holder) - 1}; "
                    f"to add one, give the whole list"
                )
        elif not isinstance(holder, dict):
            raise InputError(
                f"{where}: {above} is {written(holder)!r} here and has no keys; "
                f"write {above}={{{'.'.join(map(str, path[depth:]))}: {raw}}}"
            )
        if last:
            holder[part] = value
        else:
            if isinstance(holder, dict) and holder.get(part) is None:
                holder[part] = {}
            holder = holder[part]
    return Override(text, path)


def _split(dotted: str) -> KeyPath:
    """Dotted key → path. Below a mapping of names (mixture, fields) the rest is one name."""
    parts = dotted.split(".")
    path: KeyPath = ()
    forms: Forms = ROOT
    while parts:
        form = branch(forms, "list" if parts[0].isdigit() else "mapping")
        if form is not None and form.kind == "dict" and form.items[0][0].python is not Any:
            return (*path, ".".join(parts))
        part = parts.pop(0)
        path = (*path, int(part) if part.isdigit() else part)
        forms = below(form, part)
    return path
