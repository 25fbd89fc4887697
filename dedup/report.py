"""dedup/report.json: what came in, what went and why, what stayed.

In: the marks that the tasks left. Out: `Report`. Every count is a sum over tasks, so a run that was
killed and went on reports the same as one that was not; only `seconds` and `wall_seconds` differ.

The decision: the books must balance. `documents_in = documents_out + Σ removed + documents_failed`
is asserted, for the whole and for every source, before the report is written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from configs.files import read_json, write_json
from configs.schema import Dedup
from dedup.beside import cluster_members, cut, texts_of
from dedup.clean import EXAMPLES, Cleaned, mark_of
from dedup.copies.duplicates import Duplicates
from dedup.publish import NEAR, Published, published_mark
from dedup.read import Task

_FAILED_FILES = 100
_CLUSTERS = 5  # whose texts are shown


@dataclass
class Report:
    """What the data stage did. Counts are documents, bytes are UTF-8, seconds are of processor time.

    removed: {step: documents}. reasons: {"step/reason": documents}. by_source: {source: the same
    counts}. failed_files: {path, records, error (the first), line, offset} of at most 100 files.
    examples: {"step/reason": a few documents, text cut; of copies also kept_id, similarity and, of
    near copies, kept_text: both from a little before their first difference}. clusters: {documents
    in a cluster: clusters}, singles left out. similarities: {lower bound of a bin of 0.02: removed
    copies, exact ones too}. largest_clusters: {id, documents} and of the first few source and members:
    {id, source, similarity, text, kept_text} of those least like it. lengths_in, lengths_out: documents
    read and kept, {fewest characters of a bin: documents}, a bin ending at twice that. scripts:
    {writing system: letters of what is kept}; also in by_source. near: figures of each comparison. pii: {kind: masked}.
    renamed_ids: ids that occurred before and got a `~2`. digest: of the config that made this.
    """

    documents_in: int = 0
    documents_out: int = 0
    documents_failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    characters_in: int = 0
    characters_out: int = 0
    heldout: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    by_source: dict[str, dict[str, Any]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    failed_files: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    clusters: dict[str, int] = field(default_factory=dict)
    similarities: dict[str, int] = field(default_factory=dict)
    largest_clusters: list[dict[str, Any]] = field(default_factory=list)
    lengths_in: dict[str, int] = field(default_factory=dict)
    lengths_out: dict[str, int] = field(default_factory=dict)
    scripts: dict[str, int] = field(default_factory=dict)
    near: list[dict[str, Any]] = field(default_factory=list)
    pii: dict[str, int] = field(default_factory=dict)
    renamed_ids: int = 0
    digest: str = ""

    def write(self, path: Path) -> None:
        """Write report.json; last of all, since its presence says that the stage is done."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read report.json, also one of a later version with more in it."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in read_json(path).items() if key in known})


def summarise(tasks: list[Task], dedup: Dedup, work: Path, documents: Path) -> Report:
    """Add up the marks of all tasks; `documents` is the folder of what stayed."""
    report = Report()
    found = Duplicates(**read_json(work / "duplicates.json"))
    removed: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    pii: Counter[str] = Counter()
    lengths_in: Counter[str] = Counter()
    lengths_out: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    failed: dict[str, dict[str, Any]] = {}
    for task in tasks:
        cleaned = Cleaned(**read_json(mark_of(work, task.index)))
        published = Published(**read_json(published_mark(work, task.index)))
        name = dedup.sources[task.source].name
        source = report.by_source.setdefault(name, _empty_source())
        for key, amount in {
            "documents_in": cleaned.documents_in,
            "documents_failed": cleaned.documents_failed,
            "bytes_in": cleaned.bytes_in,
            "characters_in": cleaned.characters_in,
            "documents_out": published.documents,
            "bytes_out": published.bytes_out,
            "characters_out": published.characters_out,
            "heldout": published.heldout,
        }.items():
            source[key] += amount
            setattr(report, key, getattr(report, key) + amount)
        lengths_in.update(cleaned.lengths)
        lengths_out.update(published.lengths)
        scripts.update(published.scripts)
        source["scripts"] = dict(Counter(source["scripts"]) + Counter(published.scripts))
        for part in (cleaned, published):
            reasons.update(part.removed)
            for key, count in part.removed.items():
                step = key.split("/", 1)[0]
                removed[step] += count
                source["removed"][step] = source["removed"].get(step, 0) + count
                source["reasons"][key] = source["reasons"].get(key, 0) + count
            for key, shown in part.examples.items():
                examples = report.examples.setdefault(key, [])
                examples += shown[: EXAMPLES - len(examples)]
        seconds.update(cleaned.seconds)
        pii.update(cleaned.pii)
        _note_failed(failed, cleaned)
    _put_beside(report.examples.get(NEAR, []), documents)
    report.removed = dict(removed)
    report.reasons = dict(sorted(reasons.items()))
    report.pii = dict(sorted(pii.items()))
    report.failed_files = list(failed.values())[:_FAILED_FILES]
    report.seconds = {step: round(amount, 3) for step, amount in seconds.items()} | found.seconds
    report.clusters = found.clusters
    report.similarities = found.similarities
    report.largest_clusters = _with_members(found.largest, documents)
    report.lengths_in = _by_number(lengths_in)
    report.lengths_out = _by_number(lengths_out)
    report.scripts = dict(scripts.most_common())
    report.near = found.near
    report.renamed_ids = found.renamed_ids
    _balance(report)
    return report


def _empty_source() -> dict[str, Any]:
    counts = dict.fromkeys(
        [
            "documents_in", "documents_out", "documents_failed", "bytes_in", "bytes_out",
            "characters_in", "characters_out", "heldout",
        ],
        0,
    )  # fmt: skip
    return {**counts, "removed": {}, "reasons": {}, "scripts": {}}


def _note_failed(failed: dict[str, dict[str, Any]], cleaned: Cleaned) -> None:
    for failure in cleaned.failed:
        entry = failed.setdefault(failure["path"], {**failure, "records": 0})
        entry["records"] += failure["records"]


def _by_number(counts: Counter[str]) -> dict[str, int]:
    return {key: counts[key] for key in sorted(counts, key=int)}


def _put_beside(examples: list[dict[str, Any]], documents: Path) -> None:
    """Give each example of a near copy the kept text, both cut to where they begin to differ."""
    kept = texts_of([example["kept_id"] for example in examples], documents)
    for example in examples:
        example["text"], example["kept_text"] = cut(
            example["text"], kept[example["kept_id"]]["text"]
        )


def _with_members(largest: list[dict[str, Any]], documents: Path) -> list[dict[str, Any]]:
    """The largest clusters, the first few with documents of theirs beside the kept text."""
    ids = [cluster["id"] for cluster in largest[:_CLUSTERS]]
    kept = texts_of(ids, documents)
    members = cluster_members(ids, documents, documents.parent / "removed")
    shown: list[dict[str, Any]] = []
    for cluster in largest:
        stays = kept.get(cluster["id"])  # not where an earlier run has it
        if stays is None:
            shown.append(dict(cluster))
            continue
        beside = []
        for member in members[cluster["id"]]:
            text, kept_text = cut(member["text"] or "", stays["text"])
            beside.append({**member, "text": text, "kept_text": kept_text})
        shown.append({**cluster, "source": stays["source"], "members": beside})
    return shown


def _balance(report: Report) -> None:
    for counts in (asdict(report), *report.by_source.values()):
        gone = sum(counts["removed"].values())
        assert counts["documents_in"] == (
            counts["documents_out"] + gone + counts["documents_failed"]
        ), f"documents were lost: {counts}"
