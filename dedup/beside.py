"""Copies beside what was kept of them, for the report: near ones, and of the largest clusters.

In: documents/ and removed/ of a finished run. Out: short texts, both sides cut to where they begin to
differ. Ids are read of every file, texts only where a wanted document is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHOWN = 400  # characters of each of two near copies, and how many of them before the difference:
BEFORE = 80
MEMBERS = 3
"""Documents shown of a cluster: those least like the one it is named after."""


def cut(text: str, kept: str) -> tuple[str, str]:
    """Both texts from a little before their first difference; "…" stands where something is cut."""
    pairs = enumerate(zip(text, kept, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(text), len(kept)))
    begin = same - BEFORE if same > BEFORE else 0
    end = begin + SHOWN
    left, right = (
        ("…" if begin else "") + one[begin:end] + ("…" if len(one) > end else "")
        for one in (text, kept)
    )
    return left, right


def texts_of(ids: Sequence[str], documents: Path) -> dict[str, dict[str, Any]]:
    """{id: row with id, source, text} of documents that stayed; one of an earlier run is missing."""
    found: dict[str, dict[str, Any]] = {}
    for rows in _rows_with(documents, "id", ids, ["id", "source", "text"]):
        found |= {row["id"]: row for row in rows.to_pylist()}
        if len(found) == len(set(ids)):
            break
    return found


def cluster_members(ids: Sequence[str], documents: Path, removed: Path) -> dict[str, list[Any]]:
    """{id of a cluster: at most MEMBERS rows with id, source, similarity, text}.

    similarity and text may be null: of near copies that were only annotated, and where removed texts
    are not stored.
    """
    columns = ["id", "source", "similarity", "text"]
    found: dict[str, list[dict[str, Any]]] = {id: [] for id in ids}
    for folder, key in ((removed, "kept_id"), (documents, "cluster_id")):
        for rows in _rows_with(folder, key, ids, [key, *columns], _least_alike):
            for row in rows.to_pylist():
                name = row.pop(key)
                if row["id"] != name:
                    found[name].append({column: row.get(column) for column in columns})
    for members in found.values():
        members.sort(key=_likeness)
        del members[MEMBERS:]
    return found


def _likeness(row: dict[str, Any]) -> tuple[float, str]:
    return (-1.0 if row["similarity"] is None else row["similarity"], row["id"])


def _least_alike(rows: pa.Table, key: str) -> pa.Array:
    """Places of at most MEMBERS rows of each cluster, the one it is named after left out."""
    rows = rows.append_column("place", pa.array(range(rows.num_rows)))
    rows = rows.filter(pc.not_equal(rows[key], rows["id"]))
    alike = [("similarity", "ascending")] if "similarity" in rows.schema.names else []
    rows = rows.sort_by([*alike, ("id", "ascending")])
    names = rows[key]
    chosen: list[int] = []
    for name in pc.unique(names).to_pylist():
        chosen += rows["place"].filter(pc.equal(names, name)).slice(0, MEMBERS).to_pylist()
    return pa.array(sorted(chosen), pa.int64())


def _rows_with(
    folder: Path,
    key: str,
    values: Sequence[str],
    columns: Sequence[str],
    narrow: Callable[[pa.Table, str], pa.Array] | None = None,
) -> Iterator[pa.Table]:
    """The rows, row group by row group, whose `key` is one of the values; `narrow` picks of them."""
    wanted = pa.array(sorted(set(values)), pa.string())
    if not len(wanted):
        return
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            small = [name for name in there if name != "text"]
            for group in range(file.num_row_groups):
                found = file.read_row_group(group, columns=small)
                keys = found[key]
                places = pc.indices_nonzero(pc.is_in(keys, wanted.cast(keys.type)))
                if narrow is not None and len(places):
                    places = places.take(narrow(found.take(places), key))
                if len(places):
                    yield file.read_row_group(group, columns=there).take(places)
