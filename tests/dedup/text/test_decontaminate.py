"""Decontamination: evaluation text is found whatever its spacing, and nothing else is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
import zstandard

from configs.errors import InputError
from dedup.text.decontaminate import Contamination
from dedup.text.normalize import normalize

SHORT = "강가에 앉아 노을을 바라보던 날이 있었다."
LONG = (
    "도서관 이층 창가 자리는 늘 같은 사람이 차지했고, 그는 해가 질 때까지 지도책을 넘기며 "
    "가 보지 못한 나라의 강 이름을 공책에 옮겨 적었다."
)
ENGLISH = "He copied the names of rivers he had never seen into a small grey notebook."


@pytest.fixture
def contamination(tmp_path: Path) -> Contamination:
    (tmp_path / "a.json").write_text(json.dumps([{"premise": SHORT, "label": "참"}]), "utf-8")
    (tmp_path / "b.tsv").write_text(f'id\tsentence\n1\t{LONG} "\n', "utf-8")
    (tmp_path / "c.jsonl").write_text(json.dumps({"q": {"en": ENGLISH}}) + "\n", "utf-8")
    (tmp_path / "d.csv").write_bytes(f'\ufeffid,"질문, 둘"\n1,"{SHORT[::-1]}, 덧붙임"\n'.encode())
    return Contamination.from_files(
        [str(tmp_path / name) for name in ("*.json*", "b.tsv", "d.csv")]
    )


def hit(contamination: Contamination, text: str) -> str | None:
    return contamination.hits(pa.array([text]))[0]


def test_items_are_found_with_other_spacing_and_punctuation(contamination: Contamination) -> None:
    found = hit(contamination, f"앞말. {SHORT.replace(' ', '').replace('.', '!')} 뒷말.")
    assert found is not None
    assert found.startswith("a.json#1.premise: 강가에")
    assert "c.jsonl#1.q.en" in (hit(contamination, f"그는 적었다: {ENGLISH.upper()}") or "")
    assert "d.csv#2" in (hit(contamination, f"{SHORT[::-1]} 덧붙임") or "")


def test_a_stretch_of_a_long_item_is_enough_and_a_part_of_a_short_one_is_not(
    contamination: Contamination,
) -> None:
    assert "b.tsv#2" in (hit(contamination, f"어떤 글에 {LONG[20:75]} 라고 있었다.") or "")
    assert hit(contamination, f"어떤 글에 {LONG[20:40]} 라고 있었다.") is None
    assert hit(contamination, SHORT[:15]) is None
    assert hit(contamination, ENGLISH[:40]) is None
    assert contamination.hits(pa.array(["", "참", "아무 상관 없는 글이다."])) == [None] * 3


def test_it_travels_to_other_processes(contamination: Contamination) -> None:
    again = pickle.loads(pickle.dumps(contamination))
    assert len(again) == len(contamination) == 4
    assert hit(again, SHORT) == hit(contamination, SHORT)


def test_missing_and_broken_files_are_named_together(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('[{"a": ', "utf-8")
    with pytest.raises(InputError) as error:
        Contamination.from_files([str(tmp_path / "none*.tsv"), str(tmp_path / "broken.json")])
    assert len(error.value.lines) == 2
    assert all(line.startswith("dedup.decontaminate: ") for line in error.value.lines)


def test_the_klue_premises_that_stand_in_movie_reviews_are_found(shared_data: Path) -> None:
    path = shared_data / "eval_ko" / "klue" / "klue-nli-v1.1_dev.json"
    premises = {row["premise"] for row in json.loads(path.read_text("utf-8"))}
    found: set[str] = set()
    for name in ("movie_review_pages", "movie_reviews_single"):
        data = (shared_data / "ko_web" / f"{name}.jsonl.zst").read_bytes()
        raw = zstandard.ZstdDecompressor().stream_reader(data).read()
        for line in raw.splitlines():
            found |= premises.intersection(map(str.strip, orjson.loads(line)["text"].split("\n")))
    assert len(found) == 57
    contamination = Contamination.from_files([str(path)])
    hits = contamination.hits(normalize(pa.array([f"한 줄.\n{text}\n또 한 줄." for text in found])))
    assert all(hits)
