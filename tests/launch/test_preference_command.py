"""A preference phase as a person meets it: the command, a stop, status, the page, lineage, MLflow."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from preference_pairs import PHASE, write_pairs
from small_run import ROOT, malmoi
from tiny_model import make_model
from tiny_run import make_config

from configs.load import dump, load
from configs.schema import Config
from launch.ingredients import ingredients
from launch.lineage import Lineage
from launch.run import decide, dry_run
from launch.section_preference import preference
from launch.status import status

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A finished model is tuned: a run without any other phase."""
    pytest.importorskip("trl")
    base = make_model(tmp_path / "base", positions=256)
    pairs = write_pairs(tmp_path / "pairs.parquet", 400)
    made = make_config(
        base=str(base),
        tokenizer=str(base),
        documents=[str(pairs)],
        phases=[PHASE | {"lr": 1e-4}],
        processes=1,
        checkpoint={"every_steps": 10, "keep": 1},
    )
    path = tmp_path / "tune.yaml"
    path.write_text(dump(made.model_copy(update={"dir": str(tmp_path / "run")})), encoding="utf-8")
    return path


@pytest.mark.thorough
def test_a_stopped_preference_phase_is_told_of_and_goes_on_by_the_same_command(
    config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "launch.cli", "pretrain", str(config)]
    with (tmp_path / "said").open("w") as said:
        first = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        metrics = run / "pretrain" / "preference" / "0" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while not (metrics.is_file() and '"step": 12' in metrics.read_text()):
            assert first.poll() is None and time.monotonic() < deadline, said.name
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGTERM)
        assert first.wait(200) == 75
    assert "go on with:" in (tmp_path / "said").read_text()
    (saved,) = metrics.parent.glob("checkpoint-*")
    found = status(run)
    assert (found.state, found.phase) == ("stopped", "preference")
    assert found.step == int(saved.name.partition("-")[2])
    assert found.checkpoint == f"preference/0/{saved.name}"

    done = malmoi("pretrain", str(config))
    assert done.returncode == 0, done.stderr
    assert "36 held-out pairs" in done.stdout or "40 held-out pairs" in done.stdout
    report = json.loads((run / "pretrain" / "report.json").read_text())
    assert report["preference"][0]["resumed"] == 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Preference phase preference" in page
    assert "Margin of the rewards" in page
    facts = ingredients(run / "model")
    (phase,) = facts["phases"]
    assert phase["objective"] == "preference"
    assert phase["trl"] == report["preference"][0]["trl"]
    assert phase["pairs"] == 360
    (source,) = facts["data"]
    assert (source["source"], source["kind"], source["documents"]) == ("choices", "preference", 360)
    with sqlite3.connect(run / "mlflow.db") as store:
        keys = {row[0] for row in store.execute("select key from metrics")}
    assert {"preference/margin", "preference/accuracy", "preference/loss"} <= keys
    (line,) = dry_run(load(str(config)), run, ["pretrain"])
    assert "finished and unchanged, skipped" in line


def test_where_only_a_preference_phase_changes_the_phases_before_stay(tmp_path: Path) -> None:
    text = {"name": "text", "tokens": 1024, "mixture": {"ko": 1.0}}
    documents = [str(write_pairs(tmp_path / "pairs.parquet"))]
    tokenizer = str(make_model(tmp_path / "base"))

    def config_of(*phases: dict[str, object]) -> Config:
        return make_config(phases=list(phases), documents=documents, tokenizer=tokenizer)

    lineage = Lineage(tmp_path)
    first = decide(config_of(text), lineage, "pretrain")
    lineage.begin("pretrain", first.keys, first.inputs)
    lineage.finish("pretrain", [])
    assert decide(config_of(text), lineage, "pretrain").action == "skip"
    added = decide(config_of(text, PHASE), lineage, "pretrain")
    assert (added.action, added.aside[0]) == ("again", "pretrain/preference")
    assert decide(config_of({**text, "lr": 1e-3}, PHASE), lineage, "pretrain").aside == ()
    # a run that an earlier version made knows nothing of `beta`
    old = json.loads((tmp_path / "lineage.json").read_text())
    for phase in old["stages"]["pretrain"]["keys"]["pretrain"]["phases"]:
        phase.pop("beta")
    (tmp_path / "lineage.json").write_text(json.dumps(old))
    assert decide(config_of(text), Lineage(tmp_path), "pretrain").action == "skip"


def test_half_a_preference_phase_is_drawn_as_far_as_it_got() -> None:
    steps = [
        {"step": n, "phase": "p", "loss": 0.7 - n / 100, "margin": n / 50} for n in range(1, 9)
    ]
    (part,) = preference(None, {"3": [{"step": 0, "phase": "p", "heldout": {}}, *steps]})
    assert (part["name"], part["steps"], part["finished"]) == ("p", 8, False)
    assert all(
        "<svg" in str(chart) for title, chart in part["charts"] if title != "Chosen above rejected"
    )
    assert preference(None, {}) == []
