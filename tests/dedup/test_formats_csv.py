"""CSV and TSV: every line of a portal's export becomes a row or a failure that names it."""

from __future__ import annotations

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Source
from dedup.containers import Damaged
from dedup.formats import READERS, delimited
from dedup.formats.delimited import detect
from dedup.records import Document, Failure

LONG = "산 너머 마을에는 오래된 우물이 하나 있다. 여름이면 아이들이 그 둘레에 모여 앉았다."


def read(path: Path, **source: Any) -> tuple[list[Document], list[Failure]]:
    items = list(READERS["csv"](str(path), path.name, Source(name="s", paths=["."], **source)))
    documents = [item for item in items if isinstance(item, Document)]
    failures = [item for item in items if isinstance(item, Failure)]
    assert len(documents) + len(failures) == len(items)
    return documents, failures


def meta(document: Document) -> dict[str, Any]:
    return json.loads(document.meta or "{}")


PORTAL = (
    "연번,제목,내용,조회수\r\n"
    f'1,똠방각하 펲 햏,"{LONG}\n둘째 줄, 쉼표와 ""따옴표""",12\r\n'
    f"2,두번째,{LONG},\r\n"
)


@pytest.mark.parametrize(
    ("encoding", "mark", "said"),
    [
        ("cp949", b"", "cp949"),
        ("utf-8", b"", "utf-8"),
        ("utf-8", codecs.BOM_UTF8, "utf-8"),
        ("utf-16-le", codecs.BOM_UTF16_LE, "utf-16"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "utf-16"),
        ("utf-16-le", b"", "utf-16-le"),
    ],
)
def test_a_portals_file_reads_the_same_in_every_character_set(
    tmp_path: Path, encoding: str, mark: bytes, said: str
) -> None:
    (tmp_path / "a.csv").write_bytes(mark + PORTAL.encode(encoding))
    documents, failures = read(tmp_path / "a.csv", fields={"text": "제목+내용"})
    assert not failures
    assert documents[0].text == f'똠방각하 펲 햏\n\n{LONG}\n둘째 줄, 쉼표와 "따옴표"'
    assert [document.id for document in documents] == ["s/a.csv#2", "s/a.csv#4"]
    told = meta(documents[0])
    assert (told["연번"], told["조회수"]) == ("1", "12")
    assert told["read_as"] == {
        "text": "제목 + 내용", "chosen": "by name", "charset": said, "delimiter": ",",
    }  # fmt: skip
    assert meta(documents[1]) == {"연번": "2"}


def test_without_a_named_column_the_one_with_most_hangul_is_taken_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(PORTAL.encode("cp949"))
    documents, _ = read(tmp_path / "a.csv")
    assert documents[1].text == LONG
    assert meta(documents[0])["read_as"]["text"] == "내용"
    assert meta(documents[0])["read_as"]["chosen"] == "by its Hangul"
    assert meta(documents[0])["제목"] == "똠방각하 펲 햏"


def test_two_columns_of_prose_are_both_text(tmp_path: Path) -> None:
    rows = "".join(f"{n},질문 {LONG},{LONG} 답변\n" for n in range(5))
    (tmp_path / "a.csv").write_text("번호,질문,답변\n" + rows)
    documents, _ = read(tmp_path / "a.csv")
    assert documents[0].text == f"질문 {LONG}\n\n{LONG} 답변"


def test_title_id_and_url_columns_go_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"key,link,제목,내용\nk7,http://x.kr/1,우물,{LONG}\n")
    fields = {"id": "key", "url": "link", "title": "제목", "text": "4"}
    (document,), _ = read(tmp_path / "a.csv", fields=fields)
    assert (document.id, document.url) == ("k7", "http://x.kr/1")
    assert document.text == f"우물\n\n{LONG}"


def test_a_wrong_column_name_is_one_failure_that_lists_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(PORTAL)
    documents, (failure,) = read(tmp_path / "a.csv", fields={"text": "본문"})
    assert not documents
    assert "no column 본문 (it has: 연번, 제목, 내용, 조회수)" in failure.error


def test_columns_of_a_preference_make_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected\n묻는 말,{LONG},짧은 답\n")
    (document,), _ = read(tmp_path / "a.csv")
    assert document.kind == "preference"
    assert "read_as" in meta(document)


def test_columns_called_ko_and_en_make_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\tko\ten\n1\t우물이다\tIt is a well\n2\t\tnothing\n")
    (document,), (failure,) = read(tmp_path / "a.tsv")
    assert document.kind == "parallel"
    assert document.segments == [("ko", "우물이다"), ("en", "It is a well")]
    assert (failure.line, failure.error) == (3, "field ko is empty")


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    rows = [["번호", "내용"], *([str(n), f'"하나, 둘; 셋 {LONG}"'] for n in range(4))]
    text = "".join(delimiter.join(row) + "\n" for row in rows)
    (tmp_path / "a.csv").write_text(text)
    documents, failures = read(tmp_path / "a.csv")
    assert [document.text for document in documents] == [f"하나, 둘; 셋 {LONG}"] * 4
    assert not failures


def test_between_tabs_quotes_that_are_not_closed_mean_themselves(tmp_path: Path) -> None:
    rows = ["번호\t문장", '1\t"하하"하고 웃었다', '2\t"가자, 이제', "3\t끝이다"]
    (tmp_path / "a.tsv").write_text("\n".join(rows))
    documents, failures = read(tmp_path / "a.tsv")
    assert [document.text for document in documents] == [
        '"하하"하고 웃었다',
        '"가자, 이제',
        "끝이다",
    ]
    assert not failures
    assert detect('a\t"b\nc"\nd\t"e"\n').quoting == 0  # csv.QUOTE_MINIMAL


def test_one_column_of_prose_is_not_cut_at_its_commas(tmp_path: Path) -> None:
    lines = ["text", "하나, 둘, 셋", "넷", "다섯, 여섯", f"{LONG}"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    documents, failures = read(tmp_path / "a.csv")
    assert [document.text for document in documents] == lines[1:]
    assert not failures


def test_a_title_over_the_table_is_a_failure_and_the_header_is_found_below(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"우물 현황\n\n번호,내용\n1,{LONG}\n2,{LONG}\n,\n\n")
    documents, failures = read(tmp_path / "a.csv")
    assert [document.id for document in documents] == ["s/a.csv#4", "s/a.csv#5"]
    assert [(f.line, f.error) for f in failures] == [(1, "stands above the header row")]


def test_a_table_without_a_header_loses_no_row(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(f"0\t첫째 {LONG}\n1\t둘째 {LONG}\n")
    documents, _ = read(tmp_path / "a.tsv")
    assert len(documents) == 2
    assert meta(documents[1]) == {"column 1": "1"}
    documents, _ = read(tmp_path / "a.tsv", fields={"text": "2"})
    assert documents[0].text == f"첫째 {LONG}"


def test_ragged_empty_and_broken_rows_are_one_failure_each_with_their_line(tmp_path: Path) -> None:
    rows = [
        "번호,제목,내용",
        f"1,가,{LONG}",
        "2,짧다",
        f"3,나,{LONG},넷,다섯",
        "4,다,",
        f'5,"라"마,{LONG}',
        f"6,바,{LONG},,",
    ]
    body = "\n".join(rows).encode() + b"\n7,\xff\xfe\xfd," + LONG.encode() + b"\n"
    body += f"8,사,{LONG}\x00끝\n".encode()
    (tmp_path / "a.csv").write_bytes(body)
    documents, failures = read(tmp_path / "a.csv", fields={"text": "내용"})
    assert [document.id[-1] for document in documents] == ["2", "7", "9"]
    assert documents[-1].text == f"{LONG}끝"
    assert [failure.line for failure in failures] == [3, 4, 5, 6, 8]
    for failure, words in zip(
        failures,
        ["has 2 cells", "has 5 cells", "내용 is empty", "well-formed", "not utf-8 (byte 2"],
        strict=True,
    ):
        assert words in failure.error
    assert failures[0].raw == "2,짧다\n".encode()


def test_a_quote_that_is_never_closed_swallows_only_its_own_line(tmp_path: Path) -> None:
    rows = [f"{n},제목 {n},{LONG}\n" for n in range(2000)]
    rows[700] = f'700,"제목 700,{LONG}\n'
    rows[1500] = f'1500,"제목 1500,{LONG}\n'
    (tmp_path / "a.csv").write_text("번호,제목,내용\n" + "".join(rows))
    documents, failures = read(tmp_path / "a.csv", fields={"text": "내용"})
    assert len(documents) == 1998
    assert [failure.line for failure in failures] == [702, 1502]
    assert all("not closed" in failure.error for failure in failures)


def test_a_row_without_end_is_cut_at_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "ROW_LIMIT", 10_000)
    rows = [f"{n},{LONG}\n" for n in range(3000)]
    rows[2000] = f'2000,"{LONG}\n'
    (tmp_path / "a.csv").write_text("번호,내용\n" + "".join(rows))
    documents, (failure,) = read(tmp_path / "a.csv")
    assert len(documents) == 2999
    assert failure.line == 2002


def test_the_character_set_is_fixed_by_the_first_line_that_is_not_ascii(tmp_path: Path) -> None:
    ascii_rows = "".join(f"{n},plain words only {n}\n" for n in range(20_000))
    assert len(ascii_rows) > delimited.SAMPLE
    tail = "7,똠방각하 이야기\n8,째\n"  # "째" alone is valid UTF-8 in CP949
    (tmp_path / "a.csv").write_bytes(("no,text\n" + ascii_rows + tail).encode("cp949"))
    documents, failures = read(tmp_path / "a.csv")
    assert [document.text for document in documents[-2:]] == ["똠방각하 이야기", "째"]
    assert not failures


def test_a_truncated_file_gives_its_rows_and_then_says_so(tmp_path: Path) -> None:
    rows = "".join(f"{n},{LONG} {n * 7919 % 1000}\n" for n in range(20_000))
    whole = gzip.compress(f"번호,내용\n{rows}".encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    reader = READERS["csv"](str(tmp_path / "a.csv.gz"), "a.csv.gz", Source(name="s", paths=["."]))
    found = []
    with pytest.raises(Damaged):
        for item in reader:
            found.append(item)  # noqa: PERF402
    assert len(found) > 5000
    assert all(isinstance(item, Document) for item in found[:-1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "Office"),
        (b"\r\n<html><table><tr><td>1</td></tr></table>", "HTML"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
        (bytes(range(256)) * 40, "binary"),
        (b"\n\n\n", "no rows"),
        (b"1,2\n3,4\n", "no column of text"),
        (b"a,b\rc,d\r", "carriage return"),
    ],
)
def test_what_is_no_table_of_text_is_said_to_be_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    documents, (failure,) = read(tmp_path / "a.csv")
    assert not documents
    assert words in failure.error


def test_the_real_sets_read_without_a_failure(shared_data: Path) -> None:
    expected = {"kor-nlu/sts-dev.tsv": 1500, "question_pair/kor_Pair_test.csv": 688,
                "korean-hate-speech/dev.tsv": 471}  # fmt: skip
    for name, least in expected.items():
        path = shared_data / "eval_ko" / name
        documents, failures = read(path)
        assert len(documents) >= least, name
        assert not failures, (name, failures[0])
