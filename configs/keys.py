"""What the schema says about a key: its forms, in words, and the key a person may have meant.

In: the pydantic models of `schema/`. Out: `Form`s (a flat, printable view of an annotation), the
sentence for what a value should be, and suggestions. `load.py`, `mistakes.py` and `explain.py` all
read the schema through this file, so an error message and `malmoi explain` use the same words.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from configs.schema import Config, InputPath, Section, Words

# What people coming from other trainers write, where spelling alone would not find the key.
_ELSEWHERE = {
    "batch_size": "global_batch_tokens",
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "output_dir": "dir",
    "per_device_train_batch_size": "micro_batch",
    "gpus": "processes",
    "nproc_per_node": "processes",
    "max_grad_norm": "clip",
    "vocab_size": "new_tokens",
    "num_perm": "permutations",
    "ngram": "shingle",
    "jaccard": "threshold",
}


@dataclass(frozen=True)
class Form:
    """One thing a value may be.

    kind: section | literal | list | tuple | dict | scalar. python: the Section class, the tuple of
    literal values, or the scalar's type. items: forms of a list's items or a dict's values.
    metadata: the limits and marks that stand in the annotation.
    """

    kind: str
    python: Any
    items: tuple[tuple[Form, ...], ...] = ()
    metadata: tuple[Any, ...] = ()

    @property
    def shape(self) -> str:
        """Which YAML value it takes: mapping, list or scalar."""
        if self.kind in ("section", "dict"):
            return "mapping"
        return "list" if self.kind in ("list", "tuple") else "scalar"


Forms = tuple[Form, ...]
ROOT: Forms = (Form("section", Config),)


@cache
def field_forms(section: type[Section], name: str) -> Forms:
    """The forms of one field of a section, `None` left out."""
    field = section.model_fields[name]
    return _forms(field.annotation, tuple(field.metadata))


def _forms(annotation: Any, metadata: tuple[Any, ...] = ()) -> Forms:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner: list[Any] = []
        for mark in arguments[1:]:
            inner += mark.metadata if isinstance(mark, FieldInfo) else [mark]
        return _forms(arguments[0], (*inner, *metadata))
    if origin in (Union, types.UnionType):
        return tuple(form for part in arguments for form in _forms(part, metadata))
    if annotation is type(None):
        return ()
    if origin is Literal:
        return (Form("literal", arguments, (), metadata),)
    if origin is list:
        return (Form("list", list, (_forms(arguments[0]),), metadata),)
    if origin is tuple:
        return (Form("tuple", tuple, tuple(map(_forms, arguments)), metadata),)
    if origin is dict:
        return (Form("dict", dict, (_forms(arguments[1]),), metadata),)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (Form("section", annotation, (), metadata),)
    return (Form("scalar", annotation, (), metadata),)


def section_of(forms: Forms) -> type[Section] | None:
    """The section among the forms, or among the items of a list, if there is one."""
    for form in forms:
        if form.kind == "section":
            section: type[Section] = form.python
            return section
        if form.kind == "list" and (found := section_of(form.items[0])):
            return found
    return None


def choices(forms: Forms) -> list[Any]:
    """Every literal value that may be written."""
    return [value for form in forms if form.kind == "literal" for value in form.python]


def input_path(form: Form) -> InputPath | None:
    """The mark of a string that names files, if the form carries it."""
    return next((mark for mark in form.metadata if isinstance(mark, InputPath)), None)


def walk(
    section: type[Section] = Config, above: str = ""
) -> Iterator[tuple[str, str, type[Section]]]:
    """Every key of the schema as (dotted, name, section it stands in); list indices left out."""
    for name in section.model_fields:
        dotted = f"{above}{name}"
        yield dotted, name, section
        below = section_of(field_forms(section, name))
        if below is not None:
            yield from walk(below, f"{dotted}.")


def branch(forms: Forms, shape: str) -> Form | None:
    """The form that takes a value of this shape, if there is one."""
    return next((form for form in forms if form.shape == shape), None)


def below(form: Form | None, key: Any) -> Forms:
    """The forms of what stands at `key` inside a form; () where the schema knows nothing."""
    if form is None:
        return ()
    if form.kind == "section":
        return field_forms(form.python, key) if key in form.python.model_fields else ()
    return form.items[0] if form.items else ()


# ── in words ────────────────────────────────────────────────────────────────────────────────────


def expected(forms: Forms) -> str:
    """What a value should be, as words that follow "is not" ("a number from 0 to 1 or auto")."""
    words: list[str] = []
    for form in forms:
        if form.kind == "literal":
            words += [written(value) for value in form.python]
        else:
            words.append(_one(form))
    return _either(words)


def _one(form: Form) -> str:
    if form.kind == "section":
        return f"a mapping ({_few(list(form.python.model_fields))})"
    if form.kind == "list":
        items = form.items[0]
        if section_of(items):
            return f"a list of mappings ({_few(list(items[0].python.model_fields))})"
        each = expected(items)
        return f"a list of {'paths' if each == 'a path' else each}{_limits(form)}"
    if form.kind == "tuple":
        return f"a list of {len(form.items)} values: {', '.join(map(expected, form.items))}"
    if form.kind == "dict":
        values = form.items[0]
        of = "" if values[0].python is Any else f" of names to {expected(values)}"
        return f"a mapping{of}"
    if (mark := input_path(form)) is not None:
        return "a path or name" if mark.optional else "a path"
    name = next((getattr(m, "func", None) for m in form.metadata if hasattr(m, "func")), None)
    if name is not None:
        kind = "a size (64MB)" if "size" in name.__name__ else "a count (20000, 0.5B)"
        return kind + _limits(form)
    for mark in form.metadata:
        if isinstance(mark, Words):
            return mark.words
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if any(getattr(mark, "pattern", None) for mark in form.metadata):
        return "a name of letters, digits, '-', '_' and '.'"
    return plain.get(form.python, "a value") + _limits(form)


def _limits(form: Form) -> str:
    found: dict[str, Any] = {}
    for mark in form.metadata:
        if isinstance(mark, annotated_types.Interval):
            continue
        for name in ("ge", "gt", "le", "lt", "multiple_of", "min_length"):
            if (value := getattr(mark, name, None)) is not None:
                found[name] = value
    parts = []
    if found.get("min_length"):
        parts.append(
            "at least one" if found["min_length"] == 1 else f"at least {found['min_length']}"
        )
    if "ge" in found and "le" in found:
        parts.append(f"from {found['ge']:,} to {found['le']:,}")
    else:
        for name, word in (("ge", "or more"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
            if name in found:
                amount = f"{found[name]:,}" if found[name] < 2**53 else "2^63"
                parts.append(f"{amount} {word}" if name == "ge" else f"{word} {amount}")
    if "multiple_of" in found:
        parts.append(f"a multiple of {found['multiple_of']}")
    return f", {' and '.join(parts)}" if parts else ""


def written(value: Any) -> str:
    """A value as it stands in YAML, shortened; for use in a sentence."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _either(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _few(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 5 else [*names[:4], "…"])


# ── what was meant ──────────────────────────────────────────────────────────────────────────────


def nearest(word: Any, possible: Sequence[Any], cutoff: float = 0.6) -> Any | None:
    """The most similar of `possible` (difflib's ratio ≥ cutoff), or None."""
    from difflib import get_close_matches  # only wrong configs pay for it

    by_text = {_plain(value): value for value in possible}
    found = get_close_matches(_plain(word), by_text, n=1, cutoff=cutoff)
    return by_text[found[0]] if found else None


def _plain(value: Any) -> str:
    return written(value).lower().replace("-", "_").replace(" ", "_")


def suggest_key(
    key: Any, section: type[Section], above: str, schema: type[Section] = Config
) -> str:
    """The rest of the sentence after "no such key": what was meant, or where it belongs.

    above: dotted path of the section, indices left out, "" for the top level. schema: the whole.
    """
    names = list(section.model_fields)
    word = _plain(key)
    alias = _ELSEWHERE.get(word)
    here = nearest(key, names)
    if alias in names:
        return f"did you mean {alias}?"
    everywhere: dict[str, list[str]] = {}
    for dotted, name, _ in walk(schema):
        everywhere.setdefault(name, []).append(dotted.rpartition(".")[0] or "the top level")
    meant = next((name for name in (alias, word) if name in everywhere), None)
    if meant is not None:
        places = _closest(everywhere[meant], above)
        also = f", or did you mean {here}?" if here and nearest(key, names, 0.8) else ""
        what = "it" if meant == word else meant
        return f"{what} belongs under {_either(places)}{also}"
    if here:
        return f"did you mean {here}?"
    far = nearest(key, list(everywhere), 0.7)
    if far is not None:
        return f"did you mean {far}, under {_either(_closest(everywhere[far], above))}?"
    return f"the keys here are {', '.join(names)}"


def _closest(places: list[str], above: str) -> list[str]:
    """At most two sections that have the key, those within the section it was written in first."""

    def distance(place: str) -> tuple[bool, int]:
        return not f"{place}.".startswith(f"{above}."), place.count(".")

    return sorted(places, key=distance)[:2]
