"""The live funnel: what a terminal and a pipe are shown while the data stage runs."""

from __future__ import annotations

import io

import pytest
import rich.console

import launch.console
import launch.live
from configs.progress import Funnel, Progress
from launch.console import Console, quantity

HALF = Funnel(1200, 4e6, 1000, 890, 10, {"normalise": 0, "filter": 100, "pii": 0})
NOTHING = Funnel(0, 0, 0, 0, 0, {"normalise": 0, "filter": 0, "pii": 0})


def report(funnel: Funnel, done: float, step: str = "clean") -> Progress:
    return Progress("dedup", step, done, 10e6, "B", funnel=funnel)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(launch.console.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_plain_line_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Console(interactive=False) as console:
        for second in range(21):
            clock[0] = 100.0 + second
            console.log(report(NOTHING if not second else HALF, 4e5 * second))
    first, second, third = capsys.readouterr().err.splitlines()
    assert "0 documents" in first and "kept" not in first
    assert second.endswith(
        "1,200 documents  1,200 documents/s  4.0 MB/s  kept so far 890 (89.0 %)  "
        "dropped: unreadable 10, filter 100"
    )
    assert "15 s left" in second and "8 M / 10 MB" in third.replace(".00", "")


def test_a_terminal_shows_a_row_for_each_step_and_says_which_come_later(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = rich.console.Console(file=screen, force_terminal=True, width=100, height=40)
    monkeypatch.setattr(launch.live, "Console", lambda stderr: terminal)
    with Console(interactive=True) as console:
        console.log(report(NOTHING, 0))
        clock[0] = 102.0
        console.log(report(HALF, 4e6))
        below = console._bars.below
        clock[0] = 102.5
        console.log(report(NOTHING, 4e6))
        assert console._bars.below is below  # not more than once a second
        clock[0] = 104.0
        done = Funnel(1200, 10e6, 1200, 1000, 10, {"filter": 100, "exact": 30, "near": 60})
        console.log(report(done, 10e6, "publish"))
        after = console._bars.below
        terminal.print("")
    shown = [" ".join(line.split()) for line in below]
    assert shown[0] == "read 1,200 600 documents/s 2.0 MB/s"
    assert "filter −100 10.0 % ███" in shown and "unreadable −10 1.0 %" in shown
    assert "near · when all is read" in shown
    assert shown[-1].endswith("(of 1,000 in finished tasks)") and "89.0 %" in shown[-1]
    assert [line.split()[0] for line in after][-3:] == ["exact", "near", "kept"]
    assert "kept so far" in screen.getvalue() and "filter" in screen.getvalue()


def test_bytes_are_said_with_their_letter() -> None:
    assert quantity(64_440_000, "B") == "64.44 MB"
    assert quantity(12, "tasks") == "12 tasks"
    assert quantity(12, "") == "12"
