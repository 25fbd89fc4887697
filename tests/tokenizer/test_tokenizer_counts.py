"""Counting in shares: killed and resumed, spilled, pruned, merged with another corpus."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from configs.schema import Config, Dedup
from dedup.documents import SCHEMA, parquet_writer, plain_shares
from dedup.plan import Task, plan
from tests.tokenizer.conftest import korean, row
from tokenizer import stage, words
from tokenizer.base import Base
from tokenizer.counts import about, merge_counts, read_counts, sizes_of
from tokenizer.tally import Tally
from tokenizer.words import MERGED, count_words

Make = Callable[..., Config]


def write(path: Path, documents: list[tuple[str, str]], groups: int = 1) -> Path:
    """(source, text) pairs as one file of the data stage, in so many row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row(f"{path.stem}-{n}", *pair) for n, pair in enumerate(documents)]
    size = -(-len(rows) // groups)
    with parquet_writer(path, SCHEMA) as out:
        for begin in range(0, len(rows), size):
            out.write_table(pa.Table.from_pylist(rows[begin : begin + size], schema=SCHEMA))
    return path


def corpus(seed: int, documents: int = 40) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    made = "가나다라마바사아자차카타파하"
    return [
        (draw.choice(["talk", "news"]), korean(draw, 4) + " " + "".join(draw.choices(made, k=5)))
        for _ in range(documents)
    ]


def many_words(seed: int, texts: int, words_each: int) -> list[tuple[str, str]]:
    """Some frequent words and some tens of thousands of rare ones."""
    draw = random.Random(seed)
    syllables = [chr(code) for code in range(0xAC00, 0xAD00)]

    def word() -> str:
        return "".join(draw.choices(syllables[: draw.choice([12, 256])], k=2))

    return [("talk", " ".join(word() for _ in range(words_each))) for _ in range(texts)]


def merged(files: list[Path], base: Base, work: Path, **options: object) -> bytes:
    count_words(files, base, work, workers=1, **options)
    return (work / MERGED).read_bytes()


def shares(work: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in work.glob("*.parquet") if p.name != MERGED}


def test_a_large_file_is_shared_out_by_its_row_groups(
    tmp_path: Path, small_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "big.parquet", corpus(1), groups=8)
    whole = merged([path], small_base, tmp_path / "whole")
    assert len(shares(tmp_path / "whole")) == 1
    monkeypatch.setattr(words, "SHARE", 1_000)
    assert merged([path], small_base, tmp_path / "shared") == whole
    assert 3 < len(shares(tmp_path / "shared")) <= 8


def test_a_large_plain_file_is_shared_out_as_the_data_stage_would(
    tmp_path: Path, small_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for _, text in corpus(3)))
    whole = merged([path], small_base, tmp_path / "whole")

    def in_kilobytes(path: Path) -> tuple[Dedup, list[Task]]:
        dedup = plain_shares(path)[0].model_copy(update={"shard": 1_000})
        return dedup, plan(dedup)

    monkeypatch.setattr(words, "plain_shares", in_kilobytes)
    assert merged([path], small_base, tmp_path / "shared") == whole
    assert len(shares(tmp_path / "whole")) == 1 and len(shares(tmp_path / "shared")) > 3


def test_the_merged_counts_are_the_same_bytes_however_the_corpus_is_cut_and_ordered(
    tmp_path: Path, small_base: Base
) -> None:
    documents = corpus(2)
    one = merged([write(tmp_path / "a.parquet", documents)], small_base, tmp_path / "one")
    files = [write(tmp_path / f"b{n}.parquet", documents[n::3][::-1]) for n in range(3)]
    assert merged(files[::-1], small_base, tmp_path / "three") == one


def test_a_table_that_is_full_is_written_out_and_the_sums_stay_exact(
    tmp_path: Path, small_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "many.parquet", many_words(4, 3_000, 4))
    whole = merged([path], small_base, tmp_path / "whole")
    monkeypatch.setattr(words, "WORDS", 1_000)
    assert merged([path], small_base, tmp_path / "spilled") == whole
    (share,) = shares(tmp_path / "spilled")
    assert pq.read_metadata(tmp_path / "spilled" / share).num_row_groups >= 32


def test_pruning_holds_the_table_small_and_says_how_much_a_count_may_lack(
    tmp_path: Path, small_base: Base
) -> None:
    path = write(tmp_path / "many.parquet", many_words(5, 3_000, 20))
    exact = count_words([path], small_base, tmp_path / "exact", workers=1)
    pruned = count_words([path], small_base, tmp_path / "pruned", workers=1, max_words=4_000)
    lost = about(tmp_path / "pruned" / MERGED).undercount
    assert about(tmp_path / "exact" / MERGED).undercount == 0
    assert pruned.num_rows <= 4_000 < exact.num_rows and 0 < lost < 60
    kept = dict(zip(pruned["word"].to_pylist(), pruned["count"].to_pylist(), strict=True))
    for word, count in zip(exact["word"].to_pylist(), exact["count"].to_pylist(), strict=True):
        assert count - lost <= kept.get(word, 0) <= count


def test_a_prune_keeps_the_most_frequent_words() -> None:
    tally = Tally()
    names = [f"가{n}" for n in range(6)]
    tally.add_table(pa.table({"source": ["a"] * 6, "word": names, "count": [3, 1, 9, 2, 2, 7]}))
    tally.prune(6)
    assert len(tally) == 6 and tally.undercount == 0
    tally.prune(5)
    assert tally.rows()["count"].to_pylist() == [9, 7] and tally.undercount == 3


def test_counts_of_two_corpora_add_up_to_the_counts_of_both(
    tmp_path: Path, small_base: Base
) -> None:
    files = [write(tmp_path / f"{n}.parquet", corpus(n)) for n in (6, 7)]
    both = merged(files, small_base, tmp_path / "both")
    for file in files:
        merged([file], small_base, tmp_path / file.stem)
    merge_counts([tmp_path / "7" / MERGED, tmp_path / "6" / MERGED], tmp_path / "sum.parquet")
    assert (tmp_path / "sum.parquet").read_bytes() == both
    assert merged(files[:1], small_base, tmp_path / "also", also=[tmp_path / "7" / MERGED]) == both


def test_rare_words_are_left_out_but_counted_in_the_sizes(tmp_path: Path, small_base: Base) -> None:
    path = write(tmp_path / "a.parquet", [("a", "가방 나무 나무"), ("b", "하늘 나무")])
    counts = count_words([path], small_base, tmp_path / "work", workers=1, min_count=2)
    assert counts.to_pylist() == [
        {"source": "a", "word": " 나무", "count": 2},
        {"source": "b", "word": " 나무", "count": 1},
    ]
    assert sizes_of(counts) == {"a": 3, "b": 2}
    everything = read_counts(tmp_path / "work" / MERGED)
    assert sizes_of(everything) == sizes_of(counts) and everything.num_rows == 4


_CHILD = """
import os, signal, sys
from pathlib import Path
from tokenizer import words
from tokenizer.base import load_base
words.SHARE = 1_000
write_out = words._spill
calls = []
def die_in_the_third(tally, writer):
    write_out(tally, writer)
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
words._spill = die_in_the_third
words.count_words([Path(sys.argv[2])], load_base(sys.argv[1]), Path(sys.argv[3]), workers=1)
"""


def test_a_count_that_was_killed_while_writing_goes_on_where_it_was(
    tmp_path: Path, small_folder: Path, small_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "big.parquet", corpus(8), groups=8)
    whole = merged([path], small_base, tmp_path / "whole")
    work = tmp_path / "work"
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(small_folder), str(path), str(work)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    finished = shares(work)
    assert len(finished) == 2 and len(list(work.glob(".*.tmp"))) == 1
    monkeypatch.setattr(words, "SHARE", 1_000)
    assert merged([path], small_base, work) == whole
    assert not list(work.glob(".*.tmp"))
    assert {name: when for name, when in shares(work).items() if name in finished} == finished


def test_a_file_that_changed_is_counted_again(tmp_path: Path, small_base: Base) -> None:
    path = write(tmp_path / "a.parquet", [("talk", "가방")])
    merged([path], small_base, tmp_path / "work")
    write(path, [("talk", "나무 나무")])
    counts = count_words([path], small_base, tmp_path / "work", workers=1)
    assert sorted(counts["word"].to_pylist()) == [" 나무", "나무"]


def test_counts_of_another_regex_and_other_files_are_refused(
    tmp_path: Path, small_base: Base
) -> None:
    path = write(tmp_path / "a.parquet", corpus(9, 3))
    merged([path], small_base, tmp_path / "work")
    other = dataclasses.replace(small_base, name="other", pattern=r"\w+|\W")
    with pytest.raises(InputError, match="another pre-token regex or normalizer than other has"):
        count_words([path], other, tmp_path / "w2", workers=1, also=[tmp_path / "work" / MERGED])
    with pytest.raises(InputError, match=r"a\.parquet: is no file of counts"):
        merge_counts([path], tmp_path / "out.parquet")
    merged([path], other, tmp_path / "w3")
    with pytest.raises(InputError, match="were counted with different pre-token regexes"):
        merge_counts([tmp_path / w / MERGED for w in ("work", "w3")], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_damaged_file_of_documents_is_named(tmp_path: Path, small_base: Base) -> None:
    path = write(tmp_path / "a.parquet", corpus(10))
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        count_words([path], small_base, tmp_path / "work", workers=1)
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet: is not a readable Parquet file"):
        count_words([path], small_base, tmp_path / "work", workers=1)


def test_kept_counts_of_one_run_join_the_documents_of_another(tmp_path: Path, config: Make) -> None:
    names = [str(write(tmp_path / f"{n}.parquet", corpus(n))) for n in (11, 12)]
    stage.run(config(documents=names), tmp_path / "both")
    stage.run(config(documents=names[:1], keep_counts=True), tmp_path / "first")
    kept = str(tmp_path / "first" / "tokenizer" / "counts.parquet")
    stage.run(config(documents=names[1:], counts=[kept]), tmp_path / "second")
    both, second = (
        (tmp_path / name / "tokenizer" / "tokenizer.json").read_bytes()
        for name in ("both", "second")
    )
    assert both == second


def test_counts_alone_are_enough_to_learn_from(
    tmp_path: Path, config: Make, small_base: Base
) -> None:
    merged([write(tmp_path / "a.parquet", corpus(14))], small_base, tmp_path / "work")
    report = stage.run(config(counts=[str(tmp_path / "work" / MERGED)]), tmp_path / "alone")
    assert report.new_tokens > 0 and report.measured_on == "none"


def test_one_two_and_four_workers_write_the_same_tokenizer(tmp_path: Path, config: Make) -> None:
    files = [write(tmp_path / "in" / f"{n}.parquet", corpus(n), groups=4) for n in range(20, 24)]
    written = []
    for workers in (1, 2, 4):
        folder = tmp_path / str(workers)
        stage.run(config(documents=[str(file) for file in files], workers=workers), folder)
        written.append((folder / "tokenizer" / "tokenizer.json").read_bytes())
    assert written[0] == written[1] == written[2]


def test_lone_surrogates_become_replacement_characters_and_one_in_json_is_named(
    tmp_path: Path, config: Make
) -> None:
    rows = [row(f"d{n}", *pair, ("train", "heldout")[n % 2]) for n, pair in enumerate(corpus(13))]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    texts = [
        text.encode() + b" \xed\xa0\xbd " + text.encode() for text in table["text"].to_pylist()
    ]
    broken = pa.array(texts, pa.large_binary()).view(pa.large_string())
    path = tmp_path / "odd.parquet"
    pq.write_table(table.set_column(2, table.schema.field("text"), broken), path)
    report = stage.run(config(documents=[str(path)]), tmp_path / "run")
    assert report.new_tokens > 0 and report.measured_on == "heldout"
    path = tmp_path / "odd.jsonl"
    path.write_text('{"text": "가방"}\n{"text": "가방 \\ud83d 끝"}\n')
    with pytest.raises(InputError, match=r"odd\.jsonl:2: is not JSON .*mend or remove it"):
        stage.run(config(documents=[str(path)]), tmp_path / "other")
