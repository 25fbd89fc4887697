"""MinHash signatures a second: ours, the floor, rensa, datasketch and datatrove on the same text.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install rensa==0.5.0 datasketch==2.0.0 "datatrove[processing]==0.10.1" orjson zstandard
    python tests/benchmarks/signatures.py --peers /tmp/peers/bin/python [--megabytes 30] [--rounds 5]

Every contender is a process of its own, pinned to one core with one thread, and gets the same documents
as Python strings (ours and the floor as an Arrow column, which is what a reader gives). Rounds go
through all contenders before the next begins, so that a busy machine is busy for all; the figure is
processor time, the median of the rounds. Compilation and imports happen before the clock starts and
are printed apart.

128 permutations. Shingles are five characters. datatrove stands there twice: with the same shingles
(its word splitter replaced by one that gives characters), and as its users run it, with five words at
white space, of which a text has far fewer; it lower-cases and drops punctuation either way, and its
Korean word splitter fails with today's kiwipiepy. The floor decodes UTF-8 in a plain loop and hashes every shingle once:
what any such program has to do before the first permutation. `vector bits` says how wide the
instructions are that the kernel was compiled to.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ko_web"
SOURCES = ("petitions", "movie_review_pages", "news_comments", "ms_docs_ko", "oss_docs_ko")
PERMUTATIONS, SHINGLE, BATCH = 128, 5, 1000


def sample(megabytes: float, out: Path) -> None:
    """Texts of every source, an equal share of each as far as it goes, one JSON string a line."""
    import orjson
    import zstandard

    lines: list[bytes] = []
    for source in SOURCES:
        path = DATA / f"{source}.jsonl.zst"
        data = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read()
        taken = 0
        for line in data.splitlines():
            text = orjson.loads(line)["text"]
            taken += len(text.encode())
            lines.append(orjson.dumps(text))
            if taken > megabytes * 1e6 / len(SOURCES):
                break
    out.write_bytes(b"\n".join(lines))


# ── contenders: texts → a function to be timed ──────────────────────────────────────────────────


def floor(texts: list[str]) -> Callable[[], Any]:
    import numpy as np
    import pyarrow as pa
    from numba import njit

    @njit(nogil=True)
    def hash_all(offsets: Any, data: Any, points: Any) -> int:
        total = np.uint64(0)
        for row in range(len(offsets) - 1):
            at, end = offsets[row], offsets[row + 1]
            length = 0
            while at < end:
                byte = np.uint32(data[at])
                if byte < 0x80:
                    points[length] = byte
                    at += 1
                elif byte < 0xE0:
                    points[length] = (byte & 31) << 6 | (data[at + 1] & 63)
                    at += 2
                elif byte < 0xF0:
                    points[length] = (
                        (byte & 15) << 12 | np.uint32(data[at + 1] & 63) << 6 | (data[at + 2] & 63)
                    )
                    at += 3
                else:
                    points[length] = (
                        (byte & 7) << 18
                        | np.uint32(data[at + 1] & 63) << 12
                        | np.uint32(data[at + 2] & 63) << 6
                        | (data[at + 3] & 63)
                    )
                    at += 4
                length += 1
            for i in range(length - 4):
                value = np.uint64(0)
                for j in range(5):
                    value = (value ^ np.uint64(points[i + j])) * np.uint64(0x9E3779B97F4A7C15)
                total ^= value ^ (value >> np.uint64(29))
        return total

    column = pa.array(texts, pa.large_string())
    _, offsets, data = column.buffers()
    arguments = (np.frombuffer(offsets, np.int64)[: len(texts) + 1], np.frombuffer(data, np.uint8))
    points = np.empty(max(map(len, texts)), np.uint32)
    return lambda: hash_all(*arguments, points)


def malmoi(texts: list[str]) -> Callable[[], Any]:
    import pyarrow as pa

    from dedup.copies.minhash import sign

    column = pa.array(texts, pa.large_string())
    batches = [column.slice(at, BATCH) for at in range(0, len(texts), BATCH)]
    return lambda: [sign(batch, shingle=SHINGLE, count=PERMUTATIONS) for batch in batches]


def shingles(text: str) -> list[str]:
    return [text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))]


def rensa(texts: list[str]) -> Callable[[], Any]:
    from rensa import RMinHash

    def run() -> None:
        for at in range(0, len(texts), BATCH):
            sets = [shingles(text) for text in texts[at : at + BATCH]]
            RMinHash.digest_matrix_from_token_sets(sets, PERMUTATIONS, 42)

    return run


def datasketch(texts: list[str]) -> Callable[[], Any]:
    from datasketch import MinHash

    def run() -> None:
        for at in range(0, len(texts), BATCH):
            sets = [[s.encode() for s in shingles(text)] for text in texts[at : at + BATCH]]
            MinHash.bulk(sets, num_perm=PERMUTATIONS, scheme="affine32")

    return run


def datatrove(texts: list[str]) -> Callable[[], Any]:
    return _datatrove(texts, list)


def datatrove_words(texts: list[str]) -> Callable[[], Any]:
    return _datatrove(texts, str.split)


def _datatrove(texts: list[str], split: Callable[[str], list[str]]) -> Callable[[], Any]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    class Splitter:
        def word_tokenize(self, text: str) -> list[str]:
            return split(text)

    logger.remove()
    config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8)
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            stage = MinhashDedupSignature(folder, config)
            stage.__dict__["word_tokenizer"] = Splitter()
            stage.run(iter(documents))

    return run


CONTENDERS = {f.__name__: f for f in (floor, malmoi, rensa, datasketch, datatrove, datatrove_words)}
OURS = ("floor", "malmoi")


def contend(name: str, path: Path) -> None:
    """One contender, one round: prints processor seconds and those of preparing, as JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    texts = [json.loads(line) for line in path.read_bytes().splitlines()]
    begin = time.process_time()
    CONTENDERS[name](texts[:50])()
    run = CONTENDERS[name](texts)
    if name in OURS:
        run()
    prepared = time.process_time() - begin
    begin = time.process_time()
    run()
    print(json.dumps([time.process_time() - begin, prepared]))


def vector_bits() -> int:
    """The widest registers in the compiled kernel."""
    import numpy as np
    from numba import njit

    from dedup.copies import minhash

    kernel = njit(nogil=True)(minhash._minima.py_func)  # compiled now: a cached one shows no code
    words = np.zeros(8, np.uint32)
    kernel(np.ones(8, np.uint64), 8, words, *minhash.permutations(4), words[:4].copy(), words)
    code = "".join(kernel.inspect_asm().values())
    return next((bits for name, bits in (("zmm", 512), ("ymm", 256)) if name in code), 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="Python with the peers installed")
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender, options.file)
        return
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    environment = dict(os.environ)
    for name in ("OMP", "NUMBA", "OPENBLAS", "RAYON", "ARROW", "MKL"):
        environment[f"{name}_NUM_THREADS"] = "1"
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        sample(options.megabytes, path)
        texts = [json.loads(line) for line in path.read_bytes().splitlines()]
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        prepared: dict[str, float] = {}
        for _ in range(options.rounds):
            for name in CONTENDERS:
                python = sys.executable if name in OURS else options.peers
                command = [python, __file__, "--contender", name, "--file", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                    continue
                spent, prepared[name] = json.loads(done.stdout.splitlines()[-1])
                seconds[name].append(spent)
    print(f"{len(texts):,} documents, {megabytes:.1f} MB; median of {options.rounds}")
    ours = statistics.median(seconds["malmoi"])
    for name, spent in seconds.items():
        if not spent:
            continue
        median = statistics.median(spent)
        print(
            f"{name:15} {len(texts) / median:>9,.0f} documents/s {megabytes / median:>8.1f} MB/s   "
            f"malmoi is {median / ours:6.2f} × as fast   (before: {prepared[name]:.1f} s)"
        )
    print(f"malmoi over floor: {ours / statistics.median(seconds['floor']):.2f} ×", end="")
    print(f"; vector bits {vector_bits()}")


if __name__ == "__main__":
    main()
