"""Filters of a user's own, named in the config as `package.module:function`.

In: a name. Out: a function that takes an Arrow batch of normalised documents (columns id, kind, text,
segments, url, meta, record, quality) and gives a reason for each row that goes, None for one that
stays: a list or an Arrow array of strings, as long as the batch. It runs after the built-in filters, in every worker, so
it must be importable there and must not depend on what it saw before.

    import pyarrow as pa
    import pyarrow.compute as pc

    def no_minutes(batch: pa.RecordBatch) -> pa.Array:
        found = pc.match_substring(batch["text"], "회의록")
        return pc.if_else(found, "minutes", None)

    # dedup.custom_filters: [myfilters:no_minutes]

What it drops is counted and kept in the audit trail under its reason, as with every filter.

The decision: the module's source is an input of the stage like any data file (of a package all of its
modules), so an edited filter makes a finished stage run again and what was begun start anew. What the
module imports from elsewhere is not looked at: that would end in the whole of Python.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from configs.errors import InputError

KEY = "dedup.custom_filters"
Reasons = list[str | None]

_sources: dict[str, bytes] = {}
"""What each module's source was when it was imported here."""


def load_filter(name: str) -> Callable[[pa.RecordBatch], Reasons]:
    """The filter of that name, checked at every batch. Raises InputError where there is none.

    Modules are looked for where Python looks, and in the working directory; one that was edited since
    it was imported is imported again.
    """
    found, _ = _found(name)

    def checked(batch: pa.RecordBatch) -> Reasons:
        try:
            given: Any = found(batch)
        except Exception as error:
            raise InputError(
                f"{KEY}: {name} failed on a batch of {batch.num_rows} documents that begins with "
                f"{batch['id'][0]}: {type(error).__name__}: {error}"
            ) from error
        reasons = (
            given.to_pylist() if isinstance(given, pa.Array | pa.ChunkedArray) else list(given)
        )
        if len(reasons) != batch.num_rows or any(
            reason is not None and not isinstance(reason, str) for reason in reasons
        ):
            raise InputError(
                f"{KEY}: {name} must give a string or None for each of {batch.num_rows} documents, "
                f"gave {len(reasons)} of {', '.join(sorted({type(r).__name__ for r in reasons}))}"
            )
        return [reason or None for reason in reasons]

    return checked


def filter_files(names: Sequence[str]) -> list[Path]:
    """The source files of these filters, sorted; imports every one of them.

    Raises InputError with a line for each name that leads to no function.
    """
    files: set[Path] = set()
    mistakes: list[str] = []
    for name in names:
        try:
            files.update(_files(_found(name)[1]))
        except InputError as error:
            mistakes += error.lines
    if mistakes:
        raise InputError(mistakes)
    return sorted(files)


def code_digest(names: Sequence[str]) -> str:
    """Of the source of these filters, wherever the files lie. Raises InputError as `filter_files`."""
    digest = hashlib.sha256()
    for path in filter_files(names):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _found(name: str) -> tuple[Callable[[pa.RecordBatch], Any], ModuleType]:
    """The function of that name and its module."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"{KEY}: {name} is no package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    invalidate_caches()  # the file may be younger than Python's look at its folder
    try:
        imported = import_module(module)
        if _stale(imported):
            del sys.modules[module]  # reload() would keep what is no longer defined
            imported = import_module(module)
    except ImportError as error:
        raise InputError(f"{KEY}: {name}: cannot be imported: {error}") from None
    except Exception as error:
        raise InputError(
            f"{KEY}: {name}: fails when it is imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(imported, function, None)
    if found is None:
        raise InputError(f"{KEY}: {name}: {module} has no {function}")
    if not callable(found):
        raise InputError(f"{KEY}: {name}: is no function, but a {type(found).__name__}")
    return found, imported


def _stale(module: ModuleType) -> bool:
    """Whether a module's own file has changed since it was imported."""
    own = Path(module.__file__) if module.__file__ else None
    source = own.read_bytes() if own is not None and own.suffix == ".py" else b""
    before = _sources.get(module.__name__, source)
    _sources[module.__name__] = source
    return before != source


def _files(module: ModuleType) -> list[Path]:
    """The module's file; of a package, every module in it."""
    if module.__file__ is None:
        return []
    own = Path(module.__file__).resolve()
    return sorted(own.parent.rglob("*.py")) if own.name == "__init__.py" else [own]
