"""near.mode: annotate keeps near copies and says what cluster they are of."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from near_corpus import edited, passage, put, rows, settings

from configs.schema import Config
from dedup.stage import run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotate")
    rng = random.Random(33)
    texts = {}
    for number in range(40):
        texts[f"b{number:02}"] = base = passage(rng)
        for copy in range(number % 4):
            texts[f"n{number:02}{copy}"] = near = edited(rng, base)
            texts[f"e{number:02}{copy}"] = near.replace(" ", "\n")
    put(folder / "in.jsonl", texts)
    return folder


def both(corpus: Path, folder: Path, **dedup: Any) -> tuple[Path, Path]:
    for mode in ("remove", "annotate"):
        config = settings(corpus / "in.jsonl", near={"mode": mode}, heldout=0.3, **dedup)
        run(config, folder / mode)
    return folder / "remove", folder / "annotate"


def test_near_copies_stay_in_the_clusters_they_would_have_been_removed_for(
    corpus: Path, tmp_path: Path
) -> None:
    removing, annotating = both(corpus, tmp_path)
    removed = rows(removing, "removed")
    documents, gone = rows(annotating, "documents"), rows(annotating, "removed")
    assert {row["step"] for row in gone.values()} == {"exact"}
    assert len(documents) + len(gone) == len(rows(removing, "documents")) + len(removed)
    near = [row for row in removed.values() if row["step"] == "near"]
    stayed = [row for row in near if row["id"] in documents]
    assert len(stayed) == 60
    for row in stayed:
        assert documents[row["id"]]["cluster_id"] == row["kept_id"]
    for name, row in rows(removing, "documents").items():
        assert documents[name]["cluster_id"] == name
        assert documents[name]["cluster_size"] == row["cluster_size"]
    for row in documents.values():
        leader = documents[row["cluster_id"]]
        assert (row["cluster_size"], row["split"]) == (leader["cluster_size"], leader["split"])
    for row in gone.values():  # an exact copy names the near copy that stays
        assert row["similarity"] == 1.0
        assert " ".join(row["text"].split()) == documents[row["kept_id"]]["text"].replace("\n", " ")
    counted = Counter(row["cluster_id"] for row in documents.values())
    counted.update(documents[row["kept_id"]]["cluster_id"] for row in gone.values())
    assert counted == {name: documents[name]["cluster_size"] for name in counted}


def test_each_source_has_its_own_mode_and_they_are_compared_with_each_other(tmp_path: Path) -> None:
    rng = random.Random(2)
    text = passage(rng)
    put(tmp_path / "a.jsonl", {"a1": text + " 가장 긴 글이다", "a2": edited(rng, text)})
    put(tmp_path / "b.jsonl", {"b1": text, "b2": edited(rng, text) + "!"})
    config = settings(
        sources=[
            {"name": "a", "paths": [str(tmp_path / "a.jsonl")]},
            {"name": "b", "paths": [str(tmp_path / "b.jsonl")], "near": {"mode": "annotate"}},
        ]
    )
    run(config, tmp_path / "run")
    documents = rows(tmp_path / "run", "documents")
    assert {name: row["cluster_id"] for name, row in documents.items()} == {
        "a1": "a1", "b1": "a1", "b2": "a1",
    }  # fmt: skip
    assert {row["cluster_size"] for row in documents.values()} == {4}
    assert rows(tmp_path / "run", "removed")["a2"]["kept_id"] == "a1"


def test_a_resolved_config_says_the_mode_and_the_proposed_bands(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"name": "x", "dedup": {"near": {"bands": "auto", "threshold": 0.7, "mode": "annotate"}}}
    )
    assert config.dedup is not None
    assert config.dedup.near.model_dump() == {  # type: ignore[union-attr]
        "threshold": 0.7, "shingle": 5, "permutations": 128, "bands": 27, "rows": 4,
        "mode": "annotate",
    }  # fmt: skip
