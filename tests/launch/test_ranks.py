"""Ranks on this machine: real torchrun, real signals, a real full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_run import make_config, make_documents, make_tokenizer

from configs.errors import InputError
from configs.load import dump, output_keys
from configs.progress import Progress
from configs.schema import Config
from launch.clusters.local import _ranks, run_ranks, seconds_to_stop
from pretrain.stage import prepare, run

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """
import signal, sys
from pathlib import Path
from configs.errors import Stopped
from configs.load import load
from launch.clusters.local import run_ranks

def stop(number, frame):
    raise Stopped

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
folder = Path(sys.argv[1])
said = (folder / "said").open("a", buffering=1)
try:
    settings = load(str(folder / "config.yaml")).pretrain
    run_ranks(settings, folder, log=lambda progress: print(progress.step, file=said))
except Stopped:
    sys.exit(75)
except KeyboardInterrupt:
    sys.exit(130)
"""


def make_run(folder: Path, config: Config, *, made: Path) -> Path:
    """A run folder that is ready to train; documents and tokenizer lie in `made`."""
    if not made.exists():
        make_tokenizer(made / "tokenizer")
        make_documents(made / "documents")
    (folder / "dedup").mkdir(parents=True)
    (folder / "dedup" / "documents").symlink_to(made / "documents")
    (folder / "tokenizer").symlink_to(made / "tokenizer")
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    prepare(config, folder)
    return folder


def steps(folder: Path) -> list[dict[str, Any]]:
    """The steps of metrics.jsonl without what depends on the clock."""
    path = folder / "pretrain" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        {
            key: value
            for key, value in entry.items()
            if key not in ("tokens_per_second", "data_wait")
        }
        for entry in map(json.loads, lines)
        if "loss" in entry
    ]


def alive(folder: Path) -> list[psutil.Process]:
    """torchrun and the ranks of a run, ordered by rank."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if str(folder) in command and "launch.rank" in command:
                found.append((process.environ().get("RANK", ""), process))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for _, process in sorted(found, key=lambda item: item[0])]


def wait_for(happened: Callable[[], Any], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def silent(progress: Progress) -> None:
    return


@pytest.mark.thorough
@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_the_losses_are_those_of_a_run_without_a_crash(
    tmp_path: Path,
) -> None:
    # long enough to be killed in the middle by somebody who looks now and then
    phases = [{"name": "text", "tokens": 40 * 512, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}}]
    config = make_config(processes=2, phases=phases)
    assert config.pretrain is not None
    whole, killed = (
        make_run(tmp_path / name, config, made=tmp_path / "made") for name in ("whole", "killed")
    )
    run_ranks(config.pretrain, whole, log=silent)
    victims: list[psutil.Process] = []

    def kill_one(progress: Progress) -> None:
        if progress.step == "text" and progress.done >= 6 and not victims:
            victims.append(alive(killed)[-1])
            victims[0].kill()

    run_ranks(config.pretrain, killed, log=kill_one)
    assert victims and not alive(killed)
    report = json.loads((killed / "pretrain" / "report.json").read_text())
    assert (report["resumed"], report["world_size"]) == (1, 2)
    assert len(steps(whole)) == 40 and steps(killed) == steps(whole)

    # and one rank goes on from what two have saved, with nearly the same losses
    for name in ("report.json", "phases", "../model"):
        path = killed / "pretrain" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    newest = max((killed / "pretrain" / "checkpoints").glob("step-*"))
    resumed = json.loads((newest / "state.json").read_text())["resumed"]
    alone = run(config, killed)
    assert (alone.resumed, alone.world_size) == (resumed + 1, 1)
    for one, two in zip(steps(killed), steps(whole), strict=True):
        assert one["sequence_digest"] == two["sequence_digest"]
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-3)
    assert not list((killed / "pretrain" / "checkpoints").glob("*.tmp"))


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A run of two ranks in a process of its own, some steps into a long training."""
    phases = [{"name": "text", "tokens": 4_000_000, "lr": 1e-3, "mixture": {"ko": 1.0}}]
    config = make_config(processes=2, phases=phases)
    folder = make_run(tmp_path / "run", config, made=tmp_path / "made")
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(folder)], cwd=ROOT)
    try:
        wait_for(lambda: steps(folder) or process.poll() is not None)
        assert process.poll() is None
        yield folder, process
    finally:
        for left in alive(folder):
            left.kill()
        process.kill()
        process.wait()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_time_limits_signal_to_every_process_ends_with_75_and_the_command_that_goes_on(
    tmp_path: Path,
) -> None:
    made = tmp_path / "made"
    make_tokenizer(made / "tokenizer")
    make_documents(made / "documents")
    phases = [{"name": "text", "tokens": 4_000_000, "lr": 1e-3, "mixture": {"ko": 1.0}}]
    config = make_config(
        processes=2,
        phases=phases,
        documents=[str(made / "documents")],
        tokenizer=str(made / "tokenizer"),
        checkpoint={"every_steps": 1000, "keep": 1},
    )
    folder = tmp_path / "run"
    config = config.model_copy(update={"dir": str(folder)})
    path = tmp_path / "tiny.yaml"
    path.write_text(dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "launch.cli", "pretrain", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: steps(folder) or process.poll() is not None)
        for receiver in [process, *alive(folder)]:  # as Slurm's --signal=USR1@600 does
            receiver.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        told = process.communicate(timeout=300)[1]
    finally:
        for left in alive(folder):
            left.kill()
        process.kill()
    assert process.returncode == 75, told
    assert f"stopped; go on with: malmoi pretrain {path}" in told and "Traceback" not in told
    saved = (folder / "pretrain" / "checkpoints" / "latest").read_text().strip()
    assert int(saved.removeprefix("step-")) == len(steps(folder))


def test_the_time_to_stop_in_follows_the_saves_that_were_measured(tmp_path: Path) -> None:
    assert seconds_to_stop(tmp_path) == 300
    (tmp_path / "base").mkdir()
    with (tmp_path / "base" / "model.safetensors").open("wb") as weights:
        weights.truncate(16_000_000_000)  # 8B in two bytes: 112 GB of state to be written
    assert seconds_to_stop(tmp_path) == pytest.approx(1120)
    save = {"step": 100, "bytes": 9, "stall_seconds": 1.0, "save_seconds": 20.0, "step_seconds": 5}
    (tmp_path / "saves.json").write_text(json.dumps([save, {**save, "save_seconds": 70.0}]))
    assert seconds_to_stop(tmp_path) == 60 + 4 * 75
    (tmp_path / "saves.json").write_text("[{}]")
    assert seconds_to_stop(tmp_path) == pytest.approx(1120)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_second_ctrl_c_leaves_no_rank_and_a_second_sigterm_waits_for_the_save(
    launcher: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    folder, process = launcher
    assert len(alive(folder)) == 3
    stuck = alive(folder)[-1]
    stuck.suspend()  # so that nothing can be saved
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "stopping" in (folder / "said").read_text())
    process.send_signal(signal.SIGTERM)
    time.sleep(2)  # time to do what it must not
    assert process.poll() is None and len(alive(folder)) == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 75  # what the first signal asked for
    assert not alive(folder)


@pytest.mark.thorough
@pytest.mark.slow
def test_ranks_whose_launcher_was_killed_save_and_another_start_is_refused_meanwhile(
    launcher: tuple[Path, subprocess.Popen[bytes]],
) -> None:
    folder, process = launcher
    stuck = alive(folder)[-1]
    stuck.suspend()
    process.kill()
    config = make_config(processes=2)
    assert config.pretrain is not None
    with pytest.raises(InputError, match="ranks of an earlier start still save"):
        run_ranks(config.pretrain, folder, log=silent)
    stuck.resume()
    wait_for(lambda: not alive(folder))
    saved = sorted((folder / "pretrain" / "checkpoints").glob("step-*"))[-1]
    assert int(saved.name.removeprefix("step-")) == len(steps(folder))


@pytest.mark.thorough
@pytest.mark.slow
def test_a_full_disk_ends_training_with_its_name_and_more_room_lets_it_go_on(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    config = make_config(processes=1, checkpoint={"every_steps": 4, "keep": 1})
    assert config.pretrain is not None
    whole = make_run(tmp_path / "whole", config, made=tmp_path / "made")
    run(config, whole)
    disk = small_disk(64 << 20)
    folder = make_run(disk / "run", config, made=tmp_path / "made")
    checkpoint = sum(
        path.stat().st_size
        for path in (whole / "pretrain" / "checkpoints").rglob("*")
        if path.is_file()
    )
    status = os.statvfs(disk)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    small_disk(used + checkpoint * 3 // 2)  # room for one checkpoint, not for a second beside it
    with pytest.raises(InputError, match=r"no space left on the device .* free some") as caught:
        run_ranks(config.pretrain, folder, log=silent)
    assert str(folder) in str(caught.value)
    assert not list((folder / "pretrain").rglob("*.tmp"))
    small_disk(64 << 20)
    run_ranks(config.pretrain, folder, log=silent)
    assert json.loads((folder / "pretrain" / "report.json").read_text())["resumed"] == 1
    assert steps(folder) == steps(whole)


def test_a_toy_with_more_processes_than_gpus_trains_on_the_cpu_and_a_real_base_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # no such machine can be had here
    said: list[Progress] = []
    toy = make_config(processes=2).pretrain
    real = make_config(processes=2, base="some/model").pretrain
    assert toy is not None and real is not None
    processes, environment = _ranks(toy, said.append)
    assert (processes, environment["CUDA_VISIBLE_DEVICES"]) == (2, "")
    assert "this toy trains on the CPU" in said[0].message
    with pytest.raises(InputError, match="2 processes, and this machine has 1 GPU; write 1"):
        _ranks(real, said.append)
    alone = make_config(processes="auto", base="some/model").pretrain
    assert alone is not None
    processes, environment = _ranks(alone, said.append)
    assert processes == 1 and environment.get("CUDA_VISIBLE_DEVICES") != ""


def test_checkpoint_settings_are_no_part_of_what_decides_the_output() -> None:
    before, after = make_config(), make_config(checkpoint={"every_steps": 9, "keep": 9})
    assert output_keys(before, "pretrain") == output_keys(after, "pretrain")
