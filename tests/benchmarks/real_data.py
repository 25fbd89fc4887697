"""The whole way over ../shared/data: figures per stage, with wall time and peak memory.

    python tests/benchmarks/real_data.py [--dir RUNFOLDER] [key=value …]

Each stage is its own process (`malmoi dedup|tokenizer|pretrain`), so that its peak memory is its own:
the largest resident set summed over the process and its children, sampled ten times a second. Prints
documents by removal step and source, tokens saved against Llama-3 on text not trained on, and bits
per byte before and after for both languages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "real_data.yaml"
DATA = HERE.parents[2] / "shared" / "data"


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; seconds of wall time and peak resident memory in MB, children included."""
    started = time.monotonic()
    process = psutil.Popen(command)
    peak = 0
    while process.poll() is None:
        total = 0
        for each in [process, *_children(process)]:
            try:
                memory = each.memory_full_info()
                total += memory.pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak = max(peak, total)
        time.sleep(0.1)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, peak / 1e6


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("runs/real-data"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    figures = {}
    for stage in ("dedup", "tokenizer", "pretrain"):
        overrides = [f"dir={options.dir}", *options.overrides]
        command = [sys.executable, "-m", "launch.cli", stage, str(CONFIG), *overrides]
        figures[stage] = measured(command)
    report = {
        stage: json.loads((options.dir / stage / "report.json").read_text()) for stage in figures
    }
    dedup, tokenizer, pretrain = report["dedup"], report["tokenizer"], report["pretrain"]
    print(f"\ndocuments {dedup['documents_in']:,} → {dedup['documents_out']:,}", end="")
    print(f"; unreadable {dedup['documents_failed']:,}; removed {dedup['removed']}")
    for source, row in dedup["by_source"].items():
        print(
            f"  {source:14} {row['documents_in']:>7,} → {row['documents_out']:>7,}  {row['removed']}"
        )
    print(f"tokens saved on held-out Korean words: {100 * tokenizer['tokens_saved']:.1f} %")
    for source, row in tokenizer["heldout"].items():
        print(
            f"  {source:14} {row['tokens_before']:>8,} → {row['tokens_after']:>8,}  {100 * row['saved']:.1f} %"
        )
    for when in ("before", "after"):
        print(f"bits per byte {when}: {pretrain['bits_per_byte'][when]}")
    for stage, (seconds, megabytes) in figures.items():
        print(f"{stage:10} {seconds:7.1f} s   peak {megabytes:8,.0f} MB")
    subprocess.run([sys.executable, "-m", "launch.cli", "run", str(CONFIG), *overrides], check=True)


if __name__ == "__main__":
    main()
