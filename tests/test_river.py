"""The river: raw text to a chat reply by `malmoi run`, by real processes, on two ranks."""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import ROOT, River, malmoi, write_config


@pytest.mark.slow
def test_run_takes_raw_text_to_a_model_that_answers(
    river: River,
) -> None:
    folder, done = river
    run = folder / "run"
    for path in (
        "config.yaml",
        "lineage.json",
        "report.html",
        "mlflow.db",
        "dedup/report.json",
        "tokenizer/tokenizer.json",
        "tokenizer/new_tokens.tsv",
        "pretrain/metrics.jsonl",
        "model/config.json",
        "model/tokenizer.json",
        "model/README.md",
    ):
        assert (run / path).is_file(), path
    assert "안녕하세요" in done.stdout and "toy model" in done.stdout
    assert "report.html" in done.stdout and "malmoi chat" in done.stdout


@pytest.mark.slow
def test_metrics_have_a_line_per_step_with_the_contracts_keys(
    river: River,
) -> None:
    lines = (river[0] / "run/pretrain/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    keys = {
        "step", "phase", "tokens", "first_sequence", "sequences", "sequence_digest",
        "loss", "learning_rate", "grad_norm", "tokens_per_second",
    }  # fmt: skip
    assert keys <= set(steps[0])
    assert any("bits_per_byte" in record for record in records)


@pytest.mark.slow
def test_a_second_run_skips_everything_and_says_so(
    river: River,
) -> None:
    done = malmoi("run", str(river[0] / "river.yaml"), "chat.prompts=[]")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished and unchanged, skipped") == 3


@pytest.mark.slow
def test_a_changed_training_key_would_run_training_alone_again(
    river: River,
) -> None:
    done = malmoi("run", str(river[0] / "river.yaml"), "pretrain.phases.0.lr=5e-4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "dedup: finished and unchanged" in done.stdout
    assert "tokenizer: finished and unchanged" in done.stdout
    assert "pretrain: runs again" in done.stdout and "0.001 → 0.0005" in done.stdout


@pytest.mark.thorough
@pytest.mark.slow
def test_ctrl_c_in_training_saves_and_the_same_command_goes_on_to_the_end(
    river: River, tmp_path: Path
) -> None:
    folder = tmp_path
    config = write_config(folder, tokens="6K")
    shutil.copytree(
        river[0] / "run", folder / "run", ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts")
    )
    shutil.rmtree(folder / "run/pretrain")
    shutil.rmtree(folder / "run/model")
    lineage = json.loads((folder / "run/lineage.json").read_text())
    del lineage["stages"]["pretrain"]
    (folder / "run/lineage.json").write_text(json.dumps(lineage))
    command = [sys.executable, "-m", "launch.cli", "run", str(config), "chat.prompts=[]"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics = folder / "run/pretrain/metrics.jsonl"
    deadline = time.monotonic() + 200
    while not metrics.exists() or metrics.read_text().count('"loss"') < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert process.stderr is not None and "go on with: malmoi run" in process.stderr.read()
    stopped_at = sum('"loss"' in line for line in metrics.read_text().splitlines())
    saved = sorted(path.name for path in (folder / "run/pretrain/checkpoints").glob("step-*"))
    assert saved and int(saved[-1].split("-")[1]) == stopped_at
    assert not subprocess.run(
        ["pgrep", "-f", f"launch.rank {folder / 'run'}"], capture_output=True, text=True
    ).stdout, "a rank outlived its launcher"
    before = metrics.read_text().splitlines()[:stopped_at]

    done = malmoi(*command[3:])
    assert done.returncode == 0, done.stderr
    assert "pretrain: goes on where it was stopped" in done.stderr
    lines = metrics.read_text().splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if "loss" in record]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > stopped_at
    assert lines[: len(before)] == before  # what was done was not done again
    assert json.loads((folder / "run/pretrain/report.json").read_text())["resumed"] == 1


@pytest.mark.slow
def test_why_shows_a_removed_copy_beside_the_kept_document(
    river: River,
) -> None:
    import pyarrow.parquet as parquet

    rows = [
        row
        for path in (river[0] / "run/dedup/removed").glob("*.parquet")
        for row in parquet.read_table(path).to_pylist()
    ]
    copy = next(row for row in rows if row["step"] == "near")
    done = malmoi("why", str(river[0] / "run"), copy["id"])
    assert done.returncode == 0, done.stderr
    assert copy["kept_id"] in done.stdout and "similarity" in done.stdout
    changed = [line[4:] for line in done.stdout.splitlines() if line.startswith("  − ")][1:]
    assert changed and all(word in copy["text"] for line in changed for word in line.split())
    assert any(line.startswith("  + ") for line in done.stdout.splitlines())


@pytest.mark.slow
def test_the_page_shows_near_copies_side_by_side(river: River) -> None:
    report = json.loads((river[0] / "run/dedup/report.json").read_text())
    example = report["examples"]["near/near copy"][0]
    page = (river[0] / "run/report.html").read_text(encoding="utf-8")
    for text in (example["text"], example["kept_text"]):
        assert " ".join(text.split())[:60] in html.unescape(page)
