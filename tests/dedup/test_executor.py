"""Tasks over real processes: results, errors, deaths, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from configs.errors import InputError
from dedup.executor import Tell, WorkerError, run_tasks


def square(item: int, tell: Tell) -> int:
    tell(item)
    return item * item


def fail_on_three(item: int, tell: Tell) -> int:
    if item == 3:
        raise InputError("three: is not wanted; leave it out")
    return item


def raise_what_cannot_be_pickled(item: int, tell: Tell) -> int:
    class Local(Exception):
        pass

    raise Local("hidden")


def die_the_first_time(item: str, tell: Tell) -> str:
    mark = Path(item)
    tell(1)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second try"


def always_die(item: str, tell: Tell) -> str:
    if item == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def note_and_sleep(item: str, tell: Tell) -> None:
    Path(item).write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_item_is_done_once_and_its_progress_heard(workers: int) -> None:
    results: dict[int, int] = {}
    heard: list[float] = []
    run_tasks(
        square, list(range(9)), workers, on_done=results.__setitem__, on_progress=heard.append
    )
    assert results == {item: item * item for item in range(9)}
    assert sum(heard) == sum(range(9))
    run_tasks(square, [], workers)


def test_an_error_in_a_task_comes_out_as_itself_with_the_traceback_of_the_worker() -> None:
    with pytest.raises(InputError, match="three: is not wanted") as caught:
        run_tasks(fail_on_three, list(range(8)), 2)
    assert isinstance(caught.value.__cause__, WorkerError)
    assert "fail_on_three" in str(caught.value.__cause__)


def test_an_error_that_cannot_travel_still_says_what_it_was() -> None:
    with pytest.raises(RuntimeError) as caught:
        run_tasks(raise_what_cannot_be_pickled, [1, 2], 2)
    assert "hidden" in str(caught.value.__cause__)


def test_a_worker_that_dies_is_replaced_and_its_task_tried_once_more(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in "abc"]
    results: dict[str, str] = {}
    heard: list[float] = []
    run_tasks(die_the_first_time, items, 2, on_done=results.__setitem__, on_progress=heard.append)
    assert results == dict.fromkeys(items, "second try")
    assert sum(heard) == 3


def test_a_task_whose_worker_dies_twice_stops_the_run_and_is_named() -> None:
    with pytest.raises(InputError, match=r"bad: its worker died twice \(SIGKILL") as caught:
        run_tasks(always_die, ["good", "bad", "fine"], 2)
    assert "the same command goes on" in caught.value.lines[0]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_when_the_caller_is_stopped_its_workers_end_at_once(
    tmp_path: Path, how: signal.Signals
) -> None:
    marks = [tmp_path / "one", tmp_path / "two"]
    script = tmp_path / "caller.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_executor import note_and_sleep\n"
        "from dedup.executor import run_tasks\n"
        "if __name__ == '__main__':\n"
        f"    run_tasks(note_and_sleep, {[str(mark) for mark in marks]!r}, 2)\n"
    )
    root = str(Path(__file__).resolve().parent.parent.parent)
    caller = subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    deadline = time.monotonic() + 60
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert time.monotonic() < deadline and caller.poll() is None
        time.sleep(0.05)
    workers = [int(mark.read_text()) for mark in marks]
    caller.send_signal(how)
    _, message = caller.communicate(timeout=20)
    if how == signal.SIGINT:
        assert b"KeyboardInterrupt" in message
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
