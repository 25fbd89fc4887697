"""`key=value` changes a config, and its mistakes name the override they came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import InputError
from configs.load import load

CONFIG = """\
name: a
dedup:
  sources: [{name: ko.web, paths: [ko.jsonl]}]
  near: none
pretrain:
  base: {model_type: llama}
  phases: [{name: full, tokens: 1B, mixture: {ko.web: 1.0}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_values_are_yaml_with_1_2_numbers(file: str) -> None:
    config = load(
        file,
        [
            "name=b",
            "seed=0x11",
            "pretrain.phases.0.lr=1e-4",
            "pretrain.phases.0.train=[embed, head]",
            "pretrain.base.rope_theta=5e5",
            "pretrain.base.rope_scaling.factor=8",
            "dedup.near={threshold: .7}",
            "tokenizer.new_tokens=2K",
            "dir=",
        ],
    )
    assert config.pretrain is not None and config.dedup is not None
    assert (config.name, config.seed, config.dir) == ("b", 17, None)
    assert config.pretrain.phases[0].lr == 1e-4
    assert config.pretrain.phases[0].train == ["embed", "head"]
    assert config.pretrain.base == {
        "model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"factor": 8},
    }  # fmt: skip
    assert config.dedup.near != "none" and config.dedup.near.threshold == 0.7
    assert config.tokenizer is not None and config.tokenizer.new_tokens == 2000


def test_a_name_with_a_dot_is_one_key_of_the_mixture(file: str) -> None:
    config = load(file, ["pretrain.phases.0.mixture.ko.web=1"])
    assert config.pretrain is not None
    assert config.pretrain.phases[0].mixture == {"ko.web": 1.0}


def test_the_last_of_two_overrides_wins(file: str) -> None:
    assert load(file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("dedup.heldout", "is not key=value; write for example dedup.near.threshold=0.7"),
        ("=3", "is not key=value"),
        ("dedup.near.threshold=0.7", "dedup.near is 'none' here and has no keys; write dedup.near={threshold: 0.7}"),
        ("dedup.heldot=0.1", "dedup.heldot: no such key; did you mean heldout?"),
        ("dedupe.pii=keep", "dedupe: no such key; did you mean dedup?"),
        ("tokenizer.new_tokens=many", "tokenizer.new_tokens: 'many' is not a count"),
        ("tokenizer={", "tokenizer: the value is not YAML"),
        ("pretrain.phases.3.lr=1", "pretrain.phases has 1 items, so the last is 0"),
        ("pretrain.phases.full.lr=1", "pretrain.phases is a list; name an item by its number"),
        ("pretrain.phases.0.mixture.en=0.5", "pretrain.phases.0.mixture"),
        ("pretrain.checkpoint.keep=0", "pretrain.checkpoint.keep: 0 is not a whole number, 1 or more"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named(file: str, override: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load(file, [override])
    assert any(line.startswith(f"override {override!r}: ") for line in caught.value.lines)
    assert says in str(caught.value)


def test_an_override_is_not_blamed_for_what_the_file_lacks(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(CONFIG.replace("base: {model_type: llama}", "dtype: bf16"))
    with pytest.raises(InputError) as caught:
        load(str(path), ["pretrain.zero_stage=7"])
    missing, wrong = caught.value.lines
    assert missing.startswith(f"{path}:5:1: pretrain.base: missing")
    assert wrong.startswith("override 'pretrain.zero_stage=7': pretrain.zero_stage: 7 is not")
