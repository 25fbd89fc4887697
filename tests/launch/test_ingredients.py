"""What is in a model: from the run's own files, as text and JSON, also without the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_run import River

from configs.errors import InputError
from configs.files import sha256
from launch.ingredients import ingredients, said


def test_a_model_is_traced_to_its_data_tokenizer_phases_code_machines_and_hours(
    river: River,
) -> None:
    run = river[0] / "run"
    found = ingredients(run / "model")
    assert found["run"] == str((run).resolve()) and found["name"] == "river"
    rows = {row["source"]: row for row in found["data"]}
    assert set(rows) == {"board", "essays", "dialogue"}
    cleaned = json.loads((run / "dedup/report.json").read_text())["by_source"]
    lineage = json.loads((run / "lineage.json").read_text())["stages"]
    for name, row in rows.items():
        assert row["documents_in"] == cleaned[name]["documents_in"]
        share = 1 - cleaned[name]["documents_out"] / cleaned[name]["documents_in"]
        assert row["removed"] == pytest.approx(share, abs=1e-4)
        assert row["tokens"] > 0 and row["passes"] > 0
        (file,) = [i for i in lineage["dedup"]["inputs"]["files"] if i["sha256"] == row["sha256"]]
        assert sha256(Path(file["path"])) == row["sha256"]
    words = json.loads((run / "tokenizer/report.json").read_text())
    assert found["tokenizer"]["tokenizer_sha256"] == words["tokenizer_sha256"]
    assert [phase["name"] for phase in found["phases"]] == ["pretrain", "chat"]
    assert found["phases"][0]["steps"] > 0
    assert found["hours"]["all"] == pytest.approx(
        sum(stage["seconds"] for stage in lineage.values()) / 3600, abs=1e-3
    )
    for stage in ("dedup", "tokenizer", "pretrain"):
        assert found["digests"][stage] == lineage[stage]["digest"]
        assert found["machines"][stage][0]["host"] and found["code"][stage]["version"]
    text = said(found)
    assert "board" in text and "not stated" in text and "random weights" in text
    card = (run / "model/README.md").read_text(encoding="utf-8")
    assert rows["board"]["sha256"][:16] in card and words["tokenizer_sha256"] in card
    assert "were removed" in card and "| passes | removed |" in card and "- machines: " in card


def test_a_model_that_left_its_run_still_says_what_is_in_it(river: River, tmp_path: Path) -> None:
    shutil.copytree(river[0] / "run" / "model", tmp_path / "published")
    found, own = ingredients(tmp_path / "published"), ingredients(river[0] / "run")
    assert found["run"] is None and found["data"] == own["data"]
    assert found["identity"] == own["identity"] and found["tokenizer"] == own["tokenizer"]
    assert "published" in said(found)
    (tmp_path / "published" / "provenance.json").unlink()
    with pytest.raises(InputError, match=r"is a model, but lies in no run"):
        ingredients(tmp_path / "published")
    with pytest.raises(InputError, match="no such folder"):
        ingredients(tmp_path / "nowhere")


def test_a_checkpoint_is_traced_to_its_run_and_says_how_far_it_is(river: River) -> None:
    checkpoints = sorted((river[0] / "run/pretrain/checkpoints").glob("step-*"))
    assert checkpoints  # a finished run keeps its last ones
    found = ingredients(checkpoints[-1])
    step = int(checkpoints[-1].name.removeprefix("step-"))
    assert found["checkpoint"]["step"] == step and f"checkpoint at step {step}" in said(found)


def test_a_stage_that_was_resumed_keeps_its_attempts(tmp_path: Path) -> None:
    from launch.lineage import Lineage

    keys: dict[str, Any] = {"seed": 1}
    lineage = Lineage(tmp_path)
    for seconds in (5.0, 7.0):
        lineage.begin("dedup", keys, {})
        lineage.spent("dedup", seconds)
    entry = Lineage(tmp_path).stage("dedup")
    assert entry is not None and entry["seconds"] == 12.0
    assert [attempt["seconds"] for attempt in entry["attempts"]] == [5.0, 7.0]
    lineage.begin("dedup", {"seed": 2}, {})
    entry = lineage.stage("dedup")
    assert entry is not None and len(entry["attempts"]) == 1
