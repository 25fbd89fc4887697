"""HWP 5 and HWPX: what stands on the page, in its order; what cannot be read is said by name."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from compound_file import compound_file

from configs.errors import InputError
from configs.schema import Source
from dedup.containers import File
from dedup.formats import READERS, SNIFF, compound, packages
from dedup.records import Document, Failure


def read(path: Path, form: str) -> list[Document | Failure]:
    return list(READERS[form](str(path), path.name, Source(name="s", paths=["."])))


def only(path: Path, form: str) -> Document:
    (item,) = read(path, form)
    assert isinstance(item, Document), item
    return item


def refused(path: Path, form: str) -> str:
    (item,) = read(path, form)
    assert isinstance(item, Failure)
    assert item.path == str(path)
    return item.error


# ── HWP 5 ───────────────────────────────────────────────────────────────────────────────────────


def record(tag: int, level: int, content: bytes) -> bytes:
    size = min(len(content), 0xFFF)
    header = struct.pack("<I", tag | level << 10 | size << 20)
    return header + (struct.pack("<I", len(content)) if size == 0xFFF else b"") + content


def paragraph(text: str | bytes, level: int = 0) -> bytes:
    units = text.encode("utf-16-le") if isinstance(text, str) else text
    return record(66, level, bytes(22)) + record(67, level + 1, units + b"\r\0")


def control(code: int, inside: bytes = b"abcdefghijkl") -> bytes:
    """A control that takes eight units; what stands in it looks like text."""
    return struct.pack("<H", code) + inside + struct.pack("<H", code)


def cell(level: int, column: int, row: int, lines: int) -> bytes:
    place = struct.pack("<HHIHHHHII8xH", lines, 0, 0, column, row, 1, 1, 100, 100, 1)
    return record(72, level, place)


def table_start(level: int, rows: int, columns: int) -> bytes:
    sizes = struct.pack(f"<IHH10x{rows}HHH", 0, rows, columns, *[columns] * rows, 1, 0)
    return record(71, level, b" lbt" + bytes(42)) + record(77, level + 1, sizes)


def table(level: int, rows: list[list[list[str]]]) -> bytes:
    out = table_start(level, len(rows), len(rows[0]))
    for row, cells in enumerate(rows):
        for column, lines in enumerate(cells):
            out += cell(level + 1, column, row, len(lines))
            out += b"".join(paragraph(line, level + 1) for line in lines)
    return out


def hwp(*sections: bytes, flags: int = 1, version: int = 0x05010100) -> bytes:
    header = b"HWP Document File".ljust(32, b"\0") + struct.pack("<II", version, flags)
    streams = {"FileHeader": header.ljust(256, b"\0"), "DocInfo": b""}
    for number, section in enumerate(sections):
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(section) + packer.flush() if flags & 1 else section
        streams[f"BodyText/Section{number}"] = packed
    return compound_file(streams)


def test_the_paragraphs_of_all_sections_come_in_order(tmp_path: Path) -> None:
    sections = [paragraph(f"{number}번째 구역의 첫 문단이다.") for number in range(12)]
    (tmp_path / "a.hwp").write_bytes(hwp(*sections))
    document = only(tmp_path / "a.hwp", "hwp")
    assert document.text.split("\n") == [
        f"{number}번째 구역의 첫 문단이다." for number in range(12)
    ]
    assert (document.id, document.kind) == ("s/a.hwp#1", "text")
    assert document.size == (tmp_path / "a.hwp").stat().st_size


def test_control_characters_are_skipped_with_all_that_belongs_to_them(tmp_path: Path) -> None:
    text = b"".join(
        [
            control(2), "똠방각하".encode("utf-16-le"), control(9), "펲시콜라".encode("utf-16-le"),
            b"\x0a\0", "한".encode("utf-16-le"), b"\x1e\0", "글".encode("utf-16-le"), b"\x18\0",
            control(11, "가나다라마바".encode("utf-16-le")), "𝒳끝".encode("utf-16-le"),
        ]
    )  # fmt: skip
    (tmp_path / "a.hwp").write_bytes(hwp(paragraph(text), flags=0))
    assert only(tmp_path / "a.hwp", "hwp").text == "똠방각하\t펲시콜라\n한 글-𝒳끝"


def test_a_table_follows_its_paragraph_row_by_row(tmp_path: Path) -> None:
    inner = [[["이름"], ["나이"]], [["솔이"], ["열둘"]]]
    body = (
        paragraph(control(11, b" lbt" + bytes(8)))
        + table(1, inner)
        + paragraph("표 다음에 오는 문단")
    )
    (tmp_path / "a.hwp").write_bytes(hwp(body))
    assert only(tmp_path / "a.hwp", "hwp").text == "이름 | 나이\n솔이 | 열둘\n표 다음에 오는 문단"


def test_a_page_laid_out_in_a_table_is_read_as_paragraphs(tmp_path: Path) -> None:
    nested = cell(2, 0, 0, 3)
    nested += paragraph("첫째 문단", 2) + paragraph(control(11), 2)
    nested += table(3, [[["가"], ["나"]]]) + paragraph("둘째 문단", 2)
    outer = table_start(1, 1, 1) + nested
    (tmp_path / "a.hwp").write_bytes(hwp(paragraph("머리") + outer + paragraph("꼬리")))
    assert only(tmp_path / "a.hwp", "hwp").text == "머리\n첫째 문단\n가 | 나\n둘째 문단\n꼬리"


def test_page_headers_footers_and_hidden_comments_are_left_out(tmp_path: Path) -> None:
    body = paragraph("본문의 첫 문단")
    for name in (b"daeh", b"toof", b"tmct"):
        body += record(71, 1, name + bytes(8)) + record(72, 2, bytes(20))
        body += paragraph("쪽마다 되풀이되는 말", 2)
    body += record(71, 1, b"  nf" + bytes(8)) + record(72, 2, bytes(20)) + paragraph("각주의 말", 2)
    (tmp_path / "a.hwp").write_bytes(hwp(body + paragraph("본문의 끝 문단")))
    assert only(tmp_path / "a.hwp", "hwp").text == "본문의 첫 문단\n각주의 말\n본문의 끝 문단"


def test_a_long_paragraph_has_its_size_in_the_next_word(tmp_path: Path) -> None:
    (tmp_path / "a.hwp").write_bytes(hwp(paragraph("긴 글이다. " * 2000)))
    assert len(only(tmp_path / "a.hwp", "hwp").text) == 7 * 2000 - 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (1 | 2, "password"),
        (1 | 4, "배포용"),
        (1 | 16, "DRM"),
        (1 | 256, "certificate"),
    ],
)
def test_a_locked_document_is_refused_by_the_name_of_its_lock(
    tmp_path: Path, flags: int, words: str
) -> None:
    (tmp_path / "a.hwp").write_bytes(hwp(paragraph("읽을 수 없는 글"), flags=flags))
    assert words in refused(tmp_path / "a.hwp", "hwp")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"HWP Document File V3.00 \x1a\x01\x02" + bytes(200), "HWP 3"),
        (compound_file({"WordDocument": b"x" * 50}), "Word 97"),
        (compound_file({"Workbook": b"x" * 5000}), "Excel 97"),
        (compound_file({"EncryptedPackage": b"x" * 50}), "password"),
        (compound_file({"Something": b"x"}), "unknown kind"),
        (hwp(paragraph("가"), version=0x06000000), "version 6"),
        (hwp(paragraph("   ")), "no text"),
        (hwp(), "no BodyText"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "compound file"),
        (b"%PDF-1.4 and more", "no HWP document"),
        (bytes(5000), "no HWP document"),
    ],
)
def test_what_is_no_hwp_5_document_is_said_to_be_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.hwp").write_bytes(content)
    assert words in refused(tmp_path / "a.hwp", "hwp")


def test_a_document_cut_anywhere_is_one_failure_and_never_a_crash(tmp_path: Path) -> None:
    whole = hwp(paragraph("가나다라 마바사 아자차카 타파하. " * 900), flags=0)
    assert len(whole) > 30_000
    for size in (9, 300, 512, 600, 5000, 20_000, len(whole) - 700, len(whole) - 100):
        (tmp_path / "a.hwp").write_bytes(whole[:size])
        for item in read(tmp_path / "a.hwp", "hwp"):
            assert isinstance(item, Failure)
    for tail in (b"\x43\x00\xf0\xff\xff\xff\xff\x7f", b"\x43"):  # records longer than the section
        (tmp_path / "a.hwp").write_bytes(hwp(paragraph("가") + tail))
        assert "in the middle of a record" in refused(tmp_path / "a.hwp", "hwp")


def test_a_section_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dedup.formats.hwp.MEMBER_LIMIT", 1 << 20)
    (tmp_path / "a.hwp").write_bytes(hwp(paragraph("가") + record(80, 0, bytes(2 << 20))))
    assert "more than 1 MiB" in refused(tmp_path / "a.hwp", "hwp")


def test_a_compressed_file_is_unpacked_first(tmp_path: Path) -> None:
    (tmp_path / "a.hwp.gz").write_bytes(gzip.compress(hwp(paragraph("눌러 담은 글"))))
    assert only(tmp_path / "a.hwp.gz", "hwp").text == "눌러 담은 글"


def test_a_member_of_an_archive_that_cannot_seek_is_spooled() -> None:
    class Pipe(io.BytesIO):
        def seek(self, *place: int) -> int:
            raise OSError("cannot seek")

    data = hwp(paragraph("자루 속의 글"))
    file = File("all.tar!a.hwp", "all.tar/a.hwp", lambda: Pipe(data))
    (document,) = READERS["hwp"](file, file.name, Source(name="s", paths=["."]))
    assert isinstance(document, Document)
    assert (document.id, document.text) == ("s/all.tar/a.hwp#1", "자루 속의 글")


def test_without_olefile_the_error_has_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.hwp").write_bytes(hwp(paragraph("가")))
    monkeypatch.setitem(sys.modules, "olefile", None)
    with pytest.raises(InputError, match=r"pip install 'malmoi\[office\]'"):
        compound.streams_of(io.BytesIO())
    with pytest.raises(InputError, match="olefile is not installed"):
        read(tmp_path / "a.hwp", "hwp")


def test_looking_at_the_formats_loads_no_library() -> None:
    program = (
        "import sys, dedup.formats\n"
        "print(*(m for m in ('openpyxl', 'olefile', 'numpy', 'pyarrow') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


# ── HWPX ────────────────────────────────────────────────────────────────────────────────────────

HP = "http://www.hancom.co.kr/hwpml/2011/paragraph"
CONTAINER = (
    '<ocf:container xmlns:ocf="urn:oasis:names:tc:opendocument:xmlns:container"><ocf:rootfiles>'
    '<ocf:rootfile full-path="Contents/content.hpf" media-type="application/hwpml-package+xml"/>'
    "</ocf:rootfiles></ocf:container>"
)


def section(*inner: str, before: str = "") -> str:
    body = "".join(inner)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}'
        f'<hs:sec xmlns:hs="http://www.hancom.co.kr/hwpml/2011/section" xmlns:hp="{HP}">{body}</hs:sec>'
    )


def p(*inner: str) -> str:
    return f"<hp:p>{''.join(f'<hp:run>{part}</hp:run>' for part in inner)}</hp:p>"


def t(text: str) -> str:
    return f"<hp:t>{text}</hp:t>"


def hwpx(
    *sections: str, more: dict[str, str] | None = None, order: list[int] | None = None
) -> bytes:
    items = "".join(
        f'<opf:item id="s{n}" href="Contents/section{n}.xml" media-type="application/xml"/>'
        for n in range(len(sections))
    )
    spine = "".join(f'<opf:itemref idref="s{n}"/>' for n in order or range(len(sections)))
    content = (
        '<opf:package xmlns:opf="http://www.idpf.org/2007/opf/"><opf:manifest>'
        '<opf:item id="header" href="Contents/header.xml" media-type="application/xml"/>'
        f'{items}</opf:manifest><opf:spine><opf:itemref idref="header"/>{spine}</opf:spine></opf:package>'
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("mimetype", "application/hwp+zip", zipfile.ZIP_STORED)
        package.writestr("META-INF/container.xml", CONTAINER)
        package.writestr("Contents/content.hpf", content)
        package.writestr("Contents/header.xml", "<head/>")
        for n, text in enumerate(sections):
            package.writestr(f"Contents/section{n}.xml", text)
        for name, text in (more or {}).items():
            package.writestr(name, text)
    return out.getvalue()


def test_the_sections_of_an_hwpx_come_in_the_order_of_its_spine(tmp_path: Path) -> None:
    texts = [section(p(t(f"{n}번째 구역."))) for n in range(11)]
    order = [0, 2, 1, *range(3, 11)]
    (tmp_path / "a.hwpx").write_bytes(hwpx(*texts, order=order))
    document = only(tmp_path / "a.hwpx", "hwpx")
    assert document.text.split("\n") == [f"{n}번째 구역." for n in order]
    assert document.id == "s/a.hwpx#1"


def test_runs_of_a_paragraph_are_one_line_with_its_breaks_and_tabs(tmp_path: Path) -> None:
    text = section(p(t("똠방"), t("각하<hp:tab/>펲&amp;햏<hp:lineBreak/>둘째 줄<hp:nbSpace/>끝")))
    (tmp_path / "a.hwpx").write_bytes(hwpx(text))
    assert only(tmp_path / "a.hwpx", "hwpx").text == "똠방각하\t펲&햏\n둘째 줄 끝"


def test_tables_notes_and_boxes_follow_their_paragraph_and_headers_do_not(tmp_path: Path) -> None:
    def cells(*texts: str) -> str:
        return "".join(f"<hp:tc><hp:subList>{p(t(text))}</hp:subList></hp:tc>" for text in texts)

    table = f"<hp:tbl><hp:tr>{cells('이름', '나이')}</hp:tr><hp:tr>{cells('솔이', '열둘')}</hp:tr></hp:tbl>"
    note = f"<hp:ctrl><hp:footNote><hp:subList>{p(t('각주의 말.'))}</hp:subList></hp:footNote></hp:ctrl>"
    head = f"<hp:ctrl><hp:header><hp:subList>{p(t('쪽 머리'))}</hp:subList></hp:header></hp:ctrl>"
    memo = (
        '<hp:ctrl><hp:fieldBegin type="MEMO"><hp:parameters><hp:stringParam>꾸밈</hp:stringParam>'
        f"</hp:parameters><hp:subList>{p(t('쪽지'))}</hp:subList></hp:fieldBegin></hp:ctrl>"
    )
    text = section(p(head, t("앞말과 "), note, memo, t("뒷말."), table), p(t("다음 문단.")))
    (tmp_path / "a.hwpx").write_bytes(hwpx(text))
    assert only(tmp_path / "a.hwpx", "hwpx").text.split("\n") == [
        "앞말과 뒷말.", "각주의 말.", "이름 | 나이", "솔이 | 열둘", "다음 문단.",
    ]  # fmt: skip


def test_an_encrypted_hwpx_is_refused_by_name(tmp_path: Path) -> None:
    manifest = (
        '<odf:manifest xmlns:odf="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
        '<odf:file-entry full-path="Contents/section0.xml"><odf:encryption-data/></odf:file-entry>'
        "</odf:manifest>"
    )
    (tmp_path / "a.hwpx").write_bytes(hwpx("\x01\x02", more={"META-INF/manifest.xml": manifest}))
    assert "password" in refused(tmp_path / "a.hwpx", "hwpx")


def test_entities_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("비밀")
    for before in (
        f'<!DOCTYPE sec [<!ENTITY x SYSTEM "file://{tmp_path}/secret.txt">]>',
        '<!DOCTYPE sec [<!ENTITY x "ㅋㅋㅋㅋ"><!ENTITY y "&x;&x;&x;&x;">]>',
        '<!DOCTYPE sec SYSTEM "http://127.0.0.1:1/x.dtd">',
    ):
        (tmp_path / "a.hwpx").write_bytes(hwpx(section(p(t("&x;")), before=before)))
        assert "document type" in refused(tmp_path / "a.hwpx", "hwpx")


def test_a_package_that_unpacks_without_end_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dedup.formats.hwpx.SECTIONS_LIMIT", 1 << 20)
    (tmp_path / "a.hwpx").write_bytes(hwpx(section(p(t("가" * (1 << 20))))))
    assert "would unpack" in refused(tmp_path / "a.hwpx", "hwpx")
    half = section(p(t("나" * 250_000)))  # each is under the limit, both together are not
    (tmp_path / "a.hwpx").write_bytes(hwpx(half, half))
    assert "section1" in refused(tmp_path / "a.hwpx", "hwpx")


def test_a_forged_size_gives_no_more_than_it_says(tmp_path: Path) -> None:
    whole = hwpx(section(p(t("가" * 100_000))))
    size = struct.pack("<I", len(section(p(t("가" * 100_000))).encode()))
    (tmp_path / "a.hwpx").write_bytes(whole.replace(size, struct.pack("<I", 500)))
    assert "section0.xml is broken" in refused(tmp_path / "a.hwpx", "hwpx")


def test_an_hwpx_cut_or_broken_anywhere_is_one_failure(tmp_path: Path) -> None:
    whole = hwpx(section(p(t("가나다라 마바사 아자차카 타파하. " * 900))))
    for size in (5, 100, 600, len(whole) - 300, len(whole) - 10):
        (tmp_path / "a.hwpx").write_bytes(whole[:size])
        assert "no whole zip" in refused(tmp_path / "a.hwpx", "hwpx")
    for text in (section(p(t("가")))[:-9], "", "<a>\0</a>"):
        (tmp_path / "a.hwpx").write_bytes(hwpx(text))
        assert "broken XML" in refused(tmp_path / "a.hwpx", "hwpx")
    (tmp_path / "a.hwpx").write_bytes(hwpx(section()))
    assert "no text" in refused(tmp_path / "a.hwpx", "hwpx")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        package.writestr("word/document.xml", "<a/>")
    (tmp_path / "a.hwpx").write_bytes(out.getvalue())
    assert "no HWPX" in refused(tmp_path / "a.hwpx", "hwpx")


def test_hwpx_under_the_name_of_hwp_and_the_other_way_round_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.hwp").write_bytes(hwpx(section(p(t("새 꼴의 글")))))
    (tmp_path / "a.hwpx").write_bytes(hwp(paragraph("옛 꼴의 글")))
    assert only(tmp_path / "a.hwp", "hwp").text == "새 꼴의 글"
    assert only(tmp_path / "a.hwpx", "hwpx").text == "옛 꼴의 글"


def test_the_first_bytes_tell_hwp_from_hwpx() -> None:
    def sniffed(content: bytes) -> str | None:
        return next((form for form, fits in SNIFF if fits(content[:4096])), None)

    assert sniffed(hwpx(section(p(t("가"))))) == "hwpx"
    assert sniffed(hwp(paragraph("가"))) == "hwp"
    assert sniffed(b"HWP Document File V3.00 \x1a") == "hwp"
    assert sniffed(b"\xea\xb0\x80 plain text") is None


def test_a_spooled_document_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "FILE_LIMIT", 1 << 20)
    (tmp_path / "a.hwp.gz").write_bytes(gzip.compress(bytes(3 << 20)))
    assert "more than 1 MiB" in refused(tmp_path / "a.hwp.gz", "hwp")
