"""Fewer tokens than Llama-3 on Korean that was not trained on: a row a source, a column a size.

    python tests/benchmarks/tokenizer_quality.py [--folder DIR] [--balance B …] [--min-count N …]
                                                 [--without-each] [--sizes 8000,16000,32000]

Learns from ../shared/data/ko_web less one document in eight, and judges twice: on those documents,
and on sources of other kinds that were not trained on at all (chat, help pages, evaluation sets).
The measure is tokens spent on words (pre-tokens) with Hangul, averaged over sources; the saving over
all tokens of the same pages stands beside it in brackets. It is exact without cutting the pages again,
because only words with Hangul change. Reviews stand in two files of one kind, and count once.

Beside it: a byte-level BPE of 32,000 new tokens learned from nothing on the same words with the same
weights (a vocabulary that need not carry Llama-3's 128,000), and Bllossom's claim for 30,000
tokens, 25 % longer context, which is 20 % fewer tokens.

--balance and --min-count try other values of these keys, a table's means per line. --without-each
learns once without each source and judges on that one. Texts are counted once, into --folder; a
variant then takes seconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard
from real_data import DATA

from configs.schema import Tokenizer
from dedup.documents import split_of
from dedup.extract import extract
from tokenizer.base import Base, load_base
from tokenizer.bpe import Ids, Learned, Longs, encode_words, learn
from tokenizer.curve import tokens_by_size
from tokenizer.tally import Tally
from tokenizer.weights import balanced
from tokenizer.words import PreTokens

HELDOUT = 1 / 8
SAME_KIND = "movie_reviews_single"
FRESH = 32_000
BATCH = 2_000


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in zstandard.ZstdDecompressor().stream_reader(file).read().splitlines():
            yield line.decode()


def _rows(path: Path, delimiter: str = "\t") -> list[dict[str, str]]:
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter, quoting=quoting))


def _fields(rows: Iterable[dict[str, str]], *names: str) -> list[str]:
    return [row[name] for row in rows for name in names if row.get(name)]


def _help_pages() -> list[str]:
    texts = []
    with (
        (DATA / "html_ko" / "pages_utf8.tar.zst").open("rb") as file,
        tarfile.open(fileobj=zstandard.ZstdDecompressor().stream_reader(file), mode="r|") as tar,
    ):
        for member in tar:
            if member.isfile() and member.name.endswith((".html", ".xhtml", ".htm")):
                content = tar.extractfile(member)
                texts.append(extract(content.read() if content else b"").text)
    return texts


def _tags_removed(line: str) -> str:
    return re.sub(r"<([^<>]*):[A-Z]{2}>", r"\1", line.rstrip("\n").split("\t")[1])


def _entities() -> list[str]:
    with (DATA / "eval_ko" / "klue" / "klue-ner-v1.1_dev.tsv").open(encoding="utf-8") as file:
        return [_tags_removed(line) for line in file if line.startswith("## klue-ner")]


def other_sources() -> dict[str, Callable[[], list[str]]]:
    """Texts of the sources that are never trained on, by name."""
    folder = DATA / "eval_ko"

    def of_json(path: str, *names: str) -> list[str]:
        return _fields(json.loads((folder / path).read_text("utf-8")), *names)

    def of_tables(paths: Sequence[str], *names: str, delimiter: str = "\t") -> list[str]:
        return [text for path in paths for text in _fields(_rows(folder / path, delimiter), *names)]

    sts = ["kor-nlu/sts-dev.tsv", "kor-nlu/sts-test.tsv"]
    nli = ["kor-nlu/xnli.dev.ko.tsv", "kor-nlu/xnli.test.ko.tsv"]
    hate = ["korean-hate-speech/train.tsv", "korean-hate-speech/dev.tsv"]
    kobbq = ["kobbq/KoBBQ_test_samples.tsv"]
    pairs = ["question_pair/kor_Pair_test.csv"]
    return {
        "chat": lambda: [
            turn["content"]
            for line in (DATA / "chat_ko" / "chatbot_data.jsonl").open(encoding="utf-8")
            for turn in json.loads(line)["messages"]
        ],
        "help pages": _help_pages,
        "klue nli": lambda: of_json("klue/klue-nli-v1.1_dev.json", "premise", "hypothesis"),
        "klue sts": lambda: of_json("klue/klue-sts-v1.1_dev.json", "sentence1", "sentence2"),
        "klue ner": _entities,
        "kor sts": lambda: of_tables(sts, "sentence1", "sentence2"),
        "kor nli": lambda: of_tables(nli, "sentence1", "sentence2"),
        "kobbq": lambda: of_tables(kobbq, "context", "question"),
        "safety": lambda: [
            *of_json("korean-safety/question_test_ood.json", "question"),
            *of_json("korean-safety/response_test_ood.json", "response"),
        ],
        "questions": lambda: of_tables(pairs, "question1", "question2", delimiter=","),
        "labelled comments": lambda: of_tables(hate, "comments"),
        "intents": lambda: [
            line.rstrip("\n").split("\t")[1]
            for line in (folder / "3i4k" / "fci_test.txt").open(encoding="utf-8")
        ],
    }


class Counted(NamedTuple):
    """Counts (source, word, count) to learn from, of held-out documents and of other sources.

    all_tokens: Llama-3's tokens of everything, by source, of held-out documents and other sources.
    """

    train: pa.Table
    heldout: pa.Table
    other: pa.Table
    all_tokens: dict[str, int]


def counted(base: Base, folder: Path) -> Counted:
    """Count the words of all texts, or read what an earlier call counted."""
    names = ("train", "heldout", "other")
    if not (folder / "all_tokens.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tallies = {name: Tally() for name in names}
        all_tokens: dict[str, int] = {}
        pre_tokens = PreTokens(base.pattern)

        def add(part: str, source: str, texts: list[str]) -> None:
            numbers = np.full(len(texts), tallies[part].number(source), np.int32)
            pre_tokens.count_into(tallies[part], pa.array(texts, pa.large_string()), numbers)
            if part != "train":
                ids = base.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
                all_tokens[source] = all_tokens.get(source, 0) + sum(len(own.ids) for own in ids)

        for path in sorted((DATA / "ko_web").glob("*.jsonl.zst")):
            source = path.name.split(".")[0]
            texts: dict[str, list[str]] = {"train": [], "heldout": []}
            for line in _lines(path):
                row = json.loads(line)
                part = split_of(f"{source}/{row['id']}", HELDOUT)
                texts[part].append(row["text"])
                if len(texts[part]) == BATCH:
                    add(part, source, texts[part])
                    texts[part] = []
            for part, rest in texts.items():
                add(part, source, rest)
        for source, read in other_sources().items():
            add("other", source, read())
        for name, tally in tallies.items():
            pq.write_table(tally.rows(), folder / f"{name}.parquet")
        (folder / "all_tokens.json").write_text(json.dumps(all_tokens))
    tables = [pq.read_table(folder / f"{name}.parquet") for name in names]
    return Counted(*tables, json.loads((folder / "all_tokens.json").read_text()))


class Judge:
    """Words of one table of counts, and what a tokenizer spends on them.

    sources [columns]; counts [words, columns]; before [columns]: Llama-3's tokens on the words.
    """

    def __init__(self, base: Base, table: pa.Table) -> None:
        words = table["word"].combine_chunks().dictionary_encode()
        sources = table["source"].combine_chunks().dictionary_encode()
        self.sources: list[str] = sources.dictionary.to_pylist()
        self.words: list[str] = words.dictionary.to_pylist()
        self.counts = np.zeros((len(self.words), len(self.sources)), np.int64)
        at = words.indices.to_numpy(), sources.indices.to_numpy()
        np.add.at(self.counts, at, table["count"].to_numpy())
        self.base = base
        self.ids, self.ends = encode_words(base, self.words)
        self.before = self.counts.T @ np.diff(self.ends, prepend=0)

    def spent(self, learned: Learned) -> Longs:
        """Tokens with the first k new tokens [k, columns]."""
        return tokens_by_size(self.base, learned, self.ids, self.ends, self.counts)

    def spent_fresh(self, learned: Learned) -> Longs:
        """The same for tokens learned from single bytes."""
        ids, ends = _as_bytes(self.words)
        return tokens_by_size(self.base, learned, ids, ends, self.counts)

    def saved(self, spent: Longs) -> dict[str, float]:
        """Per cent of the tokens on words saved, by source; spent [columns]."""
        return dict(zip(self.sources, 100 * (1 - spent / self.before), strict=True))

    def saved_of_all(self, spent: Longs, all_tokens: dict[str, int]) -> dict[str, float]:
        """Per cent of all tokens of the same texts saved."""
        everything = np.array([all_tokens[source] for source in self.sources])
        return dict(zip(self.sources, 100 * (self.before - spent) / everything, strict=True))


def mean(saved: dict[str, float]) -> float:
    """Over sources, each kind once."""
    return float(np.mean([value for source, value in saved.items() if source != SAME_KIND]))


def _as_bytes(words: Sequence[str]) -> tuple[Ids, Longs]:
    raw = [word.encode() for word in words]
    ids = np.frombuffer(b"".join(raw), np.uint8).astype(np.int32)
    return ids, np.cumsum([len(data) for data in raw], dtype=np.int64)


def learned_from(
    base: Base, table: pa.Table, balance: float, min_count: int, size: int
) -> tuple[Learned, float]:
    """What is learned from a table of counts, and the seconds of learning alone."""
    words, weights = balanced(table, balance, min_count)
    ids, ends = encode_words(base, words)
    started = time.monotonic()
    return learn(ids, ends, weights, base.tokens(), size), time.monotonic() - started


def _means(name: str, judges: Sequence[Judge], learned: Learned, sizes: Sequence[int]) -> None:
    spent = [judge.spent(learned) for judge in judges]
    cells = (
        "  ".join(
            f"{mean(judge.saved(own[min(size, len(own) - 1)])):6.2f}"
            for judge, own in zip(judges, spent, strict=True)
        )
        for size in sizes
    )
    print(f"{name:34} " + "  |  ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/tokenizer-quality"))
    parser.add_argument("--sizes", default="8000,16000,32000")
    parser.add_argument("--balance", type=float, nargs="*", default=[])
    parser.add_argument("--min-count", type=int, nargs="*", default=[])
    parser.add_argument("--without-each", action="store_true")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    sizes = [int(size) for size in options.sizes.split(",")]
    defaults = Tokenizer()
    base = load_base("llama3")
    texts = counted(base, options.folder)
    judges = [Judge(base, texts.heldout), Judge(base, texts.other)]

    if options.balance or options.min_count:
        print(
            "mean % saved, held-out documents and other sources, at +" + ", +".join(map(str, sizes))
        )
        for balance in options.balance or [defaults.balance]:
            for least in options.min_count or [1]:
                learned, seconds = learned_from(base, texts.train, balance, least, max(sizes))
                name = f"balance {balance}, min_count {least} ({seconds:.1f} s)"
                _means(name, judges, learned, sizes)
        return
    if options.without_each:
        print(
            "learned without the source that is judged, % saved at +" + ", +".join(map(str, sizes))
        )
        found = []
        for source in judges[0].sources:
            kinds = [source] if "review" not in source else [SAME_KIND, "movie_review_pages"]
            rest = texts.train.filter(pc.invert(pc.is_in(texts.train["source"], pa.array(kinds))))
            learned, _ = learned_from(base, rest, defaults.balance, 1, max(sizes))
            spent = judges[0].spent(learned)
            saved = [judges[0].saved(spent[size])[source] for size in sizes]
            found.append(saved if source != SAME_KIND else [np.nan] * len(sizes))
            print(f"{source:22}" + "".join(f"{value:8.1f}" for value in saved), flush=True)
        print(f"{'mean':22}" + "".join(f"{value:8.1f}" for value in np.nanmean(found, axis=0)))
        return

    learned, seconds = learned_from(base, texts.train, defaults.balance, 1, max(sizes))
    words, weights = balanced(texts.train, defaults.balance)
    fresh = learn(*_as_bytes(words), weights, [bytes([byte]) for byte in range(256)], FRESH)
    print(f"learned +{max(sizes):,} from {len(words):,} words in {seconds:.1f} s")
    for title, judge in zip(("documents held out", "sources not trained on"), judges, strict=True):
        spent, anew = judge.spent(learned), judge.spent_fresh(fresh)[-1]
        saved = [judge.saved(spent[size]) for size in sizes]
        of_all = [judge.saved_of_all(spent[size], texts.all_tokens) for size in sizes]
        from_fresh = judge.saved(anew)
        heads = "".join(f"{f'+{size:,}':>15}" for size in sizes)
        print(f"\n{title:24}{heads}{'fresh 32,000':>15}   % fewer tokens on words (of all tokens)")
        for source in judge.sources:
            cells = (
                f"{a[source]:.1f} ({b[source]:.1f})" for a, b in zip(saved, of_all, strict=True)
            )
            row = "".join(f"{cell:>15}" for cell in cells)
            print(f"{source:24}{row}{from_fresh[source]:15.1f}")
        row = "".join(
            f"{f'{mean(a):.1f} ({mean(b):.1f})':>15}" for a, b in zip(saved, of_all, strict=True)
        )
        print(f"{'mean':24}{row}{mean(from_fresh):15.1f}")
    print("\nBllossom's claim for 30,000 tokens: 25 % longer context, that is 20.0 % fewer tokens")


if __name__ == "__main__":
    main()
