"""Continued BPE against a slow and plain one."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np

from tokenizer.bpe import Learned, has_hangul_lead, learn

LETTERS = [bytes([byte]) for byte in range(256)]


def learn_words(
    counted: dict[str, int], asked: int, tokens: list[bytes] = LETTERS, order: int = 0
) -> Learned:
    names = sorted(counted)
    random.Random(order).shuffle(names)
    index = {data: i for i, data in enumerate(tokens)}
    words = [[index[bytes([byte])] for byte in name.encode()] for name in names]
    ids = np.array([i for word in words for i in word], np.int32)
    ends = np.cumsum([len(word) for word in words]).astype(np.int64)
    weights = np.array([counted[name] for name in names], np.int64)
    return learn(ids, ends, weights, tokens, asked)


def plain_bpe(counted: dict[str, int], asked: int, tokens: list[bytes]) -> list[tuple[int, ...]]:
    """Sennrich's loop: count all pairs anew for every merge."""
    content = list(tokens)
    words = [([*word.encode()], n) for word, n in counted.items()]
    merges = []
    while len(content) - len(tokens) < asked:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, n in words:
            for left, right in pairwise(word):
                if has_hangul_lead(content[left] + content[right]):
                    pairs[left, right] += n
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        data = content[left] + content[right]
        if data in content:
            merged = content.index(data)
        else:
            merged = len(content)
            content.append(data)
        merges.append((left, right, merged))
        for word, _ in words:
            at = 0
            while at < len(word) - 1:
                if word[at] == left and word[at + 1] == right:
                    word[at : at + 2] = [merged]
                at += 1
    return merges


def random_words(seed: int) -> dict[str, int]:
    draw = random.Random(seed)
    syllables = [chr(draw.randrange(0xAC00, 0xD7A4)) for _ in range(12)]
    return {
        draw.choice(["", " ", "("]) + "".join(draw.choices(syllables, k=draw.randrange(1, 7))):
        draw.randrange(1, 9)
        for _ in range(60)
    }  # fmt: skip


def test_merges_are_those_of_the_plain_algorithm() -> None:
    for seed in range(8):
        counted = {**random_words(seed), "가가가가가": 3, "ab가ab": 2, "漢字가": 2}
        assert learn_words(counted, 150).merges == plain_bpe(counted, 150, LETTERS)


def test_the_order_of_the_words_changes_nothing() -> None:
    counted = random_words(3)
    assert learn_words(counted, 80, order=1) == learn_words(counted, 80, order=2)


def test_every_new_token_holds_hangul() -> None:
    learned = learn_words({"the가the漢字": 9, "cafés나": 4}, 1000)
    assert learned.tokens and all(has_hangul_lead(data) for data in learned.tokens)


def test_bytes_that_are_a_token_already_lead_to_that_token() -> None:
    tokens = [*LETTERS, "가".encode()]
    learned = learn_words({"가": 5, "가나": 2}, 10, tokens)
    assert "가".encode() not in learned.tokens
    assert 256 in [merged for _, _, merged in learned.merges]


def test_it_stops_cleanly_when_no_pair_is_left() -> None:
    learned = learn_words({"가나": 5}, 1000)
    assert learned.exhausted
    assert learned.tokens[-1] == "가나".encode()
    assert not learn_words({"가나": 5}, 2).exhausted
    assert learn_words({"abc": 5}, 10).tokens == []


def test_a_hangul_lead_is_the_first_two_bytes_of_a_syllable() -> None:
    assert all(has_hangul_lead(chr(code).encode()) for code in range(0xAC00, 0xD7A4))
    others = [
        c for c in range(0x80, 0x30000) if not 0xAC00 <= c < 0xD7C0 and not 0xD800 <= c < 0xE000
    ]
    assert not any(has_hangul_lead(chr(code).encode()) for code in others)
