"""Language: Hangul decides where there is Hangul, the model where there is not."""

from __future__ import annotations

import pyarrow as pa

from dedup.text.language import language_share

KOREAN = "오늘은 날씨가 맑아서 강가를 오래 걸었다. 저녁에는 비가 올지도 모른다고 한다."
ENGLISH = "The river was calm in the morning, and we walked along its bank until the sun was high."
GERMAN = "Der Fluss war am Morgen ruhig, und wir gingen am Ufer entlang, bis die Sonne hoch stand."


def test_shares_tell_korean_english_and_other_languages_apart() -> None:
    texts = pa.array([KOREAN, ENGLISH, GERMAN, KOREAN + ENGLISH, "", "1234 !!"], pa.large_string())
    korean = language_share(texts, "ko")
    english = language_share(texts, "en")
    assert korean[0] == 1.0
    assert english[1] > 0.9
    assert max(korean[1], korean[2], english[0], english[2]) < 0.1
    assert 0.3 < korean[3] <= 1.0
    assert korean[4] == korean[5] == 0.0
    assert language_share(texts, "any").tolist() == [1.0] * 6


def test_an_english_page_with_korean_menus_is_not_korean() -> None:
    page = "처음으로\n목록\n" + ENGLISH * 20 + "\n글쓰기"
    assert language_share(pa.array([page]), "ko")[0] < 0.3


def test_controls_and_a_cut_in_the_middle_of_a_character_do_not_stop_it() -> None:
    text = "a\x01\x0c" + ENGLISH * 60 + "가" * 9
    assert language_share(pa.array([text]), "en")[0] > 0.8
