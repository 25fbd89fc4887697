"""Is this text, or something like it, in a corpus; and what became of an id or an address.

In: a finished run folder, and a text, an id or an address (removal requests come with the latter
two). Out: `Answer`s. A text is sought by its digest (the same text), then by its bands in the run's
index, and what those propose is compared exactly with the documents' own texts.

The text is asked for in two forms: normalised alone, and as the run would have written it
(boilerplate cut, personal data masked), since what stands in the corpus is the latter.

The decision: only the `most` candidates that agree on most minima are read and compared. One pair
costs the reading of a row group (some 30 ms), and a template has thousands of them. So a list may be
cut, and says so; whether there is anything at all does not depend on it. A document in which the text
is only a part is not like it: similarity is of the whole texts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError
from dedup.copies.index import Index, read_rows
from dedup.copies.minhash import sign
from dedup.copies.verify import least_agreement, similarity
from dedup.text import normalize, pii
from dedup.text.boilerplate import cut_boilerplate
from dedup.why import why

EXCERPT = 200
"""Characters of a document's text in an answer."""

_SHOWN = ("id", "source", "url", "split", "text")


@dataclass(frozen=True)
class Answer:
    """A document that was found.

    how: "same text", "near", "id" or "url". similarity: exact Jaccard over character shingles, of
    texts alone. step and reason are "" for one that is in the corpus, else why it was removed;
    kept_id: what was kept instead. Removed documents have no url unless the audit trail has one.
    """

    how: str
    id: str
    source: str
    excerpt: str
    url: str | None = None
    split: str | None = None
    similarity: float | None = None
    step: str = ""
    reason: str = ""
    kept_id: str | None = None


@dataclass(frozen=True)
class Found:
    """answers: the most alike first. searched: documents in the corpus; candidates: proposed by the
    bands; compared: of these, how many were read; seconds: of the search, opening included."""

    answers: list[Answer]
    searched: int
    seconds: float
    candidates: int = 0
    compared: int = 0
    threshold: float = 1.0


def find_text(run: Path, text: str, *, at_least: float | None = None, most: int = 10) -> Found:
    """Documents of a run that are this text, or at least that similar to it.

    at_least: Jaccard similarity in (0, 1]; default: the run's own threshold. most: answers at most.
    Raises InputError for an empty text, and where the run has no index.
    """
    begin = time.perf_counter()
    index = Index.open(run)
    forms = _forms(text)
    if not forms:
        raise InputError("find: the text is empty; give one with a letter in it")
    limit = at_least or min((pool.threshold for pool in index.pools), default=1.0)
    alike: dict[int, tuple[float, str]] = {}
    for form in forms:
        row = index.row_of(form)
        if row >= 0:
            alike[row] = (1.0, "same text")
    proposed: dict[int, tuple[int, str, int]] = {}
    for pool in index.pools:
        signing = pool.signing
        least = least_agreement(signing.permutations, limit)
        column = pa.array(forms, pa.large_string())
        signatures = sign(column, shingle=signing.shingle, count=signing.permutations).values
        for form, signature in zip(forms, signatures, strict=True):
            members, equal = pool.alike(signature)
            for member, agreed in zip(members.tolist(), equal.tolist(), strict=True):
                row = int(pool.members[member])
                if agreed >= least and agreed > proposed.get(row, (-1, "", 0))[0]:
                    proposed[row] = (agreed, form, signing.shingle)
    order = sorted(proposed.keys() - alike.keys(), key=lambda row: (-proposed[row][0], row))
    chosen = order[: max(0, most - len(alike))]
    texts = index.read(chosen, ["text"]) if chosen else []
    for row, record in zip(chosen, texts, strict=True):
        _, form, shingle = proposed[row]
        value = similarity(form, record["text"], shingle)
        if value >= limit:
            alike[row] = (value, "near")
    rows = sorted(alike, key=lambda row: (alike[row][1] == "near", -alike[row][0], row))[:most]
    records = index.read(rows, _SHOWN) if rows else []
    answers = [
        _answer(record, alike[row][1], alike[row][0])
        for row, record in zip(rows, records, strict=True)
    ]
    return Found(
        answers,
        index.documents,
        time.perf_counter() - begin,
        len(order),
        len(chosen),
        limit,
    )


def find_id(run: Path, id: str) -> Found:
    """The document with that id, in the corpus or removed. Raises InputError without a finished run."""
    begin = time.perf_counter()
    searched = _documents(run)
    try:
        told = why(run, id)
    except InputError:
        return Found([], searched, time.perf_counter() - begin)
    if told.kept:
        answers = _by_column(run, "id", [id])
    else:
        excerpt = (told.text or "")[:EXCERPT]
        answers = [
            Answer(
                "id", id, told.source, excerpt,
                step=told.step, reason=told.reason, kept_id=told.kept_id, similarity=told.similarity,
            )
        ]  # fmt: skip
    return Found(answers, searched, time.perf_counter() - begin)


def find_url(run: Path, url: str) -> Found:
    """Every document of that address: in the corpus, and removed where the audit trail has it.

    With and without a slash at the end, and under http as under https.
    """
    begin = time.perf_counter()
    searched = _documents(run)
    bare = url.strip().rstrip("/").removeprefix("https://").removeprefix("http://")
    spelled = [
        f"{scheme}{bare}{end}" for scheme in ("https://", "http://", "") for end in ("", "/")
    ]
    return Found(_by_column(run, "url", spelled), searched, time.perf_counter() - begin)


def _documents(run: Path) -> int:
    """How many documents a finished run keeps."""
    if not (run / "dedup" / "report.json").is_file():
        raise InputError(
            f"{run}: holds no finished data stage; give a run folder such as runs/quickstart"
        )
    files = (run / "dedup" / "documents").glob("*.parquet")
    return sum(pq.read_metadata(path).num_rows for path in files)


def _by_column(run: Path, column: str, values: Sequence[str]) -> list[Answer]:
    """Rows, kept and removed, where a column has one of the values; only that column is scanned."""
    answers: list[Answer] = []
    wanted = pa.array(values, pa.string())
    for folder in ("documents", "removed"):
        for path in sorted((run / "dedup" / folder).glob("*.parquet")):
            names = pq.read_schema(path).names
            if column not in names:
                continue
            cells = pq.read_table(path, columns=[column])[column]
            rows = np.flatnonzero(pc.is_in(cells, wanted).to_numpy())
            if len(rows):
                shown = (*_SHOWN, "step", "reason", "kept_id", "similarity")
                present = [name for name in shown if name in names]
                answers += [_answer(row, column, None) for row in read_rows(path, rows, present)]
    return answers


def _answer(row: dict[str, Any], how: str, value: float | None) -> Answer:
    return Answer(
        how,
        row["id"],
        row["source"],
        (row["text"] or "")[:EXCERPT],
        row.get("url"),
        row.get("split"),
        value if value is not None else row.get("similarity"),
        row.get("step") or "",
        row.get("reason") or "",
        row.get("kept_id"),
    )


def _forms(text: str) -> list[str]:
    """The text as a run may have written it, without repeats and empty ones."""
    column = pa.array([text.encode("utf-8", "replace").decode("utf-8")], pa.large_string())
    plain = normalize.normalize(column)
    cut = pa.array([cut_boilerplate(plain[0].as_py())], pa.large_string())
    forms = [plain[0].as_py(), pii.mask(plain).texts[0].as_py(), pii.mask(cut).texts[0].as_py()]
    return [form for form in dict.fromkeys(forms) if form.strip()]
