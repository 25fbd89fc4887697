"""`malmoi evaluate --chat`: figures of replies, and what is left in the run."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from finished_run import finished_run
from small_run import malmoi
from tiny_model import make_model

from launch.dialogues import Asked, evaluate_dialogues
from pretrain.evaluation.dialogues import choose_dialogues, prompts, talk
from pretrain.evaluation.scores import read_scores


def test_replies_are_counted_in_eojeol_and_letters() -> None:
    found = talk([("봄이 온다 봄이", True), ("hi 봄", False), ("!?", True)])
    assert found.replies == 3
    assert found.distinct_1 == 5 / 6  # 봄이 twice
    assert found.distinct_2 == 1.0
    assert found.korean == pytest.approx(7 / 9)
    assert found.stopped == pytest.approx(2 / 3)
    assert (found.length, found.empty) == (4.0, 1)
    nothing = talk([("", False)])
    assert (nothing.distinct_1, nothing.korean, nothing.stopped) == (None, None, 0.0)


def test_a_prompt_is_what_stands_before_the_assistants_last_turn() -> None:
    def turns(*roles: str) -> dict[str, object]:
        return {"segments": [{"role": role, "text": str(n)} for n, role in enumerate(roles)]}

    rows = [
        turns("system", "user", "assistant", "user", "assistant", "user"),
        turns("assistant", "user"),
        turns("user", "assistant"),
        turns("user", "assistant"),
    ]
    found = prompts(rows, 2)
    assert len(prompts(rows, 9)) == 3
    two = [turns("user", "assistant") | {"source": source} for source in "aaab"]
    assert len(prompts(two, 9)) == 4
    two[3]["segments"][0]["text"] = "b"  # type: ignore[index]
    assert [one[0]["text"] for one in prompts(two, 2)] == ["0", "b"]  # sources in turn
    assert [[turn["text"] for turn in one] for one in found] == [["0", "1", "2", "3"], ["0"]]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_runs_model_and_the_one_before_tuning_stand_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path / "run")
    other = make_model(tmp_path / "before", positions=256, seed=8)
    command = ["evaluate", str(run / "model"), "--chat", "--replies", "3", "--max-new-tokens", "12"]
    done = malmoi(*command, "--against", str(other))
    assert done.returncode == 0, done.stderr
    assert "bits per byte of the assistant" in done.stdout
    assert f"noted in {run}" in done.stdout
    noted = json.loads((run / "evaluations.json").read_text())["chat"]
    assert noted["way"]["replies"] == 3
    assert set(noted["against"]) == {"before"}
    third = make_model(tmp_path / "vector", positions=256, seed=9)
    asked = Asked(str(third), replies=3, tokens=12, as_json=True)
    evaluate_dialogues(run / "model", None, [], asked)
    entries = json.loads(capsys.readouterr().out)
    assert [Path(one["model"]).name for one in entries] == ["model", "vector"]
    assert entries[0]["bits_per_byte"] == noted["figures"]["bits_per_byte"]
    assert entries[0]["distinct_1"] == noted["figures"]["distinct_1"]  # greedy: the same again
    assert set(read_scores(run)["chat"]["against"]) == {"before", "vector"}
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "| | before | vector | this model |" in card
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Held-out dialogues" in page
    assert "<th>vector</th>" in page
    with sqlite3.connect(run / "mlflow.db") as store:
        keys = {row[0] for row in store.execute("select key from metrics")}
    assert {"evaluate/chat/bits_per_byte", "evaluate/chat/stopped"} <= keys
    # files that are named are judged whole, and belong to no run
    file = tmp_path / "talks.jsonl"
    turns = [{"role": "user", "content": "봄"}, {"role": "assistant", "content": "바람이 분다"}]
    file.write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    evaluate_dialogues(run / "model", None, [], Asked(dialogues=(file,), replies=0, as_json=True))
    (alone,) = json.loads(capsys.readouterr().out)
    assert alone["dialogues"] == 1
    assert "distinct_1" not in alone


@pytest.mark.slow
def test_no_dialogue_and_a_context_that_is_too_small_are_told_in_words(tmp_path: Path) -> None:
    from configs.errors import InputError

    run = finished_run(tmp_path / "run")
    shutil.copytree(run / "dedup" / "documents", tmp_path / "text")
    (tmp_path / "text" / "00001.parquet").unlink()
    with pytest.raises(InputError, match="holds no held-out dialogue; name some with --dialogues"):
        choose_dialogues([tmp_path / "text"])
    small = make_model(tmp_path / "small", positions=16)
    with pytest.raises(InputError, match=r"none of the \d+ prompts and 8 tokens .*--replies 0"):
        evaluate_dialogues(
            small, None, [], Asked(dialogues=(run / "dedup" / "documents",), tokens=64)
        )
