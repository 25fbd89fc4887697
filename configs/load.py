"""A YAML file and `key=value` overrides → a validated `Config`, or every mistake at once.

In: a path, or the name of a recipe in this package. Out: a frozen `Config` whose paths are
absolute. All mistakes are collected before anything is said, each as `file:line:column: key: what
is wrong; what was meant`. Relative paths in a file start at the file's folder, so a config can be
run from anywhere; those of an override start where the person stands. One exception: a bundled
recipe brings only the sample along, so what does not lie beside it is looked for in the working
directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from yaml.nodes import Node

from configs.errors import InputError
from configs.keys import Form, Forms, below, branch, input_path, nearest, written
from configs.mistakes import Mistake, mistakes
from configs.overrides import Override, apply
from configs.schema import Config, Section
from configs.yaml12 import KeyPath, Problem, compose, construct, emit, position

PACKAGE = Path(__file__).resolve().parent
SCHEMA_FILE = PACKAGE / "schema.json"

Read = TypeVar("Read", bound=Section)


def recipes() -> dict[str, Path]:
    """Name → file of every recipe in the package."""
    return {path.stem: path for path in sorted(PACKAGE.glob("*.yaml"))}


def load(source: str, overrides: Sequence[str] = ()) -> Config:
    """The config in the file `source` (or the bundled recipe of that name), overrides applied.

    overrides: `a.b.c=value`, list items by number (`pretrain.phases.0.lr=1e-4`), values as YAML.
    Raises InputError with one line per mistake; the files that a config names are not looked at.
    """
    file, label = find_file(
        source,
        recipes(),
        what="config",
        one="recipe",
        hint="; `malmoi init` writes a config to start from",
    )
    node, data, problems = parse(file, label)
    if data is None:
        raise InputError(f"{label}:1:1: the file is empty; `malmoi init` writes one to start from")
    if not isinstance(data, dict):
        raise InputError(
            f"{label}:1:1: {written(data)!r} is not a config; write keys and values (name: my-run)"
        )
    return checked(Config, data, node, problems, file, label, overrides)


def parse(file: Path, label: str) -> tuple[Node | None, Any, list[Problem]]:
    """A YAML file → its nodes, its plain value, and what is wrong in the text itself.

    label: what mistakes call the file. Raises InputError where it is no UTF-8 or no YAML.
    """
    node = compose(read_text(file, label), label)
    problems: list[Problem] = []
    return node, construct(node, problems), problems


def checked(
    schema: type[Read],
    data: dict[Any, Any],
    node: Node | None,
    problems: Sequence[Problem],
    file: Path,
    label: str,
    overrides: Sequence[str] = (),
) -> Read:
    """What `parse` read, as a `schema` with absolute paths; InputError with every mistake."""
    told: list[tuple[Place, str]] = [
        ((0, p.line, p.column, f"{label}:{p.line}:{p.column}"), f"{p.key}: {p.message}")
        for p in problems
    ]
    refused: list[str] = []
    applied: list[Override] = []
    for text in overrides:
        try:
            applied.append(apply(text, data))
        except InputError as error:
            refused += error.lines
    root = (Form("section", schema),)
    data = _with_absolute_paths(data, root, (), file.absolute().parent, applied)
    config = None
    try:
        config = schema.model_validate(data)
    except ValidationError as error:
        told += _told(data, error, label, node, applied, schema)
    if config is None or told or refused:
        raise InputError([f"{place[3]}: {what}" for place, what in sorted(told)] + refused)
    return config


def dump(config: Config) -> str:
    """The config as YAML with every default written out; `load` reads it back as an equal one."""
    return (
        f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
        "# Written by malmoi: the whole config of this run, defaults included, paths absolute.\n"
        + emit(config.model_dump(mode="json"))
    )


def run_folder(config: Config) -> Path:
    """Where the run lies: `dir`, or runs/<name> in the working directory."""
    return Path(config.dir).expanduser() if config.dir else Path("runs") / config.name


# ── finding and reading ─────────────────────────────────────────────────────────────────────────


def find_file(
    source: str, bundled: Mapping[str, Path], *, what: str, one: str, hint: str
) -> tuple[Path, str]:
    """A path, or the name of a file that comes with the package → (file, what mistakes call it).

    what: what the file should be ("config"); one: what a bundled one is called ("recipe"); hint: what
    the message ends with. Raises InputError where there is none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path, source
    name = source.removesuffix(".yaml")
    if name in bundled:
        file = bundled[name]
        return file, os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    if path.is_dir():
        inside = sorted(path.glob("*.y*ml"))
        meant = f"did you mean {inside[0]}?" if inside else "name a YAML file"
        raise InputError(f"{source}: is a folder, not a {what}; {meant}")
    beside = []
    if path.parent.is_dir():
        beside = [str(file) for file in sorted(path.parent.glob("*.y*ml"))]
    near = nearest(source, beside) or nearest(path.stem, list(bundled))
    meant = f"did you mean {near}? " if near else ""
    raise InputError(
        f"{source}: no such file, and no bundled {one} has this name; {meant}"
        f"The {one}s are {', '.join(bundled)}{hint}"
    )


def read_text(file: Path, label: str) -> str:
    """The file's text; InputError where it cannot be read or is no UTF-8."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise InputError(f"{label}: cannot be read ({error.strerror})") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        start = raw.rfind(b"\n", 0, error.start) + 1
        column = len(raw[start : error.start].decode("utf-8", "replace")) + 1
        try:
            raw.decode("cp949")
            hint = "it looks like CP949: save it as UTF-8"
        except UnicodeDecodeError:
            hint = "save it as UTF-8"
        raise InputError(
            f"{label}:{line}:{column}: the byte 0x{raw[error.start]:02X} is not UTF-8; {hint}"
        ) from None


# ── paths ───────────────────────────────────────────────────────────────────────────────────────


def _with_absolute_paths(
    value: Any, forms: Forms, path: KeyPath, folder: Path, applied: list[Override]
) -> Any:
    if isinstance(value, dict):
        form = branch(forms, "mapping")
        return {
            key: _with_absolute_paths(item, below(form, key), (*path, key), folder, applied)
            for key, item in value.items()
        }
    if isinstance(value, list):
        form = branch(forms, "list")
        return [
            _with_absolute_paths(item, below(form, index), (*path, index), folder, applied)
            for index, item in enumerate(value)
        ]
    if isinstance(value, str):
        mark = next((mark for form in forms if (mark := input_path(form))), None)
        literal = any(form.kind == "literal" and value in form.python for form in forms)
        if mark is not None and value and not literal and "://" not in value:
            overridden = any(path[: len(o.path)] == o.path for o in applied)
            return _absolute(value, Path.cwd() if overridden else folder, mark.optional)
    return value


def _absolute(value: str, folder: Path, optional: bool) -> str:
    written_out = os.path.normpath(folder / Path(value).expanduser())
    there = os.path.lexists(_without_glob(written_out))
    if optional and not there and not value.startswith(("./", "../", "/", "~")):
        return value
    if folder.resolve() == PACKAGE and not (PACKAGE / Path(value).parts[0]).exists():
        return os.path.normpath(Path.cwd() / value)
    return written_out


def _without_glob(path: str) -> str:
    """The part of a path before its first wildcard: data/ko/*.jsonl → data/ko."""
    plain = takewhile(lambda part: not set("*?[") & set(part), Path(path).parts)
    return str(Path(*plain))


# ── telling ─────────────────────────────────────────────────────────────────────────────────────

Place = tuple[int, int, int, str]  # file before overrides, line or number, column, as written


def _told(
    data: dict[Any, Any],
    error: ValidationError,
    label: str,
    node: Node | None,
    applied: list[Override],
    schema: type[Section],
) -> list[tuple[Place, str]]:
    told = []
    for mistake in mistakes(data, error, schema):
        place = _place(mistake, label, node, applied)
        key = ".".join(map(str, mistake.path))
        told.append((place, f"{key}: {mistake.message}" if key else mistake.message))
    return told


def _place(mistake: Mistake, label: str, node: Node | None, applied: list[Override]) -> Place:
    """The override a key came from, else its place in the file, else that of what holds it."""
    path = mistake.path
    numbered = list(enumerate(applied))[::-1]
    for number, override in numbered:
        # Keys that do not go together: the override that set one of them is what changed.
        depth = min(len(path), len(override.path)) if mistake.across else len(override.path)
        if path[:depth] == override.path[:depth] and depth:
            return 1, number, 0, f"override {override.text!r}"
    for length in range(len(path), -1, -1):
        at = position(node, path[:length])
        if at is None:
            for number, override in numbered:
                if length and override.path[:length] == path[:length]:
                    return 1, number, 0, f"override {override.text!r}"
        if at is not None:
            return 0, *at, f"{label}:{at[0]}:{at[1]}"
    return 0, 1, 1, f"{label}:1:1"


# ── what a stage's output depends on ────────────────────────────────────────────────────────────


def output_keys(config: Config, stage: str) -> dict[str, Any]:
    """The part of the config that decides what a stage writes, as plain JSON values.

    stage: dedup, tokenizer or pretrain. Keys marked `affects_output: False` in the schema
    (workers, checkpoints, …) are left out, so changing them never makes a stage run again.
    """
    return {"seed": config.seed, stage: _outputs(getattr(config, stage))}


def _outputs(value: Any) -> Any:
    if isinstance(value, Section):
        kept = {}
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("affects_output") is False:
                continue
            below = _outputs(getattr(value, name))
            if not (isinstance(getattr(value, name), Section) and below == {}):
                kept[name] = below
        return kept
    if isinstance(value, list | tuple):
        return [_outputs(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _outputs(item) for key, item in value.items()}
    return value


def changed_keys(old: Any, new: Any, above: str = "") -> list[str]:
    """Dotted keys in which two results of `output_keys` differ, in the order of `new`.

    One that is missing is one that is null: a key that the program has learned since, left out.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*new, *(name for name in old if name not in new)]
        return [
            key
            for name in names
            for key in changed_keys(old.get(name), new.get(name), f"{above}{name}.")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            key
            for index, (before, after) in enumerate(zip(old, new, strict=True))
            for key in changed_keys(before, after, f"{above}{index}.")
        ]
    return [] if old == new and type(old) is type(new) else [above.rstrip(".")]
