"""Heartbeats: a rank writes them, whoever watches reads who is there, who is slow, who hangs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from configs.progress import Progress
from launch.clusters.beats import Watch, clear, named, read_beats
from launch.clusters.view import View
from pretrain.heartbeat import EVERY, Heartbeat, Stopwatch


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def beat(stage: Path, rank: int, **values: object) -> None:
    """As the rank of some host would write it."""
    known = {"rank": rank, "world_size": 2, "host": f"node{rank}", "pid": 40 + rank, "step": 1}
    known |= {"doing": "train", "step_seconds": 0.5, "own_seconds": 0.2}
    known |= {"beats": 0, "time": 0.0}
    (stage / ".ranks").mkdir(exist_ok=True)
    (stage / ".ranks" / f"{rank}.json").write_text(json.dumps(known | values))


def test_a_ranks_beat_is_read_as_it_was_written_and_costs_a_write_at_most_twice_a_second(
    tmp_path: Path,
) -> None:
    heart = Heartbeat(tmp_path, 3, 4)
    assert read_beats(tmp_path)[3].doing == "start"
    heart.step(7, 0.25, 0.125)
    found = read_beats(tmp_path)[3]
    assert (found.step, found.step_seconds, found.own_seconds) == (7, 0.25, 0.125)
    assert (found.world_size, found.doing) == (4, "train")
    heart.step(8, 0.25, 0.125)
    assert read_beats(tmp_path)[3].step == 7 and EVERY >= 0.5
    heart.doing("save")
    assert read_beats(tmp_path)[3].doing == "save" and read_beats(tmp_path)[3].step == 8
    clear(tmp_path)
    assert read_beats(tmp_path) == {}


def test_a_half_written_beat_and_one_of_another_version_are_no_beats(tmp_path: Path) -> None:
    beat(tmp_path, 0)
    beat(tmp_path, 1)
    (tmp_path / ".ranks" / "1.json").write_text('{"rank": 1, "wor')
    (tmp_path / ".ranks" / "2.json").write_text('{"rank": 2}')
    assert list(read_beats(tmp_path)) == [0]


def test_a_disk_that_takes_no_beat_does_not_stop_training(tmp_path: Path) -> None:
    (tmp_path / ".ranks").write_text("in the way")
    heart = Heartbeat(tmp_path, 0, 1)
    heart.step(1, 1.0, 1.0)
    heart.doing("save")


def test_a_rank_hangs_when_its_file_stays_as_it_is_for_longer_than_what_it_does_may_take(
    tmp_path: Path,
) -> None:
    clock = Clock()
    watch = Watch(tmp_path, 8.0, clock)
    beat(tmp_path, 0, time=5.0)
    beat(tmp_path, 1, time=9_000.0)  # a clock that is wrong by hours says nothing
    watch.look()
    clock.now += 7
    beat(tmp_path, 0, step=2)
    watch.look()
    clock.now += 2
    assert [b.rank for b in watch.hung()] == [1]
    beat(tmp_path, 1, doing="save")
    watch.look()
    clock.now += 5
    assert watch.hung() == []
    clock.now += 4000
    assert [b.rank for b in watch.hung()] == [0, 1]
    watch.forget(0)
    watch.forget(1)
    assert watch.hung() == []


def test_without_a_limit_silence_is_measured_by_the_steps_and_two_minutes_at_least(
    tmp_path: Path,
) -> None:
    clock = Clock()
    watch = Watch(tmp_path, None, clock)
    beat(tmp_path, 0)
    beat(tmp_path, 1, step_seconds=30.0)
    watch.look()
    clock.now += 121
    assert [b.rank for b in watch.hung()] == [0]
    clock.now += 480
    assert [b.rank for b in watch.hung()] == [0, 1]


def test_when_another_machine_is_lost_a_step_that_has_begun_is_not_waited_for(
    tmp_path: Path,
) -> None:
    clock = Clock()
    watch = Watch(tmp_path, None, clock)
    beat(tmp_path, 0)
    beat(tmp_path, 1, doing="start")
    watch.look()
    clock.now += 9
    watch.hurry(10.0)
    clock.now += 2
    assert [b.rank for b in watch.hung()] == [0]
    beat(tmp_path, 0, pid=99)  # started again: the loss is history
    watch.look()
    clock.now += 60
    assert watch.hung() == []


def test_ranks_of_a_larger_world_that_is_gone_are_not_counted(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, None, clock)
    beat(tmp_path, 0)
    beat(tmp_path, 1)
    watch.look()
    clock.now += 10
    beat(tmp_path, 0, world_size=1, pid=77)
    watch.look()
    assert [b.rank for b in watch.ranks()] == [0]
    assert watch.line().startswith("1 rank, last heartbeat 0 s")


def test_a_straggler_is_named_after_some_beats_with_what_it_costs(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, None, clock)
    for step in range(1, 6):
        assert watch.straggler() is None
        for rank in range(4):
            own = 0.5 if rank == 2 else 0.2 + 0.01 * rank
            beat(tmp_path, rank, step=step, world_size=4, own_seconds=own)
        clock.now += 1
        watch.look()
    slow = watch.straggler()
    assert slow is not None
    assert named(slow) == (
        "rank 2 on node2 holds the others up: its own part of a step takes 0.5 s, theirs 0.21 s (2.4×)"
    )
    assert watch.line() == (
        "4 ranks on 4 hosts, slowest rank 2 (node2) 0.5 s, last heartbeat 0 s ago"
    )


def test_ranks_that_differ_by_noise_have_no_straggler(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, None, clock)
    for step in range(1, 8):
        for rank in range(2):
            beat(tmp_path, rank, step=step, own_seconds=0.002 + 0.004 * rank)
        clock.now += 1
        watch.look()
    assert watch.straggler() is None and watch.slowest() is not None


def test_the_view_shows_ranks_beside_the_figures_of_a_step_and_a_straggler_once(
    tmp_path: Path,
) -> None:
    clock = Clock()
    stage = tmp_path / "pretrain"
    stage.mkdir()
    watch = Watch(stage, None, clock)
    told: list[Progress] = []
    view = View(stage, watch, told.append)
    view.tick()  # nothing is there yet
    progress = stage / ".progress.jsonl"
    step = {"stage": "pretrain", "step": "text", "done": 3, "total": 9, "unit": "steps"}
    for number in range(1, 7):
        for rank in range(2):
            beat(stage, rank, step=number, own_seconds=0.1 + 0.3 * rank)
        clock.now += 1
        watch.look()
    progress.write_text(json.dumps(step | {"message": "loss 5.000, 99 tokens/s"}) + '\n{"stage"')
    view.tick()
    view.tick()
    assert [report.message for report in told] == [
        "loss 5.000, 99 tokens/s, 2 ranks on 2 hosts, slowest rank 1 (node1) 0.4 s, "
        "last heartbeat 0 s ago",
        "rank 1 on node1 holds the others up: its own part of a step takes 0.4 s, theirs 0.1 s (4.0×)",
    ]
    (kept,) = (tmp_path / "logs" / "events.log").read_text().splitlines()
    assert kept.endswith(told[1].message)


def test_a_stopwatch_takes_the_time_of_the_cpu() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.start()
    sum(range(10000))
    watch.stop()
    first = watch.seconds()
    assert 0 < first < 1 and watch.seconds() == first
