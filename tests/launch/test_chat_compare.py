"""Two models answer the same prompt in the terminal: in columns, one after the other, in a pipe."""

from __future__ import annotations

import io
import sys

import pytest
from rich.cells import cell_len

from configs.errors import InputError
from launch.chat.compare import Column, Rows, answer, compare_message, compare_terminal
from launch.chat.dialogue import Session
from launch.chat.engine import Engine
from launch.chat.sampling import Sampling
from launch.chat.terminal import one_reply


class Screen(io.StringIO):
    """Standard output that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def use(screen: Screen, monkeypatch: pytest.MonkeyPatch, columns: int = 91) -> Screen:
    """Called by the test itself: between fixtures and the test pytest puts its own stdout in place."""
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return screen


def test_a_column_breaks_lines_by_cells_and_at_spaces() -> None:
    column = Column(10)
    for character in "가나다라마바사 아자 abc def\n\n끝":
        column.write(character)
    column.end()
    assert column.lines == ["가나다라마", "바사 아자", "abc def", "", "끝"]
    assert all(cell_len(line) <= 10 for line in column.lines)


def test_rows_are_final_once_all_columns_have_filled_them() -> None:
    out = io.StringIO()
    rows = Rows(out, 4, 2)
    rows.write(0, "가나다라")
    assert "\n" not in out.getvalue()
    rows.write(1, "마바사")
    assert out.getvalue().split("\n")[0].endswith("\r가나 │ 마바\x1b[K")
    rows.end(0)
    rows.end(1)
    printed = [line.split("\r")[-1] for line in out.getvalue().split("\n")]
    assert printed == ["가나 │ 마바\x1b[K", "다라 │ 사\x1b[K", ""]


def test_side_by_side_each_model_says_what_it_says_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = use(Screen(), monkeypatch)
    options = {"system": "짧게", "max_new_tokens": 60, "temperature": 1.0, "seed": 3}
    texts = compare_message([engine, engine], "안녕", **options)
    shown = screen.getvalue()
    lines = [line.split("\r")[-1].removesuffix("\x1b[K") for line in shown.split("\n")[:-1]]
    assert "tiny-2" in lines[0]
    assert lines[1] == "─" * 43 + "─┼─" + "─" * 43
    for line in lines[2:]:
        left = line.split(" │")[0]
        assert cell_len(left) == 43  # wide characters counted: the bar stands in one column
    screen.truncate(0)
    alone = one_reply(engine, "안녕", **options)
    assert texts == [alone, alone]


def test_without_a_terminal_or_room_replies_come_one_after_the_other(
    engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = compare_message([engine, engine], "안녕", max_new_tokens=10, seed=4)
    assert capsys.readouterr().out == f"── tiny ──\n{texts[0]}\n── tiny-2 ──\n{texts[1]}\n"
    assert texts[0] == texts[1]
    screen = use(Screen(), monkeypatch, columns=60)
    compare_message([engine, engine], "안녕", max_new_tokens=10, seed=4)
    assert "── tiny-2 ──" in screen.getvalue()


def test_a_message_over_the_context_is_refused_before_anything_is_shown(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"--message: .*512"):
        compare_message([engine, engine], "가" * 3000)
    assert capsys.readouterr().out == ""


def test_a_pipe_is_answered_by_both_with_histories_of_their_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("안녕\n또\n".encode())))
    compare_terminal([engine, engine], max_new_tokens=6, temperature=0)
    assert capsys.readouterr().out.count("── tiny-2 ──") == 2


def test_each_dialogue_holds_what_its_own_model_said(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = use(Screen(), monkeypatch)
    session = Session.over([engine, engine], None, Sampling(max_tokens=6))
    for question in ("안녕", "또"):
        session.ask(question)
        answer(session, True)
    for dialogue in session.dialogues:
        assert [turn["role"] for turn in dialogue.turns] == ["user", "assistant"] * 2
    assert session.sampling.seed is None  # drawn anew for each question, the same for both models
    assert session.dialogues[0].turns == session.dialogues[1].turns
    assert screen.getvalue().count("tiny-2") == 2
