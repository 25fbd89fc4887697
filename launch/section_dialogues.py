"""The dialogues of report.html: what `malmoi evaluate --chat` noted → a table beside other models, and bars.

Figures of a model that the run made before its present one are not shown.
"""

from __future__ import annotations

from typing import Any

from launch.charts import Part, Row, bar_chart
from launch.figures import Entry, counts, entry, number

SHARES = ("distinct_1", "distinct_2", "korean", "stopped")  # between 0 and 1: drawn


def dialogues(found: Any, report: Entry | None) -> Entry | None:
    """Models side by side, this run's last; None where nothing was noted."""
    noted = entry(found)
    chat = entry(noted.get("chat"))
    way, own = entry(chat.get("way")), counts(chat.get("figures"))
    if "bits_per_byte" not in own or noted.get("identity") != entry(report).get("identity"):
        return None
    from pretrain.evaluation.scores import DIALOGUE_FIGURES, dialogue_lines

    others = {str(name): counts(one) for name, one in entry(chat.get("against")).items()}
    models = [*others.values(), own]
    names = [*others, "this model"]
    styles = [*["before"] * len(others), "after"]
    rows = []
    for key in SHARES:
        parts = [
            Part(
                one[key],
                style,
                f"{DIALOGUE_FIGURES[key][0]}, {name}: {one[key]:.3f}",
                f"{one[key]:.2f}",
            )
            for name, one, style in zip(names, models, styles, strict=True)
            if key in one
        ]
        if parts:
            rows.append(Row(DIALOGUE_FIGURES[key][0], parts))
    return {
        "names": names,
        "lines": dialogue_lines(models),
        "chart": bar_chart(rows, x_label="share") if rows else "",
        "dialogues": number(way.get("dialogues")),
        "kilobytes": (number(way.get("bytes")) or 0) / 1000,
        "replies": number(way.get("replies")),
        "tokens": number(way.get("max_new_tokens")),
    }
