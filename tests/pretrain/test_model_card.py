"""The model card says only what can be checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import make_config

from pretrain.data.token_shards import write_tokens
from pretrain.data.tokens import Tokens, open_tokens
from pretrain.phases import PhaseReport
from pretrain.stage import Report
from pretrain.weights.duties import base_licence, duties
from pretrain.weights.export import legal_files, model_card
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


def test_a_llama_base_brings_its_name_its_notice_and_its_licence(
    tokens: Tokens, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: llama3\n---\n# A model\n")
    (base / "LICENSE").write_text("the agreement itself")
    config = make_config(base=str(base))
    card = model_card(config, tmp_path, tokens, REPORT)
    assert "\n# Llama-3-tiny\n" in card and "**Built with Meta Llama 3.**" in card
    assert "Meta Llama 3 Community License, Copyright © Meta Platforms, Inc." in card
    files = legal_files(config, tmp_path, REPORT)
    assert files["LICENSE"] == base / "LICENSE" and "Meta Platforms" in files["Notice"]
    assert files["provenance.json"]["base"]["duties"]["name"] == "Llama-3-tiny"
    (base / "Notice").write_text("theirs")
    assert legal_files(config, tmp_path, REPORT)["Notice"] == base / "Notice"


def test_the_card_says_how_often_each_source_was_gone_through(
    tokens: Tokens, tmp_path: Path
) -> None:
    phases = [
        PhaseReport("text", 12, 6144, 6.2, 5.1, {"ko": 1.25, "en": 0.5}),
        PhaseReport("more", 12, 6144, 5.2, 4.1, {"ko": 0.5}),
    ]
    phase = {"tokens": 6144, "mixture": {"ko": 1.0}}
    config = make_config(phases=[{"name": "text", **phase}, {"name": "more", **phase}])
    card = model_card(config, tmp_path, tokens, replace(REPORT, phases=phases))
    (ko,) = [line for line in card.splitlines() if line.startswith("| ko | text |")]
    (en,) = [line for line in card.splitlines() if line.startswith("| en | text |")]
    assert "| 1.75 |" in ko and "| 0.50 |" in en


@pytest.mark.parametrize(
    ("licence", "base", "name", "built"),
    [
        ("llama3", "x", "Llama-3-mine", "Built with Meta Llama 3"),
        ("llama3.1", "x", "Llama-mine", "Built with Llama"),
        (None, "meta-llama/Meta-Llama-3-8B", "Llama-3-mine", "Built with Meta Llama 3"),
        ("other", "beomi/Llama-3-Open-Ko-8B", "Llama-3-mine", "Built with Meta Llama 3"),
        (None, "meta-llama/Llama-3.2-1B", "Llama-mine", "Built with Llama"),
    ],
)
def test_the_duties_follow_the_licence_or_the_name(
    licence: str | None, base: str, name: str, built: str
) -> None:
    asked = duties(licence, base)
    assert asked is not None and (asked.name("mine"), asked.built_with) == (name, built)
    for kept in ("Llama-3-mine", "llama 3 mine"):
        assert asked.name(kept) == kept


@pytest.mark.parametrize(
    ("licence", "base"), [("apache-2.0", "Llama-3-x"), (None, "Qwen/Qwen3-8B"), (None, "llama-30b")]
)
def test_no_duties_are_made_up(licence: str | None, base: str) -> None:
    assert duties(licence, base) is None
