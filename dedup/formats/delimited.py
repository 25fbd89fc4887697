"""A CSV or TSV file → its rows as documents.

In: a path and the source. Out: documents and failures; an id ends in the number of the line on
which the row starts. Character set, delimiter and quoting are found in the first 256 kB, then the
file is read line by line: memory holds one row.

Decisions. Bytes are split into lines before they are decoded: no second byte of CP949 is a comma, a
quote, a tab, a bar or a newline. Quoting is strict, and where a cell's quote is never closed it
does not swallow all that follows: a row that goes wrong over several lines is given back line by
line if most of them are whole rows by themselves. Every line that was lost is in a failure, by its
number.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from configs.schema import Source
from dedup import containers
from dedup.containers import Damaged, File
from dedup.formats import OLE, ZIP, table
from dedup.formats.charset import SAMPLE, Line, Lines, charset
from dedup.records import RAW_BYTES, Document, Failure, Unusable

ROW_LIMIT = 4_000_000  # bytes of one row, its line breaks included
DELIMITERS = (",", "\t", ";", "|")

_ONE_COLUMN = "\x1f"
_OTHERS: dict[bytes, str] = {
    ZIP: "is a zip archive (.xlsx, .zip) by its content",
    OLE: "is an old Office or HWP document by its content",
    b"%PDF": "is a PDF by its content",
    b"\x89PNG": "is a picture by its content",
    b"\xff\xd8\xff": "is a picture by its content",
}


@dataclass(frozen=True)
class Dialect:
    """How cells are told apart; `delimiter` is no character of text for one column."""

    delimiter: str
    quoting: Literal[0, 3]

    def rows(self, lines: Iterable[str], *, strict: bool = True) -> Iterator[list[str]]:
        csv.field_size_limit(1 << 30)
        return csv.reader(lines, delimiter=self.delimiter, quoting=self.quoting, strict=strict)


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """Documents and failures of a CSV or TSV file."""
    head = containers.head(file, SAMPLE)
    try:
        _refuse_others(head)
        encoding, sample = charset(head, source)
        if "\r" in sample and "\n" not in sample:
            raise Unusable("ends its lines in a carriage return alone; save it with new-lines")
        dialect = detect(sample, containers.bare_suffix(file.path))
        first = list(dialect.rows(_with_ends(sample), strict=False))
        if len(head) == SAMPLE and len(first) > 1:
            first.pop()  # it may be cut
        plan = table.layout(first[: table.SAMPLE_ROWS], source)
    except Unusable as error:
        yield Failure(file.path, str(error), raw=head[:RAW_BYTES], size=len(head))
        return
    told = {**plan.told(), "charset": encoding}
    if dialect.delimiter != _ONE_COLUMN:
        told["delimiter"] = dialect.delimiter
    more: dict[str, object] | None = {"read_as": told}
    above = plan.above
    for line, raw, cells in rows(Lines(file, encoding), dialect, len(plan.columns)):
        try:
            if isinstance(cells, str):
                raise Unusable(cells)
            if above:
                above -= 1
                if above and any(cell.strip() for cell in cells):
                    raise Unusable("stands above the header row")
                continue
            item = table.document(cells, plan, f"{source.name}/{file.name}#{line}", len(raw), more)
            if item is not None:
                more = None
                yield item
        except Unusable as error:
            yield Failure(file.path, str(error), line=line, raw=raw[:RAW_BYTES], size=len(raw))


# ── what the file is like ───────────────────────────────────────────────────────────────────────


def _refuse_others(head: bytes) -> None:
    """Raises Unusable for a file that is no table of text at all."""
    for mark, message in _OTHERS.items():
        if head.startswith(mark):
            raise Unusable(f"{message}, not CSV; set the source's format")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<table")):
        raise Unusable("is an HTML page by its content, not CSV; set the source's format to html")


def detect(sample: str, suffix: str = "") -> Dialect:
    """Delimiter and quoting of a file's first lines: those with which most rows are equally long.

    They must make half of the rows alike; nine of ten, at least three, where a title stands over
    the first such row; else there is one column. Between tabs a quote opens a cell only if all of the
    sample's quotes that could do so are also closed; else quotes mean themselves.
    """
    best: tuple[bool, float, int, str] | None = None
    for delimiter in ("\t",) if suffix == ".tsv" else DELIMITERS:
        found = list(_dialect(sample, delimiter).rows(_with_ends(sample), strict=False))
        found = [row for row in found[:-1] or found if any(row)]
        if not found:
            continue
        counts = Counter(map(len, found))
        width = max(counts, key=lambda size: (counts[size], size))
        first = next(number for number, row in enumerate(found) if len(row) == width)
        share = counts[width] / (len(found) - first)
        enough = share >= 0.5 if first == 0 else share >= 0.9 and counts[width] >= 3
        if width > 1 and enough:
            best = max(best or (False, 0.0, 0, ""), (first == 0, share, width, delimiter))
    return _dialect(sample, best[3] if best else _ONE_COLUMN)


def _dialect(sample: str, delimiter: str) -> Dialect:
    quoted = Dialect(delimiter, csv.QUOTE_MINIMAL)
    if delimiter != "\t":
        return quoted
    plain = Dialect(delimiter, csv.QUOTE_NONE)
    if not sample.startswith('"') and '\t"' not in sample and '\n"' not in sample:
        return plain
    try:
        widths = {len(row) for row in quoted.rows(_with_ends(sample[: sample.rfind("\n") + 1]))}
    except csv.Error:
        return plain
    return quoted if len(widths - {0}) == 1 else plain


def _with_ends(sample: str) -> list[str]:
    return [f"{line}\n" for line in sample.removesuffix("\n").replace("\r", " ").split("\n")]


# ── row by row ──────────────────────────────────────────────────────────────────────────────────


class _Taken:
    """Decoded lines for csv.reader; `lines` are those of the row that it is at."""

    def __init__(self, source: Lines) -> None:
        self._source = source
        self._size = 0
        self.lines: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._size > ROW_LIMIT:
            raise csv.Error(f"a row of more than {ROW_LIMIT:,} bytes; is a quote not closed?")
        line = next(self._source)
        self.lines.append(line)
        self._size += line.size
        return self._source.text(line) + "\n"

    def next_row(self) -> None:
        self.lines, self._size = [], 0


def rows(
    lines: Lines, dialect: Dialect, width: int
) -> Iterator[tuple[int, bytes, list[str] | str]]:
    """(line it starts on, its bytes, its cells or what is wrong with it) of every row.

    width: cells that a whole row has. Raises Damaged after the last row of a damaged file.
    """
    taken = _Taken(lines)
    reader = dialect.rows(taken)
    while True:
        taken.next_row()
        cells: list[str] | str
        damage: Damaged | None = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except Unusable as error:
            cells = str(error)
        except csv.Error as error:
            cells = f"is not well-formed CSV ({error})"
        except Damaged as error:
            cells, damage = "ends in the middle", error
        row = taken.lines
        wrong = isinstance(cells, str) or len(cells) != width
        if wrong and len(row) > 1 and _are_rows(row[1:], lines, dialect, width):
            lines.back(row[1:])
            row, damage = row[:1], None
            cells = "opens a quote that is not closed; the lines after it are read as rows again"
        if row:
            raw = b"\n".join(line.raw for line in row) + b"\n"
            if isinstance(cells, str) and len(row) > 1:
                cells += f" (lines {row[0].number} to {row[-1].number})"
            yield row[0].number, raw, cells
        if damage is not None:
            raise damage


def _are_rows(rest: list[Line], lines: Lines, dialect: Dialect, width: int) -> bool:
    """Whether most of these lines are whole rows of the table, each for itself."""
    if width < 2:
        return False
    whole = 0
    for line in rest:
        try:
            alone = list(dialect.rows([lines.text(line) + "\n"]))
        except (csv.Error, Unusable):
            continue
        whole += len(alone) == 1 and len(alone[0]) == width
    return 2 * whole > len(rest)
