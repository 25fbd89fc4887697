"""What the quality filters drop, by source, and the documents on both sides of every limit.

    python tests/benchmarks/calibrate_filters.py [--near 30] [--out FILE.jsonl]

Runs the filters over ../shared/data (Korean sources as Korean, English ones as English) and prints, for
every rule, its limit, how many documents of each source it drops, and the quantiles of its figure over
all documents, so that a limit is set where the text says and not by habit. `--out` writes the `--near`
dropped and the `--near` kept documents nearest to every limit, to be read by eye: {rule, side, value,
limit, source, id, text}, shuffled within a rule so that the reader does not see the side first.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dedup.documents import read_documents
from dedup.text.filters import REASONS, bounds, judge, preset
from dedup.text.normalize import normalize
from dedup.text.prose import prose

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CHARACTERS = 700  # of a text, in the file to be read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--near", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    dropped: dict[str, Counter[str]] = {reason: Counter() for reason in REASONS}
    rows: list[dict[str, Any]] = []
    values: dict[str, list[np.ndarray]] = {reason: [] for reason in REASONS}
    total: Counter[str] = Counter()
    for path in sorted([*(DATA / "ko_web").glob("*.zst"), *(DATA / "en").glob("*.zst")]):
        source = path.name.split(".")[0]
        language = path.parent.name[:2]
        limits = preset("korean_web" if language == "ko" else "english_web")
        assert limits is not None
        limit = bounds(limits, language)
        for batch in read_documents(path):
            texts = normalize(batch["text"])
            found = judge(texts, limits, language)
            total[source] += len(texts)
            for reason in found.reasons:
                if reason:
                    dropped[reason][source] += 1
            for reason, figures in found.values.items():
                if language == "ko":
                    values[reason].append(figures)
                least, most = limit[reason]
                for row, value in enumerate(figures.tolist()):
                    if found.reasons[row] not in (None, reason):
                        continue
                    which = least if value < least or (least > 0 and most == np.inf) else most
                    if not np.isfinite(which) or (which in (0, 1) and value == which):
                        continue
                    rows.append(
                        {
                            "rule": reason,
                            "side": "dropped" if found.reasons[row] == reason else "kept",
                            "value": round(value, 4),
                            "limit": which,
                            "distance": abs(value - which) / max(abs(which), 1e-9),
                            "source": source,
                            "id": batch["id"][row].as_py(),
                            "text": (texts, row),
                        }
                    )
    print(f"documents: {dict(total)}")
    for reason in REASONS:
        figures = np.concatenate(values[reason]) if values[reason] else np.zeros(1)
        marks = ", ".join(f"{q:g} % {np.percentile(figures, q):.3g}" for q in (1, 5, 50, 95, 99))
        ko = preset("korean_web")
        assert ko is not None
        print(f"{reason}: allowed {bounds(ko, 'ko')[reason]}; Korean sources: {marks}")
        print(f"    dropped {sum(dropped[reason].values())}: {dict(dropped[reason])}")
    if not options.out:
        return
    chance = random.Random(3)
    with options.out.open("w", encoding="utf-8") as out:
        for reason in REASONS:
            shown = []
            for side in ("dropped", "kept"):
                near = [row for row in rows if row["rule"] == reason and row["side"] == side]
                near.sort(key=lambda row: (row["distance"], row["source"], row["id"]))
                shown += near[: options.near]
            chance.shuffle(shown)
            for row in shown:
                texts, at = row.pop("text")
                whole = texts[at].as_py()
                row["prose"] = prose(whole)[:CHARACTERS]
                row["text"] = whole[:CHARACTERS]
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
