"""KLUE-NER: the model writes a sentence's entities, each with its kind.

In: a row of characters with BIO tags. Out: the prompt, the wanted line ("영동고속도로=장소; 강릉=장소",
or "없음"), and from what was generated the macro F1 over KLUE's six kinds, in which an entity counts
as found if its text and its kind are right. KLUE counts places as well as texts; a generated line has
no places, so an entity named twice in a sentence has to be written twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

KINDS = {"DT": "날짜", "LC": "장소", "OG": "기관", "PS": "사람", "QT": "수량", "TI": "시간"}
TAGS = [f"{place}-{kind}" for kind in KINDS for place in "BI"] + ["O"]
"""The names of the hub's class labels, in their order."""

NONE = "없음"
Entity = tuple[str, str]
"""An entity's text and its kind, in Korean."""


def entities(row: dict[str, Any]) -> list[Entity]:
    """The entities of a row, in order. An I that follows nothing of its kind begins one."""
    found: list[list[str]] = []
    before = "O"
    for character, tag in zip(row["tokens"], row["ner_tags"], strict=True):
        name = TAGS[tag] if isinstance(tag, int) else str(tag)
        place, _, kind = name.partition("-")
        if place == "B" or (place == "I" and before != kind):
            found.append([character, KINDS[kind]])
        elif place == "I":
            found[-1][0] += character
        before = kind or "O"
    return [(text, kind) for text, kind in found]


def prompt(row: dict[str, Any]) -> str:
    kinds = ", ".join(KINDS.values())
    return f"문장: {''.join(row['tokens'])}\n개체명({kinds}):"


def target(row: dict[str, Any]) -> str:
    return "; ".join(f"{text}={kind}" for text, kind in entities(row)) or NONE


def read(line: str) -> list[Entity]:
    """The entities that a generated line names; what has no known kind is none."""
    found = []
    for part in line.strip().split(";"):
        text, _, kind = part.strip().rpartition("=")
        if text.strip() and kind.strip() in KINDS.values():
            found.append((text.strip(), kind.strip()))
    return found


def results(
    row: dict[str, Any], answers: Sequence[str]
) -> dict[str, tuple[list[Entity], list[Entity]]]:
    """What a row adds: (its entities, those the model wrote)."""
    return {"entity_f1": (entities(row), read(answers[0]))}


def entity_f1(rows: Sequence[tuple[Sequence[Entity], Sequence[Entity]]]) -> float:
    """Macro F1 over the kinds that occur or were named: 2 · right / (wanted + named) of each."""
    right, wanted, named = Counter[str](), Counter[str](), Counter[str]()
    for gold, said in rows:
        golds, saids = Counter(map(tuple, gold)), Counter(map(tuple, said))
        wanted.update(kind for _, kind in golds.elements())
        named.update(kind for _, kind in saids.elements())
        right.update(kind for _, kind in (golds & saids).elements())
    scores = [2 * right[kind] / (wanted[kind] + named[kind]) for kind in sorted({*wanted, *named})]
    return sum(scores) / len(scores) if scores else 0.0
