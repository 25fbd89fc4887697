"""Learning rates over a phase, and runs that fork from another's checkpoint."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import make_config, twin
from transformers import AutoModelForCausalLM

from configs.errors import InputError
from configs.schema import Schedule
from pretrain.schedule import learning_rate_factor, length_in_steps
from pretrain.stage import prepare, run


def factors(steps: int, step_tokens: float = 1.0, **fields: Any) -> list[float]:
    schedule = Schedule(**fields)
    return [learning_rate_factor(schedule, step, steps, step_tokens) for step in range(steps)]


def test_a_length_is_a_share_of_the_phase_or_steps_or_tokens() -> None:
    lengths = (0.03, "6 steps", "1_000 steps", "3K tokens", "0.5M tokens")
    assert [length_in_steps(length, 200, 512) for length in lengths] == [6, 6, 1000, 6, 977]


@pytest.mark.parametrize("length", ["6", "six steps", "6 epochs", 1.5, -1])
def test_what_is_no_length_is_refused(length: Any) -> None:
    with pytest.raises(ValueError):
        Schedule(warmup=length)


def test_a_warm_up_may_start_where_the_phase_before_ended() -> None:
    found = factors(100, warmup="10 steps", start=0.1, kind="constant")
    assert found[0] == pytest.approx(0.1 + 0.9 / 10) and found[9:] == [1.0] * 91
    assert all(low < high for low, high in itertools.pairwise(found[:10]))


def test_wsd_without_a_decay_never_falls_and_is_the_stable_part_of_any_with_one() -> None:
    stable = factors(1000, kind="wsd", warmup="5 steps", decay=0)
    assert stable[5:] == [1.0] * 995
    forked = factors(60, kind="wsd", warmup="5 steps", decay="10 steps", final=0.0)
    assert forked[:50] == stable[:50]
    assert forked[50:] == pytest.approx([1 - n / 10 for n in range(1, 11)])


def test_the_infinite_schedule_falls_to_its_level_stays_and_anneals() -> None:
    found = factors(
        100, kind="infinite", warmup=0.1, cooldown=0.4, constant=0.5, decay=0.2, final=0.05
    )
    assert found[9] == 1.0 and found[29] == pytest.approx(0.75)
    assert found[49:80] == pytest.approx([0.5] * 31)
    assert found[-1] == pytest.approx(0.05)
    ratios = [b / a for a, b in itertools.pairwise(found[79:])]
    assert ratios == pytest.approx([0.1 ** (1 / 20)] * 20)
    endless = factors(100, kind="infinite", warmup=0.1, cooldown="40 steps", constant=0.5, decay=0)
    assert endless[:80] == found[:80] and endless[80:] == pytest.approx([0.5] * 20)


def test_parts_longer_than_the_phase_and_a_fall_to_nothing_by_factors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sum to 1\.3 of the phase"):
        Schedule(kind="infinite", warmup=0.1, cooldown=1.0, decay=0.2)
    with pytest.raises(ValueError, match="falls by a factor"):
        Schedule(kind="infinite", final=0)


# ── forks ───────────────────────────────────────────────────────────────────────────────────────


def steps(folder: Path) -> list[tuple[Any, ...]]:
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    names = ("step", "tokens", "first_sequence", "sequence_digest", "loss", "learning_rate",
             "grad_norm")  # fmt: skip
    entries = [json.loads(line) for line in lines]
    return [tuple(entry[name] for name in names) for entry in entries if "loss" in entry]


def wsd(tokens: int, decay: Any, **fields: Any) -> dict[str, Any]:
    schedule = {"kind": "wsd", "warmup": "2 steps", "decay": decay, "final": 0.0}
    return {"name": "text", "tokens": tokens, "lr": 3e-3, "schedule": schedule,
            "mixture": {"ko": 0.75, "en": 0.25}, **fields}  # fmt: skip


FIRST = {"name": "first", "tokens": 1024, "lr": 1e-3, "mixture": {"ko": 1.0}}
STEP = 512


@pytest.mark.slow
def test_a_decay_fork_is_bit_for_bit_the_run_that_had_its_decay_planned(run_folder: Path) -> None:
    """In the second phase, from an older checkpoint of a run that went further."""

    def config(*phases: dict[str, Any], **fields: Any) -> Any:
        saves = {"every_steps": 4, "keep": 3}
        return make_config(phases=[FIRST, *phases], checkpoint=saves, zero_stage=2, **fields)

    stable, planned, fork = (twin(run_folder, name) for name in ("stable", "planned", "fork"))
    run(config(wsd(12 * STEP, 0)), stable)
    run(config(wsd(10 * STEP, "4 steps")), planned)
    source = stable / "pretrain" / "checkpoints" / "step-00000008"  # six steps into the phase
    forking = config(wsd(10 * STEP, "4 steps"), start_from=str(source))
    report = run(forking, fork)
    assert report.resumed == 1 and len(report.phases) == 2
    assert steps(fork) == steps(planned) and len(steps(fork)) == 12
    assert steps(stable)[:8] == steps(fork)[:8]
    one, other = (
        AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
        for folder in (fork, planned)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert run(forking, fork) == report  # finished: it is not forked again
    assert source.is_dir() and steps(stable)[-1][0] == 14

    refusals = [
        (
            config(wsd(6 * STEP, "4 steps"), start_from=str(source)),
            "make 6 steps, and .* has done 6",
        ),
        (
            config(wsd(10 * STEP, 0), start_from=str(source), optimizer={"eps": 1e-6}),
            "optimizer.eps",
        ),
        (config(wsd(10 * STEP, 0), start_from=str(run_folder)), "holds no checkpoint"),
        (make_config(phases=[FIRST], start_from=str(stable)), "is of phase 1, and this config has"),
    ]
    for number, (wrong, message) in enumerate(refusals):
        with pytest.raises(InputError, match=f"(?s)pretrain..*{message}"):
            prepare(wrong, twin(run_folder, f"wrong{number}"))
