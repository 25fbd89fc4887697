"""Does it learn Korean without forgetting English? Four ways to continue, by the trainer itself.

    python tests/benchmarks/forgetting.py DIR [--seeds 2] [--tokens 1.2M] [--only plain both …]
    python tests/benchmarks/forgetting.py DIR --picture FILE.svg     # what there is so far, drawn
    python tests/benchmarks/forgetting.py DIR --try 0.3 0.05 1.5e-3  # another share of English, of rows, rate

The base is that of small_base.py (made in DIR where it is not there: 40 minutes): 12,032 tokens, 256 × 6,
4.2 M tokens of English and Korean, extended by 4,096 Korean tokens. It goes on with `malmoi pretrain` on
Korean it has not read, the same number of tokens in every arm:

    plain    everything learns, Korean only
    replay   everything learns, a share of English from what the base was trained on
    rows     first the new tokens' rows alone, then everything; Korean only
    both     rows first, then everything, with replay

Prints bits per byte on held-out Korean and English over tokens, mean over the seeds, and against the
start: the experiment says something only if `plain` loses 5 % of its English. Each run is a run folder
under DIR/forgetting/, goes on where it was killed and is not run again when it is finished. One
thread, fp32: about 15 minutes a run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pyarrow.parquet as pq
import yaml
from small_base import ENGLISH, KOREAN, LENGTH, count, make

from launch.charts import ticks

REPLAY, ROWS = 0.22, 0.02  # share of English; share of the tokens in which only new rows learn
RATE = 2e-3  # of everything; new rows alone learn twice as fast
STEP_TOKENS = 2_048
EVALUATIONS = 8
ARMS = {
    "plain": (0.0, 0.0, RATE),
    "both": (REPLAY, ROWS, RATE),
    "replay": (REPLAY, 0.0, RATE),
    "rows": (0.0, ROWS, RATE),
}
Curve = dict[int, dict[str, float]]  # tokens → bits per byte by language
COLOURS = {"plain": "#c2410c", "replay": "#2563eb", "rows": "#a16207", "both": "#15803d"}


def write_documents(folder: Path) -> list[str]:
    """The Korean that the base has not read, and the base's English alone."""
    english = folder / "documents" / "english" / "00000.parquet"
    if not english.is_file():
        table = pq.read_table(folder / "documents" / "base")
        keep = [language == "en" for language in table["language"].to_pylist()]
        english.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(keep), english.with_suffix(".tmp"), compression="zstd")
        english.with_suffix(".tmp").rename(english)
    return [str(folder / "documents" / "korean"), str(english.parent)]


def mixture(replay: float) -> dict[str, float]:
    """Shares by source: each language's divided equally among its sources, to sum to 1 exactly."""
    shares = {source: (1 - replay) / len(KOREAN) for source in KOREAN}
    return shares | ({source: replay / len(ENGLISH) for source in ENGLISH} if replay else {})


def config(folder: Path, arm: str, seed: int, tokens: int) -> dict[str, Any]:
    """The run of one arm: at most two phases, `tokens` together."""
    replay, rows, rate = ARMS[arm]
    phases = []
    if rows:
        phases.append(
            {
                "name": "new-rows",
                "train": ["embed.new_rows", "head.new_rows"],
                "tokens": round(tokens * rows),
                "lr": 2 * rate,
                "schedule": {"kind": "constant", "warmup": 0.1},
                "mixture": mixture(replay),
            }
        )
    phases.append(
        {
            "name": "full",
            "tokens": tokens - round(tokens * rows),
            "lr": rate,
            "schedule": {"kind": "cosine", "warmup": 0.03},
            "mixture": mixture(replay),
        }
    )
    return {
        "name": f"{arm}-{seed}",
        "dir": str(folder / "forgetting" / f"{arm}-{seed}"),
        "seed": seed,
        "tracking": {"mlflow": False},
        "pretrain": {
            "base": str(folder / "base"),
            "documents": write_documents(folder),
            "tokenizer": str(folder / "grown" / "tokenizer"),
            "sequence_length": LENGTH,
            "global_batch_tokens": STEP_TOKENS,
            "micro_batch": STEP_TOKENS // LENGTH,
            "zero_stage": 1,
            "processes": 1,
            "threads": 1,
            "dtype": "fp32",
            "checkpoint": {"every_steps": 100, "keep": 1},
            "evaluate": {
                "every_steps": tokens // STEP_TOKENS // EVALUATIONS,
                "sequences": 16,
            },
            "phases": phases,
        },
    }


def run(folder: Path, arm: str, seed: int, tokens: int) -> None:
    file = folder / "forgetting" / f"{arm}-{seed}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(config(folder, arm, seed, tokens), sort_keys=False))
    subprocess.run([sys.executable, "-m", "launch.cli", "pretrain", str(file)], check=True)


def curve(metrics: Path) -> Curve:
    """Bits per byte after every so many tokens; of two at the same step the later."""
    tokens, found = 0, {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "loss" in entry:
            tokens = entry["tokens"]
        if "bits_per_byte" in entry:
            found[tokens] = {
                language: entry["bits_per_byte"][language] for language in ("ko", "en")
            }
    return found


def finished(folder: Path) -> dict[str, list[Curve]]:
    """The curves of every finished run, by arm."""
    found: dict[str, list[Curve]] = {}
    for arm in ARMS:
        for report in sorted((folder / "forgetting").glob(f"{arm}-*/pretrain/report.json")):
            found.setdefault(arm, []).append(curve(report.parent / "metrics.jsonl"))
    return found


def mean(curves: list[Curve], language: str) -> list[tuple[float, float]]:
    """(tokens, bits per byte), the mean over the seeds at the points that all of them have."""
    points = sorted(set.intersection(*(set(one) for one in curves)))
    return [(at, statistics.mean(one[at][language] for one in curves)) for at in points]


def table(found: dict[str, list[Curve]]) -> str:
    """A line for each arm: both languages at the end, and the change against start and `plain`."""
    lines = [
        f"{'arm':8}{'seeds':>6}{'Korean':>9}{'change':>9}{'of plain':>10}{'English':>9}{'change':>9}"
    ]
    ends = {arm: {x: mean(curves, x)[-1][1] for x in ("ko", "en")} for arm, curves in found.items()}
    for arm, curves in found.items():
        start = {language: mean(curves, language)[0][1] for language in ("ko", "en")}
        end = ends[arm]
        beside = f"{end['ko'] / ends['plain']['ko'] - 1:+.2%}" if "plain" in ends else ""
        lines.append(
            f"{arm:8}{len(curves):6}{end['ko']:9.4f}{end['ko'] / start['ko'] - 1:+9.2%}{beside:>10}"
            f"{end['en']:9.4f}{end['en'] / start['en'] - 1:+9.2%}"
        )
        if arm == "plain" and end["en"] < 1.05 * start["en"]:
            lines.append("        plain lost less than 5 % of its English: this says little")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=count, default=1_200_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--picture", type=Path, help="draw the finished runs and end")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--try", nargs=3, type=float, metavar=("ENGLISH", "ROWS", "RATE"))
    options = parser.parse_args()
    if tried := vars(options)["try"]:
        name = "try-{:g}-{:g}-{:g}".format(*tried)
        ARMS[name], COLOURS[name] = tuple(tried), "#5b6877"
        options.only = [name]
    folder = options.folder.resolve()
    if options.picture is None:
        make(folder)
        for seed in range(options.first_seed, options.seeds):
            for arm in options.only:
                run(folder, arm, seed, options.tokens)
                print(table(finished(folder)), flush=True)
        return
    found = finished(folder)
    print(table(found))
    draw(found, options.picture)


def draw(found: dict[str, list[Curve]], path: Path) -> None:
    """Both languages' bits per byte over tokens, side by side, as a standalone SVG."""
    width, height, left, top = 380, 250, 60, 56
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="920" height="380" viewBox="0 0 920 380" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#1d2733">'
        '<rect width="920" height="380" fill="#ffffff"/>'
        '<text x="16" y="24" font-size="15" font-weight="600">Bits per byte on held-out text while '
        "a small base goes on with Korean</text>"
    ]
    for panel, (language, title) in enumerate((("ko", "Korean"), ("en", "English"))):
        lines = {arm: mean(curves, language) for arm, curves in found.items()}
        values = [y for line in lines.values() for _, y in line]
        marks = ticks(min(values), max(values), 5)
        widest = max(x for line in lines.values() for x, _ in line)
        x0, y0 = left + panel * (width + 70), top + height

        def place(x: float, y: float, x0: float = x0, y0: float = y0) -> tuple[float, float]:
            low, high = marks[0], marks[-1]  # noqa: B023 (called in this turn of the loop only)
            return x0 + width * x / widest, y0 - height * (y - low) / (high - low)  # noqa: B023

        parts.append(f'<text x="{x0}" y="{top - 10}" font-weight="600">{title}</text>')
        for mark in marks:
            _, y = place(0, mark)
            parts.append(
                f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e8ee"/>'
                f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#5b6877">{mark:.2f}</text>'
            )
        for arm, line in lines.items():
            path_of = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
            parts.append(
                f'<polyline points="{path_of}" fill="none" stroke="{COLOURS[arm]}" stroke-width="2"/>'
            )
        for share in (0, 0.5, 1):
            x, _ = place(share * widest, marks[0])
            parts.append(
                f'<text x="{x:.1f}" y="{y0 + 18}" text-anchor="middle" fill="#5b6877">'
                f"{share * widest / 1e6:.1f} M</text>"
            )
    for number, arm in enumerate(found):
        x = left + 150 * number
        parts.append(
            f'<line x1="{x}" x2="{x + 24}" y1="352" y2="352" stroke="{COLOURS[arm]}" stroke-width="3"/>'
            f'<text x="{x + 32}" y="356">{arm} ({len(found[arm])} seeds)</text>'
        )
    path.write_text("\n".join([*parts, "</svg>"]), encoding="utf-8")


if __name__ == "__main__":
    main()
