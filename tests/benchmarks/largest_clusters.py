"""Does anything collapse? Every similarity within the largest clusters, recomputed from the texts.

    python tests/benchmarks/largest_clusters.py [--threshold 0.8] [--clusters 10] [FILES …]

Runs the data stage, filters off, over heavily templated documentation (../shared/data/ko_web/ms_docs_ko
unless files are given) and compares all pairs of each of the largest clusters as plain Python sets of
five characters, beside the beginning of the text that stays. A document goes only at the threshold t
to the one that stays, and 1 − J is a metric, so no two of a cluster can be less than 2t − 1 alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.schema import Config
from dedup.stage import run

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def char5(text: str) -> set[str]:
    """The shingles of a text with white space collapsed."""
    text = " ".join(text.split())
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def deduplicate(files: Iterable[Path], folder: Path, threshold: float) -> Any:
    """Run the stage, and nothing but deduplication, into `folder`; returns its report."""
    config = {
        "name": "clusters",
        "dedup": {
            "sources": [{"name": "all", "paths": [str(path) for path in files], "language": "any"}],
            "filters": "none",
            "pii": "keep",
            "near": {"threshold": threshold},
        },
    }
    return run(Config.model_validate(config), folder)


def clusters_of(folder: Path, most: int) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The `most` largest clusters: what stays, and what went for it."""
    kept = {
        row["id"]: row
        for row in pq.read_table(folder / "dedup" / "documents", columns=["id", "text"]).to_pylist()
    }
    gone: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(folder / "dedup" / "removed").to_pylist():
        gone.setdefault(row["kept_id"], []).append(row)
    largest = sorted(gone, key=lambda name: (-len(gone[name]), name))[:most]
    return [(kept[name], gone[name]) for name in largest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    files = options.files or [DATA / "ko_web" / "ms_docs_ko.jsonl.zst"]
    if not all(path.exists() for path in files):
        sys.exit(f"skipped: {files[0]} is not there")
    with tempfile.TemporaryDirectory(prefix="malmoi-clusters-") as name:
        report = deduplicate(files, Path(name), options.threshold)
        print(f"{report.documents_in:,} documents → {report.documents_out:,}; {report.removed}")
        for kept, gone in clusters_of(Path(name), options.clusters):
            sets = [char5(kept["text"]), *(char5(row["text"]) for row in gone)]
            to_kept = [jaccard(sets[0], other) for other in sets[1:]]
            wrong = sum(
                row["similarity"] != found for row, found in zip(gone, to_kept, strict=True)
            )
            pairs = sorted(jaccard(one, other) for one, other in combinations(sets, 2))
            middle = pairs[len(pairs) // 2]
            print(
                f"\n{len(sets)} documents around {kept['id']}: similarity to it "
                f"{min(to_kept):.3f} … {max(to_kept):.3f}, between any two {pairs[0]:.3f} … "
                f"{middle:.3f} … {pairs[-1]:.3f} ({len(pairs):,} pairs); stated wrongly: {wrong}"
            )
            least = gone[to_kept.index(min(to_kept))]
            for label, text in (("stays", kept["text"]), ("least alike", least["text"])):
                print(f"  {label}: {' '.join(text.split())[:300]}")
            if len(pairs) <= 45:
                print("  all pairs: " + " ".join(f"{pair:.2f}" for pair in pairs))


if __name__ == "__main__":
    main()
