"""The second labelled set, written from the specification by someone who had not read the rules.

At first look (the file frozen, the rules untouched): precision 1.0000, recall 0.9901 on 810 spans and
800 look-alikes; missed were resident numbers parted by a space, addresses whose context stands behind
them, and one telephone number. Those forms were added to the rules after that, so what the test
asserts now is a floor of what was reached, no longer a score on unseen lines.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from dedup.text.pii_rules import star_out

LINES = [
    json.loads(line)
    for line in (Path(__file__).parent / "pii_unseen.jsonl").read_text("utf-8").splitlines()
]
KINDS = {
    "resident": "resident_number",
    "foreigner": "foreigner_number",
    "driver": "driver_licence",
    "business": "business_number",
}


def covered(text: str, start: int, end: int) -> frozenset[int]:
    """Places of the letters and digits of a span: brackets and spaces at its ends do not count."""
    return frozenset(i for i in range(start, end) if text[i].isascii() and text[i].isalnum())


def test_lines_written_from_the_specification_are_judged_as_their_author_marked_them() -> None:
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for line in LINES:
        text = line["text"]
        want = {(KINDS.get(kind, kind), covered(text, *span)) for kind, *span in line["spans"]}
        got = {(found.kind, covered(text, found.start, found.end)) for found in star_out(text)[1]}
        right.update(kind for kind, _ in want & got)
        wrong.update(kind for kind, _ in got - want)
        missed.update(kind for kind, _ in want - got)
    for kind in sorted(right | wrong | missed):
        print(f"{kind:18} right {right[kind]:4} wrong {wrong[kind]:3} missed {missed[kind]:3}")
    assert right.total() / (right + wrong).total() >= 0.998
    assert right.total() / (right + missed).total() >= 0.998
    assert min(right[kind] / (right + missed)[kind] for kind in right) >= 0.98


def test_the_set_has_600_positives_and_as_many_look_alikes() -> None:
    assert sum(len(line["spans"]) for line in LINES) >= 600
    assert sum(not line["spans"] for line in LINES) >= 600
