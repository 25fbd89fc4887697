"""Cleaning and deduplicating gigabytes: MB/s by size and by step, peak memory, minutes for 60 GB.

    python tests/benchmarks/volume.py [--sizes 0.25,0.5,1,2] [--workers 2] [--plain] [--dir FOLDER]

The volume is made of ../shared/data/ko_web: every document of it is taken as a mould, and each of its
sentences is replaced by one drawn from the same source, so that documents are distinct, have the
lengths and lines of real ones, and every size has the same mix. One document in twenty is an exact
copy and one in twenty a near copy (one sentence changed) of an earlier one. Sizes count the bytes of
uncompressed JSONL; the files are zstd. All filters are on, and personal data is masked; `--plain`
switches both off (read, deduplicate, write). The first run of a process-wide cache (compiled kernels)
is made apart, on a small piece.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import zstandard
from real_data import DATA, measured

SHARD = 64_000_000
SENTENCE = re.compile(r"(?<=[.?!…\n])\s")
CONFIG = """
name: volume
dedup:
  sources: [{{name: web, paths: [{paths}]}}]
  workers: {workers}
{extra}
"""


def moulds(source: Path) -> list[list[str]]:
    """The documents of a source, each as its sentences with their line ends."""
    data = zstandard.ZstdDecompressor().stream_reader(source.open("rb")).read()
    texts = [orjson.loads(line)["text"] for line in data.splitlines()]
    return [[part for part in SENTENCE.split(text) if part] for text in texts]


def documents(seed: int) -> Iterator[str]:
    """Texts without end, the sources by their size."""
    chance = random.Random(seed)
    by_source = [
        moulds(path)
        for path in sorted((DATA / "ko_web").glob("*.jsonl.zst"))
        if path.name != "movie_reviews_single.jsonl.zst"  # one sentence each: all would be copies
    ]
    pools = [[part for parts in source for part in parts] for source in by_source]
    weights = [len(source) for source in by_source]
    earlier: list[list[str]] = []
    while True:
        which = chance.choices(range(len(by_source)), weights)[0]
        kind = chance.random()
        if kind < 0.1 and len(earlier) > 100:
            parts = list(chance.choice(earlier))
            if kind < 0.05:
                parts[chance.randrange(len(parts))] = chance.choice(pools[which])
        else:
            parts = chance.choices(pools[which], k=len(chance.choice(by_source[which])))
            if len(earlier) < 20_000:
                earlier.append(parts)
            else:
                earlier[chance.randrange(20_000)] = parts
        yield " ".join(parts)


def make(folder: Path, size: int) -> list[Path]:
    """Shards of about 64 MB of JSONL until there are `size` bytes; those already there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = [folder / f"{number:04}.jsonl.zst" for number in range(-(-size // SHARD))]
    if all(shard.exists() for shard in shards):
        return shards
    texts = documents(seed=13)
    number = 0
    for shard in shards:
        lines: list[bytes] = []
        total = 0
        while total < SHARD:
            lines.append(orjson.dumps({"id": f"doc-{number}", "text": next(texts)}))
            total += len(lines[-1]) + 1
            number += 1
        shard.write_bytes(zstandard.ZstdCompressor(3).compress(b"\n".join(lines) + b"\n"))
    return shards


def run(shards: list[Path], folder: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and peak MB of `malmoi dedup` over the shards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "volume.yaml"
    config.write_text(
        CONFIG.format(
            paths=", ".join(str(shard) for shard in shards),
            workers=options.workers,
            extra="  filters: none\n  pii: keep" if options.plain else "",
        )
    )
    command = [sys.executable, "-m", "launch.cli", "dedup", str(config), f"dir={folder / 'run'}"]
    return measured(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="0.25,0.5,1,2", help="gigabytes, ascending")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="no filters, no masking")
    parser.add_argument("--dir", type=Path, default=Path("runs/volume"))
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    sizes = [float(size) for size in options.sizes.split(",")]
    shards = make((options.dir / "shards").resolve(), int(max(sizes) * 1e9))
    run(shards[:1], (options.dir / "warm").resolve(), options)
    for size in sizes:
        used = shards[: max(1, round(size * 1e9 / SHARD))]
        folder = (options.dir / f"{size:g}").resolve()
        seconds, peak = run(used, folder, options)
        report = json.loads((folder / "run/dedup/report.json").read_text())
        megabytes = report["bytes_in"] / 1e6
        steps = ", ".join(f"{step} {spent:.1f}" for step, spent in report["seconds"].items())
        print(
            f"{megabytes / 1000:.2f} GB: {seconds:.1f} s, {seconds / megabytes * 1000:.1f} s/GB, "
            f"{megabytes / seconds:.1f} MB/s, 60 GB in {60_000 / megabytes * seconds / 60:.0f} min, "
            f"peak {peak:,.0f} MB; {report['documents_in']:,} → {report['documents_out']:,} "
            f"{report['removed']}\n  seconds by step: {steps}",
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
