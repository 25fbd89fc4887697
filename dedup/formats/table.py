"""Rows of cells → documents: what CSV files and spreadsheets have in common.

In: the first rows of a table and the source's `fields`. Out: a `Layout` (where the header is, which
columns make the text), and with it one document for each row, made as that of any other record.

The decision: where the source does not name its text column, the columns with the most Hangul are
taken, the richest one and every other that holds at least half as much a row. A guess is always
told: the first document's meta carries it under `read_as`. What the other columns hold is meta.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import Source
from dedup.records import Document, Unusable, document_of

SAMPLE_ROWS = 200
PROSE = 0.5  # of the richest column's Hangul a row: what a second text column must hold

_HANGUL = re.compile("[가-힣]")
_NUMBER = re.compile(r"\s*[-+]?[\d.,]*\d%?\s*")


@dataclass(frozen=True)
class Layout:
    """A table's columns and what they are for.

    above: rows over the first data row, header included; 0 where the table has no header. text: the
    columns that make the text, as indices, in that order; empty for pairs and preferences. guessed:
    nobody named them. others: every other column as (index, name, whether it counts when empty).
    source: the source with its fields as this table's columns are called.
    """

    columns: tuple[str, ...]
    above: int
    text: tuple[int, ...]
    guessed: bool
    others: tuple[tuple[int, str, bool], ...]
    source: Source

    @property
    def text_name(self) -> str:
        return " + ".join(self.columns[column] for column in self.text)

    def told(self) -> dict[str, str]:
        """What was decided, for meta."""
        if not self.text:
            return {"kind": self.source.format}
        return {"text": self.text_name, "chosen": "by its Hangul" if self.guessed else "by name"}


def layout(rows: Sequence[Sequence[str]], source: Source) -> Layout:
    """The layout of a table from its first rows. Raises Unusable with what to do."""
    filled = [row for row in rows if any(cell.strip() for cell in row)]
    if not filled:
        raise Unusable("holds no rows")
    width = _width(filled)
    first = next(number for number, row in enumerate(rows) if len(_trimmed(row, width)) == width)
    header = [cell.strip() for cell in _trimmed(rows[first], width)]
    if any(_NUMBER.fullmatch(cell) for cell in header) and not set(source.fields.values()) & set(
        header
    ):
        columns, above = tuple(f"column {number}" for number in range(1, width + 1)), first
    else:
        columns, above = _unique(header), first + 1

    fields = {
        field: columns[_column(selector, columns)]
        for field, selector in source.fields.items()
        if field != "text"
    }
    kind, guessed = source.format, False
    text: tuple[int, ...] = ()
    if "text" in source.fields:
        text = _columns(source.fields["text"], columns)
    elif kind in ("chat", "parallel", "preference"):
        pass
    elif all(fields.get(side, side) in columns for side in ("ko", "en")):
        kind = "parallel"
    elif all(fields.get(side, side) in columns for side in ("prompt", "chosen", "rejected")):
        kind = "preference"
    elif "text" in columns:
        text = (columns.index("text"),)
    else:
        taken = {fields.get(field, field) for field in ("id", "url", "title")}
        body = [row for row in rows[above:] if len(_trimmed(row, width)) == width]
        candidates = [column for column, name in enumerate(columns) if name not in taken]
        text, guessed = _prose(body, candidates), True
        if not text:
            raise Unusable(
                f"holds no column of text (its columns: {', '.join(columns[:8])}); "
                "name one in the source's fields: text"
            )
    if text:
        fields["text"] = " + ".join(columns[column] for column in text)
        kind = "csv"  # one text a row, whatever other columns there are
    renamed = source.model_copy(update={"fields": fields, "format": kind})
    others = tuple(
        (column, name, not text or name in fields.values())
        for column, name in enumerate(columns)
        if column not in text
    )
    return Layout(columns, above, text, guessed, others, renamed)


def document(
    cells: Sequence[str],
    layout: Layout,
    id: str,
    size: int,
    more: dict[str, object] | None = None,
) -> Document | None:
    """The document of one row; None for a row without any content. `more` goes into its meta.

    Raises Unusable for a row with too few or too many cells, and for one without text.
    """
    width = len(layout.columns)
    values = [cell.strip() for cell in cells]
    if not any(values):
        return None
    values = _trimmed(values, width)
    if len(values) != width:
        raise Unusable(f"has {len(values)} cells where the header has {width}")
    record: dict[str, object] = dict(more or {})
    for column, name, wanted in layout.others:
        if values[column] or wanted:
            record[name] = values[column]
    if layout.text:
        record[layout.text_name] = "\n\n".join(filter(None, (values[c] for c in layout.text)))
    return document_of(record, id, layout.source, size)


def _width(rows: Sequence[Sequence[str]]) -> int:
    """The number of columns most rows have; of two equally frequent ones the larger."""
    counts = Counter(len(row) for row in rows)
    return max(counts, key=lambda width: (counts[width], width))


def _trimmed(row: Sequence[str], width: int) -> list[str]:
    """The row without the empty cells that a trailing delimiter leaves behind its last column."""
    cells = list(row)
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    return cells


def _unique(header: Sequence[str]) -> tuple[str, ...]:
    names: list[str] = []
    for number, cell in enumerate(header, 1):
        name = cell or f"column {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return tuple(names)


def _column(selector: str, columns: tuple[str, ...]) -> int:
    """The column of a name, or of a number from 1."""
    name = selector.strip()
    if name in columns:
        return columns.index(name)
    if name.isdigit() and 1 <= int(name) <= len(columns):
        return int(name) - 1
    raise Unusable(
        f"has no column {name} (it has: {', '.join(columns[:8])}); name it in the source's fields"
    )


def _columns(selector: str, columns: tuple[str, ...]) -> tuple[int, ...]:
    """The columns of "제목+내용" or "제목, 내용"; a column that is called so goes first."""
    if selector.strip() in columns:
        return (columns.index(selector.strip()),)
    return tuple(_column(name, columns) for name in re.split(r"[+,]", selector) if name.strip())


def _prose(rows: Sequence[Sequence[str]], candidates: Sequence[int]) -> tuple[int, ...]:
    """Those of the columns that are richest in Hangul, or in letters where there is none."""
    for weight in (_hangul, _letters):
        amount = {column: sum(weight(row[column]) for row in rows) for column in candidates}
        most = max(amount.values(), default=0)
        if most:
            return tuple(column for column in candidates if amount[column] >= PROSE * most)
    return ()


def _hangul(cell: str) -> int:
    return len(_HANGUL.findall(cell))


def _letters(cell: str) -> int:
    return sum(map(str.isalpha, cell))
