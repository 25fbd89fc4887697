"""Evaluation files: what `dedup.decontaminate` names → the files it means, and the texts in them.

In: paths, folders or globs. Out: files, and per file its items, each with its place: cells of CSV and
TSV, all strings of JSON and JSONL, lines of text. Apart from the search itself (`decontaminate.py`),
so that the files can be listed and digested without a compiler being loaded.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson

from configs.errors import InputError
from dedup.containers import bare_suffix, content
from dedup.extract import decode


def evaluation_files(paths: Sequence[str]) -> list[str]:
    """Every file the paths mean. Raises InputError with a line for each that matches nothing."""
    found, mistakes = found_files(paths)
    if mistakes:
        raise InputError(mistakes)
    return found


def found_files(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files, in the order given, folders and globs sorted, none twice; and the mistakes."""
    found: dict[str, None] = {}
    mistakes: list[str] = []
    for pattern in paths:
        matches = _files(pattern)
        if not matches:
            mistakes.append(
                f"dedup.decontaminate: {pattern} matches no file; name JSON, JSONL, CSV, TSV or "
                "text files"
            )
        found.update(dict.fromkeys(matches))
    return list(found), mistakes


def _files(pattern: str) -> list[str]:
    path = Path(pattern)
    if path.is_dir():
        return sorted(
            str(file)
            for file in path.rglob("*")
            if file.is_file() and not file.name.startswith((".", "LICENSE", "README"))
        )
    if path.is_file():
        return [str(path)]
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (the pattern may be absolute)
    return sorted(path for path in found if Path(path).is_file())


def evaluation_items(path: str) -> Iterator[tuple[str, str]]:
    """(where it stands, its text) of each item of a file.

    Raises Damaged, OSError, ValueError or csv.Error where the file cannot be read.
    """
    name, suffix = Path(path).name, bare_suffix(path)
    text, _ = decode(content(path))
    if suffix == ".json":
        yield from _strings(orjson.loads(text), name)
    elif suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield from _strings(orjson.loads(line), f"{name}#{number}")
    elif suffix in (".csv", ".tsv"):
        csv.field_size_limit(1 << 30)
        quoting: Literal[0, 3] = csv.QUOTE_NONE if suffix == ".tsv" else csv.QUOTE_MINIMAL
        delimiter = "\t" if suffix == ".tsv" else ","
        for number, row in enumerate(
            csv.reader(text.splitlines(), delimiter=delimiter, quoting=quoting), 1
        ):
            for cell in row:
                yield f"{name}#{number}", cell
    else:
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{name}#{number}", line


def _strings(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{where}.{key}" if "#" in where else f"{where}#{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value, 1):
            yield from _strings(inner, f"{where}#{number}" if "#" not in where else where)
