"""Documents → token shards: tokens/s beside the tokenizer's own batch encode; and the wait for data.

    python tests/benchmarks/token_shards.py [--mb 24] [--rounds 3] [--workers 2] [--tokenizer FOLDER]
        [--cpu]
    python tests/benchmarks/token_shards.py --steps 40 [--mb 4] [--tokenizer FOLDER]

Text of ../shared/data (Korean and English pages, by turns) is written as documents of the data stage,
in files of 4 MB. Then, in rounds, each in a process of its own:

- `tokenizers`' `encode_batch_fast` over the texts, already in memory, in batches of 1,024, on as many
  threads; its ids are neither looked at nor kept: nothing can be encoded faster with it;
- `write_tokens` in one process, whose tokenizer has these threads;
- `write_tokens` in as many processes of one thread each: what the stage does.

Of `write_tokens` the clock runs from Parquet to the manifest on disk, digests and the start of the
processes included. The ratio of a round is of its two rates; printed are all and their median. Then the
same once with one more worker, to show that the bytes are the same. `--cpu` compares one process on
one thread in processor time, which a busy machine disturbs less than a clock.

The second form trains a small model (hidden 256, 6 layers, 512 tokens a sequence, 8 sequences a step)
on these documents for so many steps and prints which share of the steps' time the trainer waited for
data (`data_wait` of metrics.jsonl, the first step left out, for it is the one that nothing was made
ready for), and how many tokens/s one thread makes ready when nobody trains.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from real_data import DATA

FILE = 4_000_000  # bytes of text
KOREAN = ["ko_web/news_comments", "ko_web/mixed_prose", "ko_web/petitions", "ko_web/oss_docs_ko"]
ENGLISH = ["en/oss_docs_en", "en/public_domain_prose"]


def texts(name: str) -> Iterator[str]:
    with (DATA / f"{name}.jsonl.zst").open("rb") as handle:
        data = zstandard.ZstdDecompressor().stream_reader(handle).read()
    for line in data.splitlines():
        yield orjson.loads(line)["text"]


def write_documents(folder: Path, size: int) -> int:
    """Documents of about `size` bytes of text in files of FILE bytes; how many bytes they are."""
    from dedup.documents import SCHEMA, parquet_writer

    sources = [(name, texts(name)) for name in [*KOREAN, *ENGLISH]]
    total = number = 0
    while total < size and sources:
        with parquet_writer(folder / f"{number:05}.parquet", SCHEMA) as out:
            held = 0
            rows = []
            while held < FILE and total < size and sources:
                for name, some in list(sources):
                    text = next(some, None)
                    if text is None:
                        sources.remove((name, some))
                        continue
                    language = "ko" if name in KOREAN else "en"
                    row = dict.fromkeys(SCHEMA.names)
                    row |= {"id": f"{name}/{total}/{len(rows)}", "kind": "text", "text": text}
                    row |= {"source": language, "language": language, "split": "train"}
                    row |= {"quality": 1.0, "cluster_id": "x", "cluster_size": 1}
                    rows.append(row)
                    held += len(text.encode())
            out.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
            total += held
            number += 1
    return total


def one(
    kind: str, tokenizer_folder: Path, documents: Path, workers: int, out: Path, cpu: bool
) -> None:
    """One measurement, in this process: prints {"seconds", "tokens", "digest"}."""
    from tokenizer.load import load_tokenizer

    clock = time.process_time if cpu else time.monotonic
    tokenizer = load_tokenizer(tokenizer_folder)
    if kind == "encode":
        backend = tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        rows = [t for f in sorted(documents.glob("*.parquet")) for t in _column(f)]
        started = clock()
        tokens = 0
        for start in range(0, len(rows), 1024):
            batch = backend.encode_batch_fast(rows[start : start + 1024], add_special_tokens=False)
            tokens += sum(map(len, batch))
        print(json.dumps({"seconds": clock() - started, "tokens": tokens, "digest": ""}))
        return
    from pretrain.data.token_shards import write_tokens
    from pretrain.data.tokens import open_tokens

    started = clock()
    write_tokens([documents], tokenizer, tokenizer_folder / "tokenizer.json", out, workers=workers)
    seconds = clock() - started
    made = open_tokens(out, verify=True)
    tokens = sum(s.tokens - 2 * s.documents for s in made.sets.values())
    print(json.dumps({"seconds": seconds, "tokens": tokens, "digest": made.digest}))


def _column(file: Path) -> list[str]:
    return pq.read_table(file, columns=["text"])["text"].to_pylist()


def measure(
    kind: str, tokenizer: Path, documents: Path, workers: int, threads: int, cpu: bool
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=documents.parent) as out:
        command = [sys.executable, __file__, "--one", kind, "--workers", str(workers)]
        command += ["--tokenizer", str(tokenizer), "--documents", str(documents), "--out", out]
        command += ["--cpu"] if cpu else []
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        environment["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def wait_for_data(folder: Path, tokenizer: Path, steps: int) -> None:
    """Train for so many steps and print the wait; then make the same steps ready with no training."""
    from configs.schema import Config
    from pretrain.data.batches import step_data
    from pretrain.data.tokens import open_tokens
    from pretrain.phases import make_work
    from pretrain.stage import run

    base = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512}
    base |= {"num_hidden_layers": 6, "num_attention_heads": 4, "tie_word_embeddings": True}
    base |= {"max_position_embeddings": 1024}
    phase = {"name": "wait", "tokens": 4096 * steps, "mixture": {"ko": 0.7, "en": 0.3}}
    pretrain = {"base": base, "documents": [str(folder / "documents")], "micro_batch": 4}
    pretrain |= {"tokenizer": str(tokenizer), "global_batch_tokens": 4096, "phases": [phase]}
    pretrain |= {"zero_stage": 1, "checkpoint": {"every_steps": 10**6}}
    config = Config.model_validate({"name": "wait", "pretrain": pretrain})
    run(config, folder / "run")
    lines = (folder / "run" / "pretrain" / "metrics.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if "data_wait" in entry][1:]
    seconds = [4096 / entry["tokens_per_second"] for entry in entries]
    waited = sum(e["data_wait"] * s for e, s in zip(entries, seconds, strict=True))
    print(
        f"wait for data: {waited / sum(seconds):.3%} of {sum(seconds):.1f} s, {len(entries)} steps"
    )
    work = make_work(config, open_tokens(folder / "run" / "pretrain" / "tokens"), 0, 1)
    started = time.monotonic()
    for step in range(work.steps):
        step_data(work.sequences, work.share_of(step), 0, *work.span(step), digest=True)
    rate = work.tokens / (time.monotonic() - started)
    print(f"made ready by one thread: {rate:,.0f} tokens/s")


def make_tokenizer(folder: Path) -> Path:
    """Llama-3's tokenizer, as the tokenizer stage writes it with no new tokens."""
    config = folder / "config.yaml"
    config.write_text(
        f"name: token_shards\ndir: {folder / 'run'}\ntokenizer: {{base: llama3, new_tokens: 0, "
        f"documents: [{folder / 'documents'}]}}\ntracking: {{mlflow: false}}\n"
    )
    subprocess.run(
        [sys.executable, "-m", "launch.cli", "tokenizer", str(config)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder / "run" / "tokenizer"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--steps", type=int, help="measure the wait for data over so many steps")
    parser.add_argument("--cpu", action="store_true", help="processor time, one process")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--documents", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        given = (arguments.tokenizer, arguments.documents, arguments.workers, arguments.out)
        one(arguments.one, *given, arguments.cpu)
        return
    folder = Path(tempfile.mkdtemp(prefix="token_shards."))
    try:
        documents = folder / "documents"
        documents.mkdir()
        size = write_documents(documents, int(arguments.mb * 1e6))
        tokenizer = arguments.tokenizer or make_tokenizer(folder)
        if arguments.steps:
            wait_for_data(folder, tokenizer, arguments.steps)
            return
        workers = 1 if arguments.cpu else arguments.workers
        print(f"{size / 1e6:.1f} MB of text, {workers} threads or processes")
        kinds = (
            ("encode", "encode_batch_fast", 1, workers),
            ("write", "write_tokens, one process", 1, workers),
            ("write", "write_tokens", workers, 1),
        )[: 2 if arguments.cpu else 3]
        rates: dict[str, list[float]] = {}
        digests = set()
        for _ in range(arguments.rounds):
            for kind, name, processes, threads in kinds:
                found = measure(kind, tokenizer, documents, processes, threads, arguments.cpu)
                rates.setdefault(name, []).append(found["tokens"] / found["seconds"])
                digests.add(found["digest"])
        again = measure("write", tokenizer, documents, workers + 1, 1, False)
        digests.add(again["digest"])
        base = rates["encode_batch_fast"]
        for name, measured in rates.items():
            ratios = [a / b for a, b in zip(measured, base, strict=True)]
            every = " ".join(f"{ratio:.3f}" for ratio in ratios)
            print(
                f"{name:<28}{statistics.median(measured):>12,.0f} tokens/s   ratio "
                f"{statistics.median(ratios):.3f}   ({every})"
            )
        same = "the same bytes" if len(digests - {""}) == 1 else "OTHER BYTES"
        print(f"1, {workers} and {workers + 1} processes: {same}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
