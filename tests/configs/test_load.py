"""A config is read by YAML 1.2, its paths are made absolute, and it survives a round trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.load import PACKAGE, changed_keys, dump, load, output_keys, recipes, run_folder
from configs.schema import Config


def written(folder: Path, text: str, name: str = "my.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def base(folder: Path, fields: str) -> dict[str, object]:
    phases = "phases: [{name: p, tokens: 1M, mixture: {ko: 1}}]"
    config = load(written(folder, f"name: a\npretrain:\n  base: {fields}\n  {phases}\n"))
    assert config.pretrain is not None and isinstance(config.pretrain.base, dict)
    return config.pretrain.base


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    fields = "{a: 1e-4, b: on, c: no, d: 0o17, e: 2026-11-20, f: 1_000, g: ~, h: .5, i: 1:30, j: True, k: -.inf}"
    assert base(tmp_path, fields) == {
        "a": 1e-4, "b": "on", "c": "no", "d": 15, "e": "2026-11-20", "f": "1_000", "g": None, "h": 0.5,
        "i": "1:30", "j": True, "k": float("-inf"),
    }  # fmt: skip


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = """\
name: a
pretrain:
  base: x/y
  phases:
    - &first {name: one, tokens: 1M, lr: 1e-4, mixture: &mix {ko: 1.0}}
    - {<<: *first, name: two}
    - {name: three, epochs: 1, mixture: *mix}
"""
    config = load(written(tmp_path, text))
    assert config.pretrain is not None
    one, two, three = config.pretrain.phases
    assert two == one.model_copy(update={"name": "two"})
    assert three.mixture == one.mixture


def test_relative_paths_start_at_the_file_and_those_of_overrides_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project/models/mine").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = """\
name: a
dedup:
  sources:
    - {name: a, paths: ["data/*.jsonl", /abs/x.parquet, s3://bucket/x, ../up/*.gz]}
    - {name: b, paths: [b.jsonl]}
tokenizer: {base: llama3}
pretrain:
  base: models/mine
  tokenizer: ./not/there
  phases: [{name: p, tokens: 1M, mixture: {a: 1}}]
"""
    file = written(tmp_path / "project", text)
    config = load(file, ["dedup.sources.1.paths=[mine.jsonl]"])
    assert config.dedup and config.tokenizer and config.pretrain
    project = tmp_path / "project"
    assert config.dedup.sources[0].paths == [
        f"{project}/data/*.jsonl", "/abs/x.parquet", "s3://bucket/x", f"{tmp_path}/up/*.gz",
    ]  # fmt: skip
    assert config.dedup.sources[1].paths == [f"{tmp_path}/here/mine.jsonl"]
    assert config.tokenizer.base == "llama3"  # a name, since no such path exists
    assert config.pretrain.base == f"{project}/models/mine"
    assert config.pretrain.tokenizer == f"{project}/not/there"


def test_a_config_survives_dump_and_load(tmp_path: Path) -> None:
    text = """\
name: a
seed: 9007199254740993
dedup:
  sources: [{name: "on", paths: [x.jsonl], licence: 1e-4x, fields: {text: "1e-4", id: "no", url: "~"}}]
  filters: {min_hangul: 0.1, mean_word: [1, 8]}
  near: none
pretrain:
  base: {model_type: llama, odd: ["1e-4", 1e-4, "yes", null, "0o17", "2026-11-20", "가나"]}
  phases: [{name: p, epochs: 0.5, lr: 1e-5, mixture: {"on": 1}}]
chat: {system: "두 줄\\n그리고: 끝 # 아님"}
"""
    config = load(written(tmp_path, text))
    again = load(written(tmp_path, dump(config), "again.yaml"))
    assert again == config
    assert dump(again) == dump(config)
    assert "every_steps: 500" in dump(config)  # defaults are written out


@pytest.mark.parametrize("name", ["quickstart", "llama3-8b-open-ko", "llama3-8b-bllossom"])
def test_a_bundled_recipe_loads_by_name_and_round_trips(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(name)
    assert config.name == name
    assert config.dedup and config.tokenizer and config.pretrain
    assert load(written(tmp_path, dump(config), "again.yaml")) == config
    text = recipes()[name].read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=./schema.json\n")
    assert len(text.splitlines()) <= (60 if name == "quickstart" else 40)


def test_a_recipe_brings_its_sample_along_and_looks_for_the_rest_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quickstart, open_ko = load("quickstart"), load("llama3-8b-open-ko")
    assert quickstart.dedup and open_ko.dedup
    package = recipes()["quickstart"].parent
    assert quickstart.dedup.sources[0].paths == [f"{package}/sample/ko/pages/*.html"]
    assert open_ko.dedup.sources[0].paths[0].startswith(f"{tmp_path}/data/ko/")


def test_a_run_lies_in_its_dir_or_under_runs() -> None:
    assert run_folder(Config(name="a")) == Path("runs/a")
    assert run_folder(Config(name="a", dir="/x/y")) == Path("/x/y")


def test_output_keys_leave_out_what_only_changes_how_a_stage_runs() -> None:
    plain = load("quickstart")
    faster = load(
        "quickstart",
        ["dedup.workers=1", "tokenizer.workers=1", "pretrain.checkpoint.keep=9", "pretrain.threads=2",
         "dir=x", "chat.temperature=0"],
    )  # fmt: skip
    for stage in ("dedup", "tokenizer", "pretrain"):
        assert changed_keys(output_keys(plain, stage), output_keys(faster, stage)) == []
    stored = json.loads(json.dumps(output_keys(plain, "pretrain")))
    assert changed_keys(stored, output_keys(plain, "pretrain")) == []


def test_changed_keys_are_named_by_their_dotted_path() -> None:
    plain = load("quickstart")
    other = load(
        "quickstart",
        ["seed=1", "dedup.near.threshold=0.7", "pretrain.phases.1.lr=1e-4", "dedup.sources.0.paths=[a, b]"],
    )  # fmt: skip

    def between(stage: str) -> list[str]:
        return changed_keys(output_keys(plain, stage), output_keys(other, stage))

    assert between("dedup") == ["seed", "dedup.sources.0.paths", "dedup.near.threshold"]
    assert between("tokenizer") == ["seed"]
    assert between("pretrain") == ["seed", "pretrain.phases.1.lr"]


def test_the_quickstarts_prompt_is_not_in_the_sample() -> None:
    config = load("quickstart")
    sample = (PACKAGE / "sample" / "dialogues.jsonl").read_text(encoding="utf-8")
    assert config.chat.prompts
    assert not any(prompt in sample for prompt in config.chat.prompts)
