"""`malmoi evaluate`: what it prints, and what it leaves in the run whose model it judged."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_run import CARD, finished_run
from small_run import malmoi
from tiny_model import make_model
from tiny_run import make_config, make_documents

from configs.errors import InputError
from configs.files import write_json
from configs.load import dump
from launch import report
from launch.evaluation import _heldout
from launch.lineage import Lineage
from launch.section_training import training
from pretrain.evaluation.harness import TaskScore
from pretrain.evaluation.measure import Measured
from pretrain.evaluation.scores import FILE, note_scores, read_scores, with_scores

NLI = {
    "guid": "own",
    "source": "own",
    "premise": "봄이 왔다.",
    "hypothesis": "겨울이다.",
    "label": 2,
}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bases") / "base", adds_bos=False, seed=8)


@pytest.mark.slow
def test_a_runs_model_is_judged_beside_another_and_the_run_keeps_the_scores(
    tmp_path: Path, other: Path
) -> None:
    run = finished_run(tmp_path / "run")
    before = Lineage(run).stage("pretrain")
    done = malmoi("evaluate", str(run / "model"), "--against", str(other))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    names = [line.split("  ")[1].strip() or line.strip().split("  ")[0] for line in lines[2:]]
    assert names == ["all Korean", "ko", "all English", "en", "dialogue"]
    assert "change" in lines[0] and "base" in lines[0] and lines[2].rstrip().endswith("%")
    assert "3 sources" in done.stdout and "tokens judged in" in done.stdout
    assert f"noted in {run}" in done.stdout

    noted = json.loads((run / FILE).read_text(encoding="utf-8"))
    assert noted["window"] == 64 and noted["against"]["model"] == "base"  # the shorter of the two
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "## Scores" in card and card.index("## Scores") < card.index("## Lineage")
    assert "| | KB | base | this model | change |" in card
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "The finished model on held-out text" in page and "all Korean" in page
    after = Lineage(run).stage("pretrain")
    assert before is not None and after is not None and before["digest"] != after["digest"]
    with sqlite3.connect(run / "mlflow.db") as store:
        keys = {row[0] for row in store.execute("select key from metrics")}
    assert {"evaluate/ko", "evaluate/en"} <= keys


@pytest.mark.thorough
def test_tasks_are_noted_too_and_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    (run / "mlflow.db").unlink()
    rows = [NLI | {"label": n % 3} for n in range(5)]
    path = tmp_path / "copies" / "klue" / "nli" / "validation.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    command = ["evaluate", str(run / "model"), "--tasks", "klue_nli", "--limit", "3", "--json"]
    done = malmoi(*command, "--data", str(tmp_path / "copies"))
    assert done.returncode == 0, done.stderr
    (said,) = json.loads(done.stdout)
    assert said["tasks"][0]["task"] == "klue_nli" and said["bits_per_byte"] == []
    card, noted = (run / "model" / "README.md").read_bytes(), (run / FILE).read_bytes()
    assert b"| klue_nli | acc | 0 | 3 of 5 |" in card
    note_scores(run, tasks=[TaskScore(**one) for one in said["tasks"]])
    assert (run / "model" / "README.md").read_bytes() == card
    assert (run / FILE).read_bytes() == noted
    assert not (run / "mlflow.db").exists()


def test_mistakes_are_told_before_anything_is_loaded(tmp_path: Path, other: Path) -> None:
    done = malmoi("evaluate", str(other), "--tasks", "kobest", "--data", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "none: no such folder" in done.stderr and "hf download klue/klue" in done.stderr
    done = malmoi("evaluate", str(other), "--tasks", " , ")
    assert done.returncode == 2 and "--tasks: names no task" in done.stderr


def test_without_lm_eval_the_extra_is_named(
    tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from configs.errors import InputError
    from launch import evaluation

    monkeypatch.setattr(evaluation, "find_spec", lambda name: None)  # as where it is not installed
    with pytest.raises(InputError, match=r"pip install 'malmoi\[eval\]'"):
        evaluation.evaluate(other, None, [], evaluation.Wanted(tasks="kobest"))


def text(source: str | None, language: str | None, bits: float) -> Measured:
    return Measured(source, language, 10, 30_000, 9000, bits)


def task(name: str, value: float, **fields: object) -> TaskScore:
    values = {"group": None, "metric": "acc", "filter": "none", "stderr": 0.01, "shots": 0}
    return TaskScore(task=name, value=value, **values | {"rows": 5, "of": 5} | fields)


def test_newer_scores_replace_those_of_the_same_kind_and_another_models_are_dropped(
    tmp_path: Path,
) -> None:
    (tmp_path / "pretrain").mkdir()
    write_json(tmp_path / "pretrain" / "report.json", {"identity": "one"})
    note_scores(tmp_path, tasks=[task("kobest", 0.5), task("kmmlu", 0.3)])
    note_scores(tmp_path, measured=[text(None, "ko", 1.5)], window=512)
    found = note_scores(tmp_path, tasks=[task("kobest", 0.6), task("kobest", 0.7, shots=5)])
    values = {(one["task"], one["shots"]): one["value"] for one in found["tasks"]}
    assert values == {("kobest", 0): 0.6, ("kmmlu", 0): 0.3, ("kobest", 5): 0.7}
    assert found["bits_per_byte"][0]["bits_per_byte"] == 1.5
    write_json(tmp_path / "pretrain" / "report.json", {"identity": "two"})
    assert read_scores(tmp_path)["tasks"] == []


def test_a_card_has_one_section_of_scores_and_many_parts_of_a_group_stay_out(
    tmp_path: Path,
) -> None:
    (tmp_path / "pretrain").mkdir()
    write_json(tmp_path / "pretrain" / "report.json", {"identity": "one"})
    parts = [task(f"mmlu_{n}", 0.25, group="mmlu") for n in range(57)]
    found = note_scores(tmp_path, tasks=[task("mmlu", 0.25, shots=None, rows=3, of=9), *parts])
    card = with_scores(with_scores(CARD, found), found)
    assert card.count("## Scores") == 1 and card.count("mmlu") == 1
    assert "| mmlu | acc | – | 3 of 9 | 0.2500 | 0.0100 |" in card
    assert with_scores(card, read_scores(tmp_path) | {"tasks": []}) == CARD


def test_the_page_survives_scores_of_another_form(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    write_json(tmp_path / "pretrain" / "report.json", {"identity": "one", "parameters": 10})
    for content in ("[]", '{"identity": "one", "tasks": [{"task": 1}], "bits_per_byte": {}}', "{"):
        (tmp_path / FILE).write_text(content)
        page = report.write(tmp_path).read_text(encoding="utf-8")
        assert "The finished model on held-out text" not in page and "</html>" in page


def test_the_page_says_when_a_run_forgot() -> None:
    config = {"pretrain": {"evaluate": {"forgetting": {"source": "en", "limit": 0.03}}}}
    metrics = [
        {"step": step, "bits_per_byte": {"en": bits, "ko": 2.0}}
        for step, bits in ((0, 1.0), (10, 1.02), (20, 1.05), (30, 1.04))
    ]
    found = training({}, metrics, config)
    assert found is not None
    (one,) = found["forgotten"]
    assert (one["name"], one["step"]) == ("en", 20) and one["rise"] == pytest.approx(0.05)


def test_the_documents_of_a_run_are_its_own_and_those_it_replays(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    earlier = make_documents(tmp_path / "earlier")
    config = make_config(replay=[str(earlier)])
    (run / "config.yaml").write_text(dump(config), encoding="utf-8")
    found = _heldout(run / "model", None, [])
    assert found == [run / "dedup" / "documents", *sorted(earlier.glob("*.parquet"))]
    with pytest.raises(InputError, match="no file is there"):
        _heldout(run / "model", None, [f"pretrain.replay=[{tmp_path / 'gone.jsonl'}]"])
