"""The tokenizer of report.html: tokenizer/report.json and new_tokens.tsv → bars, chips, a word list,
the size curve.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.charts import Part, Row, Series, bar_chart, column_chart, line_chart
from launch.figures import Entry, counts, entries, entry, number

NEW_TOKENS_SHOWN = 60
_POINT = {"new_tokens", "saved", "training_flops", "inference_flops", "seen"}
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
    usage = entry(report.get("usage"))
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
        "sentences": [
            {
                "source": str(one.get("source") or ""),
                "before": chips(one.get("before")),
                "after": chips(one.get("after")),
            }
            for one in entries(report.get("sentences"))[1:]
        ],
        "newest": _commonest(usage, new_tokens),
        "counted": "uses" if usage else "count",
        "never_used": number(usage.get("never_used")),
        "never_used_chart": _never_used(usage),
        "kinds": counts(report.get("tokens")),
        "sizes": _sizes(entry(report.get("sizes_compared")), report),
        "gates": [
            (name.replace("_", " "), str(outcome))
            for name, outcome in entry(report.get("gates")).items()
        ],
    }


def _commonest(usage: Entry, new_tokens: Sequence[Mapping[str, str]]) -> list[Entry]:
    """The new tokens used most on the measured texts, or, of an older run, those learned first."""
    rows = {row.get("id", ""): row for row in new_tokens}
    pairs = usage.get("commonest")
    uses = {str(pair[0]): pair[1] for pair in pairs} if isinstance(pairs, list) else {}
    ranked = [rows[index] for index in uses if index in rows]
    if not ranked:
        ranked = sorted(new_tokens, key=lambda row: -_whole(row.get("count")))
    return [
        {
            "text": row.get("text", ""),
            "count": uses.get(row.get("id", ""), _whole(row.get("count"))),
            "pieces": len(row.get("base_ids", "").split()),
            "id": row.get("id", ""),
        }
        for row in ranked[:NEW_TOKENS_SHOWN]
    ]


def _never_used(usage: Entry) -> str:
    """Columns: the share of the new tokens never used, by tenths of their rank."""
    tenths = usage.get("never_used_by_tenth")
    shares = [number(value) for value in tenths] if isinstance(tenths, list) else []
    columns = [
        (f"{10 * index}–{10 * (index + 1)} %", 100 * value)
        for index, value in enumerate(shares)
        if value is not None
    ]
    if len(columns) < 10:
        return ""
    return column_chart(
        columns, x_label="new tokens in the order learned", y_label="% never used", height=140
    )


def _sizes(compared: Entry, report: Entry) -> Entry | None:
    """The size curve: two charts over the number of new tokens, and a table of its points."""
    points = []
    for one in entries(compared.get("curve")):
        own = counts(one)
        if own.keys() >= _POINT:
            points.append(own)
    best = number(compared.get("best"))
    if best is None or len(points) < 2:
        return None
    taken = number(report.get("new_tokens"))

    def chart(key: str, scale: float, y_label: str, *, zero: bool) -> str:
        line = [(own["new_tokens"], scale * own[key]) for own in points]
        marked = [point for point in line if point[0] == best]
        here = [point for point in line if point[0] == taken and taken != best]
        series = [
            Series(y_label, line, "ko"),
            Series("best size", marked, "best", dots=True),
            Series("this tokenizer", here, "taken", dots=True),
        ]
        return line_chart(series, x_label="new tokens", y_label=y_label, height=190, zero=zero)

    return {
        "best": best,
        "taken": taken,
        "reason": str(compared.get("reason") or ""),
        "model": str(compared.get("model") or ""),
        "layers": number(compared.get("layers")),
        "hidden": number(compared.get("hidden")),
        "planned": str(compared.get("planned") or ""),
        "planned_tokens": number(compared.get("planned_tokens")),
        "least_seen": number(compared.get("least_seen")),
        "saved_chart": chart("saved", 100, "% of tokens saved", zero=True),
        "flops_chart": chart("training_flops", 1e-9, "training GFLOPs a character", zero=False),
        "points": points,
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
