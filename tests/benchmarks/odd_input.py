"""Input of the wrong shape at its real size: what the data stage does with it, how long, how much memory.

    python tests/benchmarks/odd_input.py jsonl-line | text-line | tiny-files
        [--gigabytes 1] [--files 1000000] [--max-record BYTES] [--workers 2] [--dir FOLDER] [--keep]

jsonl-line: one JSONL file of two ordinary lines and between them one of a gigabyte. text-line: one
text file of a gigabyte without a newline, beside an ordinary one. Both are above `dedup.max_record` by
default, and so must be told as failures; with `--max-record 2GB` they are read. tiny-files: a million
text files in a thousand folders; the plan is made alone first (time and memory), then the stage is
run over them. What was made is deleted afterwards, unless `--keep`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path

from real_data import measured

WORDS = [
    "나는",
    "오늘",
    "바람이",
    "부는",
    "언덕에서",
    "오래된",
    "책을",
    "읽으며",
    "친구를",
    "기다렸다",
    "그는",
    "조용히",
    "웃었다",
]
PLAN = """
import sys, time
from pathlib import Path
from configs.load import load
from dedup.plan import plan
config = load(sys.argv[1])
begin = time.monotonic()
tasks = plan(config.dedup)
parts = sum(len(task.parts) for task in tasks)
wall, cpu = time.monotonic() - begin, time.process_time()
print(f"  plan: {parts:,} files in {len(tasks)} tasks, {wall:.1f} s ({cpu:.1f} of CPU, imports too)", flush=True)
time.sleep(0.5)  # for the sampling of its memory
"""


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=12)) + ". "


def long_line(size: int) -> bytes:
    """A megabyte of distinct sentences, repeated with a number until there are `size` bytes."""
    chance = random.Random(5)
    piece = "".join(sentence(chance) for _ in range(9_000)).encode()
    return b"".join(b"%d %s" % (number, piece) for number in range(-(-size // len(piece))))[:size]


def make_lines(folder: Path, size: int, name: str) -> None:
    text = long_line(size).decode(errors="ignore")
    short = [sentence(random.Random(number)) * 3 for number in range(2)]
    if name == "text-line":
        (folder / "long.txt").write_text(text, encoding="utf-8")
        (folder / "short.txt").write_text(short[0], encoding="utf-8")
        return
    with (folder / "long.jsonl").open("w", encoding="utf-8") as out:
        for line in (short[0], text, short[1]):
            out.write(json.dumps({"text": line}, ensure_ascii=False) + "\n")


def make_files(folder: Path, count: int) -> None:
    chance = random.Random(7)
    for number in range(count):
        inside = folder / f"{number // 1000:04}"
        if number % 1000 == 0:
            inside.mkdir(parents=True)
        with open(f"{inside}/{number}.txt", "w", encoding="utf-8") as out:  # noqa: PTH123
            out.write(f"{number} {sentence(chance)}{sentence(chance)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["jsonl-line", "text-line", "tiny-files"])
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--max-record", default="256MB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("runs/odd"))
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = options.dir.resolve() / options.what
    data = folder / "data"
    if not data.exists():
        begin = time.monotonic()
        data.mkdir(parents=True)
        if options.what == "tiny-files":
            make_files(data, options.files)
        else:
            make_lines(data, int(options.gigabytes * 1e9), options.what)
        print(f"made in {time.monotonic() - begin:.0f} s", flush=True)
    config = folder / "odd.yaml"
    config.write_text(
        f"name: odd\ndedup:\n  sources: [{{name: a, paths: [{data}]}}]\n  filters: none\n"
        f"  max_record: {options.max_record}\n  workers: {options.workers}\n"
    )
    if options.what == "tiny-files":
        seconds, peak = measured([sys.executable, "-c", PLAN, str(config)])
        print(f"  with imports {seconds:.1f} s, peak {peak:,.0f} MB", flush=True)
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    seconds, peak = measured(
        [sys.executable, "-m", "launch.cli", "dedup", str(config), f"dir={run}"]
    )
    report = json.loads((run / "dedup/report.json").read_text())
    print(
        f"{options.what}: {report['documents_in']:,} → {report['documents_out']:,} documents, "
        f"{report['documents_failed']} failed, removed {report['removed']}; {seconds:.1f} s, "
        f"peak {peak:,.0f} MB\n  seconds by step: {report['seconds']}"
    )
    for path in sorted((run / "dedup/failed").glob("*.jsonl")):
        for line in path.read_text().splitlines()[:3]:
            print("  failed:", json.loads(line)["error"])
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
