"""The documents of report.html: dedup/report.json → funnel, sources, reasons with examples, copies."""

from __future__ import annotations

from typing import Any

from launch.charts import Part, Row, bar_chart, column_chart
from launch.figures import Entry, counts, entries, entry, is_number, number, share

STEP_ORDER = ("read", "normalise", "filter", "pii", "decontaminate", "exact", "near")
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
        "similarity": _histogram(report.get("similarities")),
        "clusters": _clusters(report.get("clusters")),
    }


def _funnel_row(step: str, before: float, gone: float, total: float, how: str) -> Row:
    left = before - gone
    parts = [Part(left, "after", f"{left:,.0f} documents left after {step} ({share(left, total)})")]
    if gone:
        parts.append(Part(gone, "gone", f"{gone:,.0f} {how} ({share(gone, total)} of all)"))
    lost = f"−{gone:,.0f} ({share(gone, total)})  ·  " if gone else ""
    return Row(step, parts, f"{lost}{left:,.0f} left")


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
                    "text": _short(example.get("text")),
                    "kept_id": str(example.get("kept_id") or ""),
                    "kept_text": _short(example.get("kept_text")),
                    "similarity": number(example.get("similarity")),
                }
                for example in entries(examples.get(name))[:EXAMPLES]
            ],
        }
        for name in names
    ]


def _short(value: Any) -> str:
    text = " ".join(str(value or "").split())
    return text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS].rstrip() + " …"


def _histogram(value: Any) -> str:
    columns = [(low, figure) for low, figure in counts(value).items() if is_number(low)]
    columns.sort(key=lambda column: float(column[0]))
    return column_chart(
        [(f"{float(low):.2f}", figure) for low, figure in columns],
        x_label="Jaccard similarity to the kept copy",
        y_label="documents removed",
    )


def _clusters(value: Any) -> str:
    """Clusters of two or more by size; large sizes share a column."""
    edges = [2, 3, 4, 5, 6, 11, 51, 1001]
    names = ["2", "3", "4", "5", "6–10", "11–50", "51–1,000", "over"]
    columns = dict.fromkeys(names, 0.0)
    for size, figure in counts(value).items():
        if is_number(size) and float(size) >= 2:
            columns[names[sum(float(size) >= edge for edge in edges) - 1]] += figure
    filled = [index for index, figure in enumerate(columns.values()) if figure]
    if not filled:
        return ""
    return column_chart(
        list(columns.items())[: filled[-1] + 1],
        x_label="documents in a cluster of copies",
        y_label="clusters",
    )
