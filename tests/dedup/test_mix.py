"""Lengths and writing systems against a plain Python count."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter

import pyarrow as pa

from dedup.mix import count_lengths, count_scripts

NAMES = {"HANGUL": "hangul", "LATIN": "latin", "CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana"}


def plain(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for letter in text:
        if unicodedata.category(letter)[0] == "L":
            found[NAMES.get(unicodedata.name(letter, "?").split()[0], "other")] += 1
    return found


def test_letters_are_counted_as_unicode_names_them() -> None:
    rng = random.Random(7)
    alphabet = "가힣한글ㅋㅎᄀᆢabcXYZéñ漢字語㐀𠀀ひらカナЖΩאกअ09 .,!…「」·😀\n"
    texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 60))) for _ in range(300)]
    array = pa.array(texts, pa.large_string())
    counts: dict[str, int] = {}
    count_scripts(counts, array)
    assert counts == dict(sum((plain(text) for text in texts), Counter[str]()))
    half: dict[str, int] = {}
    count_scripts(half, array.slice(10, 20))
    assert half == dict(sum((plain(text) for text in texts[10:30]), Counter[str]()))
    nothing: dict[str, int] = {}
    count_scripts(nothing, pa.array([], pa.large_string()))
    count_scripts(nothing, pa.array(["", ""], pa.large_string()))
    assert nothing == {}


def test_a_bin_of_lengths_ends_where_they_have_doubled() -> None:
    counts: dict[str, int] = {}
    count_lengths(counts, pa.array([0, 1, 2, 3, 4, 1023, 1024, 1 << 20], pa.int32()))
    assert counts == {"1": 2, "2": 2, "4": 1, "512": 1, "1024": 1, str(1 << 20): 1}
    count_lengths(counts, pa.array([5], pa.int64()))
    assert counts["4"] == 2
