"""Reading documents back: the stage's own form, and plain files of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from dedup.documents import SCHEMA, as_batch, parquet_writer, read_documents, split_of


def write(path: Path, first: int, rows: int) -> None:
    names = [f"d{number}" for number in range(first, first + rows)]
    batch = as_batch(
        {
            "id": names,
            "kind": ["chat" if number % 3 == 0 else "text" for number in range(rows)],
            "text": [f"글 {name}" for name in names],
            "segments": [[{"role": "user", "text": "글"}]] * rows,
            "source": ["web" if number % 2 else "book" for number in range(rows)],
            "url": [None] * rows,
            "language": ["ko"] * rows,
            "split": ["heldout" if number == 1 else "train" for number in range(rows)],
            "quality": [0.5] * rows,
            "cluster_id": names,
            "cluster_size": [1] * rows,
            "licence": [None] * rows,
            "meta": [None] * rows,
        },
        SCHEMA,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with parquet_writer(path, SCHEMA) as writer:
        writer.write_batch(batch)


def ids(batches: object) -> list[str]:
    return [name for batch in batches for name in batch["id"].to_pylist()]  # type: ignore[attr-defined]


def test_a_documents_folder_is_read_in_file_order_in_the_stages_schema(tmp_path: Path) -> None:
    write(tmp_path / "00001.parquet", 10, 7)
    write(tmp_path / "00000.parquet", 0, 10)
    (tmp_path / ".00002.parquet.1.tmp").write_bytes(b"half")
    batches = list(read_documents(tmp_path, batch_rows=4))
    assert all(batch.schema.equals(SCHEMA) and batch.num_rows <= 4 for batch in batches)
    assert ids(batches) == [f"d{number}" for number in range(17)]
    glob = [str(tmp_path / "*.parquet"), tmp_path / "00000.parquet"]
    assert ids(read_documents(glob)) == ids(batches)


def test_split_kinds_sources_and_columns_are_chosen(tmp_path: Path) -> None:
    write(tmp_path / "00000.parquet", 0, 10)
    assert ids(read_documents(tmp_path, split="heldout")) == ["d1"]
    assert ids(read_documents(tmp_path, kinds={"chat"})) == ["d0", "d3", "d6", "d9"]
    assert ids(read_documents(tmp_path, kinds={"chat"}, sources=["web"])) == ["d3", "d9"]
    (batch,) = read_documents(tmp_path, split="heldout", columns=["text", "id"])
    assert batch.to_pylist() == [{"text": "글 d1", "id": "d1"}]


def test_plain_lines_and_dialogues_of_ones_own_are_read_in_the_same_form(tmp_path: Path) -> None:
    lines = [{"id": "a", "text": "첫째 글"}, {"text": "둘째 글"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    turns = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "반가워"}]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"id": "t", "messages": turns}) + "\n")
    pq.write_table(pa.table({"text": ["셋째 글"]}), tmp_path / "table.parquet")
    own = [tmp_path / "mine.jsonl", tmp_path / "talk.jsonl", tmp_path / "table.parquet"]
    first = list(read_documents(own))
    rows = [row for batch in first for row in batch.to_pylist()]
    assert [row["text"] for row in rows] == ["첫째 글", "둘째 글", "안녕\n반가워", "셋째 글"]
    assert [row["source"] for row in rows] == ["mine", "mine", "talk", "table"]
    assert [row["kind"] for row in rows] == ["text", "text", "chat", "text"]
    assert rows[2]["segments"][1] == {"role": "assistant", "text": "반가워"}
    assert len({row["id"] for row in rows}) == 4
    assert all(batch.schema.equals(SCHEMA) for batch in first)
    assert ids(read_documents(own)) == ids(first)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.parquet: no file is there"):
        list(read_documents(tmp_path / "nothing.parquet"))
    (tmp_path / "bad.jsonl").write_text('{"text": "글"}\n{broken\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: "):
        list(read_documents(tmp_path / "bad.jsonl"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"bad\.parquet: is not a readable Parquet file"):
        list(read_documents(tmp_path / "bad.parquet"))


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 0, 100)
    write(tmp_path / "b.parquet", 0, 100)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), parquet_writer(tmp_path / "a.parquet", SCHEMA):
        raise RuntimeError("killed half way")
    assert list(tmp_path.iterdir()) == []


def test_the_held_out_share_is_a_function_of_the_name_alone() -> None:
    names = [f"문서 {number}" for number in range(20_000)]
    heldout = [name for name in names if split_of(name, 0.01) == "heldout"]
    assert 140 < len(heldout) < 260
    assert {name for name in names if split_of(name, 0.005) == "heldout"} <= set(heldout)
    assert split_of("x", 0.0) == "train"
