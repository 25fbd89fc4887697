"""What runs, what is skipped, what is set aside: decided from lineage.json alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.errors import InputError
from configs.files import write_json
from configs.load import load, output_keys
from launch.console import Console
from launch.lineage import Lineage
from launch.run import decide, dry_run, lock, run_stages


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Forty different Korean documents, and one exact copy."""
    path = tmp_path / "corpus.jsonl"
    texts = [
        f"{n}번째 마을 소식입니다. 새별시 {n}동 주민들은 오늘 아침 공원에서 만나 나무 {n + 3}그루를 심었습니다. "
        f"다음 모임은 {n % 12 + 1}월에 열립니다. 참가를 바라는 분은 동사무소로 오세요."
        for n in range(40)
    ]
    lines = [json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate([*texts, texts[0]])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def config_file(tmp_path: Path, corpus: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: small\n"
        f"dir: {tmp_path / 'run'}\n"
        "dedup:\n"
        "  sources:\n"
        "    - {name: ko, paths: [corpus.jsonl]}\n"
        "  near: none\n"
        "  workers: 1\n"
        "tracking: {mlflow: false}\n",
        encoding="utf-8",
    )
    return path


def run(config_file: Path, *overrides: str) -> dict[str, str]:
    config = load(str(config_file), overrides)
    with Console(interactive=False) as console:
        decisions = run_stages(config, config_file.parent / "run", ["dedup"], console)
    return {stage: decision.action for stage, decision in decisions.items()}


def test_a_finished_and_unchanged_stage_is_skipped(config_file: Path) -> None:
    assert run(config_file) == {"dedup": "start"}
    assert run(config_file) == {"dedup": "skip"}


def test_a_changed_key_runs_the_stage_again_names_the_key_and_sets_the_old_output_aside(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config_file)
    before = sorted(path.name for path in (config_file.parent / "run/dedup/documents").iterdir())
    assert run(config_file, "dedup.heldout=0.25") == {"dedup": "again"}
    said = capsys.readouterr().err
    assert "dedup.heldout changed: 0.005 → 0.25" in said or "heldout changed: 0.005 → 0.25" in said
    aside = config_file.parent / "run/dedup.before-1/documents"
    assert sorted(path.name for path in aside.iterdir()) == before


def test_a_key_that_only_changes_how_a_stage_runs_does_not_run_it_again(config_file: Path) -> None:
    run(config_file)
    assert run(config_file, "dedup.workers=2") == {"dedup": "skip"}


def test_changed_input_runs_the_stage_again_and_touched_input_does_not(
    config_file: Path, corpus: Path
) -> None:
    run(config_file)
    corpus.touch()
    assert run(config_file) == {"dedup": "skip"}
    with corpus.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"id": "new", "text": "새로 들어온 글입니다. " * 12}) + "\n")
    assert run(config_file) == {"dedup": "again"}


def test_a_missing_output_file_runs_the_stage_again(config_file: Path) -> None:
    run(config_file)
    next((config_file.parent / "run/dedup/documents").iterdir()).unlink()
    assert run(config_file) == {"dedup": "again"}


def test_a_stage_that_was_killed_is_resumed(config_file: Path) -> None:
    run(config_file)
    folder = config_file.parent / "run"
    lineage = Lineage(folder)
    lineage.content["stages"]["dedup"]["status"] = "running"
    lineage.save()
    assert decide(load(str(config_file)), Lineage(folder), "dedup").action == "resume"


def test_a_stage_whose_input_is_not_there_says_which_command_makes_it(config_file: Path) -> None:
    with config_file.open("a") as handle:
        handle.write("tokenizer: {base: llama3, new_tokens: 10}\n")
    config = load(str(config_file))
    with pytest.raises(InputError, match="malmoi dedup"):
        decide(config, Lineage(config_file.parent / "run"), "tokenizer")


def test_dry_run_says_what_would_run_and_writes_nothing(config_file: Path) -> None:
    with config_file.open("a") as handle:
        handle.write("tokenizer: {base: llama3, new_tokens: 10}\n")
    folder = config_file.parent / "run"
    lines = dry_run(load(str(config_file)), folder)
    assert [line.split(":")[0] for line in lines] == ["dedup", "tokenizer"]
    assert not folder.exists()


def test_a_run_folder_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(InputError, match="in use by process"), lock(tmp_path):
        pass


def test_the_lineage_holds_keys_inputs_code_and_a_digest_of_every_output(config_file: Path) -> None:
    run(config_file)
    entry = Lineage(config_file.parent / "run").stage("dedup")
    assert entry is not None and entry["status"] == "done"
    assert entry["keys"] == output_keys(load(str(config_file)), "dedup")
    assert [Path(item["path"]).name for item in entry["inputs"]["files"]] == ["corpus.jsonl"]
    assert all(name.startswith("dedup/") for name in entry["outputs"])
    assert entry["code"]["version"] and entry["machine"]["python"]


def test_a_lineage_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "lineage.json", {})
    (tmp_path / "lineage.json").write_text("{")
    with pytest.raises(InputError, match=r"lineage\.json:1:2"):
        Lineage(tmp_path)
