"""The copies of report.html: how near they were, how large their clusters are, the largest ones' texts.

In: dedup/report.json. Out: charts, and pairs of texts with what differs marked, word by word.
"""

from __future__ import annotations

import difflib
from typing import Any

from markupsafe import Markup, escape

from launch.charts import column_chart
from launch.figures import Entry, counts, entries, is_number, number

SHOWN = 420  # characters of a text


def copies(report: Entry) -> Entry:
    """similarity and clusters (charts), largest (clusters with texts)."""
    exact = counts(report.get("removed")).get("exact", 0.0)
    largest = [_cluster(one) for one in entries(report.get("largest_clusters"))]
    telling = (one for one in largest if any(not member["same"] for member in one["members"]))
    if (first := next(telling, None)) is not None:
        first["open"] = True
    return {
        "similarity": _histogram(counts(report.get("similarities")), exact),
        "clusters": _clusters(report.get("clusters")),
        "largest": largest,
    }


def _histogram(amounts: dict[str, float], exact: float) -> str:
    """Removed near copies by similarity. The bin of 1 holds the exact copies too: they are taken out."""
    bins = {round(float(low), 2): amount for low, amount in amounts.items() if is_number(low)}
    if not bins:
        return ""
    if bins.get(1.0, 0.0) >= exact:
        bins[1.0] = bins.get(1.0, 0.0) - exact
    first = round(50 * min(low for low in bins if bins[low] or low == 1.0))
    filled = [(at / 50, bins.get(round(at / 50, 2), 0.0)) for at in range(min(first, 50), 51)]
    if not any(amount for _, amount in filled):
        return ""
    return column_chart(
        [(f"{low:.2f}", amount) for low, amount in filled],
        x_label="Jaccard similarity to the kept copy",
        y_label="near copies removed",
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


def _cluster(value: Entry) -> Entry:
    return {
        "id": str(value.get("id") or ""),
        "documents": number(value.get("documents")) or 0.0,
        "source": str(value.get("source") or ""),
        "members": [_member(one) for one in entries(value.get("members"))],
        "open": False,
    }


def _member(value: Entry) -> Entry:
    text, kept = _one_line(value.get("text")), _one_line(value.get("kept_text"))
    ours, theirs = marked(text, kept) if text and kept else (escape(text), escape(kept))
    return {
        "id": str(value.get("id") or ""),
        "source": str(value.get("source") or ""),
        "similarity": number(value.get("similarity")),
        "text": ours,
        "kept_text": theirs,
        "same": bool(text) and text == kept,
    }


def _one_line(value: Any) -> str:
    text = " ".join(str(value or "").split())
    return text if len(text) <= SHOWN else text[:SHOWN].rstrip() + " …"


def marked(left: str, right: str) -> tuple[Markup, Markup]:
    """Both texts, escaped, with the words in <mark> that the other does not have in that place.

    Where texts were cut, their last words differ because of the cut: those are not marked.
    """
    a, b = left.split(" "), right.split(" ")
    ours: list[Markup] = []
    theirs: list[Markup] = []
    was_cut = left.endswith("…") or right.endswith("…")
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if was_cut and j == len(a) and m == len(b):
            kind = "equal"
        for side, words in ((ours, a[i:j]), (theirs, b[k:m])):
            text = " ".join(words)
            if text:
                side.append(
                    escape(text) if kind == "equal" else Markup("<mark>{}</mark>").format(text)
                )
    space = Markup(" ")
    return space.join(ours), space.join(theirs)
