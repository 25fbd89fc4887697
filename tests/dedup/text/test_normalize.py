"""Normalising: one spelling for what looks the same, and nothing of the language lost."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.documents import read_documents
from dedup.text.normalize import normalize, normalize_text

ALPHABET = st.sampled_from(
    "가각힣ㅋㅎㅠㄱᄀ\u1161\u11a8\u1100\u11a2\u119e漢字é\u0301 \t\n\r\u3000\u00a0\u200b\u200d\ufeff!?.…,Ａ１"
    "！\u2000\u2028\u0085👨\u212b樂\u0344\x00"
)


@settings(max_examples=150, deadline=None)
@given(st.text(ALPHABET, max_size=40) | st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalize_text(text)
    assert normalize_text(once) == once
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        (unicodedata.normalize("NFD", "한국어 글"), "한국어 글"),
        ("진짜ㅋㅋㅋㅋㅋ 슬퍼ㅠㅠㅠ ㅎㅎ", "진짜ㅋㅋ 슬퍼ㅠㅠ ㅎㅎ"),
        ("가\u200b나\ufeff다\u00ad", "가나다"),
        ("가\u00a0나\u3000다\u2003라", "가 나 다 라"),
        ("ＡＢＣ　１２３！", "ABC 123!"),
        ("한 줄  \r\n두 줄\t\r세 줄", "한 줄\n두 줄\n세 줄"),
        ("위\n\n\n\n\n\n아래", "위\n\n\n아래"),
        ("와!!!!!!! 왜????", "와!!! 왜???"),
        ("大韓民國 헌법 그ᆢ래 ᄒᆞᆫ글", "大韓民國 헌법 그ᆢ래 ᄒᆞᆫ글"),
        ("가족 👨\u200d👩\u200d👧", "가족 👨\u200d👩\u200d👧"),
    ],
)
def test_spelling(given_text: str, expected: str) -> None:
    assert normalize_text(given_text) == expected


def test_a_column_keeps_its_length_its_nulls_and_becomes_large_string() -> None:
    out = normalize(pa.array(["ㅋㅋㅋ", None, ""]))
    assert out.type == pa.large_string()
    assert out.to_pylist() == ["ㅋㅋ", None, ""]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=30) | st.text(max_size=30), max_size=6))
def test_the_compiled_walk_does_what_the_python_definition_says(texts: list[str]) -> None:
    column = pa.array(["앞", *texts], pa.large_string()).slice(1)
    assert normalize(column).to_pylist() == [normalize_text(text) for text in texts]


def test_real_pages_come_out_of_both_the_same(shared_data: Path) -> None:
    for name in ("news_comments", "oss_docs_ko", "mixed_prose"):
        texts = [
            document["text"]
            for batch in read_documents(shared_data / "ko_web" / f"{name}.jsonl.zst")
            for document in batch.select(["text"]).to_pylist()
        ][:1500]
        assert normalize(pa.array(texts)).to_pylist() == [normalize_text(text) for text in texts]
