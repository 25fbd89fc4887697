"""The model card says only what can be checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import make_config

from pretrain.data.token_shards import write_tokens
from pretrain.data.tokens import Tokens, open_tokens
from pretrain.phases import PhaseReport
from pretrain.stage import Report
from pretrain.weights.export import base_licence, model_card
from tokenizer.load import load_tokenizer

REPORT = Report(
    parameters=1000,
    vocab_size=512,
    phases=[PhaseReport("text", 12, 6144, 6.2, 5.1)],
    tokens=6144,
    seconds=1.0,
    bits_per_byte={"before": {"ko": 3.0}, "after": {"ko": 2.0}},
    resumed=0,
    world_size=1,
    zero_stage=2,
    dtype="float32",
    identity="ab" * 32,
)


@pytest.fixture(scope="module")
def tokens(
    tiny_documents: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Tokens:
    folder = tmp_path_factory.mktemp("card")
    tokenizer = load_tokenizer(tiny_tokenizer)
    write_tokens([tiny_documents], tokenizer, tiny_tokenizer / "tokenizer.json", folder)
    return open_tokens(folder)


def test_the_lineage_names_digests_that_stand_in_the_runs_files(
    tokens: Tokens, tmp_path: Path
) -> None:
    stages = {
        "dedup": {"status": "done", "digest": "d" * 64},
        "tokenizer": {"status": "done", "digest": "e" * 64},
        "pretrain": {"status": "running"},
    }
    (tmp_path / "lineage.json").write_text(json.dumps({"stages": stages}))
    card = model_card(make_config(), tmp_path, tokens, REPORT)
    for digest in ("d" * 64, "e" * 64, REPORT.identity):
        assert f"`{digest}`" in card


def test_a_base_from_the_hub_is_linked_there(tokens: Tokens, tmp_path: Path) -> None:
    card = model_card(make_config(base="nobody/no-model"), tmp_path, tokens, REPORT)
    assert "[nobody/no-model](https://huggingface.co/nobody/no-model)" in card
    assert "base_model: nobody/no-model" in card
    assert "Licence of the base: see the base itself." in card


def test_the_licence_of_a_base_comes_from_its_own_readme(tokens: Tokens, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    assert base_licence(str(base)) is None
    (base / "README.md").write_text("---\nlanguage: ko\nlicense: llama3\n---\n# A model\n")
    card = model_card(make_config(base=str(base)), tmp_path, tokens, REPORT)
    assert "Licence of the base: llama3." in card and "\nlicense: llama3\n" in card
    assert "huggingface.co" not in card
