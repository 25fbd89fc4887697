"""`malmoi chat-vector`, by one ratio and by the best of several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import malmoi
from tiny_run import make_documents
from tiny_three import make_three

pytestmark = pytest.mark.slow


def command(models: dict[str, Path], *more: str) -> tuple[str, ...]:
    named = [f"--{name}={models[name]}" for name in ("continued", "instruct", "base")]
    return ("chat-vector", *named, *more)


@pytest.mark.thorough
def test_of_several_ratios_the_one_that_reads_dialogues_best_is_kept(tmp_path: Path) -> None:
    models = make_three(tmp_path, tied=False)
    out = tmp_path / "out"
    dialogues = make_documents(tmp_path / "documents")
    done = malmoi(*command(models, "--ratio=0,0.5,1", f"--out={out}", f"--dialogues={dialogues}"))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    bits = {row[0]: float(row[1]) for row in rows if row and row[0] in ("0", "0.5", "1")}
    (taken,) = [row[0] for row in rows if row and row[-1] == "taken"]
    assert len(bits) == 3 and bits[taken] == min(bits.values())
    assert json.loads((out / "chat_vector.json").read_text())["ratio"] == float(taken)
    assert not list(tmp_path.glob("out.*"))
    assert f"malmoi chat {out}" in done.stdout


def test_mistakes_are_answered_at_once(tmp_path: Path) -> None:
    models = {name: tmp_path / name for name in ("continued", "instruct", "base")}
    done = malmoi(*command(models, "--ratio=half", f"--out={tmp_path / 'out'}"))
    assert done.returncode == 2 and "--ratio half: write a number" in done.stderr
    done = malmoi(*command(models, "--ratio=0.5,1", f"--out={tmp_path / 'out'}"))
    assert done.returncode == 2 and "add --dialogues FILE" in done.stderr
    done = malmoi(*command(models, f"--out={tmp_path}"))
    assert done.returncode == 2 and "is there already" in done.stderr
    done = malmoi(*command(models, f"--out={tmp_path / 'out'}"))
    assert done.returncode == 2 and f"error: {models['continued']}: " in done.stderr
