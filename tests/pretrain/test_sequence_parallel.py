"""Ranks that share a sequence train what one rank would that has it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forked_ranks
import pytest
from tiny_run import BASE, make_config, twin

from configs.errors import InputError
from configs.schema import Config
from pretrain.phases import batch_mistakes

pytestmark = pytest.mark.slow
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}


def config_of(size: int = 1, base: dict[str, Any] | None = None, **fields: Any) -> Config:
    fields = {"micro_batch": 1, "sequence_parallel": size} | fields
    return make_config(base=BASE | HEADS | (base or {}), **fields)


def bits(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [entry["bits_per_byte"] for entry in map(json.loads, lines) if "bits_per_byte" in entry]


def assert_same_training(one: Path, other: Path) -> None:
    alone, shared = forked_ranks.steps(one), forked_ranks.steps(other)
    for key in ("sequence_digest", "first_sequence", "sequences", "targets", "tokens"):
        assert [step[key] for step in shared] == [step[key] for step in alone]
    for key, share in (("loss", 1e-4), ("grad_norm", 1e-3)):
        assert [step[key] for step in shared] == pytest.approx([s[key] for s in alone], rel=share)
    assert shared[0]["loss"] == pytest.approx(alone[0]["loss"], abs=1e-5)
    for before, after in zip(bits(one), bits(other), strict=True):
        assert after == pytest.approx(before, rel=1e-4)


def test_two_ranks_on_each_sequence_train_as_one_rank_does(run_folder: Path) -> None:
    other = twin(run_folder, "shared")
    assert forked_ranks.train(config_of(), run_folder)["status"] == "done"
    assert forked_ranks.train(config_of(2), other, 2)["status"] == "done"
    assert_same_training(run_folder, other)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "base",
    [
        {"architecture": "llama, recomputed"},
        {"model_type": "mistral", "sliding_window": 24},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 24},
    ],
    ids=lambda base: str(base.get("model_type", "llama")),
)
def test_four_ranks_in_two_groups_train_as_one_rank_does_under_zero_3(
    base: dict[str, Any], run_folder: Path
) -> None:
    recomputed = base.pop("architecture", None) is not None
    fields = {"zero_stage": 3, "activation_checkpointing": recomputed}
    other = twin(run_folder, "shared")
    assert forked_ranks.train(config_of(1, base, **fields), run_folder)["status"] == "done"
    assert forked_ranks.train(config_of(2, base, **fields), other, 4)["status"] == "done"
    assert_same_training(run_folder, other)


@pytest.mark.thorough
def test_ranks_and_heads_that_cannot_be_divided_are_refused_in_words(run_folder: Path) -> None:
    told = forked_ranks.train(config_of(2), run_folder, 1)
    assert told["status"] == "InputError"
    assert "2 ranks share a sequence, and 1 ranks are no multiple" in told["lines"][0]
    other = twin(run_folder, "heads")
    told = forked_ranks.train(config_of(2, {"num_key_value_heads": 1}), other, 2)
    assert told["status"] == "InputError"
    assert "2 does not divide the 1 key heads" in told["lines"][0]


def test_a_length_that_cannot_be_divided_is_refused_with_the_next_that_can() -> None:
    pretrain = config_of(2, sequence_length=65).pretrain
    assert pretrain is not None
    (told,) = batch_mistakes(pretrain, 0, 65)
    assert told.startswith("pretrain.sequence_length: 65 tokens") and "make it 66" in told


def test_several_sequences_at_a_time_are_refused_where_each_is_shared(tmp_path: Path) -> None:
    from configs.load import load

    path = tmp_path / "c.yaml"
    base = "{model_type: llama, hidden_size: 8}"
    phase = "{name: a, tokens: 1M, lr: 1e-4, mixture: {ko: 1.0}}"
    path.write_text(
        f"name: x\npretrain:\n  base: {base}\n  micro_batch: 2\n  sequence_parallel: 2\n  phases: [{phase}]\n"
    )
    with pytest.raises(InputError, match="write micro_batch 1, or leave sequence_parallel out"):
        load(str(path))
