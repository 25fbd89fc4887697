"""Counting words with Hangul."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Regex, pre_tokenizers

from configs.errors import InputError
from configs.progress import Progress
from dedup.documents import document_files
from tokenizer import samples, words
from tokenizer.base import GPT2_PATTERN, LLAMA3_PATTERN, Base
from tokenizer.words import COUNTS, PreTokens, balanced, count_words

SYLLABLES = range(0xAC00, 0xD7A4)


def with_hangul(counts: Counter[str]) -> Counter[str]:
    return Counter(
        {word: n for word, n in counts.items() if any(ord(c) in SYLLABLES for c in word)}
    )


@pytest.mark.parametrize("pattern", [LLAMA3_PATTERN, GPT2_PATTERN, r"\w+|\W"])
def test_counts_are_those_of_the_pre_tokenizer_of_tokenizers(pattern: str) -> None:
    texts = samples.with_hangul()
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


def test_characters_left_to_the_fast_regex_are_cut_the_same_by_both_engines() -> None:
    import regex

    oracle = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False)
    ours = regex.compile(LLAMA3_PATTERN)
    agreed = [
        chr(code)
        for code in range(0x110000)
        if not 0xD800 <= code < 0xE000 and words._AGREED.fullmatch(chr(code))
    ]
    assert len(agreed) > 39_000
    for start in range(0, len(agreed), 1000):
        text = "".join(f"가{c}나  {c} 다" for c in agreed[start : start + 1000])
        assert ours.findall(text) == [piece for piece, _ in oracle.pre_tokenize_str(text)]


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
    assert total == PreTokens(small_base.pattern).count(texts).total()


def test_an_interrupted_count_goes_on_where_it_stopped(
    run_folder: Path, tmp_path: Path, small_base: Base
) -> None:
    documents = run_folder / "dedup" / "documents"
    whole = count(documents, tmp_path / "whole", small_base)

    def interrupt(progress: Progress) -> None:
        if progress.done > 0:
            raise KeyboardInterrupt

    files = document_files([documents])
    with pytest.raises(KeyboardInterrupt):
        count_words(files, small_base, tmp_path / "work", workers=1, log=interrupt)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.parquet")}
    assert 0 < len(finished) < len(files)
    again = count(documents, tmp_path / "work", small_base)
    assert again.equals(whole)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())


def test_a_file_that_changed_is_counted_again(
    run_folder: Path, tmp_path: Path, small_base: Base
) -> None:
    documents = run_folder / "dedup" / "documents"
    count(documents, tmp_path / "work", small_base)
    result = next(iter(sorted((tmp_path / "work").glob("*.parquet"))))
    written = result.stat().st_mtime_ns
    os.utime(next(iter(sorted(documents.iterdir()))), (1, 1))
    count(documents, tmp_path / "work", small_base)
    assert result.stat().st_mtime_ns != written


def table(rows: list[tuple[str, str, int]]) -> pa.Table:
    names = ("source", "word", "count")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=COUNTS)


def test_a_source_weighs_its_size_to_the_power_of_balance() -> None:
    counts = table([("big", " 가", 300), ("big", " 나", 100), ("small", " 가", 4)])
    chosen, weights = balanced(counts, 0.5, 1)
    assert chosen == [" 가", " 나"]
    assert weights.tolist() == [300 + 40, 100]  # factor (400 / 4) ** 0.5 = 10
    assert balanced(counts, 1.0, 1)[1].tolist() == [304, 100]
    assert balanced(counts, 0.0, 1)[1].tolist() == [700, 100]


def test_rare_words_are_left_out_by_their_true_count() -> None:
    counts = table([("big", " 가", 300), ("small", " 나", 1), ("small", " 다", 2)])
    assert balanced(counts, 0.5, 2)[0] == [" 가", " 다"]
    assert balanced(COUNTS.empty_table(), 0.5, 2)[1].dtype == np.int64


def test_paths_without_documents_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        document_files([tmp_path / "none", tmp_path / "*.jsonl"])
    assert len(error.value.lines) == 2
