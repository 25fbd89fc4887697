"""Counting words with Hangul."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Regex, pre_tokenizers

from configs.errors import InputError
from dedup.documents import document_files
from tokenizer import samples
from tokenizer.base import GPT2_PATTERN, LLAMA3_PATTERN, Base
from tokenizer.classes import BREAK, LETTER, NUMBER, OTHER, SPACE, character_classes
from tokenizer.cutting import RULES
from tokenizer.tally import Tally
from tokenizer.words import PreTokens, count_words, sizes_of

SYLLABLES = range(0xAC00, 0xD7A4)


def with_hangul(counts: Counter[str]) -> Counter[str]:
    return Counter(
        {word: n for word, n in counts.items() if any(ord(c) in SYLLABLES for c in word)}
    )


@pytest.mark.parametrize("pattern", [LLAMA3_PATTERN, GPT2_PATTERN, r"\w+|\W"])
def test_counts_are_those_of_the_pre_tokenizer_of_tokenizers(pattern: str) -> None:
    texts = list(samples.with_hangul())
    texts += [
        " 앞",
        "뒤 ",
        "가  나",
        "가\n 나",
        "\t다",
        "  \n  라 마",
        "'s가 'LL나",
        "가's",
        "가!나 !다  !라",
    ]
    oracle = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    expected = Counter(piece for text in texts for piece, _ in oracle.pre_tokenize_str(text))
    assert PreTokens(pattern).count(texts) == with_hangul(expected)


_ODD = "가나다각힣a1s't’rRvVeElLmMdDſSK ''  \t\n\r\v\x85\xa0\u3000!?.,(㎏²ㅋ漢ᄀ\u0301é\u200b½Ⅷ😀\ufffd"


def generated(seed: int) -> list[str]:
    """Texts of what the rules distinguish, and texts of any characters there are."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices(_ODD, k=draw.randrange(1, 40))) for _ in range(8_000)]

    def character() -> str:
        code = draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)])
        return draw.choice([chr(code), chr(draw.randrange(0x3400)), "가", " ", "'"])

    return texts + ["".join(character() for _ in range(50)) for _ in range(2_000)]


@pytest.mark.parametrize("pattern", [*RULES, r"\w+|\W"])
def test_counts_of_generated_text_are_those_of_the_pre_tokenizer(pattern: str) -> None:
    texts = generated(len(pattern))
    oracle = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    expected = Counter(piece for text in texts for piece, _ in oracle.pre_tokenize_str(text))
    assert PreTokens(pattern).count(texts) == with_hangul(expected)


def test_a_character_is_what_the_engine_takes_it_for() -> None:
    classes = character_classes()
    draw = random.Random(3)
    codes = {draw.randrange(0x110000) for _ in range(4_000)} | set(range(0x400)) | {0x2028, 0x3000}
    of_class = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"[^\S\r\n]", BREAK: r"[\r\n]"}
    for value, pattern in {**of_class, OTHER: r"[^\s\p{L}\p{N}]"}.items():
        asked = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        for code in codes - set(range(0xD800, 0xE000)):
            assert bool(asked.pre_tokenize_str(chr(code))) == (classes[code] == value), hex(code)


def test_bytes_that_are_not_utf8_count_as_replacement_characters() -> None:
    raw = ["가나".encode() + b"\xed\xa0\x80" + " 다라".encode(), b"\xeb", " 다라".encode()]
    texts = pa.array(raw, pa.large_binary()).view(pa.large_string())
    tally = Tally()
    PreTokens(LLAMA3_PATTERN).count_into(tally, texts, np.full(3, tally.number("talk"), np.int32))
    assert tally.rows().to_pylist() == [
        {"source": "talk", "word": "가나", "count": 1},
        {"source": "talk", "word": " 다라", "count": 2},
    ]
    assert PreTokens(LLAMA3_PATTERN).count(["가\ud83d나"]) == {"가": 1, "나": 1}


def count(folder: Path, work: Path, base: Base, workers: int = 1) -> pa.Table:
    return count_words(document_files([folder]), base, work, workers=workers)


def test_one_worker_and_two_count_the_same(
    run_folder: Path, tmp_path: Path, small_base: Base
) -> None:
    documents = run_folder / "dedup" / "documents"
    one = count(documents, tmp_path / "one", small_base)
    two = count(documents, tmp_path / "two", small_base, workers=2)
    assert one.num_rows > 100
    assert one.equals(two)


def test_held_out_documents_are_not_counted(
    run_folder: Path, tmp_path: Path, small_base: Base
) -> None:
    from dedup.documents import read_documents

    documents = run_folder / "dedup" / "documents"
    texts = [
        text
        for batch in read_documents(documents, split="train", columns=["text"])
        for text in batch.column("text").to_pylist()
    ]
    counted = count(documents, tmp_path / "work", small_base)
    total = sum(counted.column("count").to_pylist())
    assert sum(sizes_of(counted).values()) == total
    assert total == PreTokens(small_base.pattern).count(texts).total()


def test_paths_without_documents_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        document_files([tmp_path / "none", tmp_path / "*.jsonl"])
    assert len(error.value.lines) == 2
