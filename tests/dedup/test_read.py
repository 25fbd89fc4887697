"""Reading: every record becomes a document or one counted failure, in an order that never changes."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.errors import InputError
from configs.schema import Dedup, Source
from dedup.read import BATCH_SCHEMA, RawBatch, plan, read
from dedup.records import Failure

TEXT = "산 너머 마을에는 오래된 우물이 하나 있다. 여름이면 아이들이 그 둘레에 모여 앉았다."


def one(folder: Path, *paths: str, **source: Any) -> Dedup:
    return Dedup(
        sources=[Source(name="s", paths=[str(folder / path) for path in paths], **source)],
        shard=source.pop("shard", 64_000_000),
    )


def everything(dedup: Dedup) -> tuple[list[dict[str, Any]], list[Failure]]:
    batches = [batch for task in plan(dedup) for batch in read(task, dedup)]
    assert all(batch.batch.schema == BATCH_SCHEMA for batch in batches)
    return (
        [row for batch in batches for row in batch.batch.to_pylist()],
        [failure for batch in batches for failure in batch.failed],
    )


def jsonl(records: list[Any]) -> bytes:
    return b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in records)


def numbered(count: int) -> bytes:
    return jsonl([{"text": f"{number}번째 글. {TEXT * 20}"} for number in range(count)])


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_a_jsonl_file_reads_the_same_under_every_compression(
    tmp_path: Path, suffix: str, pack: Any
) -> None:
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(numbered(3)) + pack(numbered(2)))
    rows, failed = everything(one(tmp_path, "*.jsonl*"))
    assert [row["id"] for row in rows] == [f"s/a.jsonl{suffix}#{n}" for n in range(1, 6)]
    assert rows[4]["text"].startswith("1번째 글.")
    assert not failed


def test_ids_urls_and_other_fields_are_taken_from_the_record(tmp_path: Path) -> None:
    record = {"doc": {"key": 7, "body": TEXT}, "link": "http://x.kr/1", "topic": "우물"}
    (tmp_path / "a.jsonl").write_bytes(jsonl([record]))
    fields = {"text": "doc.body", "id": "doc.key", "url": "link"}
    rows, _ = everything(one(tmp_path, "a.jsonl", fields=fields))
    assert (rows[0]["id"], rows[0]["url"], rows[0]["text"]) == ("7", "http://x.kr/1", TEXT)
    assert json.loads(rows[0]["meta"])["topic"] == "우물"


def test_every_bad_line_is_one_failure_with_its_number_and_raw_bytes(tmp_path: Path) -> None:
    good = jsonl([{"text": TEXT}])
    bad = [
        b'{"text": "cut in the mid',
        b'{"title": "no text"}',
        b'{"text": 5}',
        b'{"text": "   "}',
        b'{"text": "' + TEXT.encode()[:-2] + b'"}',
        b'{"text": "\\ud800 alone"}',
        b'["a list"]',
        b'{"text": "' + b"x" * 9000,
    ]
    (tmp_path / "a.jsonl").write_bytes(good + b"\n".join(bad) + b"\n\n" + good)
    rows, failed = everything(one(tmp_path, "a.jsonl"))
    assert len(rows) == 2
    assert [failure.line for failure in failed] == list(range(2, 10))
    assert failed[0].raw == bad[0]
    assert len(failed[-1].raw) == 4096
    for failure, word in zip(
        failed,
        ["not JSON", "no field text", "not a string", "empty", "invalid UTF-8", "JSON", "object"],
        strict=False,
    ):
        assert word in failure.error


def test_nul_bytes_are_stripped_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl([{"text": f"가\x00나 {TEXT}"}]))
    rows, failed = everything(one(tmp_path, "a.jsonl"))
    assert rows[0]["text"] == f"가나 {TEXT}"
    assert not failed


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.warc.gz"])
def test_what_stands_before_the_damage_is_read_and_the_rest_is_one_failure(
    tmp_path: Path, name: str
) -> None:
    if name.endswith(".parquet"):
        texts = [f"{number} {TEXT}" for number in range(50)]
        pq.write_table(pa.table({"text": texts}), tmp_path / name)
    elif name.endswith(".warc.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"".join(map(response, range(50)))))
    else:
        # incompressible filler, and small frames, so that a half of the file is half the records
        lines = [jsonl([{"text": TEXT, "noise": random_hex(n)}]) for n in range(50)]
        pack = gzip.compress if name.endswith(".gz") else zstandard.ZstdCompressor().compress
        (tmp_path / name).write_bytes(b"".join(pack(line) for line in lines))
    whole, failed = everything(one(tmp_path, name))
    assert (len(whole), len(failed)) == (50, 0)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    rows, failed = everything(one(tmp_path, name))
    assert len(failed) == 1
    if name.endswith(".parquet"):
        assert rows == []
        assert "truncated before its first record" in failed[0].error
    else:
        assert 10 < len(rows) < 50
        assert [row["text"] for row in rows] == [row["text"] for row in whole[: len(rows)]]
        assert "truncated after record" in failed[0].error


def test_a_corrupt_file_and_an_empty_one_leave_the_others_readable(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"this was never zstd")
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.jsonl").write_bytes(jsonl([{"text": TEXT}]))
    rows, failed = everything(one(tmp_path, "*"))
    assert [row["id"] for row in rows] == ["s/c.jsonl#1"]
    assert [Path(failure.path).name for failure in failed] == ["a.jsonl.zst", "b.jsonl"]
    assert failed[1].error == "empty file"


def test_auto_tells_dialogues_and_pairs_by_their_fields(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "안녕?"},
        {"role": "assistant", "content": "네, 안녕하세요."},
    ]
    shared = [{"from": "human", "value": "몇 시야?"}, {"from": "gpt", "value": "세 시예요."}]
    pair = {"ko": "비가 온다.", "en": "It rains."}
    (tmp_path / "a.jsonl").write_bytes(
        jsonl([{"messages": turns}, {"conversations": shared}, pair, {"text": TEXT}])
    )
    rows, failed = everything(one(tmp_path, "a.jsonl"))
    assert [row["kind"] for row in rows] == ["chat", "chat", "parallel", "text"]
    assert rows[0]["text"] == "안녕?\n네, 안녕하세요."
    assert rows[1]["segments"][1] == {"role": "assistant", "text": "세 시예요."}
    assert [segment["role"] for segment in rows[2]["segments"]] == ["ko", "en"]
    assert rows[3]["segments"] is None
    assert not failed


def test_a_dialogue_with_an_unknown_role_or_an_empty_turn_is_a_failure(tmp_path: Path) -> None:
    bad_role = {"messages": [{"role": "tool", "content": "x"}]}
    empty = {"messages": [{"role": "user", "content": " "}]}
    (tmp_path / "a.jsonl").write_bytes(jsonl([bad_role, empty, {"messages": []}]))
    rows, failed = everything(one(tmp_path, "a.jsonl", format="chat"))
    assert not rows
    assert [failure.line for failure in failed] == [1, 2, 3]
    assert "'tool'" in failed[0].error


def test_text_and_html_files_are_one_document_each_in_their_own_charset(tmp_path: Path) -> None:
    page = f"<html><head><title>우물</title></head><body><p>{TEXT}</p><p>{TEXT[::-1]}</p></body>"
    (tmp_path / "a.html").write_bytes(page.encode("cp949"))
    (tmp_path / "b.txt").write_bytes(TEXT.encode("cp949"))
    (tmp_path / "c.txt").write_bytes(TEXT.encode("utf-8"))
    (tmp_path / "d.txt").write_bytes(bytes(range(256)) * 4)
    rows, failed = everything(one(tmp_path, "."))
    assert [row["id"] for row in rows] == ["s/a.html#1", "s/b.txt#1", "s/c.txt#1"]
    assert TEXT in rows[0]["text"]
    assert rows[1]["text"] == rows[2]["text"] == TEXT
    assert [Path(failure.path).name for failure in failed] == ["d.txt"]


def response(number: int, body: bytes | None = None, status: str = "200 OK") -> bytes:
    page = (
        f"<html><body><p>{number}번째 쪽이다. {TEXT}</p><!-- {random_hex(number)} --></body></html>"
    )
    payload = page.encode() if body is None else body
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    content = head.encode() + payload
    fields = [
        "WARC/1.0",
        "WARC-Type: response",
        f"WARC-Target-URI: http://example.kr/{number}",
        "WARC-Date: 2024-01-02T03:04:05Z",
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012}>",
        "Content-Type: application/http; msgtype=response",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join(fields).encode() + b"\r\n\r\n" + content + b"\r\n\r\n"


def random_hex(number: int) -> str:
    return random.Random(number).randbytes(1500).hex()


def test_a_warc_gives_its_successful_html_pages_with_their_addresses(tmp_path: Path) -> None:
    records = [response(0), response(1, status="404 Not Found"), response(2, b""), response(3)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    rows, failed = everything(one(tmp_path, "a.warc"))
    assert [row["url"] for row in rows] == ["http://example.kr/0", "http://example.kr/3"]
    assert [row["id"] for row in rows] == ["s/a.warc#1", "s/a.warc#4"]
    assert not failed


def test_the_plan_is_sorted_by_path_and_groups_whole_files(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a/9.jsonl", "b/1.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jsonl([{"text": TEXT}]))
    size = (tmp_path / "a/9.jsonl").stat().st_size
    paths = [str(tmp_path / "b"), str(tmp_path / "a/*.jsonl"), str(tmp_path / "b/1.jsonl")]
    dedup = Dedup(sources=[Source(name="s", paths=paths)], shard=max(1000, 2 * size))
    tasks = plan(dedup)
    names = [Path(file).relative_to(tmp_path).as_posix() for t in tasks for file in t.files]
    assert names == ["a/9.jsonl", "b/1.jsonl", "b/2.jsonl"]
    assert sum(task.bytes for task in tasks) == 3 * size
    assert everything(dedup)[0][0]["id"] == "s/a/9.jsonl#1"


def test_every_path_that_matches_nothing_is_named_at_once_with_what_is_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "reviews.jsonl").write_text("{}")
    paths = [str(tmp_path / "corpsu" / "*.jsonl"), str(tmp_path / "corpus" / "review.jsonl")]
    dedup = Dedup(sources=[Source(name="s", paths=paths, encoding="cp94x")])
    with pytest.raises(InputError) as error:
        plan(dedup)
    assert len(error.value.lines) == 3
    assert "dedup.sources.0.encoding" in error.value.lines[0]
    assert "corpus" in error.value.lines[1]
    assert "did you mean" in error.value.lines[2]
    assert "reviews.jsonl" in error.value.lines[2]


def test_batches_stay_within_a_thousand_rows_and_four_megabytes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "짧은 글"}] * 2500))
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"text": "가" * 600_000}] * 5))
    dedup = one(tmp_path, "*.jsonl")
    batches: list[RawBatch] = [batch for task in plan(dedup) for batch in read(task, dedup)]
    assert max(batch.batch.num_rows for batch in batches) <= 1000
    assert max(batch.batch["text"].nbytes for batch in batches) < 4_100_000
    assert sum(batch.batch.num_rows for batch in batches) == 2505
    size = sum((tmp_path / name).stat().st_size for name in ("a.jsonl", "b.jsonl"))
    assert sum(batch.bytes_in for batch in batches) == size
