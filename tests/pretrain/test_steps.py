"""Which sequences a step takes, for a batch that stays and for one that grows."""

from __future__ import annotations

import json
import os
import random
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from tiny_run import make_config, twin

from configs.errors import Stopped
from configs.progress import Progress
from pretrain.data.steps import Steps
from pretrain.data.tokens import Tokens
from pretrain.phases import make_work
from pretrain.stage import run

GROWING = {"start": 128, "end": 512, "over": 3000}
PHASES = [{"name": "text", "tokens": 4096, "lr": 3e-3, "mixture": {"ko": 1.0}}]


def taken(folder: Path) -> list[tuple[int, int, str, float, float]]:
    """(first sequence, sequences, their digest, loss, norm of the gradient) of every step."""
    names = ("first_sequence", "sequences", "sequence_digest", "loss", "grad_norm")
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if "grad_norm" in entry]
    return [tuple(entry[name] for name in names) for entry in entries]  # type: ignore[misc]


def stop(progress: Progress) -> None:
    if progress.step == "text" and progress.done == 9:
        os.kill(os.getpid(), signal.SIGTERM)


def test_every_sequence_belongs_to_one_step_and_spans_follow_one_another() -> None:
    chance = random.Random(1)
    for _ in range(200):
        start = chance.randint(1, 9)
        total, over = chance.randint(1, 500), chance.randint(1, 400)
        divided = Steps.growing(total, start, start + chance.randint(1, 40), over)
        spans = [divided.span(step) for step in range(divided.count)]
        assert spans[0][0] == 0 and spans[-1][1] == total
        assert all(a[1] == b[0] and b[0] < b[1] for a, b in pairwise(spans))
        for step, (first, last) in enumerate(spans):
            assert divided.at(first) == divided.at(last - 1) == step
            assert last - first <= divided.size(step)


def test_a_batch_grows_in_multiples_of_the_first_over_the_tokens_it_is_given() -> None:
    divided = Steps.growing(40_000, 100, 400, over=12_000)
    spans = map(divided.span, range(divided.count - 1))  # the last step is what is left
    sizes = [last - first for first, last in spans]
    assert sorted(set(sizes)) == [100, 200, 300, 400] and sizes == sorted(sizes)
    for size in (100, 200, 300):
        assert sizes.count(size) * size == pytest.approx(4_000, abs=size / 2)
    assert divided.largest == 400 and Steps.growing(900, 100, 400, 12_000).largest == 100
    assert divided.stairs() == [(0, 40, 100), (40, 20, 200), (60, 13, 300), (73, 71, 400)]


def test_a_step_far_away_is_found_at_once() -> None:
    divided = Steps.growing(10**15, 512, 8192, over=10**10)
    step = divided.at(10**12)
    first, last = divided.span(step)
    assert first <= 10**12 < last == first + 8192


def test_a_growing_batch_takes_the_same_sequences_at_any_world_size(tokens: Tokens) -> None:
    config = make_config(global_batch_tokens=GROWING)
    works = [make_work(config, tokens, 0, world) for world in (1, 2, 3)]
    for step in range(works[0].steps):
        assert len({work.span(step) for work in works}) == 1
        first, last = works[0].span(step)
        for work in works:
            share = work.share_of(step)
            assert share.accumulation <= work.share.accumulation * work.share.micro_batch
            taken = [
                row
                for turn in range(share.accumulation)
                for rank in range(work.world_size)
                for row in share.rows(turn, rank)
            ]
            assert sorted(taken)[: last - first] == list(range(last - first))


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("stage", [1, 3])
def test_a_batch_that_grows_trains_and_resumes_to_bitwise_the_same_losses(
    stage: int, run_folder: Path
) -> None:
    checkpoints = {"every_steps": 100, "keep": 1}
    config = make_config(
        global_batch_tokens=GROWING, phases=PHASES, zero_stage=stage, checkpoint=checkpoints
    )
    other = twin(run_folder, "stopped")
    run(config, run_folder)
    with pytest.raises(Stopped):
        run(config, other, log=stop)
    run(config, other)
    done = taken(run_folder)
    assert taken(other) == done
    assert [sequences for _, sequences, *_ in done] == [2] * 8 + [4] * 4 + [6] * 3 + [8, 6]
    assert done[-1][3] < done[0][3]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_losses_of_a_growing_batch_do_not_depend_on_how_a_step_is_divided(
    run_folder: Path,
) -> None:
    found = []
    for name, micro in (("one", 1), ("three", 3)):
        folder = twin(run_folder, name)
        run(make_config(global_batch_tokens=GROWING, phases=PHASES, micro_batch=micro), folder)
        found.append(taken(folder))
    assert [step[:3] for step in found[0]] == [step[:3] for step in found[1]]
    losses = [[loss for _, _, _, loss, _ in steps] for steps in found]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
