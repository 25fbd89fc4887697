"""A new crawl against what an earlier run keeps."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
from near_corpus import edited, jaccard, passage, put, rows, settings

from configs.errors import InputError
from configs.schema import Config
from dedup.copies.find import find_text
from dedup.copies.index import Index
from dedup.stage import run
from dedup.why import why
from launch.inputs import changes, inputs_of
from launch.lineage import Lineage


@pytest.fixture(scope="module")
def crawls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with april.jsonl, may.jsonl and the run of April."""
    base = tmp_path_factory.mktemp("crawls")
    rng = random.Random(21)
    april = {f"april-{number:02}": passage(rng) for number in range(50)}
    april["april-gone"] = edited(rng, april["april-07"])  # a near copy, removed or 07 is
    may = {f"may-{number:02}": passage(rng) for number in range(30)}
    for number in range(0, 50, 5):
        old = april[f"april-{number:02}"]
        may[f"same-{number:02}"] = old.replace(" ", "\n", 3)
        may[f"near-{number:02}"] = edited(rng, old, 2)
        may[f"again-{number:02}"] = may[f"near-{number:02}"] + "\n"
        may[f"half-{number:02}"] = edited(rng, old, 25)
    may["of-gone"] = april["april-gone"]
    may["may-copy"] = may["may-03"]
    put(base / "april.jsonl", april)
    put(base / "may.jsonl", may)
    run(settings(base / "april.jsonl"), base / "2019-04")
    return base


def texts(path: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for row in map(json.loads, path.open())}


def test_what_equals_or_is_near_to_an_earlier_document_goes_and_names_it_and_its_run(
    crawls: Path, tmp_path: Path
) -> None:
    config = settings(crawls / "may.jsonl", against=[str(crawls / "2019-04")])
    report = run(config, tmp_path / "run")
    before, may = rows(crawls / "2019-04", "documents"), texts(crawls / "may.jsonl")
    kept, gone = rows(tmp_path / "run", "documents"), rows(tmp_path / "run", "removed")
    assert set(kept) | set(gone) == set(may)
    for row in gone.values():
        if row["id"] == "may-copy":
            assert (row["reason"], row["kept_id"]) == ("same text", "may-03")
            continue
        old = before[row["kept_id"]]["text"]
        assert row["similarity"] == jaccard(row["text"], old) >= 0.8
        same = " ".join(row["text"].split()) == " ".join(old.split())
        assert row["reason"] == ("same text" if same else "near copy") + " in 2019-04"
        assert row["step"] == ("exact" if same else "near")
    for name, text in may.items():
        nearest = max(jaccard(text, row["text"]) for row in before.values())
        assert (name in gone) == (nearest >= 0.8 or name == "may-copy"), name
    assert {name.split("-")[0] for name in gone} == {"same", "near", "again", "of", "may"}
    assert report.reasons["exact/same text in 2019-04"] >= 10
    assert report.near[0]["earlier_candidates"] >= 10
    told = why(tmp_path / "run", "near-05")
    assert told.kept_run == crawls / "2019-04"
    assert told.kept_text == before["april-05"]["text"]


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_writes_the_same_bytes(
    crawls: Path, tmp_path: Path, workers: int
) -> None:
    found = []
    for number in (1, workers):
        folder = tmp_path / str(number)
        config = settings(crawls / "may.jsonl", against=[str(crawls / "2019-04")], workers=number)
        run(config, folder)
        files = sorted(p for p in (folder / "dedup").rglob("*") if p.is_file())
        found.append(
            [
                (str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest())
                for path in files
                if path.name != "report.json"
            ]
        )
    assert found[0] == found[1]


def test_a_third_crawl_goes_against_both_and_of_a_text_that_both_have_names_the_first(
    crawls: Path, tmp_path: Path
) -> None:
    may = settings(crawls / "may.jsonl", against=[str(crawls / "2019-04")])
    run(may, tmp_path / "a" / "2019-05")
    run(settings(crawls / "may.jsonl"), tmp_path / "b" / "2019-05")
    both = {"new": passage(random.Random(4)), **texts(crawls / "may.jsonl")}
    put(tmp_path / "june.jsonl", both)
    earlier = [str(crawls / "2019-04"), str(tmp_path / "a/2019-05"), str(tmp_path / "b/2019-05")]
    run(settings(tmp_path / "june.jsonl", against=earlier), tmp_path / "run")
    assert list(rows(tmp_path / "run", "documents")) == ["new"]
    gone = rows(tmp_path / "run", "removed")
    assert gone["same-05"]["reason"] == "same text in 2019-04"
    assert gone["may-03"]["reason"] == f"same text in {tmp_path / 'a/2019-05'}"
    assert gone["half-05"]["reason"] == f"same text in {tmp_path / 'a/2019-05'}"


def test_a_crawl_of_which_all_is_known_leaves_an_empty_corpus_that_can_still_be_asked(
    crawls: Path, tmp_path: Path
) -> None:
    again = settings(crawls / "april.jsonl", against=[str(crawls / "2019-04")])
    report = run(again, tmp_path / "again")
    assert report.documents_out == 0
    assert report.removed == {"exact": 50, "near": 1}
    assert Index.open(tmp_path / "again").documents == 0
    assert not find_text(tmp_path / "again", "어떤 글이라도 여기에는 없다").answers
    run(settings(crawls / "may.jsonl", against=[str(tmp_path / "again")]), tmp_path / "run")
    assert "same-05" in rows(tmp_path / "run", "documents")


def test_where_near_copies_are_annotated_they_join_the_cluster_of_the_earlier_one(
    crawls: Path, tmp_path: Path
) -> None:
    config = settings(
        crawls / "may.jsonl", against=[str(crawls / "2019-04")], near={"mode": "annotate"}
    )
    run(config, tmp_path / "run")
    kept, gone = rows(tmp_path / "run", "documents"), rows(tmp_path / "run", "removed")
    assert kept["again-05"]["cluster_id"] == "april-05"
    assert kept["again-05"]["cluster_size"] == 4  # with the two exact copies and the earlier one
    assert gone["same-05"]["kept_id"] == "april-05"
    assert gone["near-05"]["kept_id"] == "again-05"
    assert {row["step"] for row in gone.values()} == {"exact"}


def test_an_earlier_run_that_is_signed_otherwise_or_is_not_there_is_refused_at_once(
    crawls: Path, tmp_path: Path
) -> None:
    april = str(crawls / "2019-04")
    config = settings(
        crawls / "may.jsonl", against=[april, str(tmp_path / "none")], near={"shingle": 6}
    )
    with pytest.raises(InputError) as caught:
        run(config, tmp_path / "run")
    assert len(caught.value.lines) == 2
    assert "is signed with shingle 5, permutations 128, bands 25 × rows 5" in caught.value.lines[0]
    assert "set dedup.near to the same, or run the earlier one again" in caught.value.lines[0]
    assert "holds no finished data stage" in caught.value.lines[1]
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError) as planned:
        inputs_of(config, Lineage(tmp_path), "dedup", None)
    assert planned.value.lines == caught.value.lines
    itself = tmp_path / "itself"
    shutil.copytree(april, itself)
    (itself / "dedup" / "report.json").unlink()
    with pytest.raises(InputError, match="is this run itself"):
        run(settings(crawls / "may.jsonl", against=[str(itself)]), itself)
    bare = tmp_path / "bare"
    run(settings(crawls / "april.jsonl", near="none"), bare)
    with pytest.raises(InputError, match="has no signatures, its near copies were not looked for"):
        run(settings(crawls / "may.jsonl", against=[str(bare)]), tmp_path / "run")
    run(settings(crawls / "may.jsonl", against=[str(bare)], near="none"), tmp_path / "run")
    assert rows(tmp_path / "run", "removed")["same-05"]["reason"] == "same text in bare"


def test_another_content_of_the_earlier_run_is_another_input(crawls: Path, tmp_path: Path) -> None:
    def inputs(config: Config) -> dict[str, object]:
        return inputs_of(config, Lineage(tmp_path), "dedup", None)

    april = tmp_path / "2019-04"
    run(settings(crawls / "april.jsonl"), april)
    config = settings(crawls / "may.jsonl", against=[str(april)])
    first = inputs(config)
    assert changes(first, inputs(config)) == []
    (april / "dedup").rename(april / "old")
    run(settings(crawls / "april.jsonl", heldout=0.2), april)
    assert changes(first, inputs(config)) == []  # the same documents, signed alike
    (april / "dedup").rename(april / "older")
    put(tmp_path / "fewer.jsonl", {"a": passage(random.Random(1))})
    run(settings(tmp_path / "fewer.jsonl"), april)
    assert "input changed" in changes(first, inputs(config))[0]
