"""A task → Arrow batches of documents.

In: a `Task` of the plan. Out: batches with the columns id, kind, text, segments, url, meta, plus the
failures (what could not be read), the bytes that went in, and the forms that were found. Nothing is
dropped here: every record becomes a document or one `Failure`.

Ids are made here (`<source>/<relative path>#<record number>`) and depend only on the paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from configs.schema import Dedup
from dedup.batches import BATCH_SCHEMA, MAX_ROWS, MAX_TEXT, SEGMENTS, RawBatch, gather
from dedup.forms import Item, documents
from dedup.paths import source_root
from dedup.plan import Part, Task, file_of, plan

__all__ = [
    "BATCH_SCHEMA",
    "MAX_ROWS",
    "MAX_TEXT",
    "SEGMENTS",
    "Part",
    "RawBatch",
    "Task",
    "plan",
    "read",
]


def read(task: Task, dedup: Dedup) -> Iterator[RawBatch]:
    """The documents of a task, in order, in batches of at most 1,000 rows and 4 MB of text.

    Bad input never raises: it is in `failed`. A batch may hold no document, only failures. `forms`
    of each batch counts the files begun since the last one by what they were found to be.
    """
    forms: Counter[str] = Counter()
    for batch in gather(_items(task, dedup, lambda form: forms.update([form]))):
        batch.forms = dict(sorted(forms.items()))
        forms.clear()
        yield batch


def _items(task: Task, dedup: Dedup, told: Callable[[str], None]) -> Iterator[Item]:
    source = dedup.sources[task.source]
    root = source_root(source)
    for part in task.parts:
        heard = told if part.begin == 0 else None
        yield from documents(file_of(part, root, dedup.max_record), source, heard)
