"""The tokenizer of report.html: tokenizer/report.json and new_tokens.tsv → bars, chips, a word list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.charts import Part, Row, bar_chart
from launch.figures import Entry, counts, entry, number

NEW_TOKENS_SHOWN = 60
_BYTES = re.compile("⟨([0-9a-f ]+)⟩")  # how the report writes a token that cuts a character


@dataclass(frozen=True)
class Chip:
    """One token: what to show, whether a space goes before it, whether it is a piece of a character."""

    text: str
    space: bool
    piece: bool


def tokenizer(report: Entry | None, new_tokens: Sequence[Mapping[str, str]]) -> Entry | None:
    """Tokens per eojeol, the example cut both ways, the commonest new tokens, the gates."""
    if report is None:
        return None
    rows, others = [], []
    for name, figures in entry(report.get("heldout")).items():
        source = counts(figures)
        before, after = source.get("fertility_before"), source.get("fertility_after")
        if before and after and entry(figures).get("korean") is not False:
            rows.append(_pair(name, before, after, source.get("saved")))
        elif "all_tokens_before" in source and "all_tokens_after" in source:
            others.append((name, source["all_tokens_before"], source["all_tokens_after"]))
    example = entry(report.get("example"))
    ranked = sorted(new_tokens, key=lambda row: -_whole(row.get("count")))
    return {
        "base": str(report.get("base") or ""),
        "base_vocab_size": number(report.get("base_vocab_size")),
        "vocab_size": number(report.get("vocab_size")),
        "new_tokens": number(report.get("new_tokens")),
        "note": str(report.get("note") or ""),
        "fertility": bar_chart(rows, x_label="tokens per eojeol, fewer is better"),
        "others": others,
        "measured_on": str(report.get("measured_on") or ""),
        "before": chips(example.get("before")),
        "after": chips(example.get("after")),
        "newest": [
            {
                "text": row.get("text", ""),
                "count": _whole(row.get("count")),
                "pieces": len(row.get("base_ids", "").split()),
                "id": row.get("id", ""),
            }
            for row in ranked[:NEW_TOKENS_SHOWN]
        ],
        "gates": [
            (name.replace("_", " "), str(outcome))
            for name, outcome in entry(report.get("gates")).items()
        ],
    }


def _pair(name: str, before: float, after: float, saved: float | None) -> Row:
    parts = [
        Part(tokens, when, f"{name}, {when}: {tokens:.3f} tokens per eojeol", f"{tokens:.2f}")
        for when, tokens in (("before", before), ("after", after))
    ]
    return Row(name, parts, f"{100 * saved:.1f} % of tokens saved" if saved else "")


def chips(tokens: Any) -> list[Chip]:
    """The tokens of a text in order, as `tokenizer.report.segments` writes them."""
    out = []
    for token in tokens if isinstance(tokens, list) else []:
        text = str(token)
        match = _BYTES.fullmatch(text)
        shown = match[1].upper() if match else text.strip(" ") or "␣"
        out.append(Chip(shown, text.startswith(" "), match is not None))
    return out


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
