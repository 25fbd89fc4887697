"""The compiled merging of words against the library's."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tests.tokenizer.conftest import korean
from tokenizer.base import Base
from tokenizer.bpe import encode_words
from tokenizer.merging import LONGEST, merge_words, merges_of


def same(base: Base, words: list[str]) -> None:
    merges = merges_of(base)
    assert merges is not None
    ids, ends = merge_words(base, merges, words)
    own = [part.tolist() for part in np.split(ids, ends)[:-1]]
    assert own == [base.cut(word) for word in words]


def words_of_any_kind(seed: int, count: int) -> list[str]:
    """Korean words, with and without a space before them, random syllables, Latin, jamo, emoji."""
    draw = random.Random(seed)
    kinds: list[Callable[[], str]] = [
        lambda: draw.choice(korean(draw, 1).split()),
        lambda: "".join(chr(draw.randrange(0xAC00, 0xD7A4)) for _ in range(draw.randrange(1, 9))),
        lambda: draw.choice(["the", "API", "ㅋㅋㅋ", "😀", "漢字", "́", "\n\n", "..."]),
        lambda: chr(draw.choice([draw.randrange(32, 0xD800), draw.randrange(0xE000, 0x110000)])),
    ]
    return [
        draw.choice(["", " ", "("]) + "".join(draw.choice(kinds)() for _ in range(draw.randrange(1, 4)))
        for _ in range(count)
    ]  # fmt: skip


def test_every_word_has_the_ids_of_the_library(small_base: Base) -> None:
    same(small_base, words_of_any_kind(1, 4000))


def test_words_under_llama3_have_the_ids_of_the_library(llama3: Base) -> None:
    whole = [data.decode("utf-8", "ignore") for data in llama3.tokens()[::20]]
    same(llama3, [word for word in whole if word] + words_of_any_kind(2, 3000))


def test_repeats_empty_and_very_long_words_have_them_too(small_base: Base) -> None:
    edges = ["가" * (LONGEST // 3 + extra) for extra in (-1, 0, 1)]
    same(small_base, ["", "aaaaa", "ababababa", *edges, "도서관에서" * 5000, ""])
    same(small_base, [])


def test_a_base_with_more_than_merges_goes_through_the_library(small_base: Base) -> None:
    model = {**small_base.definition["model"], "end_of_word_suffix": "</w>"}
    other = replace(small_base, definition={**small_base.definition, "model": model})
    assert merges_of(other) is None
    words = words_of_any_kind(3, 50)
    ids, ends = encode_words(other, words)
    assert ids.tolist() == [i for word in words for i in small_base.cut(word)]
    assert ends[-1] == len(ids)
