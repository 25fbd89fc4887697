"""The data stage, run on the embedded sample with the quickstart's config, meets the truth file."""

from __future__ import annotations

import gzip
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator

import configs.load
from configs.sample import build, copies, texts
from dedup.read import plan
from dedup.stage import run

SAMPLE = texts.SOURCE.parent
TRUTH = [json.loads(line) for line in (SAMPLE / "truth.jsonl").read_text("utf-8").splitlines()]
SOURCES = {
    text.id: text for name in (*texts.KOREAN, "english", "planted") for text in texts.read(name)
}
KINDS = ("kept", "removed", "failed", "masked", "cut")
FRAMED = ("ko/pages/", "ko/crawl")  # forms whose texts stand among menus, adverts and comments


@dataclass(frozen=True)
class Outcome:
    """What the stage wrote: rows by id, and failures as (file, line)."""

    folder: Path
    kept: dict[str, dict[str, Any]]
    removed: dict[str, dict[str, Any]]
    failed: set[tuple[str, int | None]]
    report: dict[str, Any]

    def find(self, rows: dict[str, dict[str, Any]], key: str) -> dict[str, Any] | None:
        """The row a key of the truth names: by its id, or by the end of it."""
        if key in rows:
            return rows[key]
        return next((row for id, row in rows.items() if id.endswith(f"/{key}")), None)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("run")
    run(configs.load.load("quickstart"), folder)
    kept, removed = (
        {row["id"]: row for path in sorted((folder / "dedup" / name).glob("**/*.parquet")) for row in pq.read_table(path).to_pylist()}
        for name in ("documents", "removed")
    )  # fmt: skip
    failed: set[tuple[str, int | None]] = set()
    for path in sorted((folder / "dedup" / "failed").glob("**/*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            failure = json.loads(line)
            where = Path(failure["path"]).as_posix().rsplit("configs/sample/", 1)[-1]
            failed.add((where, failure.get("line")))
    report = json.loads((folder / "dedup" / "report.json").read_text("utf-8"))
    return Outcome(folder, kept, removed, failed, report)


def squeezed(text: str) -> str:
    """Without white space, list marks and stretched jamo, so that only words are compared."""
    text = re.sub(r"([ㄱ-ㅣ])\1+", r"\1", text)
    return re.sub(r"[\s•■·-]+", "", text)


def sentences(body: str) -> list[str]:
    lines = [line for line in body.split("\n") if line.strip() and not line.startswith("```")]
    return [s for line in lines for s in re.split(r"(?<=[.?!])\s+", line) if squeezed(s)]


def share_of_sentences(body: str, text: str) -> float:
    wanted, there = sentences(body), squeezed(text)
    return sum(squeezed(sentence) in there for sentence in wanted) / len(wanted)


def line_of(entry: dict[str, Any]) -> int | None:
    return int(entry["key"].removeprefix("line ")) if entry["key"].startswith("line ") else None


def fate(outcome: Outcome, entry: dict[str, Any]) -> str:
    """What became of it: kept, removed (step/reason), failed or nothing."""
    if (entry["source"], line_of(entry)) in outcome.failed and (not entry["key"] or line_of(entry)):
        return "failed"
    if outcome.find(outcome.kept, entry["key"]):
        return "kept"
    row = outcome.find(outcome.removed, entry["key"])
    return f"removed ({row['step']}/{row['reason']})" if row else "not there"


def mismatch(outcome: Outcome, entry: dict[str, Any]) -> str | None:
    """What the stage did otherwise than the truth says; None where they agree."""
    expect, became = entry["expect"], fate(outcome, entry)
    label = f"{entry['source']} {entry['key']} ({entry.get('note') or 'original'})"
    survives = expect in ("kept", "masked", "cut")
    if became.split()[0] != ("kept" if survives else expect):
        return f"{label}: expected {expect}, became {became}"
    if survives:
        row = outcome.find(outcome.kept, entry["key"])
        assert row is not None
        framed = entry["source"].startswith(FRAMED)
        absent = [] if framed and expect == "kept" else entry.get("absent", [])
        if framed:  # a page's frame is counted over all pages, below
            absent = [a for a in absent if a in SOURCES[entry["text"]].body]
        bad = [phrase for phrase in absent if phrase in row["text"]]
        bad += [f"no {p}" for p in entry.get("present", []) if p not in row["text"]]
        return f"{label}: kept, but with {bad}" if bad else None
    if expect == "removed":
        row = outcome.find(outcome.removed, entry["key"])
        assert row is not None
        if entry["step"] and row["step"] != entry["step"]:
            return f"{label}: expected to go in step {entry['step']}, became {became}"
        if entry["reason"] and row["reason"] != entry["reason"]:
            return f"{label}: expected reason {entry['reason']}, became {became}"
        if entry["of"]:
            return _wrong_original(outcome, entry, row, label)
    return None


def _wrong_original(
    outcome: Outcome, entry: dict[str, Any], row: dict[str, Any], label: str
) -> str | None:
    original = next(e for e in TRUTH if e.get("text") == entry["of"])
    kept = outcome.find(outcome.kept, original["key"])
    if kept is None or row["kept_id"] != kept["id"]:
        return f"{label}: went because of {row['kept_id']}, not of {original['key']}"
    framed = entry["source"].startswith(FRAMED)  # by-lines and titles move these a little
    if "jaccard" in entry and abs(row["similarity"] - entry["jaccard"]) > (
        0.03 if framed else 1e-4
    ):
        return f"{label}: similarity {row['similarity']:.4f}, not {entry['jaccard']}"
    return None


@pytest.mark.parametrize("expect", KINDS)
def test_every_entry_of_the_truth_file_comes_out_as_it_says(outcome: Outcome, expect: str) -> None:
    entries = [entry for entry in TRUTH if entry["expect"] == expect]
    wrong = [found for entry in entries if (found := mismatch(outcome, entry))]
    assert entries
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_truth_file_names_every_record_that_went_in(outcome: Outcome) -> None:
    named = {row["id"] for e in TRUTH for rows in (outcome.kept, outcome.removed) if (row := outcome.find(rows, e["key"]))}  # fmt: skip
    assert sorted((outcome.kept.keys() | outcome.removed.keys()) - named) == []
    assert sorted(outcome.failed - {(e["source"], line_of(e)) for e in TRUTH if e["expect"] == "failed"}, key=str) == []  # fmt: skip


def test_every_original_text_is_kept_with_its_sentences(outcome: Outcome) -> None:
    lost = []
    originals = [e for e in TRUTH if e.get("text") in SOURCES and e["expect"] in ("kept", "cut")]
    for entry in originals:
        row = outcome.find(outcome.kept, entry["key"])
        body = SOURCES[entry["text"]].body
        for phrase in entry.get("absent", []):
            body = body.replace(phrase, "")
        share = share_of_sentences(body, row["text"]) if row else 0.0
        if share < 0.95:
            lost.append(f"{entry['source']} {entry['key']}: {share:.0%} of its sentences")
    assert len(originals) >= 190
    assert not lost, "\n" + "\n".join(lost)


def test_nine_pages_in_ten_are_free_of_menus_adverts_and_comments(outcome: Outcome) -> None:
    dirty = {}
    pages = [e for e in TRUTH if e["source"].startswith(FRAMED) and e.get("absent")]
    kept = [(e, row) for e in pages if (row := outcome.find(outcome.kept, e["key"]))]
    for entry, row in kept:
        left = [phrase for phrase in entry["absent"] if squeezed(phrase) in squeezed(row["text"])]
        if left:
            dirty[entry["key"]] = left
    assert len(kept) > 70
    assert len(dirty) <= len(kept) / 10, json.dumps(dirty, ensure_ascii=False, indent=1)


def test_personal_data_is_nowhere_in_the_output(outcome: Outcome) -> None:
    numbers = [n for e in TRUTH if e["expect"] == "masked" for n in SOURCES[e["text"]].head["absent"].split(" | ")]  # fmt: skip
    assert len(numbers) >= 14
    written = json.dumps([*outcome.kept.values(), *outcome.removed.values()], default=str)
    assert [number for number in numbers if number in written] == []


def test_every_document_is_counted_once(outcome: Outcome) -> None:
    report = outcome.report
    assert report["documents_out"] == len(outcome.kept)
    assert sum(report["removed"].values()) == len(outcome.removed)
    assert report["documents_failed"] == sum(e["expect"] == "failed" for e in TRUTH)
    assert report["documents_in"] == len(TRUTH)
    assert report["documents_in"] == (
        report["documents_out"] + sum(report["removed"].values()) + report["documents_failed"]
    )


def test_every_file_of_the_sample_is_read_by_the_quickstart() -> None:
    dedup = configs.load.load("quickstart").dedup
    assert dedup is not None
    read = {
        Path(file).relative_to(SAMPLE).as_posix() for task in plan(dedup) for file in task.files
    }
    assert read == {entry["source"] for entry in TRUTH}


def test_the_sample_holds_what_it_promises() -> None:
    korean = [text for name in texts.KOREAN for text in texts.read(name)]
    delivered = [e["text"] for e in TRUTH if e.get("text") and e["of"] is None]
    assert sorted(t.id for t in korean) == sorted(set(delivered) & {t.id for t in korean})
    assert len(delivered) == len(set(delivered))
    assert len(korean) >= 120
    assert sum(len(text.body) for text in korean) >= 60_000
    assert sum(e["source"].startswith("en/") for e in TRUTH) == 40
    assert sum(e["source"] == "dialogues.jsonl" for e in TRUTH) == 150
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    assert size < 2_000_000


def test_near_copies_come_at_four_edit_rates_and_keep_clear_of_the_threshold() -> None:
    near = [entry for entry in TRUTH if "words edited" in (entry.get("note") or "")]
    rates = {re.search(r"(\d+)%", entry["note"])[1] for entry in near}  # type: ignore[index]
    assert rates == {"2", "5", "10", "30"}
    for entry in near:
        assert abs(entry["jaccard"] - copies.THRESHOLD) > copies.MARGIN
        assert (entry["expect"] == "removed") == (entry["jaccard"] >= copies.THRESHOLD)


def _unpacked(name: str, data: bytes) -> Any:
    """What an archive holds: compressors of another version may pack the same content otherwise."""
    if name.endswith(("-2.jsonl.zst", "-2.jsonl.gz")):  # cut off in the middle
        return len(data) > 100
    if name.endswith(".parquet"):
        return pq.read_table(io.BytesIO(data)).to_pylist()
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().decompress(data)
    if name.endswith(".warc.gz"):
        return [
            (record.headers.asdict().get("WARC-Target-URI"), record.reader.read())
            for record in ArchiveIterator(io.BytesIO(data), auto_decode="all")
        ]
    return gzip.decompress(data) if name.endswith(".gz") else data


def test_building_the_sample_anew_gives_the_committed_files() -> None:
    built = build.build().files
    assert built == build.build().files
    committed = {p.relative_to(SAMPLE).as_posix(): p.read_bytes() for f in ("ko", "en") for p in (SAMPLE / f).rglob("*") if p.is_file()}  # fmt: skip
    committed |= {name: (SAMPLE / name).read_bytes() for name in ("dialogues.jsonl", "truth.jsonl")}
    assert committed.keys() == built.keys()
    changed = [n for n in built if built[n] != committed[n] and _unpacked(n, built[n]) != _unpacked(n, committed[n])]  # fmt: skip
    assert not changed, f"run python -m configs.sample.build; it would change {changed}"
