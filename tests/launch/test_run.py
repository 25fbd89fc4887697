"""What runs, what is skipped, what is set aside: decided from lineage.json alone."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

import launch.console
import launch.run
from configs.errors import InputError
from configs.files import write_json, write_text
from configs.load import load, output_keys
from configs.progress import Progress
from launch.console import Console
from launch.inputs import refuse
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
    config = load(str(config_file))
    lines = dry_run(config, folder, ["dedup", "tokenizer"])
    assert [line.split(":")[0] for line in lines] == ["dedup", "tokenizer"]
    assert not folder.exists()


def test_dry_run_of_one_stage_plans_that_stage_alone(config_file: Path) -> None:
    with config_file.open("a") as handle:
        handle.write("tokenizer: {base: llama3, new_tokens: 10}\n")
    config, folder = load(str(config_file)), config_file.parent / "run"
    assert dry_run(config, folder, ["dedup"]) == ["dedup: starts"]
    with pytest.raises(InputError, match="dedup has not finished"):
        dry_run(config, folder, ["tokenizer"])
    run(config_file)
    assert dry_run(config, folder, ["tokenizer"]) == ["tokenizer: starts"]


def test_evaluation_files_may_be_a_glob_or_a_folder_and_count_as_input(config_file: Path) -> None:
    folder = config_file.parent / "exams"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"q": "오늘 아침 공원에서 만나 나무 4그루를 심었습니다"}\n')
    (folder / "b.tsv").write_text("아무 데도 없는 문장을 하나 적어 둔다\t1\n")
    for given in (f"['{folder}']", f"['{folder}/*.jsonl', '{folder}/b.tsv']"):
        config = load(str(config_file), [f"dedup.decontaminate={given}"])
        inputs = decide(config, Lineage(config_file.parent / "run"), "dedup").inputs
        assert [Path(item["path"]).name for item in inputs["files"]] == [
            "corpus.jsonl",
            "a.jsonl",
            "b.tsv",
        ]
    assert run(config_file, f"dedup.decontaminate=['{folder}']") == {"dedup": "start"}
    (folder / "b.tsv").write_text("다른 문장을 하나 적어 두었다\t1\n")
    assert run(config_file, f"dedup.decontaminate=['{folder}']") == {"dedup": "again"}


def test_evaluation_files_that_match_nothing_are_told_with_every_other_path(
    config_file: Path,
) -> None:
    overrides = ["dedup.decontaminate=[exams/*.tsv]", "dedup.sources.0.paths=[nowhere.jsonl]"]
    with pytest.raises(InputError) as caught:
        run(config_file, *overrides)
    told = "\n".join(caught.value.lines)
    assert "nowhere.jsonl matches no file" in told
    assert "exams/*.tsv matches no file" in told
    assert not (config_file.parent / "run/dedup").exists()


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("empty", "is no model (it has no config.json)"),
        ("./missing", "no such folder"),
        ("a/b/c", "no such folder"),
        ("model.safetensors", "no such file"),
        ("corpus.jsonl", "is a file; give the folder of a model"),
    ],
)
def test_a_base_that_cannot_be_a_model_is_refused_before_deduplication(
    config_file: Path, base: str, said: str
) -> None:
    (config_file.parent / "empty").mkdir()
    with config_file.open("a") as handle:
        handle.write(
            f"tokenizer: {{base: llama3, new_tokens: 10}}\npretrain:\n  base: {base}\n"
            "  phases: [{name: full, tokens: 1K, mixture: {ko: 1.0}}]\n"
        )
    config, folder = load(str(config_file)), config_file.parent / "run"
    with Console(interactive=False) as console, pytest.raises(InputError) as caught:
        run_stages(config, folder, ["dedup", "tokenizer", "pretrain"], console)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith("pretrain.base: ") and said in caught.value.lines[0]
    assert not folder.exists()
    with Console(interactive=False) as console:  # alone it has nothing to do with that base
        run_stages(config, folder, ["dedup"], console)


@pytest.mark.parametrize("name", ["llama3", "meta-llama/Llama-3.1-8B", "org/name.v2"])
def test_a_hub_id_is_not_taken_for_a_path(config_file: Path, name: str) -> None:
    with config_file.open("a") as handle:
        handle.write(f"tokenizer: {{base: {name}, new_tokens: 10}}\n")
    refuse(load(str(config_file)), ["tokenizer"])


def test_what_a_full_disk_broke_is_told_and_the_lineage_failing_too_does_not_hide_it(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/run/tokens.bin")

    monkeypatch.setattr(launch.run, "_run_stage", full)
    monkeypatch.setattr(Lineage, "spent", full)
    with pytest.raises(InputError, match=r"/disk/run/tokens\.bin: no space left"):
        run(config_file)
    monkeypatch.undo()
    assert run(config_file) == {"dedup": "resume"}


def test_a_stage_leaves_a_log_with_its_steps_and_its_error(config_file: Path) -> None:
    run(config_file)
    (path,) = (config_file.parent / "run/logs").glob("dedup-*-0.log")
    assert "dedup · clean" in path.read_text() and "dedup: done in" in path.read_text()
    with pytest.raises(InputError):
        run(config_file, "dedup.filters={min_characters: 100000}")
    assert "InputError: dedup: no document is left" in path.read_text()


def test_the_page_is_written_before_the_tracker_closes(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, folder = load(str(config_file), ["tracking.mlflow=true"]), config_file.parent / "run"
    with Console(interactive=False) as console:
        run_stages(
            config,
            folder,
            ["dedup"],
            console,
            at_end=lambda: write_text(folder / "report.html", "x"),
        )
    mirrored = {path.name for path in (folder / "mlartifacts").rglob("*") if path.is_file()}
    assert {"report.html", "lineage.json", "config.yaml"} <= mirrored


def test_the_rate_of_a_resumed_step_counts_from_where_it_was_resumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 100.0, 110.0, 110.0])
    monkeypatch.setattr(launch.console.time, "monotonic", lambda: next(clock))
    with Console(interactive=False) as console:
        console.log(Progress("pretrain", "train", 900, 1000, "steps"))
        console.log(Progress("pretrain", "train", 950, 1000, "steps"))
    assert capsys.readouterr().err.splitlines()[-1].endswith("5 steps/s  10 s left")


def test_a_run_folder_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    with (
        lock(tmp_path),
        pytest.raises(InputError, match=r"in use by \w+, process \d+ on .*, since 20"),
        lock(tmp_path),
    ):
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
