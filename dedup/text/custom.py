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
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.errors import InputError

KEY = "dedup.custom_filters"
Reasons = list[str | None]


def load_filter(name: str) -> Callable[[pa.RecordBatch], Reasons]:
    """The filter of that name, checked at every batch. Raises InputError where there is none.

    Modules are looked for where Python looks, and in the working directory.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"{KEY}: {name} is no package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), function)
    except ImportError as error:
        raise InputError(f"{KEY}: {name}: cannot be imported: {error}") from None
    except AttributeError:
        raise InputError(f"{KEY}: {name}: {module} has no {function}") from None

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
