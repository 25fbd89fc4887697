"""The preference phases of report.html: their metrics.jsonl and report → curves and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch.charts import Series, line_chart, scatter, smooth, thin
from launch.figures import Entry, entries, entry, number

DOTS, POINTS = 400, 500
SPANS = 40  # smoothing takes the mean over 1/SPANS of the steps
CHARTS = (
    ("loss", "Loss of the choice (DPO)", "loss, nats"),
    ("margin", "Margin of the rewards", "chosen − rejected, nats"),
    ("accuracy", "Chosen above rejected", "share of the step's pairs"),
)


def preference(report: Entry | None, metrics: Mapping[str, Sequence[Entry]]) -> list[Entry]:
    """A part for each phase; half a phase is shown as far as it got. Empty where there is none.

    metrics: phase folder's name → its records, in order.
    """
    done = entries(entry(report).get("preference"))
    parts = []
    for at, (_, records) in enumerate(sorted(metrics.items(), key=lambda one: int(one[0]))):
        steps = [record for record in records if number(record.get("loss")) is not None]
        if not steps:
            continue
        found = done[at] if at < len(done) else {}
        before, after = entry(found.get("before")), entry(found.get("after"))
        parts.append(
            {
                "name": str(steps[-1].get("phase") or ""),
                "steps": len(steps),
                "finished": bool(found),
                "pairs": number(found.get("pairs")),
                "too_long": number(found.get("too_long")),
                "beta": number(found.get("beta")),
                "trl": str(found.get("trl") or ""),
                "charts": [(title, _chart(steps, key, label)) for key, title, label in CHARTS],
                "heldout": number(after.get("pairs")),
                "rows": [
                    (label, _percent(before.get(key)), _percent(after.get(key)))
                    for key, label in (
                        ("ranking_accuracy", "chosen likelier than rejected"),
                        ("reward_accuracy", "moved the right way"),
                    )
                ],
                "margin": number(after.get("margin")),
            }
        )
    return parts


def _chart(steps: Sequence[Entry], key: str, label: str) -> str:
    points = [
        (step, figure)
        for record in steps
        if (figure := number(record.get(key))) is not None
        and (step := number(record.get("step"))) is not None
    ]
    span = max(1, len(points) // SPANS)
    return line_chart(
        [
            Series(f"{label}, the step", scatter(points, DOTS), "raw", True),
            Series("mean of the steps around", thin(smooth(points, span), POINTS), "plain"),
        ],
        x_label="optimizer step of the phase",
        y_label=label,
        height=160,
    )


def _percent(value: object) -> str:
    figure = number(value)
    return "–" if figure is None else f"{100 * figure:.1f} %"
