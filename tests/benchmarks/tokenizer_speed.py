"""Documents → a written, checked tokenizer: seconds and peak memory, beside two trainers from scratch.

    python tests/benchmarks/tokenizer_speed.py [--dir FOLDER] [--new 32000] [--sample 20]
    python tests/benchmarks/tokenizer_speed.py --volume 2 [--max-words 1000000,250000]

The first form takes ../shared/data/ko_web as documents of the data stage (145 MB of text, seven
sources) and runs, each as a process of its own:

- `malmoi tokenizer` on Llama-3 (count, learn, compare sizes, write, load, gates, report);
- `tokenizers`' BpeTrainer, from scratch, to a vocabulary of 256 + the new tokens, over the same text
  with Llama-3's regex, reading the same Parquet and saving a tokenizer.json;
- `sentencepiece` BPE of the new tokens, on --sample MB of the text (its time grows faster than the
  text, so what is extrapolated in proportion is too low), with two threads;
- counting alone, one worker, beside `tokenizers`' pre-tokenizer and a dictionary, on --sample MB.

The second form makes so many GB as volume.py does (sentences of ko_web in new documents, so there
are fewer distinct words than in a crawl of that size), counts them exactly, then with tables of at
most --max-words, and says what the pruning does to the tokens that are learned.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from real_data import DATA, measured

from dedup.documents import SCHEMA, document_files, parquet_writer, split_of

ROW_GROUP = 8_000_000
FILE = 256_000_000


def write(folder: Path, texts: Iterator[tuple[str, str]]) -> int:
    """(source, text) as documents of the data stage, in files of at most FILE bytes; bytes of text."""
    total = number = 0
    rows: list[dict[str, object]] = []
    more = True
    while more:
        held = size = 0
        with parquet_writer(folder / f"{total // FILE:03}-{number}.parquet", SCHEMA) as out:
            while size < FILE:
                more = (item := next(texts, None)) is not None
                if item is not None:
                    source, text = item
                    name = f"{source}-{number}"
                    number += 1
                    held += len(text.encode())
                    rows.append(
                        {"id": name, "kind": "text", "text": text, "source": source, "quality": 1.0,
                         "split": split_of(name, 0.005), "cluster_id": name, "cluster_size": 1}
                    )  # fmt: skip
                if held >= ROW_GROUP or item is None:
                    out.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                    rows.clear()
                    size += held
                    held = 0
                if item is None:
                    break
        total += size
    return total


def ko_web() -> Iterator[tuple[str, str]]:
    for path in sorted((DATA / "ko_web").glob("*.jsonl.zst")):
        data = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
        for line in data.splitlines():
            yield path.name.split(".")[0], orjson.loads(line)["text"]


def recombined(size: int) -> Iterator[tuple[str, str]]:
    import volume

    total = 0
    for text in volume.documents(seed=13):
        yield "web", text
        total += len(text.encode())
        if total >= size:
            return


def texts(folder: Path, most: float) -> Iterator[str]:
    """Training texts of the documents, up to so many bytes."""
    total = 0
    for path in document_files([folder]):
        for batch in pq.ParquetFile(path).iter_batches(1024, columns=["text", "split"]):
            for row in batch.to_pylist():
                if row["split"] == "train":
                    yield row["text"]
                    total += len(row["text"].encode())
                    if total >= most:
                        return


def contender(options: argparse.Namespace) -> None:
    """One measured process: its name is options.contender."""
    most = options.sample * 1e6 if options.sample else float("inf")
    if options.contender == "trainer":
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        from tokenizer.base import LLAMA3_PATTERN

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=256 + options.new,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts(options.dir / "documents", most), trainer)
        tokenizer.save(str(options.dir / "fresh.json"))
    elif options.contender == "sentencepiece":
        import sentencepiece

        lines = (
            line for text in texts(options.dir / "documents", most) for line in text.split("\n")
        )
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for line in lines if line),
            model_prefix=str(options.dir / "fresh-sp"),
            model_type="bpe",
            vocab_size=options.new,
            byte_fallback=True,
            num_threads=2,
            max_sentence_length=100_000,
            minloglevel=2,
        )
    elif options.contender in ("count", "pre-tokenizer"):
        count_alone(options, most)
    else:
        from tokenizer.base import load_base
        from tokenizer.words import count_words

        count_words(
            document_files([options.dir / "documents"]),
            load_base("llama3"),
            options.dir / options.contender,
            workers=options.workers,
            max_words=int(options.max_words) or None,
            min_count=2,
        )


def count_alone(options: argparse.Namespace, most: float) -> None:
    """CPU seconds of cutting and counting texts that are in memory."""
    from collections import Counter

    import numpy as np
    from tokenizers import Regex, pre_tokenizers

    from tokenizer.base import LLAMA3_PATTERN
    from tokenizer.tally import Tally
    from tokenizer.words import PreTokens

    whole = list(texts(options.dir / "documents", most))
    size = sum(len(text.encode()) for text in whole)
    tally = Tally()
    column, sources = pa.array(whole, pa.large_string()), np.zeros(len(whole), np.int32)
    tally.number("")
    pre_tokens = PreTokens(LLAMA3_PATTERN)
    pre_tokens.count(["가"])  # kernels are read
    begin = time.process_time()
    pre_tokens.count_into(tally, column, sources)
    ours = time.process_time() - begin
    exact = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False)
    begin = time.process_time()
    counts = Counter(word for text in whole for word, _ in exact.pre_tokenize_str(text))
    theirs = time.process_time() - begin
    rows = tally.rows()
    own = dict(zip(rows["word"].to_pylist(), rows["count"].to_pylist(), strict=True))
    same = own == {w: n for w, n in counts.items() if any("가" <= c <= "힣" for c in w)}
    print(
        f"counting {size / 1e6:.0f} MB in memory, one core: {size / 1e6 / ours:.1f} MB/s; tokenizers' "
        f"pre-tokenizer and a Counter {size / 1e6 / theirs:.1f} MB/s; the same {len(own):,} words and "
        f"counts: {same}"
    )


def processor_seconds() -> float:
    """CPU seconds of all processes waited for so far: what a loaded machine does not change much."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def child(options: argparse.Namespace, name: str, **changes: object) -> tuple[float, float]:
    values = {"dir": options.dir, "new": options.new, "workers": options.workers, **changes}
    flags = [
        part for key, value in values.items() for part in (f"--{key.replace('_', '-')}", str(value))
    ]
    return measured([sys.executable, __file__, "--contender", name, *flags])


def whole_stage(options: argparse.Namespace) -> None:
    folder = options.dir / "documents"
    shutil.rmtree(folder, ignore_errors=True)
    size = write(folder, ko_web())
    config = options.dir / "speed.yaml"
    config.write_text(
        f"name: speed\ntokenizer: {{base: llama3, new_tokens: {options.new}, "
        f"documents: [{folder}], workers: {options.workers}}}\n"
    )
    command = [sys.executable, "-m", "launch.cli", "tokenizer", str(config)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    shutil.rmtree(options.dir / "run", ignore_errors=True)
    seconds, peak = measured([*command, f"dir={options.dir / 'run'}"], **quiet)
    ours = processor_seconds()
    report = json.loads((options.dir / "run/tokenizer/report.json").read_text())
    print(
        f"{size / 1e6:.0f} MB of text, +{report['new_tokens']:,}: malmoi tokenizer {seconds:.1f} s "
        f"({ours:.1f} of CPU), "
        f"peak {peak:,.0f} MB, {options.workers} workers; {report['seconds']}",
        flush=True,
    )
    fresh, peak = child(options, "trainer", sample=0)
    print(
        f"tokenizers BpeTrainer, 256 + {options.new:,} from scratch: {fresh:.1f} s "
        f"({processor_seconds() - ours:.1f} of CPU), peak {peak:,.0f} MB; ours takes "
        f"{seconds / fresh:.2f} × its time",
        flush=True,
    )
    if options.sample:
        spent, peak = child(options, "sentencepiece", sample=options.sample)
        print(
            f"sentencepiece BPE {options.new:,} on {options.sample:g} MB: {spent:.1f} s, peak "
            f"{peak:,.0f} MB; extrapolated in proportion to all the text "
            f"{spent * size / 1e6 / options.sample:.0f} s",
            flush=True,
        )
        child(options, "count", sample=options.sample)


def volume_counts(options: argparse.Namespace) -> None:
    from tokenizer.counts import about

    folder = options.dir / "documents"
    wanted = int(options.volume * 1e9)
    mark = options.dir / f"made-{wanted}"
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        mark.write_text(str(write(folder, recombined(wanted))))
    size = int(mark.read_text())
    limits = [0, *(int(part) for part in options.max_words.split(","))]
    for limit in limits:
        target = options.dir / f"counts-{limit}"
        shutil.rmtree(target, ignore_errors=True)
        before = processor_seconds()
        seconds, peak = child(options, target.name, max_words=limit)
        used = processor_seconds() - before
        merged = target / "merged.parquet"
        disk = sum(path.stat().st_size for path in target.iterdir())
        print(
            f"{size / 1e9:.2f} GB, {options.workers} workers, "
            f"{f'at most {limit:,} words' if limit else 'exact'}: {seconds:.1f} s, "
            f"{size / 1e6 / seconds:.1f} MB/s ({size / 1e6 / used:.1f} a CPU second), peak {peak:,.0f} MB; {len(list(target.iterdir())) - 1} "
            f"shares, {disk / 1e6:.0f} MB on disk; {pq.read_metadata(merged).num_rows:,} distinct "
            f"words, each count too low by {about(merged).undercount:,} at most",
            flush=True,
        )
    effect(options, limits)


def effect(options: argparse.Namespace, limits: list[int]) -> None:
    """What pruning does to the learned tokens: those that differ, and tokens spent on all words."""
    from tokenizer.base import load_base
    from tokenizer.bpe import encode_words, learn
    from tokenizer.counts import read_counts
    from tokenizer.curve import tokens_by_size
    from tokenizer.weights import balanced

    base = load_base("llama3")
    exact = balanced(read_counts(options.dir / "counts-0" / "merged.parquet", 2), 0.5, 2)
    ids, ends = encode_words(base, exact[0])
    spent, tokens = {}, {}
    for limit in limits:
        words, weights = balanced(
            read_counts(options.dir / f"counts-{limit}" / "merged.parquet", 2), 0.5, 2
        )
        learned = learn(*encode_words(base, words), weights, base.tokens(), options.new)
        spent[limit] = float(tokens_by_size(base, learned, ids, ends, exact[1][:, None])[-1, 0])
        tokens[limit] = set(learned.tokens)
        print(
            f"{f'at most {limit:,}' if limit else 'exact'}: learned from {len(words):,} words; "
            f"{len(tokens[limit] - tokens[0]):,} of {len(tokens[limit]):,} new tokens differ; tokens "
            f"spent on all words {100 * (spent[limit] / spent[0] - 1):+.3f} %",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("runs/tokenizer-speed"))
    parser.add_argument("--new", type=int, default=32_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample", type=float, default=20, help="MB for the slow peers; 0: none")
    parser.add_argument("--volume", type=float, help="GB to count instead")
    parser.add_argument("--max-words", default="1000000,250000")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.dir = options.dir.resolve()
    options.dir.mkdir(parents=True, exist_ok=True)
    if options.contender:
        contender(options)
    elif not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    elif options.volume:
        volume_counts(options)
    else:
        whole_stage(options)


if __name__ == "__main__":
    main()
