"""Failures and the interval between saves: arithmetic that can be done by hand."""

from __future__ import annotations

import math
import random

import pytest

from configs.load import load
from launch.cluster_size import Cluster
from launch.failures import (
    Assumed,
    between_failures,
    failure_lines,
    lost_share,
    outlook,
    young,
)
from launch.plan import plan


def test_machines_that_fail_independently_fail_that_much_more_often() -> None:
    assert between_failures(1, 1000.0) == 3_600_000
    assert between_failures(500, 1000.0) == 7200
    seen = outlook(512, checkpoint=1e9, weights=1e9, assumed=Assumed(mtbf_hours=512.0))
    assert seen.failures == pytest.approx(24)


def test_the_published_failures_of_16384_gpus_come_out_again() -> None:
    seen = outlook(2048, checkpoint=1e12, weights=1e12, assumed=Assumed(mtbf_hours=6334))
    assert seen.failures * 54 == pytest.approx(419, abs=1)


@pytest.mark.parametrize(("save", "between"), [(20.0, 86_400.0), (300.0, 40_000.0), (1.0, 1e7)])
def test_no_other_interval_loses_less_than_youngs(save: float, between: float) -> None:
    best = young(save, between)
    assert best == math.sqrt(2 * save * between)
    least = lost_share(best, save, 0.0, between)
    assert least == pytest.approx(math.sqrt(2 * save / between))
    assert all(
        lost_share(best * factor, save, 0.0, between) > least
        for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0)
    )


def test_a_simulated_training_with_failures_loses_what_the_formula_says() -> None:
    chance = random.Random(3)
    save, between, restart = 30.0, 20_000.0, 200.0
    interval = young(save, between)
    work = spent = 0.0
    for _ in range(4000):  # failures
        left = chance.expovariate(1 / between)
        spent += left + restart
        work += interval * (left // (interval + save))  # the half interval is done again
    assert 1 - work / spent == pytest.approx(lost_share(interval, save, restart, between), rel=0.08)


def test_a_start_reads_everything_through_the_narrower_of_storage_and_links() -> None:
    assumed = Assumed(storage=40e9, link=5e9, software=8e9, fixed=30.0)
    four = outlook(4, checkpoint=1.0, weights=12e9, assumed=assumed)
    assert four.start == pytest.approx(30 + 4 * 20e9 / 20e9)  # the links
    many = outlook(512, checkpoint=1.0, weights=12e9, assumed=assumed)
    assert many.start == pytest.approx(30 + 512 * 20e9 / 40e9)  # the storage: 256 s for all
    assert outlook(512, checkpoint=400e9, weights=0.0, assumed=assumed).save == 10.0


def test_steps_between_saves_are_whole_at_least_one_and_of_two_figures() -> None:
    seen = outlook(8, checkpoint=112e9, weights=16e9, assumed=Assumed())
    assert seen.steps(seen.interval / 1289.4) == 1200
    assert seen.steps(seen.interval / 47.9) == 47
    assert seen.steps(seen.interval * 9) == 1


def test_the_plan_tells_what_8_64_and_512_machines_lose_and_judges_every_steps() -> None:
    text, _ = plan(load("llama3-8b-open-ko", ["pretrain.checkpoint.every_steps=20000"]),
                   Cluster.of("16x8x80GB"), mtbf_hours=500)  # fmt: skip
    rows = [line for line in text.splitlines() if line.rstrip().endswith(("%", "this cluster"))]
    counts = [line.split()[0] for line in rows if line.split()[0].isdigit()]
    assert counts[-4:] == ["8", "16", "64", "512"]
    assert "checkpoint.every_steps=20,000 is" in text and "lose least" in text
    assert "a machine fails every 500 hours (--mtbf" in text


def test_an_interval_that_is_as_good_as_the_best_is_said_to_be() -> None:
    given = {"checkpoint": 112e9, "weights": 16e9, "assumed": Assumed()}
    steps = outlook(8, **given).steps(10.0)  # type: ignore[arg-type]
    lines = failure_lines(8, 8, step_seconds={8: 10.0}, every_steps=steps, **given)  # type: ignore[arg-type]
    assert any(line.endswith("as good as the best") for line in lines)
