"""Losses and gradients that jump: noticed, skipped or rolled back, and the same after a resume."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import forked_ranks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_run import WORDS, document, make_config, sentence

from configs.schema import Config, Guard
from dedup.documents import SCHEMA
from pretrain.checkpoints.state import LeftOut
from pretrain.guards.spikes import Watch, deviation, remembered


def seen(
    settings: Guard, losses: list[float], norms: list[float], loss: float, norm: float
) -> Watch:
    watch = Watch(settings)
    watch.begin(losses, norms, known=None)
    watch.see("loss", loss)
    watch.refuses(norm)
    return watch


CALM = [3.0 + 0.02 * math.sin(n) for n in range(64)]
NORMS = [0.5 * (1.2 if n % 3 else 0.8) for n in range(64)]


def test_a_jump_of_the_loss_is_noticed_and_ordinary_noise_is_not() -> None:
    settings = Guard(spike="skip")
    assert seen(settings, CALM, NORMS, 3.1, 0.6).spike is None
    spike = seen(settings, CALM, NORMS, 4.5, 0.6).spike
    assert (
        spike is not None and spike.what == "loss" and spike.usual == pytest.approx(3.0, abs=0.02)
    )
    assert seen(settings, CALM, NORMS, 0.5, 0.6).spike is None  # a fall is no jump


def test_a_jump_of_the_gradient_is_noticed_before_the_weights_are_updated() -> None:
    watch = seen(Guard(spike="skip"), CALM, NORMS, 3.0, 50.0)
    assert watch.spike is not None and watch.spike.what == "gradient norm"
    assert watch.refuses(50.0)
    assert not seen(Guard(spike="warn"), CALM, NORMS, 3.0, 50.0).refuses(50.0)


def test_one_outlier_in_the_window_moves_neither_median_nor_limit() -> None:
    far, usual = deviation([*CALM, 900.0], 4.5, 0.001)
    same, _ = deviation(CALM, 4.5, 0.001)
    assert far == pytest.approx(same, rel=0.1) and usual == pytest.approx(3.0, abs=0.02)


def test_nothing_is_a_jump_before_there_are_steps_to_compare_with_or_when_switched_off() -> None:
    assert seen(Guard(spike="skip"), CALM[:31], NORMS[:31], 90.0, 90.0).spike is None
    assert seen(Guard(spike="off"), CALM, NORMS, 90.0, 90.0).spike is None


def test_a_value_that_is_no_number_is_a_jump_at_any_step_and_is_not_remembered() -> None:
    spike = seen(Guard(spike="skip"), [], [], math.nan, 1.0).spike
    assert spike is not None and str(spike) == "loss nan"
    assert remembered([1.0], math.inf, 3) == [1.0] and remembered([1.0, 2.0], 3.0, 2) == [2.0, 3.0]


def test_a_step_that_is_on_record_is_refused_whatever_it_looks_like_now() -> None:
    watch = Watch(Guard(spike="warn"))
    watch.begin(CALM, NORMS, known=LeftOut(0, 5, 5, 40, 47, "skip", "loss 9"))
    assert watch.refuses(0.5)


# ── real training ───────────────────────────────────────────────────────────────────────────────


STEPS = 44
BATCH = 128  # tokens of a step: two sequences, so that one foreign sequence is half of it


@pytest.fixture(scope="session")
def poisoned_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Korean of a few words, and a source of noise that nothing prepares for."""
    folder = tmp_path_factory.mktemp("made") / "poisoned"
    folder.mkdir()
    chance = random.Random(4)
    rows = [document(n, "ko", sentence(chance, WORDS[:6])) for n in range(120)]
    for n in range(4):
        noise = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(60))
        rows.append(document(n, "noise", noise, language="zh"))
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "00000.parquet")
    return folder


def poisoned(action: str, **fields: Any) -> Config:
    """Training in which one sequence of noise comes after three quarters of the steps."""
    guard = {"spike": action, "window": 16, "deviations": 6.0, "rewind": 3}
    phases = [
        {
            "name": "text",
            "tokens": STEPS * BATCH,
            "lr": 1e-2,
            "schedule": {"kind": "constant"},
            "mixture": {"ko": 1 - 1 / 130, "noise": 1 / 130},
        }
    ]
    return make_config(
        **{
            "phases": phases,
            "guard": guard,
            "global_batch_tokens": BATCH,
            "micro_batch": 1,
            "checkpoint": {"every_steps": 10, "keep": 2},
            "evaluate": {"every_steps": 1000, "sequences": 1},
        }
        | fields
    )


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Path, poisoned_documents: Path) -> Path:
    return run_folder(tmp_path / "run", tiny_tokenizer, poisoned_documents)


def run_folder(folder: Path, tokenizer: Path, documents: Path) -> Path:
    (folder / "dedup").mkdir(parents=True)
    (folder / "dedup" / "documents").symlink_to(documents)
    (folder / "tokenizer").symlink_to(tokenizer)
    return folder


def twin(folder: Path, name: str) -> Path:
    """Another run folder over the same documents and tokenizer."""
    documents, tokenizer = folder / "dedup" / "documents", folder / "tokenizer"
    return run_folder(folder.parent / name, tokenizer.resolve(), documents.resolve())


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "pretrain" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def left_out(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "pretrain" / "left_out.json").read_text())["left_out"])


def master_weights(checkpoint: Path) -> list[torch.Tensor]:
    files = sorted(checkpoint.glob("*optim_states.pt"))
    states = [torch.load(file, weights_only=False)["optimizer_state_dict"] for file in files]
    names = ("single_partition_of_fp32_groups", "fp32_flat_groups")
    return [part for state in states for name in names for part in state.get(name, [])]


@pytest.mark.thorough
@pytest.mark.slow
def test_warning_says_what_jumped_and_changes_nothing(folder: Path) -> None:
    other = twin(folder, "off")
    assert forked_ranks.train(poisoned("warn"), folder)["status"] == "done"
    assert forked_ranks.train(poisoned("off"), other)["status"] == "done"
    spikes = [entry for entry in lines(folder) if "spike" in entry]
    assert spikes and spikes[0]["spike"].startswith("loss ")
    without = [{k: v for k, v in e.items() if k != "spike"} for e in forked_ranks.steps(folder)]
    assert without == forked_ranks.steps(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "world_size"),
    [
        (2, 1),
        pytest.param(0, 1, marks=pytest.mark.thorough),
        pytest.param(1, 2, marks=pytest.mark.thorough),
        pytest.param(3, 2, marks=pytest.mark.thorough),
    ],
)
def test_a_skipped_step_leaves_the_weights_alone_and_a_resume_across_it_is_bitwise_the_same(
    stage: int, world_size: int, folder: Path
) -> None:
    every = {"every_steps": 1, "keep": 100}
    config = poisoned("skip", zero_stage=stage, checkpoint=every)
    assert forked_ranks.train(config, folder, world_size)["status"] == "done"
    (entry,) = left_out(folder)
    step = entry["first_step"]  # from 0; a checkpoint is named by the steps before it
    assert entry["action"] == "skip" and (entry["first_sequence"], entry["last_sequence"]) == (
        2 * step,
        2 * step + 1,
    )
    if stage:
        before, after, then = (
            master_weights(folder / "pretrain" / "checkpoints" / f"step-{n:08d}")
            for n in (step, step + 1, step + 2)
        )
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        assert not all(torch.equal(*pair) for pair in zip(after, then, strict=True))
    other = twin(folder, "stopped")  # and resumed on either side of it
    config = poisoned("skip", zero_stage=stage, checkpoint={"every_steps": 9, "keep": 2})
    for stop in (step - 3, step + 2):
        assert forked_ranks.train(config, other, world_size, stop)["status"] == "Stopped"
    assert forked_ranks.train(config, other, world_size)["resumed"] == 2
    assert forked_ranks.steps(other) == forked_ranks.steps(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "world_size"),
    [
        pytest.param(2, 1, marks=pytest.mark.thorough),
        pytest.param(3, 2, marks=pytest.mark.thorough),
    ],
)
def test_a_rollback_goes_on_from_a_checkpoint_without_the_data_that_led_to_the_jump(
    stage: int, world_size: int, folder: Path
) -> None:
    config = poisoned("rollback", zero_stage=stage)
    assert forked_ranks.train(config, folder, world_size)["status"] == "done"
    (entry,) = left_out(folder)
    jumped = entry["last_step"]
    assert entry["action"] == "rollback" and entry["first_step"] == jumped - 3
    passed = [line for line in lines(folder) if "sequences_left_out" in line]
    assert [line["step"] for line in passed] == list(range(jumped - 2, jumped + 2))
    assert [line["step"] for line in forked_ranks.steps(folder)] == [
        n for n in range(1, STEPS + 1) if not jumped - 2 <= n <= jumped + 1
    ]

    other = twin(folder, "stopped")  # stopped and resumed on either side of what is left out
    for stop in (jumped - 6, jumped + 2):
        assert forked_ranks.train(config, other, world_size, stop)["status"] == "Stopped"
    assert forked_ranks.train(config, other, world_size)["status"] == "done"
    assert forked_ranks.steps(other) == forked_ranks.steps(folder)
    assert left_out(other) == left_out(folder)


@pytest.mark.thorough
@pytest.mark.slow
def test_jumps_without_end_end_the_run(folder: Path) -> None:
    guard = {"spike": "skip", "window": 16, "deviations": 0.01, "most": 3}
    outcome = forked_ranks.train(poisoned("skip", guard=guard), folder)
    assert outcome["status"] == "InputError"
    assert "jumped more than 3 times (pretrain.guard.most)" in outcome["lines"][0]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_loss_that_is_no_number_ends_the_run_on_all_ranks(
    stage: int, dtype: str, folder: Path
) -> None:
    phases = [{"name": "text", "tokens": 6144, "lr": 1e30, "mixture": {"ko": 1.0}}]
    config = poisoned("warn", phases=phases, optimizer={"clip": 0}, zero_stage=stage, dtype=dtype)
    outcome = forked_ranks.train(config, folder, 2)
    assert outcome["status"] == "InputError" and "lower its lr" in outcome["lines"][0]
    other = json.loads((folder / "ranks" / "1.json").read_text())
    assert other == outcome
