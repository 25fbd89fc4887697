"""The whole way over ../shared/data: figures per stage, with wall time and peak memory.

    python tests/benchmarks/real_data.py [--dir RUNFOLDER] [--chart FILE.svg] [key=value …]

Each stage is its own process (`malmoi dedup|tokenizer|pretrain`), so that its peak memory is its own:
the largest sum over the process and its children, sampled four times a second. Prints
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
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "real_data.yaml"
DATA = HERE.parents[2] / "shared" / "data"


def measured(command: list[str], **options: Any) -> tuple[float, float]:
    """Run a command; seconds of wall time and peak resident memory in MB, children included.

    Memory that processes share counts once, mapped files not at all. `options` go to Popen.
    """
    started = time.monotonic()
    process = psutil.Popen(command, **options)
    peak, shared = 0.0, 1.0  # shared: exact memory over its cheap bound, when last compared
    while process.poll() is None:
        family = [each.pid for each in [process, *_children(process)]]
        bound = sum(map(_bound, family))
        # the exact figure stops a process for as long as its pages take to walk: only near a peak
        if bound * shared > 1.01 * peak:
            exact = sum(map(_proportional, family))
            shared = min(1.0, exact / max(bound, 1))
            peak = max(peak, exact)
        time.sleep(0.25)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, peak / 1e6


def _bound(pid: int) -> int:
    """Bytes of a process's own memory, shared pages counted whole; 0 once it is gone."""
    return _kilobytes(Path(f"/proc/{pid}/status"), ("RssAnon:", "RssShmem:"))


def _proportional(pid: int) -> int:
    """Bytes of a process's own memory, shared pages by its share of them; 0 once it is gone.

    Files that are mapped do not count: the kernel takes their pages back when it needs them.
    """
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), ("Pss_Anon:", "Pss_Shmem:"))


def _kilobytes(path: Path, names: tuple[str, ...]) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(names))


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def chart(tokenizer: dict[str, Any], path: Path) -> None:
    """Tokens per Korean word (eojeol) before and after, by source, as a standalone SVG."""
    rows = [(name, row) for name, row in tokenizer["heldout"].items() if row["korean"]]
    widest, left, step = 460, 130, 40
    scale = widest / max(row["fertility_before"] for _, row in rows)
    height = 70 + step * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
        f'viewBox="0 0 760 {height}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="760" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="15" font-weight="600" fill="#1d2733">Tokens per Korean word '
        f"(eojeol) on held-out text: Llama-3 and Malmoi +{tokenizer['new_tokens']:,} tokens</text>",
    ]
    for number, (name, row) in enumerate(rows):
        y = 48 + step * number
        before, after = row["fertility_before"], row["fertility_after"]
        parts.append(
            f'<text x="{left - 10}" y="{y + 19}" text-anchor="end" fill="#1d2733">{name}</text>'
        )
        for offset, value, colour, said in (
            (0, before, "#b8c0cc", f"{before:.2f}"),
            (15, after, "#1f6f5c", f"{after:.2f}  (−{100 * row['saved']:.0f} % tokens)"),
        ):
            parts.append(
                f'<rect x="{left}" y="{y + offset}" width="{value * scale:.1f}" height="13" '
                f'fill="{colour}"/><text x="{left + value * scale + 6:.1f}" y="{y + offset + 11}" '
                f'fill="#1d2733">{said}</text>'
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("runs/real-data"))
    parser.add_argument("--chart", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    figures = {}
    for stage in ("dedup", "tokenizer", "pretrain"):
        overrides = [f"dir={options.dir}", *options.overrides]
        command = [sys.executable, "-m", "launch.cli", stage, str(CONFIG), *overrides]
        seconds, megabytes = measured(command)
        figures[stage] = (seconds, megabytes)
        print(f"{stage}: {seconds:.1f} s, peak {megabytes:,.0f} MB", flush=True)
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
        if row["korean"]:
            counts = f"{row['tokens_before']:>8,} → {row['tokens_after']:>8,}"
            print(f"  {source:14} {counts}  {100 * row['saved']:.1f} %")
    for when in ("before", "after"):
        print(f"bits per byte {when}: {pretrain['bits_per_byte'][when]}")
    if options.chart:
        chart(tokenizer, options.chart)
    for stage, (seconds, megabytes) in figures.items():
        print(f"{stage:10} {seconds:7.1f} s   peak {megabytes:8,.0f} MB")
    subprocess.run([sys.executable, "-m", "launch.cli", "run", str(CONFIG), *overrides], check=True)


if __name__ == "__main__":
    main()
