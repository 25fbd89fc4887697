"""The documents of report.html: dedup/report.json → funnel, sources, reasons with examples, lengths."""

from __future__ import annotations

from typing import Any

from launch.charts import Part, Row, bar_chart, column_chart
from launch.figures import Entry, counts, entries, entry, number, share
from launch.section_copies import copies, marked

STEP_ORDER = ("read", "normalise", "filter", "pii", "decontaminate", "exact", "near")
SCRIPTS = ("hangul", "latin", "han", "kana", "other")
EXAMPLES = 5  # examples shown per reason
EXAMPLE_CHARACTERS = 420
FAILED_SHOWN = 100


def documents(report: Entry | None) -> Entry | None:
    """Funnel, sources, unreadable files, reasons with examples, near-duplicate charts."""
    if report is None:
        return None
    total = number(report.get("documents_in")) or 0.0
    failed = number(report.get("documents_failed")) or 0.0
    removed = counts(report.get("removed"))
    known = [step for step in STEP_ORDER if step in removed]
    steps = [*known, *(step for step in removed if step not in STEP_ORDER)]
    rows, left = [_funnel_row("read", total, failed, total, "could not be read")], total - failed
    for step in steps:
        rows.append(_funnel_row(step, left, removed[step], total, "removed"))
        left -= removed[step]
    failures = report.get("failed_files")
    failures = failures if isinstance(failures, list) else []
    return {
        "total": total,
        "kept": number(report.get("documents_out")) or 0.0,
        "failed": failed,
        "bytes_in": number(report.get("bytes_in")),
        "bytes_out": number(report.get("bytes_out")),
        "heldout": number(report.get("heldout")),
        "pii": counts(report.get("pii")),
        "funnel": bar_chart(rows, x_label="documents", stacked=True),
        "steps": steps,
        "sources": [
            {
                "name": name,
                "in": number(source.get("documents_in")) or 0.0,
                "out": number(source.get("documents_out")) or 0.0,
                "characters": number(source.get("characters_out")),
                "removed": counts(source.get("removed")),
            }
            for name, source in entry(report.get("by_source")).items()
            if isinstance(source, dict)
        ],
        "failures": [_failure(failure) for failure in failures[:FAILED_SHOWN]],
        "more_failures": max(0, len(failures) - FAILED_SHOWN),
        "reasons": _reasons(report),
        "by_source": _by_source(entry(report.get("by_source")), steps),
        "lengths": _lengths(report),
        "scripts": _scripts(report),
        **copies(report),
    }


def _funnel_row(step: str, before: float, gone: float, total: float, how: str) -> Row:
    left = before - gone
    parts = [Part(left, "after", f"{left:,.0f} documents left after {step} ({share(left, total)})")]
    if gone:
        parts.append(Part(gone, "gone", f"{gone:,.0f} {how} ({share(gone, total)} of all)"))
    lost = f"−{gone:,.0f} ({share(gone, total)})  ·  " if gone else ""
    return Row(step, parts, f"{lost}{left:,.0f} left")


def _by_source(sources: Entry, steps: list[str]) -> Entry:
    """What became of each source's documents, as shares of it; and which steps there is a colour of."""
    rows, seen = [], set()
    for name, source in sources.items():
        total = number(entry(source).get("documents_in")) or 0.0
        if not total:
            continue
        amounts = {"kept": number(source.get("documents_out")) or 0.0}
        amounts |= {step: counts(source.get("removed")).get(step, 0.0) for step in steps}
        amounts["unreadable"] = number(source.get("documents_failed")) or 0.0
        parts = [
            Part(
                100 * amount / total, f"s-{step}", f"{step}: {amount:,.0f} ({share(amount, total)})"
            )
            for step, amount in amounts.items()
            if amount
        ]
        seen |= {step for step, amount in amounts.items() if amount}
        kept = amounts["kept"]
        rows.append(Row(name, parts, f"{kept:,.0f} of {total:,.0f} kept ({share(kept, total)})"))
    legend = [step for step in ("kept", *steps, "unreadable") if step in seen]
    return {"chart": bar_chart(rows, x_label="% of the source", stacked=True), "legend": legend}


def _lengths(report: Entry) -> str:
    """Documents by length before and after, in bins that double."""
    before, after = counts(report.get("lengths_in")), counts(report.get("lengths_out"))
    sizes = sorted(int(low) for low in {*before, *after} if low.isdigit())
    if not sizes:
        return ""
    lows = [1 << power for power in range(sizes[0].bit_length() - 1, sizes[-1].bit_length())]
    return column_chart(
        [(f"{_short_count(low)}–", after.get(str(low), 0.0)) for low in lows],
        behind=[before.get(str(low), 0.0) for low in lows],
        x_label="characters, from",
        y_label="documents",
    )


def _short_count(value: int) -> str:
    if value < 1024:
        return str(value)
    return f"{value // 1024}k" if value < 1 << 20 else f"{value >> 20}M"


def _scripts(report: Entry) -> Entry:
    """Letters of what stayed by writing system, for each source and for all."""
    rows, seen = [], set()
    sources = {
        name: entry(one).get("scripts") for name, one in entry(report.get("by_source")).items()
    }
    if len(sources) > 1:
        sources = {"all": report.get("scripts"), **sources}
    for name, value in sources.items():
        letters = counts(value)
        total = sum(letters.values())
        if not total:
            continue
        seen |= set(letters)
        parts = [
            Part(
                100 * letters[script] / total,
                f"w-{script}",
                f"{script}: {share(letters[script], total)}",
            )
            for script in SCRIPTS
            if letters.get(script)
        ]
        first = max(letters, key=lambda script: letters[script])
        rows.append(Row(name, parts, f"{share(letters[first], total)} {first}"))
    return {
        "chart": bar_chart(rows, x_label="% of the letters", stacked=True),
        "legend": [script for script in SCRIPTS if script in seen],
    }


def _failure(value: Any) -> Entry:
    """Which file, where in it, and what is wrong."""
    failure = value if isinstance(value, dict) else {"path": value}
    line, offset = number(failure.get("line")), number(failure.get("offset"))
    where = f":{line:.0f}" if line else f" at byte {offset:,.0f}" if offset else ""
    return {
        "where": f"{failure.get('path') or ''}{where}",
        "error": str(failure.get("error") or ""),
        "records": number(failure.get("records")),
    }


def _reasons(report: Entry) -> list[Entry]:
    """Why documents went, the commonest first, with examples where the stage kept some."""
    amounts = counts(report.get("reasons"))
    examples = entry(report.get("examples"))
    names = sorted({*amounts, *examples}, key=lambda name: (-amounts.get(name, 0), name))
    largest = max(amounts.values(), default=0) or 1
    return [
        {
            "name": name,
            "count": amounts.get(name),
            "share": amounts.get(name, 0) / largest,
            "examples": [
                {
                    "id": str(example.get("id") or ""),
                    "source": str(example.get("source") or ""),
                    **_texts(example),
                    "kept_id": str(example.get("kept_id") or ""),
                    "similarity": number(example.get("similarity")),
                }
                for example in entries(examples.get(name))[:EXAMPLES]
            ],
        }
        for name in names
    ]


def _texts(example: Entry) -> Entry:
    """The text, and where there is a kept one beside it both with their differences marked."""
    text, kept = _short(example.get("text")), _short(example.get("kept_text"))
    if text and kept and text != kept:
        ours, theirs = marked(text, kept)
        return {"text": ours, "kept_text": theirs}
    return {"text": text, "kept_text": kept}


def _short(value: Any) -> str:
    text = " ".join(str(value or "").split())
    return text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS].rstrip() + " …"
