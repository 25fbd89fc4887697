"""Why a document is not there: its step, its reason, the copy that was kept beside it.

In: a run folder and an id. Out: an `Explanation`. Reads the audit trail, nothing is recomputed. The
copy that was kept may stand in an earlier run (`dedup.against`); the reason names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.files import read_json


@dataclass(frozen=True)
class Explanation:
    """What became of a document.

    step and reason are "" for a document that stayed (then text is its text). kept_id, kept_source
    and kept_text are of the document that stayed instead, similarity the exact Jaccard similarity
    of the two; None where it was not a copy. kept_run is the folder of the earlier run that has it, None
    where this run has. text is None where removed texts were not stored.
    """

    id: str
    source: str
    step: str
    reason: str
    text: str | None
    kept_id: str | None = None
    kept_source: str | None = None
    kept_text: str | None = None
    similarity: float | None = None
    kept_run: Path | None = None

    @property
    def kept(self) -> bool:
        """Whether the document stayed."""
        return not self.step


def why(folder: Path, id: str) -> Explanation:
    """Look a document up in the run folder (runs/<name>).

    Raises InputError where the stage has not finished, or no document had that id.
    """
    dedup = folder / "dedup"
    if not (dedup / "report.json").exists():
        raise InputError(f"{dedup}: holds no finished data stage; run `malmoi dedup` first")
    row = _find(dedup / "removed", id, None)
    if row is None:
        stayed = _find(dedup / "documents", id, ["id", "source", "text"])
        if stayed is None:
            near = _alike(dedup, id)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise InputError(f"{id}: no document of {folder} had this id{hint}")
        return Explanation(id, stayed["source"], "", "", stayed["text"])
    kept = run = None
    if row["kept_id"] is not None:
        run = _earlier(dedup, row["reason"])
        documents = (run or folder) / "dedup" / "documents"
        kept = _find(documents, row["kept_id"], ["id", "source", "text"])
    return Explanation(
        id,
        row["source"],
        row["step"],
        row["reason"],
        row["text"],
        row["kept_id"],
        kept["source"] if kept else None,
        kept["text"] if kept else None,
        row["similarity"],
        run,
    )


def _earlier(dedup: Path, reason: str) -> Path | None:
    """The earlier run that a reason ("near copy in 2019-04") names, if it names one."""
    manifest = dedup / "index" / "manifest.json"
    runs: dict[str, str] = read_json(manifest)["against"] if manifest.is_file() else {}
    return next((Path(run) for name, run in runs.items() if reason.endswith(f" in {name}")), None)


def _find(folder: Path, id: str, columns: list[str] | None) -> dict[str, Any] | None:
    """The row with that id; the ids are read first, a row's texts only where it is."""
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"])["id"]
                place = pc.index(ids, pa.scalar(id, ids.type)).as_py()
                if place >= 0:
                    found: dict[str, Any] = (
                        file.read_row_group(group, columns=columns).slice(place, 1).to_pylist()[0]
                    )
                    return found
    return None


def _alike(dedup: Path, id: str) -> list[str]:
    """At most five ids that contain what was typed."""
    found: list[str] = []
    for path in sorted(
        [*(dedup / "removed").glob("*.parquet"), *(dedup / "documents").glob("*.parquet")]
    ):
        ids = pq.read_table(path, columns=["id"])["id"]
        found += ids.filter(pc.match_substring(ids, id)).slice(0, 5 - len(found)).to_pylist()
        if len(found) >= 5:
            break
    return found
