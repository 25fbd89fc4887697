"""Mojibake: mended where the way back proves what was meant, told apart where it does not."""

from __future__ import annotations

import pyarrow as pa
import pytest

from configs.schema import Filters
from dedup.text.filters import judge
from dedup.text.mojibake import repaired

TEXT = "새벽 시장은 아직 어두울 때 문을 연다. 상인들은 얼음을 깨며 안부를 묻는다."


def wrongly(text: str, right: str, wrong: str) -> str:
    return text.encode(right).decode(wrong)


def test_cp949_read_as_latin_is_mended() -> None:
    garbled = wrongly(TEXT, "cp949", "latin-1")
    assert repaired(garbled) == TEXT


def test_an_english_text_with_one_garbled_word_is_mended_there_only() -> None:
    garbled = wrongly("안녕하세요", "cp949", "latin-1")
    assert repaired(f"The word is {garbled}, it says.") == "The word is 안녕하세요, it says."


def test_utf8_read_as_windows_latin_is_mended_where_no_byte_is_lost() -> None:
    words = [w for w in ("한글", "사과", "강가", "문화") if not set(w.encode()) & LOST]
    assert words
    for word in words:
        assert repaired(f"말 {wrongly(word, 'utf-8', 'cp1252')} 끝") == f"말 {word} 끝"


LOST = {0x81, 0x8D, 0x8F, 0x90, 0x9D}  # bytes that Windows' Latin has no character for


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Café Zürich, naïve façade, señor Ángel; prix: 3 €",
        "¡¡¡ÀÀÀÀ!!! ¾È³",  # half a character
        "깨진 \ufffd 글자 " + wrongly("안녕하세요", "cp949", "latin-1"),
        "占쏙옙占쏙옙 " + wrongly("안녕하세요", "cp949", "latin-1"),
        "大韓民國 憲法 第一條 主權",
    ],
)
def test_what_the_way_back_does_not_prove_is_left_alone(text: str) -> None:
    assert repaired(text) is None


def test_the_filter_keeps_a_mended_text_and_drops_the_others() -> None:
    broken = wrongly(TEXT, "cp949", "latin-1")
    lost = broken.replace(broken[3], "")  # a byte is gone on the way
    found = judge(pa.array([TEXT, broken, lost], pa.large_string()), Filters(), "ko")
    assert found.reasons[:2] == [None, None] and found.repaired == 1
    assert found.texts.to_pylist()[1] == TEXT
    assert found.reasons[2] in ("mojibake", "wrong_language", "little_hangul")
