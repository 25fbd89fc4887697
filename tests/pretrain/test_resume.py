"""Stopped anywhere, resumed by other ranks, from far away, after kills: the same training."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import forked_ranks
import pytest
import torch
from tiny_run import make_config, twin
from transformers import AutoModelForCausalLM

from configs.files import read_json
from configs.schema import Config
from pretrain.checkpoints import checkpoint

pytestmark = pytest.mark.slow
STEPS = 60


def config_of(**fields: Any) -> Config:
    """60 steps of eight sequences, no save but at a stop."""
    phases = [
        {"name": "text", "tokens": STEPS * 512, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}}
    ]
    rare = {"every_steps": 1000, "keep": 1}
    return make_config(
        **{"phases": phases, "checkpoint": rare, "evaluate": {"every_steps": 50, "sequences": 4}}
        | fields
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder / "model").state_dict())


@pytest.mark.thorough
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_same_seed_trains_the_same_twice_with_two_ranks_and_a_stop_changes_nothing(
    stage: int, run_folder: Path
) -> None:
    config = config_of(zero_stage=stage, phases=[{**config_of_phase(), "tokens": 512 * 14}])
    assert forked_ranks.train(config, run_folder, 2)["status"] == "done"
    chance = random.Random(stage)
    stops = sorted(chance.sample(range(1, 12, 3), 2))  # a stop comes a step late
    for name, places in (("again", []), ("stopped", stops)):
        other = twin(run_folder, name)
        for stop in places:
            assert forked_ranks.train(config, other, 2, stop)["status"] == "Stopped"
        assert forked_ranks.train(config, other, 2)["resumed"] == len(places)
        assert forked_ranks.steps(other) == forked_ranks.steps(run_folder)
        one, two = weights(run_folder), weights(other)
        assert all(torch.equal(one[key], two[key]) for key in one)


def config_of_phase() -> dict[str, Any]:
    return {"name": "text", "tokens": 512, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([(1, 1), (2, 1), (3, 1), (4, 1), (1, 1)], id="zero 1"),
        pytest.param([(4, 2), (3, 2), (1, 2), (2, 2), (4, 2)], id="zero 2"),
        pytest.param([(3, 3), (2, 3), (1, 3), (4, 3), (2, 3)], id="zero 3"),
        pytest.param([(1, 1), (1, 2), (2, 1), (2, 2)], id="zero 1 and 2"),
    ],
)
def test_other_ranks_go_on_with_the_same_data_and_nearly_the_same_losses(
    chain: list[tuple[int, int]], run_folder: Path
) -> None:
    """Between them the chains go through every change of the number of ranks from 1 to 4."""
    whole = twin(run_folder, "whole")
    assert forked_ranks.train(config_of(), whole)["status"] == "done"
    expected = forked_ranks.steps(whole)
    for number, (world_size, stage) in enumerate(chain):
        stop = None if number == len(chain) - 1 else 2 * number + 1
        outcome = forked_ranks.train(config_of(zero_stage=stage), run_folder, world_size, stop)
        assert outcome["status"] == ("done" if stop is None else "Stopped"), outcome
        if stop is not None:
            check_optimizer(run_folder, stop + 1)
    got = forked_ranks.steps(run_folder)
    assert [step["sequence_digest"] for step in got] == [
        step["sequence_digest"] for step in expected
    ]
    for number, (one, two) in enumerate(zip(got, expected, strict=True)):
        near = 1e-5 if number <= 2 * len(chain) else 1e-3
        assert one["loss"] == pytest.approx(two["loss"], abs=near)
    assert not list((run_folder / "pretrain" / "checkpoints").glob("*.tmp"))


def check_optimizer(folder: Path, steps: int) -> None:
    """The newest checkpoint has counted every step once, and norms still decay by nothing."""
    newest = checkpoint.found(folder / "pretrain" / "checkpoints")[0]
    for path in newest.glob("*optim_states.pt"):
        saved = torch.load(path, weights_only=False)["optimizer_state_dict"]
        base = saved.get("base_optimizer_state") or saved["optimizer_state_dict"]
        assert [group["weight_decay"] for group in base["param_groups"]] == [0.1, 0.0]
        assert {float(state["step"]) for state in base["state"].values()} == {steps}


@pytest.mark.thorough
def test_a_zero_stage_that_shards_nothing_is_refused_after_one_that_does(run_folder: Path) -> None:
    assert forked_ranks.train(config_of(zero_stage=2), run_folder, 1, 2)["status"] == "Stopped"
    outcome = forked_ranks.train(config_of(zero_stage=0), run_folder)
    assert outcome["status"] == "InputError"
    assert "was saved with stage 2, the config says 0" in outcome["lines"][0]


@pytest.mark.thorough
def test_a_run_whose_folder_is_gone_goes_on_from_its_copies(
    run_folder: Path, tmp_path: Path
) -> None:
    phases = [
        {**config_of_phase(), "tokens": 512 * 4},
        {**config_of_phase(), "name": "more", "tokens": 512 * 12},
    ]
    settings = {"every_steps": 3, "keep": 2, "upload": f"file://{tmp_path / 'far'}"}
    config = config_of(phases=phases, checkpoint=settings)
    whole = twin(run_folder, "whole")
    plain = config_of(phases=phases, checkpoint={"every_steps": 3, "keep": 2})
    assert forked_ranks.train(plain, whole)["status"] == "done"
    assert forked_ranks.train(config, run_folder, 1, 8)["status"] == "Stopped"
    shutil.rmtree(run_folder / "pretrain")
    outcome = forked_ranks.train(config, run_folder)
    assert outcome == {"status": "done", "resumed": 1}
    assert forked_ranks.steps(run_folder) == forked_ranks.steps(whole)
    notes = [json.loads(line) for line in (run_folder / "pretrain/metrics.jsonl").open()]
    assert [note["uploaded"] for note in notes if "uploaded" in note]
    saved = [note["saved"] for note in notes if "saved" in note]
    assert saved and all(note["stall_seconds"] <= note["save_seconds"] for note in saved)


@pytest.mark.thorough
def test_a_store_that_fails_never_stops_training(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "far").write_text("a file stands where the store should be")
    settings = {"every_steps": 4, "keep": 2, "upload": str(tmp_path / "far")}
    config = config_of(phases=[{**config_of_phase(), "tokens": 512 * 6}], checkpoint=settings)
    assert forked_ranks.train(config, run_folder)["status"] == "done"
    notes = [json.loads(line) for line in (run_folder / "pretrain/metrics.jsonl").open()]
    failed = [note["uploaded"] for note in notes if "problem" in note.get("uploaded", {})]
    assert failed and failed[-1]["failures"] == len(failed)


@pytest.mark.thorough
def test_a_dozen_kills_many_inside_a_save_leave_a_run_that_ends_as_if_nothing_had_happened(
    run_folder: Path,
) -> None:
    config = config_of(
        phases=[{**config_of_phase(), "tokens": 512 * 40}], checkpoint={"every_steps": 1, "keep": 2}
    )
    whole = twin(run_folder, "whole")
    assert forked_ranks.train(config, whole)["status"] == "done"
    chance = random.Random(11)
    checkpoints = run_folder / "pretrain" / "checkpoints"
    inside = 0
    for kill in range(12):
        processes = forked_ranks.start(config, run_folder)
        before = {path.name for path in checkpoint.found(checkpoints)}
        deadline = time.monotonic() + 100
        while not any(path.name not in before for path in checkpoint.found(checkpoints)):
            assert time.monotonic() < deadline and processes[0].is_alive()
            time.sleep(0.01)
        if kill % 3:  # as soon as the next save has begun
            while not list(checkpoints.glob("step-*.tmp")) and processes[0].is_alive():
                time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.1))
        processes[0].kill()
        processes[0].join()
        inside += bool(list(checkpoints.glob("step-*.tmp")))
        newest = checkpoint.found(checkpoints)[0]
        assert checkpoint.damage(newest) is None
    assert inside
    assert forked_ranks.train(config, run_folder)["status"] == "done"
    assert forked_ranks.steps(run_folder) == forked_ranks.steps(whole)
    report = read_json(run_folder / "pretrain" / "report.json")
    assert report["tokens"] == 512 * 40
