"""Excel workbooks: the rows of every sheet, whatever stands over them, and no bomb."""

from __future__ import annotations

import datetime
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from compound_file import compound_file
from openpyxl import Workbook

from configs.errors import InputError
from configs.schema import Source
from dedup.containers import Damaged
from dedup.formats import READERS, SNIFF, table
from dedup.records import Document, Failure

LONG = "산 너머 마을에는 오래된 우물이 하나 있다. 여름이면 아이들이 그 둘레에 모여 앉았다."


def read(path: Path, **source: Any) -> tuple[list[Document], list[Failure]]:
    items = list(READERS["xlsx"](str(path), path.name, Source(name="s", paths=["."], **source)))
    return (
        [item for item in items if isinstance(item, Document)],
        [item for item in items if isinstance(item, Failure)],
    )


def meta(document: Document) -> dict[str, Any]:
    return json.loads(document.meta or "{}")


def save(path: Path, sheets: dict[str, list[list[Any]]], merge: str | None = None) -> bytes:
    book = Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    if merge:
        book.worksheets[0].merge_cells(merge)
    book.save(path)
    return path.read_bytes()


def rewrite(data: bytes, part: str, change: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", 8) as new:
        assert part in old.namelist()
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == part else old.read(name))
    return out.getvalue()


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def as_excel_writes(strings: list[str]) -> bytes:
    """One column; the strings in a table of their own, as Excel (but not openpyxl) keeps them."""
    shared = "".join(
        f"<si><r><t>{text[:2]}</t></r><r><t>{text[2:]}</t></r></si>" for text in strings
    )
    cells = "".join(
        f'<row r="{n}"><c r="A{n}" t="s"><v>{n - 1}</v></c></row>'
        for n in range(1, len(strings) + 1)
    )
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{KIND}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{KIND}.worksheet+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{KIND}.sharedStrings+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{RELATIONS}"><Relationship Id="r1" '
        f'Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>'
        '<sheet name="글" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{RELATIONS}">'
        f'<Relationship Id="r1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="r2" Type="{OFFICE}/sharedStrings" Target="sharedStrings.xml"/>'
        "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{MAIN}"><dimension ref="A1"/>'
        f"<sheetData>{cells}</sheetData></worksheet>",
        "xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">{shared}</sst>',
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name, text in parts.items():
            package.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)
    return out.getvalue()


def test_shared_strings_are_read_and_a_wrong_dimension_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(as_excel_writes(["내용", f"똠펲햏 {LONG}", LONG]))
    documents, failures = read(tmp_path / "a.xlsx")
    assert [document.text for document in documents] == [f"똠펲햏 {LONG}", LONG]
    assert not failures


def test_rows_of_all_sheets_are_documents_under_the_title_of_their_sheet(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 3, 1)
    first = [["민원 현황"], ["(2024. 3.)", None, None], ["번호", "제목", "내용", "등록일"]]
    first += [[n, f"제목 {n}", f"{LONG} {n}", day] for n in range(3)]
    second = [["번호", "답변"], [1.5, f"둘째 장 {LONG}"], [None, None], [2, f"끝 {LONG}"]]
    save(tmp_path / "a.xlsx", {"민원": first, "빈 장": [], "답변": second}, merge="A1:D1")
    documents, failures = read(tmp_path / "a.xlsx")
    assert [document.id for document in documents] == [f"s/a.xlsx#{n}" for n in (4, 5, 6, 8, 10)]
    assert documents[0].text == f"{LONG} 0"
    told = meta(documents[0])
    assert told.pop("read_as") == {"text": "내용", "chosen": "by its Hangul"}
    assert told == {
        "번호": "0", "제목": "제목 0", "등록일": "2024-03-01", "sheet": "민원", "row": 4,
    }  # fmt: skip
    assert documents[3].text == f"둘째 장 {LONG}"
    assert meta(documents[4])["row"] == 4
    assert [(failure.line, failure.error) for failure in failures] == [
        (1, "sheet 민원, row 1: stands above the header row"),
        (2, "sheet 민원, row 2: stands above the header row"),
    ]


def test_named_columns_are_joined_and_a_sheet_without_them_is_one_failure(tmp_path: Path) -> None:
    good = [["제목", "내용"], ["우물", LONG], ["", LONG], ["빈 글", None]]
    save(tmp_path / "a.xlsx", {"글": good, "수": [["해", "수"], [2024, 3]]})
    documents, failures = read(tmp_path / "a.xlsx", fields={"text": "제목+내용"})
    assert [document.text for document in documents] == [f"우물\n\n{LONG}", LONG, "빈 글"]
    assert len(failures) == 1
    assert "sheet 수 has no column 제목 (it has: 해, 수)" in failures[0].error


def test_rows_are_streamed_beyond_the_sample(tmp_path: Path) -> None:
    count = table.SAMPLE_ROWS * 3
    save(tmp_path / "a.xlsx", {"글": [["내용"], *([f"{LONG} {n}"] for n in range(count))]})
    documents, failures = read(tmp_path / "a.xlsx")
    assert len(documents) == count
    assert not failures


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (compound_file({"EncryptedPackage": b"x" * 90, "EncryptionInfo": b"x"}), "password"),
        (compound_file({"Workbook": b"x" * 90}), ".xls"),
        (b"<html><table><tr><td>1</td></tr></table></html>", "HTML"),
        (b"a,b\n1,2\n", "no Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "compound file"),
        (bytes(300), "no Excel workbook"),
    ],
)
def test_what_is_no_workbook_is_said_to_be_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.xlsx").write_bytes(content)
    try:
        documents, (failure,) = read(tmp_path / "a.xlsx")
        assert not documents
        assert words in failure.error
    except Damaged as error:
        assert words in str(error)


def test_a_workbook_cut_anywhere_is_damaged_and_never_a_crash(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.xlsx", {"글": [["내용"], *([f"{LONG} {n}"] for n in range(99))]})
    for size in (5, 300, len(whole) // 2, len(whole) - 20):
        (tmp_path / "a.xlsx").write_bytes(whole[:size])
        with pytest.raises(Damaged, match="no whole zip"):
            read(tmp_path / "a.xlsx")


def test_rows_before_a_broken_place_are_kept(tmp_path: Path) -> None:
    rows = [["내용"], *([f"{LONG} {n}"] for n in range(5000))]
    whole = save(tmp_path / "a.xlsx", {"글": rows})
    part = "xl/worksheets/sheet1.xml"
    (tmp_path / "a.xlsx").write_bytes(rewrite(whole, part, lambda xml: xml[: len(xml) // 2]))
    found = []
    reader = READERS["xlsx"](str(tmp_path / "a.xlsx"), "a.xlsx", Source(name="s", paths=["."]))
    with pytest.raises(Damaged, match="sheet 글 is broken"):
        for item in reader:
            found.append(item)  # noqa: PERF402
    assert len(found) > 1000


@pytest.mark.parametrize("part", ["xl/sharedStrings.xml", "xl/worksheets/sheet1.xml"])
def test_a_workbook_that_unpacks_without_end_is_refused(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dedup.formats.xlsx.MEMBER_LIMIT", 1 << 20)
    monkeypatch.setattr("dedup.formats.xlsx.SHEET_LIMIT", 1 << 20)
    whole = as_excel_writes(["내용", LONG])
    bomb = rewrite(whole, part, lambda xml: xml + b" " * (2 << 20))
    assert len(bomb) < 20_000
    (tmp_path / "a.xlsx").write_bytes(bomb)
    documents, (failure,) = read(tmp_path / "a.xlsx")
    assert not documents
    assert f"its part {part} would unpack" in failure.error


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    whole = as_excel_writes(["내용", LONG])
    doctype = b'<!DOCTYPE sst [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'

    def declare(xml: bytes) -> bytes:
        head, mark, rest = xml.partition(b"<sst")
        return head + doctype + mark + rest

    (tmp_path / "a.xlsx").write_bytes(rewrite(whole, "xl/sharedStrings.xml", declare))
    _, (failure,) = read(tmp_path / "a.xlsx")
    assert "document type" in failure.error


def test_a_forged_row_number_does_not_count_empty_rows_for_years(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dedup.formats.xlsx.ROWS", 5000)
    whole = save(tmp_path / "a.xlsx", {"글": [["내용"], [LONG], [LONG]]})
    forged = rewrite(
        whole, "xl/worksheets/sheet1.xml", lambda xml: xml.replace(b'r="3"', b'r="999999999"')
    )
    (tmp_path / "a.xlsx").write_bytes(forged)
    with pytest.raises(Damaged, match="goes on after row 5,000"):
        read(tmp_path / "a.xlsx")


def test_without_openpyxl_the_error_has_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.xlsx", {"글": [["내용"], [LONG]]})
    monkeypatch.delitem(sys.modules, "dedup.formats.xlsx", raising=False)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install 'malmoi\[office\]'"):
        read(tmp_path / "a.xlsx")


def test_the_first_bytes_tell_a_workbook_from_another_zip(tmp_path: Path) -> None:
    def sniffed(content: bytes) -> str | None:
        return next((form for form, fits in SNIFF if fits(content[:4096])), None)

    assert sniffed(save(tmp_path / "a.xlsx", {"글": [["내용"]]})) == "xlsx"
    assert sniffed(as_excel_writes(["내용"])) == "xlsx"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        package.writestr("word/document.xml", "<a/>")
    assert sniffed(out.getvalue()) is None
