"""JSONL read fast equals JSONL read line by line, and a file read in shares equals the file whole."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from configs.schema import Dedup, Source
from dedup.containers import Damaged, File, Oversized, blocks, chunks, content, local_file
from dedup.formats import jsonl
from dedup.read import plan, read
from dedup.records import Document, Failure

TEXT = "산 너머 마을에는 오래된 우물이 하나 있다. 여름이면 아이들이 그 둘레에 모여 앉았다."


def source(path: Path, **more: Any) -> Source:
    return Source(name="s", paths=[str(path)], **more)


def rows_of(dedup: Dedup) -> tuple[list[dict[str, Any]], list[Failure]]:
    batches = [batch for task in plan(dedup) for batch in read(task, dedup)]
    rows = [row for batch in batches for row in batch.batch.to_pylist()]
    return rows, [failure for batch in batches for failure in batch.failed]


def careful(file: File, given: Source) -> list[Document | Failure]:
    """What `document_of` makes of every line."""
    lines = content(file).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [
        jsonl._line(line, number, None, file, given)
        for number, line in enumerate(lines, 1)
        if line and not line.isspace()
    ]


def fast(file: File, given: Source) -> list[Document | Failure]:
    items: list[Document | Failure] = []
    for item in jsonl.read(file, given):
        if isinstance(item, Document | Failure):
            items.append(item)
            continue
        items += [
            Document(row["id"], "text", row["text"], None, row["url"], row["meta"], 0)
            for row in item.batch.to_pylist()
        ]
    return items


def same(one: list[Document | Failure], other: list[Document | Failure]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a._replace(size=0) if isinstance(a, Document) else a) == (
            b._replace(size=0) if isinstance(b, Document) else b
        )


ODD = [
    rb'{"text": "\ud83d\ude00 \uac00\ub098 A \"q\" \\ \/ \b\f\n\r\t."}',
    rb'{"text": "\ud83d alone"}',
    rb'{"text": "\ude00\ud83d"}',
    rb'{"text": "\u0000\u0000"}',
    rb'{"text": "a\u0000b"}',
    rb'{"text": "\u00e9\u00a0"}',
    rb'{"text": "\u3000x\u2003"}',
    rb'{"text": "\u001c x \u0085"}',
    rb'{"text": "bad \x escape"}',
    rb'{"text": "short \u12"}',
    rb'{"text": "ends \u123',
    rb'{"text": "ends \ud83d\u',
    b'{"text": "a raw\ttab"}',
    rb'{"text": "one", "text": "two"}',
    rb'{"text": "one", "te\u0078t": "two"}',
    rb'{"te\u0078t": "escaped key"}',
    rb'{"text": "x"} {"text": "y"}',
    rb'{"text": "x"},',
    rb'{"text": "x", }',
    rb'{"text": "x", "n": NaN}',
    rb'{"text": "x", "n": [1, {"text": "inner"}], "big": 123456789012345678901234567890}',
    rb'{"a": {"text": "inner"}, "text": "outer"}',
    rb'{"a": "\\", "text": "after a backslash"}',
    rb'{"a": "{[\"text\":", "text": "after odd text"}',
    rb'{"a": ["text", "x"], "text" : "spaces before the colon"}',
    rb'{"text": 5}',
    rb'{"text": null, "x": 1}',
    rb'{"text": ""}',
    rb'{"text": "  \n\t "}',
    rb'["text", "a list"]',
    rb'"text"',
    b"{",
    b'{"text"',
    b'{"text":',
    b'{"text": "',
    b'{"text": "\\',
    b"\x0b\x0c \r",
    b'\x0b{"text": "vertical tab"}',
    b'{"text": "carriage return"}\r',
    b'  {"text": "indented", "id": "given", "url": "http://x.kr", "n": null}',
    rb'{"text": "id is a number", "id": 12345678901234567}',
    rb'{"text": "id is true", "id": true, "url": ""}',
    rb'{"id": "", "text": "id is empty", "url": 5}',
    '{"text": "　전각 공백　"}'.encode(),
    '{"다른": "키", "text": "가나다\u2028"}'.encode(),
    b'{"text": "invalid \xff"}',
    b'{"text": "valid", "k": "\xff"}',
    b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
    rb'{"ko": "\uac00", "en": "a"}',
]  # fmt: skip


def test_every_odd_line_reads_the_same_fast_and_carefully(tmp_path: Path) -> None:
    plain = json.dumps({"text": TEXT, "topic": "우물", "n": 1.5}, ensure_ascii=False).encode()
    for number, odd in enumerate(ODD):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"\n".join([plain] * 20 + [odd] + [plain] * 20))
        file, given = local_file(str(path), path.name), source(path)
        same(fast(file, given), careful(file, given))


def test_random_lines_read_the_same_fast_and_carefully(tmp_path: Path) -> None:
    rng = random.Random(5)
    letters = [*list('가힣각 \\"{}[],:ab\n\t\u0085\u00a0😀é\u3000'), '"text"', "\\u0041", "\u2028"]

    def word() -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randrange(12)))

    lines = []
    for _ in range(4000):
        record: dict[str, Any] = {word(): word() for _ in range(rng.randrange(3))}
        record["text"] = word() + "글"
        if rng.random() < 0.5:
            record[word()] = [word(), {word(): word()}]
        line = json.dumps(record, ensure_ascii=rng.random() < 0.5).encode()
        if rng.random() < 0.02:
            at = rng.randrange(len(line))
            line = line[:at] + rng.choice([b"", b'"', b"\\", b"\xec", b"}"]) + line[at + 1 :]
        lines.append(line)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    file, given = local_file(str(path), path.name), source(path)
    same(fast(file, given), careful(file, given))


@pytest.mark.parametrize("shard", [1000, 1777, 4096, 20_000])
def test_a_big_file_in_shares_gives_the_same_documents_and_ids(tmp_path: Path, shard: int) -> None:
    rng = random.Random(shard)
    lines = [
        json.dumps({"text": f"{n} {TEXT * rng.choice([1, 1, 1, 30])}"}, ensure_ascii=False)
        if rng.random() < 0.9
        else rng.choice(["", "{broken", "[]"])
        for n in range(300)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines) + rng.choice(["", "\n"]), encoding="utf-8")
    whole = Dedup(sources=[source(path)])
    shared = Dedup(sources=[source(path)], shard=shard)
    assert len(plan(whole)) == 1
    assert len(plan(shared)) == round(path.stat().st_size / shard)
    assert rows_of(shared) == rows_of(whole)
    assert sum(task.bytes for task in plan(shared)) == path.stat().st_size


def test_shares_meet_at_newlines_wherever_the_cuts_fall(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    data = b'{"text":"a"}\n\n{"text":"bb"}\n{"text":"ccc"}'
    path.write_bytes(data)
    for one in range(len(data) + 1):
        for two in range(one, len(data) + 1):
            cuts = [(0, one), (one, two), (two, len(data))]
            parts = [
                b"".join(
                    block
                    for block in blocks(replace(local_file(str(path)), begin=begin, end=end))
                    if isinstance(block, bytes)
                )
                for begin, end in cuts
                if begin < end
            ]
            assert b"".join(parts) == data


def test_a_compressed_file_is_one_task_under_whatever_name(tmp_path: Path) -> None:
    data = gzip.compress(json.dumps({"text": random.Random(1).randbytes(9000).hex()}).encode())
    for name in ("a.jsonl.gz", "b.jsonl"):
        (tmp_path / name).write_bytes(data)
        dedup = Dedup(sources=[source(tmp_path / name)], shard=1000)
        assert len(plan(dedup)) == 1
        assert len(rows_of(dedup)[0]) == 1


def test_a_line_longer_than_the_limit_is_one_failure_and_memory_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"text": TEXT}, ensure_ascii=False).encode() + b"\n"
    with path.open("wb") as file:
        file.write(good + b'{"text": "')
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + good)
    results = []
    tracemalloc.start()
    for shard in (1_000_000_000, 50_000_000):
        dedup = Dedup(sources=[source(path)], max_record=10_000_000, shard=shard)
        results.append(rows_of(dedup))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows, failed = results[0]
    assert results[1] == results[0]
    assert [row["id"] for row in rows] == ["s/a.jsonl#1", "s/a.jsonl#3"]
    assert [failure.line for failure in failed] == [2]
    assert "200,000,013 bytes" in failed[0].error
    assert failed[0].raw == b'{"text": "' + b"x" * 4086
    assert peak < 60_000_000


def test_the_limit_is_the_same_wherever_the_pieces_end(tmp_path: Path) -> None:
    lines = [b"a" * n for n in (99, 100, 101, 1, 250)]
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n".join(lines) + b"\n")
    for end in (None, path.stat().st_size):
        found = list(blocks(replace(local_file(str(path)), end=end, limit=100)))
        long = [item.size for item in found if isinstance(item, Oversized)]
        assert long == [102, 251]
        whole = b"".join(item for item in found if isinstance(item, bytes))
        assert whole == b"".join(lines[n] + b"\n" for n in (0, 1, 3))


def test_a_gzip_bomb_costs_neither_memory_nor_the_good_records_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    good = json.dumps({"text": TEXT}, ensure_ascii=False).encode() + b"\n"
    path.write_bytes(gzip.compress(good) + gzip.compress(bytes(100_000_000), 9))
    tracemalloc.start()
    rows, failed = rows_of(Dedup(sources=[source(path)], max_record=5_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["text"] for row in rows] == [TEXT]
    assert [failure.line for failure in failed] == [2]
    assert peak < 80_000_000
    page = tmp_path / "b.html.gz"
    page.write_bytes(path.read_bytes())
    rows, failed = rows_of(Dedup(sources=[source(page)], max_record=5_000_000))
    assert not rows
    assert "dedup.max_record" in failed[0].error


def test_utf_16_lines_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps({"text": TEXT}, ensure_ascii=False)] * 3), "utf-16")
    rows, failed = rows_of(Dedup(sources=[source(path)], shard=1000))
    assert [row["text"] for row in rows] == [TEXT] * 3
    assert not failed


def test_ten_thousand_tiny_files_share_their_batches(tmp_path: Path) -> None:
    for number in range(2000):
        folder = tmp_path / f"{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": f"{number} {TEXT}"}))
    dedup = Dedup(sources=[source(tmp_path)])
    tasks = plan(dedup)
    batches = [batch for task in tasks for batch in read(task, dedup)]
    assert sum(batch.batch.num_rows for batch in batches) == 2000
    assert len(batches) < 5
    assert sum(batch.forms["jsonl"] for batch in batches) == 2000


def test_a_file_whose_name_is_cp949_still_has_a_readable_id(tmp_path: Path) -> None:
    import os

    name = os.path.join(os.fsencode(tmp_path), "우물.jsonl".encode("cp949"))  # noqa: PTH118
    with open(name, "wb") as file:  # noqa: PTH123
        file.write(json.dumps({"text": TEXT}).encode())
    rows, failed = rows_of(Dedup(sources=[source(tmp_path)]))
    assert [row["id"] for row in rows] == ["s/우물.jsonl#1"]
    assert not failed


def test_pieces_of_a_truncated_file_come_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    data = gzip.compress(random.Random(0).randbytes(1_000_000))
    path.write_bytes(data[:500_000])
    got = 0
    with pytest.raises(Damaged):
        for piece in chunks(str(path)):
            got += len(piece)
    assert got > 490_000


def test_arrow_batches_keep_the_schema_and_valid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in ODD if b"\n" not in line))
    for item in jsonl.read(local_file(str(path), "a"), source(path)):
        if isinstance(item, jsonl.Arrow):
            pa.Table.from_batches([item.batch]).validate(full=True)


def test_a_text_file_above_the_limit_is_told_as_that_and_not_as_truncated(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("긴 글 " * 2000)
    (tmp_path / "b.txt").write_text(TEXT)
    rows, failed = rows_of(Dedup(sources=[source(tmp_path)], max_record=10_000))
    assert [row["text"] for row in rows] == [TEXT]
    assert [failure.error for failure in failed] == [
        "is longer than 10,000 bytes (dedup.max_record)"
    ]
    assert failed[0].raw


def test_a_task_holds_a_bounded_number_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dedup.plan._FILES", 7)
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(f"{number} {TEXT}")
    tasks = plan(Dedup(sources=[source(tmp_path)]))
    assert [len(task.parts) for task in tasks] == [7, 7, 6]
