"""The scores of report.html: evaluations.json → tables, and the picture beside another model.

Scores of a model that the run made before its present one are not shown.
"""

from __future__ import annotations

from typing import Any

from launch.charts import Part, Row, bar_chart
from launch.figures import Entry, counts, entries, entry, number

OF_TEXT = ("documents", "bytes", "tokens", "bits_per_byte")  # numbers that a record must have
OF_TASK = ("value", "rows", "of")
WORDS_OF_TEXT = ("source", "language")  # and words, or None
WORDS_OF_TASK = ("task", "group", "metric", "filter")


def scores(found: Any, report: Entry | None) -> Entry | None:
    """What `malmoi evaluate` noted of this run's model; None where nothing was."""
    noted = entry(found)
    if not noted or noted.get("identity") != entry(report).get("identity"):
        return None
    whole: Entry = {
        "bits_per_byte": _whole(noted.get("bits_per_byte"), OF_TEXT, WORDS_OF_TEXT),
        "tasks": [
            one | {name: number(one.get(name)) for name in ("stderr", "shots")}
            for one in _whole(noted.get("tasks"), OF_TASK, WORDS_OF_TASK)
        ],
    }
    against = entry(noted.get("against"))
    if against:
        bits = counts(against.get("bits_per_byte"))
        whole["against"] = {"model": str(against.get("model")), "bits_per_byte": bits}
    if not whole["bits_per_byte"] and not whole["tasks"]:
        return None
    from pretrain.evaluation.scores import compared, label, shown_tasks, task_cells

    texts = [
        {
            "name": label(one),
            "inside": bool(one["source"] and one["language"]),
            "documents": one["documents"],
            "kilobytes": one["bytes"] / 1000,
            "bits": one["bits_per_byte"],
            "other": other,
            "change": change,
        }
        for one, other, change in compared(whole)
    ]
    other = whole["against"]["model"] if against else ""
    return {
        "texts": texts,
        "other": other,
        "chart": _chart(texts, other) if other else "",
        "window": number(noted.get("window")),
        "tasks": [
            dict(zip(("task", "metric", "shots", "rows", "value", "error"), cells, strict=True))
            | {"inside": bool(one["group"])}
            for one in shown_tasks(whole)
            if (cells := task_cells(one))
        ],
        "lm_eval": str(noted.get("lm_eval") or ""),
    }


def _whole(found: Any, numbers: tuple[str, ...], words: tuple[str, ...]) -> list[Entry]:
    """The records that have these numbers and these words (or None in their place)."""
    return [
        one
        for one in entries(found)
        if all(number(one.get(name)) is not None for name in numbers)
        and all(name in one and isinstance(one[name], str | None) for name in words)
    ]


def _chart(texts: list[Entry], other: str) -> Any:
    """Two bars a text: the other model's bits per byte, and this one's."""
    rows = []
    for one in texts:
        if one["other"] is None:
            continue
        parts = [
            Part(bits, style, f"{one['name']}, {model}: {bits:.4f} bits per byte", f"{bits:.3f}")
            for bits, style, model in (
                (one["other"], "before", other),
                (one["bits"], "after", "this model"),
            )
        ]
        note = f"{100 * one['change']:+.1f} %".replace("-", "−")
        rows.append(Row(one["name"], parts, note))
    return bar_chart(rows, x_label="bits per byte, held-out") if rows else ""
