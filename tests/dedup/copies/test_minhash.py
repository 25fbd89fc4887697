"""The signature kernel against datasketch and against plain Python."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from datasketch import LeanMinHash, MinHash

from dedup.copies.minhash import hash_shingle, hash_shingle_64, permutations, shingle_sets, sign

SYLLABLES = [chr(point) for point in range(0xAC00, 0xD7A4, 7)]
SPACES = ["\n", "  ", "\t", "\r\n", " ", "\u3000", " \n\n ", "\x85", "\u2003"]


def random_text(rng: random.Random, length: int) -> str:
    """Hangul, ASCII, emoji, conjoining jamo and every sort of white space."""
    others = "abcXYZ0189.,!?ㅋㅠ漢字\u11a2é😀🇰\x1f"
    return "".join(
        rng.choice(SPACES)
        if rng.random() < 0.15
        else rng.choice(others)
        if rng.random() < 0.2
        else rng.choice(SYLLABLES)
        for _ in range(length)
    )


def shingles_of(text: str, length: int) -> set[str]:
    collapsed = " ".join(text.split())
    if not collapsed:
        return set()
    last = max(1, len(collapsed) - length + 1)
    return {collapsed[i : i + length] for i in range(last)}


def corpus(seed: int, count: int = 60) -> list[str]:
    rng = random.Random(seed)
    texts = [random_text(rng, rng.choice([1, 2, 4, 5, 6, 40, 700])) for _ in range(count)]
    return [*texts, "", " \n ", "가", "가나다라", "ㅋ" * 3000, "한글 " * 500]


@pytest.mark.parametrize("shingle", [1, 3, 5, 8, 32])
@pytest.mark.parametrize("count", [4, 128])
def test_signatures_are_those_of_datasketch_bit_for_bit(shingle: int, count: int) -> None:
    texts = corpus(shingle)
    ours = sign(pa.array(texts, pa.large_string()), shingle=shingle, count=count)
    for text, values in zip(texts, ours.values, strict=True):
        theirs = MinHash(num_perm=count, scheme="affine32", hashfunc=hash_shingle)
        theirs.update_batch([s.encode() for s in shingles_of(text, shingle)])
        assert np.array_equal(theirs.hashvalues, values), text[:80]


def test_the_permutations_are_those_of_datasketch() -> None:
    for count in (4, 128, 1024):
        theirs = MinHash(num_perm=count, scheme="affine32").permutations
        assert np.array_equal(np.stack(permutations(count)), theirs)


def test_a_signature_opens_as_a_lean_minhash_that_estimates_the_similarity() -> None:
    one = " ".join(f"문장 {i}번은 이렇게 이어진다." for i in range(200))
    other = one.replace("문장 7", "문단 7")
    values = sign(pa.array([one, other], pa.large_string()), shingle=5, count=128).values
    lean = [LeanMinHash(seed=1, hashvalues=row, scheme="affine32") for row in values]
    both, any_of_them = (
        shingles_of(one, 5) & shingles_of(other, 5),
        shingles_of(one, 5) | shingles_of(other, 5),
    )
    assert abs(lean[0].jaccard(lean[1]) - len(both) / len(any_of_them)) < 0.15


@pytest.mark.parametrize("shingle", [1, 4, 5, 9])
def test_the_sets_hold_the_hash_of_every_distinct_shingle_ascending(shingle: int) -> None:
    texts = corpus(100 + shingle)
    rows = np.arange(0, len(texts), 2)
    ends, hashes = shingle_sets(pa.array(texts, pa.large_string()), rows, shingle=shingle)
    for i, row in enumerate(rows):
        expected = sorted(hash_shingle_64(s) for s in shingles_of(texts[row], shingle))
        assert hashes[ends[i] : ends[i + 1]].tolist() == expected


def test_the_number_of_shingles_bounds_the_number_of_distinct_ones() -> None:
    texts = corpus(5)
    column = pa.array(texts, pa.large_string())
    counted = sign(column, shingle=5, count=4).shingles
    ends, _ = shingle_sets(column, np.arange(len(texts)), shingle=5)
    for text, number, distinct in zip(texts, counted, np.diff(ends), strict=True):
        collapsed = " ".join(text.split())
        assert number == (max(1, len(collapsed) - 4) if collapsed else 0)
        assert distinct == len(shingles_of(text, 5)) <= number


def test_white_space_does_not_change_a_signature() -> None:
    column = pa.array(["가 나 다라마 바사", " 가\n나\t\t다라마\u3000바사 \n"], pa.large_string())
    values = sign(column, shingle=5, count=128).values
    assert np.array_equal(values[0], values[1])


def test_a_slice_of_a_column_is_signed_as_if_it_stood_alone() -> None:
    texts = corpus(9)
    column = pa.array(texts, pa.large_string())
    whole = sign(column, shingle=5, count=16).values
    assert np.array_equal(sign(column.slice(7, 11), shingle=5, count=16).values, whole[7:18])
    assert sign(column.slice(0, 0), shingle=5, count=16).values.shape == (0, 16)


def test_a_column_with_nulls_is_refused() -> None:
    with pytest.raises(ValueError, match="null"):
        sign(pa.array(["가", None], pa.large_string()), shingle=5, count=4)


def test_repeated_shingles_of_a_long_text_change_nothing() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("가나다라마바사", k=3)) for _ in range(40)]
    text = " ".join(chance.choices(words, k=900))
    once = {text[at : at + 5] for at in range(len(text) - 4)}
    assert len(once) < 0.8 * len(text)
    oracle = MinHash(num_perm=128, scheme="affine32", hashfunc=hash_shingle)
    oracle.update_batch([shingle.encode() for shingle in once])
    signed = sign(pa.array([text, "짧다", text], pa.large_string()), shingle=5, count=128)
    assert (signed.values[0] == oracle.hashvalues).all()
    assert (signed.values[2] == oracle.hashvalues).all()
