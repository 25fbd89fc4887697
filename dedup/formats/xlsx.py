"""An Excel workbook → the rows of its sheets as documents.

In: a path and the source. Out: documents and failures, sheet by sheet. An id ends in the number of
the row, counted over all sheets; meta says which sheet and row that is. Values are those Excel
saved: a formula is its last result. Rows are streamed; only the table of shared strings is held.

The decision: a sheet's header is the first row in which almost every column is filled, because
sheets of public bodies open with a title, a date and a unit in merged cells. What stands above is a
failure each, so that nobody misses it silently.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

from configs.errors import missing_extra
from configs.schema import Source
from dedup.containers import Damaged, File
from dedup.formats import OLE, ZIP, table
from dedup.formats.compound import kind as kind_of_compound
from dedup.formats.packages import MEMBER_LIMIT, Package, opened
from dedup.records import RAW_BYTES, Document, Failure, Unusable

try:
    from openpyxl import load_workbook
except ImportError:
    raise missing_extra("openpyxl", "office") from None

SHEET_LIMIT = 4 << 30  # bytes of a sheet's XML, which is streamed
ROWS = 1 << 20  # Excel's own limit; a forged row number would count empty rows for years
HEADER = 0.8  # of the columns: what a header fills

warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """Documents and failures of a workbook. Raises Damaged where it breaks off."""
    try:
        with opened(file) as raw:
            yield from _workbook(raw, file.path, f"{source.name}/{file.name}", source)
    except Unusable as error:
        yield Failure(file.path, str(error))


def _workbook(file: BinaryIO, path: str, name: str, source: Source) -> Iterator[Document | Failure]:
    start = file.read(RAW_BYTES)
    file.seek(0)
    if start.startswith(OLE):
        raise Unusable(kind_of_compound(file))
    if not start.startswith(ZIP):
        html = (
            start.lstrip(b"\xef\xbb\xbf \t\r\n")
            .lower()
            .startswith((b"<html", b"<!doctype", b"<table"))
        )
        what = "an HTML page; set the source's format to html" if html else "no Excel workbook"
        raise Unusable(f"is {what} by its content")
    package = Package(file, "an Excel workbook")
    if "xl/workbook.xml" not in package.names:
        raise Unusable("is a zip file, but no Excel workbook")
    for part in package.names:
        limit = SHEET_LIMIT if part.startswith("xl/worksheets/") else MEMBER_LIMIT
        if part.endswith((".xml", ".rels")):
            package.refuse_doctypes(part, limit)
    file.seek(0)
    before, any_rows = 0, False
    for title, rows in _sheets(file):
        last = 0
        for number, item in _sheet(rows, title, before, path, name, source):
            any_rows, last = True, number
            if item is not None:
                yield item
        before += last
    if not any_rows:
        raise Unusable("holds no rows")


def _sheets(file: BinaryIO) -> Iterator[tuple[str, Iterator[list[str]]]]:
    try:
        book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except Exception as error:  # openpyxl raises whatever a broken part makes it stumble over
        raise Damaged(f"is no whole workbook ({error or type(error).__name__})") from None
    for sheet in book.worksheets:
        yield sheet.title, _rows(sheet)


def _rows(sheet: Any) -> Iterator[list[str]]:
    try:
        sheet.reset_dimensions()  # what a file says of its own size is often wrong
        for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
            if number > ROWS:
                raise Damaged(f"sheet {sheet.title} goes on after row {ROWS:,}")
            cells = [_string(value) for value in row]
            while cells and not cells[-1]:
                cells.pop()
            yield cells
    except Damaged:
        raise
    except Exception as error:
        raise Damaged(f"sheet {sheet.title} is broken ({error or type(error).__name__})") from None


def _string(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)


def _sheet(
    rows: Iterator[list[str]], title: str, before: int, path: str, name: str, source: Source
) -> Iterator[tuple[int, Document | Failure | None]]:
    """(row of the sheet, what it became); nothing for a sheet without any content."""
    damage: Damaged | None = None
    sample: list[list[str]] = []
    try:
        for row in islice(rows, table.SAMPLE_ROWS):
            sample.append(row)  # noqa: PERF402 (what comes before the damage counts)
    except Damaged as error:
        damage = error
    if not any(sample):
        if damage is not None:
            raise damage
        return
    above, width = _header(sample)
    try:
        plan = table.layout([_padded(row, width) for row in sample[above:]], source)
    except Unusable as error:
        yield len(sample), Failure(path, f"sheet {title} {error}", line=before + 1)
        return
    more: dict[str, object] = {"read_as": plan.told()}
    for number, row in enumerate(_chained(sample, rows, damage), 1):
        item: Document | Failure | None = None
        size = sum(len(cell.encode()) + 1 for cell in row)
        try:
            if number <= above and row:
                raise Unusable("stands above the header row")
            if number > above + plan.above:
                where = {"sheet": title, "row": number}
                item = table.document(
                    _padded(row, width), plan, f"{name}#{before + number}", size, where | more
                )
                more = {} if item is not None else more
        except Unusable as error:
            raw = "\t".join(row).encode()[:RAW_BYTES]
            message = f"sheet {title}, row {number}: {error}"
            item = Failure(path, message, line=before + number, raw=raw, size=size)
        yield number, item


def _chained(
    sample: list[list[str]], rows: Iterator[list[str]], damage: Damaged | None
) -> Iterator[list[str]]:
    yield from sample
    if damage is not None:
        raise damage
    yield from rows


def _header(sample: Sequence[Sequence[str]]) -> tuple[int, int]:
    """(rows above the header, columns of the table)."""
    width = max(map(len, sample))
    for number, row in enumerate(sample):
        if sum(map(bool, row)) >= HEADER * width:
            return number, width
    return next(number for number, row in enumerate(sample) if row), width


def _padded(row: list[str], width: int) -> list[str]:
    return row + [""] * (width - len(row))
