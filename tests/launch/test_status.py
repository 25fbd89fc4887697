"""Who holds a run folder, how a run stands, how it is stopped: real processes, real kills."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_run import make_config, make_documents, make_tokenizer

import launch.holder
from configs.errors import InputError, Stopped
from configs.files import write_json
from configs.load import dump
from launch.holder import Holder, lock, recorded
from launch.status import _following, said, status
from launch.stop import stop

ROOT = Path(__file__).resolve().parents[2]
HOLD = """\
import signal, sys, time
from pathlib import Path
from configs.errors import InputError, Stopped
from launch.holder import lock, recorded

def asked(number, frame):
    raise Stopped

signal.signal(signal.SIGTERM, asked)
folder = Path(sys.argv[2])
try:
    with lock(folder), recorded(folder, ["dedup"]):
        print("held", flush=True)
        time.sleep(120)
except Stopped:
    sys.exit(75)
except InputError as error:
    sys.exit(str(error))
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that holds tmp_path/run as `malmoi run RUN` would, behind the words given."""
    program = tmp_path / "malmoi"
    program.write_text(HOLD)
    (tmp_path / "run").mkdir()
    running: list[subprocess.Popen[str]] = []

    def begin(words: Sequence[str] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*words, sys.executable, str(program), "run", str(tmp_path / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        running.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def on_another_host(name: str) -> list[str]:
    """Words that run a command under another host name."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("another host name needs root on Linux")
    probe = subprocess.run(["unshare", "--uts", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("namespaces are forbidden here")
    return ["unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]


def test_right_after_sigkill_a_run_has_failed_and_the_exact_command_goes_on(
    tmp_path: Path, start: Start
) -> None:
    run = tmp_path / "run"
    process = start()
    before = status(run)
    assert (before.state, before.resume, before.stages) == ("running", None, {"dedup": "waiting"})
    process.kill()
    process.wait()
    after = status(run)
    assert after.state == "failed" and f"process {process.pid}" in after.why
    assert "killed" in after.why
    words = f"malmoi run {shlex.quote(str(run))}"
    assert after.resume == f"cd {shlex.quote(str(tmp_path))} && {words}"
    assert f"go on with: {after.resume}" in said(after)
    with lock(run):  # the lock died with its holder
        assert status(run).state == "running"


def test_a_second_start_is_refused_and_told_who_holds_the_folder_since_when_and_for_what(
    tmp_path: Path, start: Start
) -> None:
    process = start()
    with pytest.raises(InputError) as caught, lock(tmp_path / "run"):
        pass
    told = str(caught.value)
    here = Holder.here()
    assert f"in use by {here.user}, process {process.pid} on {here.host}, since 20" in told
    assert f"(malmoi run {tmp_path / 'run'})" in told and "malmoi stop" in told
    second = start()
    assert second.wait(20) == 1
    assert process.poll() is None


def test_stop_ends_the_holder_and_says_how_to_go_on(tmp_path: Path, start: Start) -> None:
    process = start()
    found, was_running = stop(tmp_path / "run")
    assert was_running and process.wait(10) == 75
    assert found.state == "stopped" and "malmoi run" in (found.resume or "")
    again, was_running = stop(tmp_path / "run")
    assert (again.state, was_running) == ("stopped", False)


def test_a_holder_on_another_host_is_named_and_stopped_by_a_file_in_the_folder(
    tmp_path: Path, start: Start
) -> None:
    run = tmp_path / "run"
    process = start(on_another_host("far-away"))
    with pytest.raises(InputError, match="on far-away, since"), lock(run):
        pass
    found, was_running = stop(run, 20)
    assert was_running and process.wait(10) == 75
    assert found.state == "stopped" and Holder.here().user in found.why
    assert not (run / ".stop").exists()
    record = json.loads((run / "command.json").read_text())
    assert record["host"] == "far-away" and record["argv"] == ["malmoi", "run", str(run)]


def test_a_request_for_an_earlier_holder_does_not_stop_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".stop").write_text("{}")
    with lock(tmp_path):
        assert not (tmp_path / ".stop").exists()


def test_where_flock_does_not_reach_other_machines_the_beats_of_the_holder_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.holder, "BEAT", 0.4)
    monkeypatch.setattr(launch.holder, "FRESH", 4.0)
    there = replace(Holder.here(), host="far-away")
    (tmp_path / ".lock").write_text(json.dumps(asdict(there)))
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.2):
            os.utime(tmp_path / ".lock")

    beats = threading.Thread(target=beat)
    beats.start()
    try:
        assert status(tmp_path).state == "running"
        with pytest.raises(InputError, match="on far-away"), lock(tmp_path):
            pass
    finally:
        over.set()
        beats.join()
    begun = time.monotonic()
    with lock(tmp_path):  # nobody beats any more: it was killed with its machine
        assert time.monotonic() - begun > 0.8


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (InputError("dedup: no document is left"), "failed", "dedup: no document is left"),
        (RuntimeError("training ended with status 1"), "failed", "RuntimeError: training ended"),
        (Stopped(), "stopped", "asked to by a signal"),
        (KeyboardInterrupt(), "stopped", "asked to by Ctrl-C"),
    ],
)
def test_why_a_run_ended_is_kept(
    tmp_path: Path, error: BaseException, state: str, why: str
) -> None:
    with pytest.raises(type(error)), lock(tmp_path), recorded(tmp_path, ["dedup"]):
        raise error
    found = status(tmp_path)
    assert found.state == state and why in found.why
    # no command line started this: what goes on is made of the folder itself
    assert found.resume == f"malmoi run {tmp_path / 'config.yaml'} dir={tmp_path}"


def test_a_half_written_run_is_told_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text('{"stages": {"ded')
    (tmp_path / "command.json").write_text('{"argv": ["mal')
    (tmp_path / ".lock").write_text('{"user": "so')
    (tmp_path / "config.yaml").write_text("name: [")
    stage = tmp_path / "pretrain"
    stage.mkdir()
    whole = {"step": 7, "phase": "text", "loss": 2.5, "tokens": 3584, "tokens_per_second": 100.0}
    (stage / "metrics.jsonl").write_text(json.dumps(whole) + '\n{"step": 8, "lo')
    (stage / ".progress.jsonl").write_text('{"stage": "pre')
    found = status(tmp_path)
    assert (found.state, found.step, found.loss) == ("failed", 7, 2.5)
    assert any("lineage.json: cannot be read" in note for note in found.notes)
    assert json.loads(json.dumps(asdict(found)))["state"] == found.state
    assert "step 7" in said(found)


def test_a_folder_that_is_no_run_is_named_with_the_run_that_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    write_json(tmp_path / "runs" / "mine" / "lineage.json", {"stages": {}})
    with pytest.raises(InputError, match=r"holds no run; did you mean .*runs/mine"):
        status(tmp_path / "runs")
    with pytest.raises(InputError, match=r"no such folder; did you mean .*runs/mine"):
        status(tmp_path / "runs" / "mien")
    with pytest.raises(InputError, match="holds no run; give a run folder"):
        status(tmp_path)
    assert status(tmp_path / "runs" / "mine").state == "new"


def test_a_finished_run_is_done_and_has_nothing_to_go_on_with(river: Any) -> None:
    run = river[0] / "run"
    found = status(run)
    assert found.state == "done" and found.resume is None
    assert set(found.stages.values()) == {"done"} and found.step
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "status", str(run), "--json"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "done"
    config = river[0] / "river.yaml"
    assert json.loads((run / "command.json").read_text())["argv"] == ["malmoi", "run", str(config)]


def steps(run: Path) -> int:
    """Whole lines of metrics.jsonl that are steps."""
    path = run / "pretrain" / "metrics.jsonl"
    return path.read_bytes().count(b'"loss":') if path.is_file() else 0


def alive(run: Path) -> list[psutil.Process]:
    """torchrun and the ranks of a run."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(run) in words and "launch.rank" in words:
            found.append(process)
    return found


def wait_for(happened: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_training_is_stopped_with_a_checkpoint_and_told_right_after_its_launcher_was_killed(
    tmp_path: Path,
) -> None:
    made = tmp_path / "made"
    make_tokenizer(made / "tokenizer")
    make_documents(made / "documents")
    run = tmp_path / "run"
    config = make_config(
        processes=2,
        phases=[{"name": "text", "tokens": 4_000_000, "lr": 1e-3, "mixture": {"ko": 1.0}}],
        documents=[str(made / "documents")],
        tokenizer=str(made / "tokenizer"),
        checkpoint={"every_steps": 1000, "keep": 1},
    ).model_copy(update={"dir": str(run)})
    path = tmp_path / "tiny.yaml"
    path.write_text(dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "launch.cli", "pretrain", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: steps(run) or process.poll() is not None)
        running = status(run)
        assert (running.state, running.stage) == ("running", "pretrain") and running.step
        found, was_running = stop(run)
        assert was_running and process.wait(60) == 75
        assert found.state == "stopped" and found.checkpoint == f"step-{steps(run):08d}"
        assert found.resume == shlex.join(["malmoi", "pretrain", str(path)])

        before = steps(run)
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_for(lambda: steps(run) > before or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = status(run)
        assert found.state in ("stopping", "failed")
        wait_for(lambda: not alive(run), 60)
        found = status(run)
        assert found.state == "failed" and "killed" in found.why
        assert found.resume == shlex.join(["malmoi", "pretrain", str(path)])
        assert found.checkpoint == f"step-{steps(run):08d}"
    finally:
        for left in alive(run):
            left.kill()
        process.kill()


def test_behind_a_stage_that_is_done_comes_the_command_of_the_next_one() -> None:
    stages = {"dedup": "done", "tokenizer": "waiting", "pretrain": "waiting"}
    assert _following(["malmoi", "dedup", "c.yaml", "seed=2"], stages) == [
        "malmoi", "tokenizer", "c.yaml", "seed=2",
    ]  # fmt: skip
    launched = ["malmoi", "launch", "slurm", "dedup", "c.yaml"]
    assert _following(launched, stages)[3] == "tokenizer"
    assert _following(["malmoi", "run", "c.yaml"], stages) == ["malmoi", "run", "c.yaml"]
    assert _following([], stages) == []
