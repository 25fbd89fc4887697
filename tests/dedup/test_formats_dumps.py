"""Dumps and archives: Wikipedia, NIKL, AI-Hub, tar and zip, WET, preferences, nested Parquet, datasets."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from configs.schema import Dedup, Source
from dedup.formats import archives, wiki
from dedup.read import plan, read
from dedup.records import Failure

TEXT = "산 너머 마을에는 오래된 우물이 하나 있다. 여름이면 아이들이 그 둘레에 모여 앉았다."


def rows_of(path: Path | str, **more: Any) -> tuple[list[dict[str, Any]], list[Failure]]:
    limits = {key: more.pop(key) for key in ("shard", "max_record") if key in more}
    dedup = Dedup(sources=[Source(name="s", paths=[str(path)], **more)], **limits)
    batches = [batch for task in plan(dedup) for batch in read(task, dedup)]
    rows = [row for batch in batches for row in batch.batch.to_pylist()]
    return rows, [failure for batch in batches for failure in batch.failed]


# ── Wikipedia ───────────────────────────────────────────────────────────────────────────────────

MARKUP = """{{다른 뜻|서울역|역}}
{{수도 정보
|이름 = 서울
|그림 = [[파일:Seoul.jpg|300px]]
}}
'''서울특별시'''(서울特別市, {{llang|en|Seoul}})는 [[대한민국]]({{국기|KOR}})의 [[수도]]이자 [[도시|가장 큰 도시]]이다.<ref>출처</ref>
이름({{발음 듣기|a.ogg}}, )은 오래되었다.<ref name="x" />
[[파일:Han.jpg|섬네일|[[한강]]의 모습]]
== 역사 ==
조선의 도읍이었다.{{출처|날짜=2020}} 값은 3 &lt; 5이다.
* 첫째 항목
* 둘째 [http://example.kr 항목]
{| class="wikitable"
! 연도 !! 인구
|-
| 1949 || 1,446,019
|}
== 같이 보기 ==
{{위키공용}}
== 각주 ==
<references />
[[분류:서울특별시]]
"""  # fmt: skip


def page(number: int, title: str, text: str, ns: int = 0, extra: str = "") -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        f"  <page>\n    <title>{title}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n{extra}"
        f"    <revision>\n      <id>9{number}</id>\n"
        f'      <text bytes="9" xml:space="preserve">{text}</text>\n    </revision>\n  </page>\n'
    )


PAGES = [
    page(1, "서울특별시", MARKUP),
    page(2, "토론:서울", TEXT, ns=1),
    page(3, "서울", "#넘겨주기 [[서울특별시]]", extra='    <redirect title="서울특별시" />\n'),
    page(4, "우물", f"'''우물'''은 물을 긷는 곳이다. {TEXT}"),
]


def test_an_article_becomes_its_prose_without_references_tables_and_empty_brackets() -> None:
    text = wiki.plain(MARKUP)
    assert "서울특별시(서울特別市, Seoul)는 대한민국의 수도이자 가장 큰 도시이다." in text
    assert "이름은 오래되었다." in text
    assert "역사\n조선의 도읍이었다. 값은 3 < 5이다." in text
    assert "첫째 항목\n둘째 항목" in text
    for gone in (
        "출처",
        "1949",
        "섬네일",
        "각주",
        "같이 보기",
        "{{",
        "[[",
        "'''",
        "()",
        "분류",
        "|",
    ):
        assert gone not in text


def dump(folder: Path, pages: list[str], per_stream: int, name: str = "kowiki.xml.bz2") -> Path:
    streams = ["<mediawiki>\n  <siteinfo><sitename>위키백과</sitename></siteinfo>\n"]
    streams += ["".join(pages[at : at + per_stream]) for at in range(0, len(pages), per_stream)]
    streams.append("</mediawiki>\n")
    path = folder / name
    path.write_bytes(b"".join(bz2.compress(stream.encode()) for stream in streams))
    return path


def test_a_dump_gives_its_articles_and_neither_redirects_nor_talk(tmp_path: Path) -> None:
    rows, failed = rows_of(dump(tmp_path, PAGES, 2))
    assert [row["id"] for row in rows] == ["s/kowiki.xml.bz2#1", "s/kowiki.xml.bz2#4"]
    assert json.loads(rows[0]["meta"])["title"] == "서울특별시"
    assert not failed


@pytest.mark.parametrize("per_stream", [1, 3, 1000])
def test_a_multistream_dump_is_shared_out_with_the_same_articles(
    tmp_path: Path, per_stream: int
) -> None:
    rng = random.Random(1)
    pages = [page(n, f"글{n}", f"{TEXT} {rng.randbytes(300).hex()}") for n in range(1, 61)]
    path = dump(tmp_path, pages, per_stream)
    whole = rows_of(path)
    assert len(whole[0]) == 60
    for shard in (1000, 3000, 7001):
        assert rows_of(path, shard=shard) == whole


def test_pages_that_cross_streams_belong_to_the_share_they_begin_in(tmp_path: Path) -> None:
    rng = random.Random(2)
    pages = [page(n, f"글{n}", f"{TEXT} {rng.randbytes(200).hex()}") for n in range(1, 41)]
    data = ("<mediawiki>" + "".join(pages) + "</mediawiki>").encode()
    path = tmp_path / "a.xml.bz2"  # as pbzip2 writes: streams of a fixed size
    path.write_bytes(b"".join(bz2.compress(data[at : at + 333]) for at in range(0, len(data), 333)))
    whole = rows_of(path)
    assert len(whole[0]) == 40
    for shard in (1000, 1999, 5000):
        assert rows_of(path, shard=shard) == whole


def test_a_broken_page_is_one_failure_and_a_cut_dump_says_so(tmp_path: Path) -> None:
    broken = PAGES[3].replace("</revision>", "")
    path = tmp_path / "a.xml"
    path.write_text("<mediawiki>" + PAGES[0] + broken + PAGES[3].replace(">4<", ">5<"))
    rows, failed = rows_of(path)
    assert [row["id"][-1] for row in rows] == ["1", "5"]
    assert [failure.line for failure in failed] == [2]
    path.write_text("<mediawiki>" + PAGES[0] + PAGES[3][:-40])
    rows, failed = rows_of(path)
    assert len(rows) == 1
    assert "truncated after record 1" in failed[0].error


# ── NIKL, AI-Hub and other JSON ─────────────────────────────────────────────────────────────────


def nikl(documents: list[Any]) -> str:
    return json.dumps(
        {"id": "NWRW1", "metadata": {"title": "신문 {말뭉치} [2020]"}, "document": documents},
        ensure_ascii=False,
        indent=1,
    )


def test_written_nikl_corpora_are_read_paragraph_by_paragraph(tmp_path: Path) -> None:
    (tmp_path / "NWRW.json").write_text(
        nikl(
            [
                {
                    "id": "NWRW1.1",
                    "metadata": {"title": "우물", "topic": "사회"},
                    "paragraph": [{"id": "p1", "form": TEXT}, {"id": "p2", "form": '둘째 "문단".'}],
                },
                {"id": "NWRW1.2", "metadata": {}, "paragraph": []},
            ]
        )
    )
    rows, failed = rows_of(tmp_path)
    assert [(row["id"], row["text"]) for row in rows] == [("NWRW1.1", f'{TEXT}\n둘째 "문단".')]
    assert json.loads(rows[0]["meta"])["topic"] == "사회"
    assert [failure.line for failure in failed] == [2]


def test_spoken_nikl_corpora_become_dialogues_by_speaker(tmp_path: Path) -> None:
    def say(speaker: str, form: str) -> dict[str, str]:
        return {"id": "u", "form": form, "original_form": form, "speaker_id": speaker}

    two = [say("P1", "밥 먹었어?"), say("P2", "응."), say("P2", "너는?"), say("P1", "아직.")]
    three = [say("P1", "가."), say("P2", "나."), say("P3", "다.")]
    (tmp_path / "SDRW.json").write_text(
        nikl([{"id": "d1", "utterance": two}, {"id": "d2", "utterance": three}])
    )
    rows, failed = rows_of(tmp_path, format="nikl")
    assert not failed
    assert [(turn["role"], turn["text"]) for turn in rows[0]["segments"]] == [
        ("user", "밥 먹었어?"),
        ("assistant", "응. 너는?"),
        ("user", "아직."),
    ]
    assert (rows[1]["kind"], rows[1]["text"]) == ("text", "- 가.\n- 나.\n- 다.")


def test_a_big_json_file_is_read_record_by_record_whatever_stands_around(tmp_path: Path) -> None:
    records = [{"text": f'{n} {TEXT} \\ " ]}} {{['} for n in range(3000)]
    value = {"a": [1, {"data": [{"text": "not this"}]}], "data": [{"in": records}], "z": "]}"}
    (tmp_path / "a.json").write_text(json.dumps(value, ensure_ascii=False, indent=2))
    rows, failed = rows_of(tmp_path, fields={"records": "data[].in[]"})
    assert [row["text"] for row in rows] == [record["text"] for record in records]
    assert not failed
    (tmp_path / "a.json").write_text(json.dumps(records, ensure_ascii=False))
    assert rows_of(tmp_path)[0] == rows
    long = json.dumps([{"text": "긴 글 " * 5000}, records[0]], ensure_ascii=False)
    (tmp_path / "a.json").write_text(long)
    rows, failed = rows_of(tmp_path, max_record=10_000)
    assert [row["id"] for row in rows] == ["s/a.json#2"]
    assert "max_record" in failed[0].error


def test_bad_json_files_are_failures_that_keep_what_stands_before(tmp_path: Path) -> None:
    good = json.dumps({"text": TEXT}, ensure_ascii=False)
    for text, count in [
        (f"[{good}, {good}, ", 2),
        (f"[{good}, {{'a': 1}}, {good}]", 2),
        (f"[{good}, 5, {good}]", 2),
        (f"[{good} {good}]", 1),
        (f"[{good}] x", 1),
        ("[]", 0),
    ]:
        (tmp_path / "a.json").write_text(text)
        rows, failed = rows_of(tmp_path, format="json")
        assert (len(rows), len(failed)) == (count, 1), text


def test_an_aihub_zip_with_cp949_names_is_read_through_its_fields(tmp_path: Path) -> None:
    value = {"info": {"n": 1}, "documents": [
        {"id": "A1", "title": "우물", "text": [[{"index": 0, "sentence": TEXT}], [{"sentence": "끝."}]]},
    ]}  # fmt: skip
    path = tmp_path / "aihub.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("PLACEHOLDER.json")
        archive.writestr(info, json.dumps(value, ensure_ascii=False))
    name = "원천데이터.json".encode("cp949")
    assert len(name) == len("PLACEHOLDER.json") - 1
    path.write_bytes(path.read_bytes().replace(b"PLACEHOLDER.json", name.replace(b".", b"_.")))
    fields = {"records": "documents[]", "text": "text[][].sentence"}
    rows, failed = rows_of(path, fields=fields)
    assert not failed
    assert [(row["id"], row["text"]) for row in rows] == [("A1", f"{TEXT}\n끝.")]
    assert json.loads(rows[0]["meta"]) == {"title": "우물"}
    rows, _ = rows_of(path, fields={**fields, "id": "none"})
    assert rows[0]["id"] == "s/aihub.zip!원천데이터_.json#1"


# ── archives ────────────────────────────────────────────────────────────────────────────────────


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


LINE = json.dumps({"text": TEXT}, ensure_ascii=False).encode() + b"\n"
MEMBERS = {
    "쪽/a.html": f"<html><body><p>{TEXT}</p></body></html>".encode("cp949"),
    "b.txt": TEXT.encode(),
    "c.jsonl": LINE * 3,
    "d.jsonl.gz": gzip.compress(LINE * 2),
    "e.png": b"\x89PNG",
    "__MACOSX/b.txt": b"x",
    "f.zip": zip_of({"g.txt": TEXT.encode()}),
}


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.tgz", "a.zip"])
def test_members_of_archives_are_documents_under_their_names(tmp_path: Path, kind: str) -> None:
    data = zip_of(MEMBERS) if kind == "a.zip" else tar_of(MEMBERS)
    (tmp_path / kind).write_bytes(gzip.compress(data) if "gz" in kind else data)
    rows, failed = rows_of(tmp_path)
    assert not failed
    assert [row["id"].removeprefix(f"s/{kind}!") for row in rows] == [
        "쪽/a.html#1", "b.txt#1", "c.jsonl#1", "c.jsonl#2", "c.jsonl#3", "d.jsonl.gz#1",
        "d.jsonl.gz#2", "f.zip!g.txt#1",
    ]  # fmt: skip
    assert all(TEXT in row["text"] for row in rows)


def test_bombs_nested_archives_and_broken_members_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "ALLOWED", 2_000_000)
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({"a.txt": TEXT.encode(), "b.txt": bytes(9_000_000), "c.txt": b"c"}))
    rows, failed = rows_of(path)
    assert len(rows) == 1
    assert ["200 times" in failure.error for failure in failed] == [True]
    assert failed[0].path == f"{path}!b.txt"
    inner = zip_of({"a.txt": TEXT.encode()})
    for _ in range(4):
        inner = zip_of({"in.zip": inner})
    path.write_bytes(inner)
    rows, failed = rows_of(path)
    assert not rows
    assert "3 deep" in failed[0].error
    path.write_bytes(tar_of(MEMBERS)[:1600])
    (tmp_path / "b.tar").write_bytes(tar_of(MEMBERS)[:3000])
    (tmp_path / "c.zip").write_bytes(zip_of(MEMBERS)[:-30])
    for name in ("b.tar", "c.zip"):
        _, failed = rows_of(tmp_path / name)
        assert len(failed) == 1


# ── WET, preferences, Parquet, datasets ─────────────────────────────────────────────────────────


def test_a_wet_file_gives_its_conversion_records(tmp_path: Path) -> None:
    def record(kind: str, number: int, body: bytes) -> bytes:
        head = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://x.kr/{number}\r\n"
            "WARC-Date: 2024-01-02T03:04:05Z\r\nContent-Type: text/plain\r\n"
            "WARC-Identified-Content-Language: kor\r\n"
            f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012}>\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return gzip.compress(head.encode() + body + b"\r\n\r\n")

    data = record("warcinfo", 0, b"x") + record("conversion", 1, TEXT.encode())
    path = tmp_path / "CC-MAIN-0.warc.wet.gz"
    path.write_bytes(data + record("conversion", 2, b"\xff\xff") + record("conversion", 3, b" "))
    rows, failed = rows_of(tmp_path)
    assert [(row["id"], row["url"], row["text"]) for row in rows] == [
        ("s/CC-MAIN-0.warc.wet.gz#2", "http://x.kr/1", TEXT)
    ]
    assert [failure.line for failure in failed] == [3, 4]


def test_preferences_have_a_prompt_then_chosen_and_rejected(tmp_path: Path) -> None:
    def turns(*texts: str) -> list[dict[str, str]]:
        roles = ("user", "assistant") * 3
        return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]

    records: list[Any] = [
        {"prompt": "우물은?", "chosen": "물을 긷는 곳입니다.", "rejected": "몰라요."},
        {"chosen": turns("우물은?", "좋은 답"), "rejected": turns("우물은?", "나쁜 답")},
        {"prompt": "우물은?", "chosen": "같다", "rejected": "같다"},
        {"chosen": "답", "rejected": "다른 답"},
    ]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for form in ("auto", "preference"):
        rows, failed = rows_of(tmp_path / "a.jsonl", format=form)
        assert [row["kind"] for row in rows] == ["preference"] * 2
        assert [turn["role"] for turn in rows[1]["segments"]] == ["user", "chosen", "rejected"]
        assert [failure.line for failure in failed] == [3, 4]


def test_parquet_with_a_nested_text_is_split_by_row_groups(tmp_path: Path) -> None:
    texts: list[Any] = [f"{n} {TEXT}" for n in range(2000)]
    texts[7], texts[8], texts[9], texts[1500] = None, "  앞뒤 빈칸 \n", "", "a\x00b"
    docs = [{"text": text, "meta": {"url": f"http://x.kr/{n}"}} for n, text in enumerate(texts)]
    table = pa.table({"doc": docs, "score": [0.5] * 2000})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=150)
    fields = {"text": "doc.text"}
    whole = rows_of(path, fields=fields)
    assert len(whole[0]) == 1998
    assert whole[0][7]["id"] == "s/a.parquet#9"
    assert whole[0][7]["text"] == "앞뒤 빈칸"
    assert json.loads(whole[0][0]["meta"]) == {
        "doc": {"meta": {"url": "http://x.kr/0"}},
        "score": 0.5,
    }
    assert "ab" in {row["text"] for row in whole[0]}
    assert [failure.line for failure in whole[1]] == [8, 10]
    for shard in (1000, 4000, 20_000):
        assert rows_of(path, fields=fields, shard=shard) == whole


def test_parquet_strings_that_are_not_utf8_are_single_failures(tmp_path: Path) -> None:
    texts = pa.array([TEXT.encode(), b"\xff\xfe", TEXT.encode()], pa.binary()).cast(
        pa.string(), safe=False
    )
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    rows, failed = rows_of(tmp_path)
    assert [row["id"] for row in rows] == ["s/a.parquet#1", "s/a.parquet#3"]
    assert [failure.line for failure in failed] == [2]


def test_a_saved_data_set_and_a_folder_of_files_are_read_through_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"text": f"{n} {TEXT}", "n": n} for n in range(5)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    found, failed = rows_of(tmp_path / "saved", format="hub")
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert found[0]["id"] == "s/saved/00000#1"
    assert not failed
    (tmp_path / "files").mkdir()
    for part in range(2):
        (tmp_path / "files" / f"train-{part}.jsonl").write_bytes(LINE * 2)
    found, failed = rows_of(tmp_path / "files", format="hub")
    assert len({row["id"] for row in found}) == 4
    with pytest.raises(InputError) as error:
        rows_of("hf://datasets/nobody/nothing-here", format="hub")
    assert "cannot be loaded" in error.value.lines[0]
