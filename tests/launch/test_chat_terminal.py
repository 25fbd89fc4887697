"""Talking in a terminal, through a pipe, and one reply for a script."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from configs.errors import InputError
from launch.chat.engine import Engine, Message
from launch.chat.terminal import fit, one_reply, printable, talk

PROGRAM = """
import sys
from pathlib import Path
from launch.chat.engine import Engine
from launch.chat.terminal import talk
engine = Engine(Path(sys.argv[1]), threads=1)  # never closed: the program must end all the same
talk(engine, system="짧게", max_new_tokens=int(sys.argv[2]), temperature=float(sys.argv[3]))
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "LC_ALL": "C.UTF-8"}


def test_one_reply_streams_to_stdout_and_is_returned(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"system": "짧게", "max_new_tokens": 20, "temperature": 0.9}
    said = one_reply(engine, "안녕", seed=3, **options)
    assert capsys.readouterr().out == said + "\n"
    assert one_reply(engine, "안녕", seed=3, **options) == said


def test_a_limit_over_the_context_is_cut_and_a_message_over_it_is_refused(engine: Engine) -> None:
    assert one_reply(engine, "안녕", max_new_tokens=10**6, temperature=1.5) is not None
    with pytest.raises(InputError, match=f"--message: .*{engine.context}"):
        one_reply(engine, "가" * 3000)


def test_a_full_context_drops_the_oldest_exchanges_and_keeps_the_system_prompt(
    engine: Engine,
) -> None:
    turns: list[Message] = []
    for i in range(30):
        turns += [{"role": "user", "text": f"질문 {i}"}, {"role": "assistant", "text": "답" * 10}]
    turns.append({"role": "user", "text": "마지막"})
    prompt, room, dropped = fit(engine, "짧게", turns, 100)
    assert dropped > 0
    assert dropped % 2 == 0
    assert (turns[0]["role"], turns[-1]["text"]) == ("user", "마지막")
    assert len(prompt) + room <= engine.context
    assert room >= 64
    text = engine.tokenizer.decode(prompt)
    assert "짧게" in text
    assert "질문 0" not in text


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert printable("가\x1b[31m나\x07\x9b\r다\n\t") == "가[31m나다\n\t"


def test_a_pipe_is_answered_line_by_line_with_replies_only_on_stdout(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "\ufeff안녕\n\n/reset\n안녕\r\n/exit\n여기는 안 온다\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    talk(engine, max_new_tokens=12, temperature=0)
    out = capsys.readouterr().out
    half = len(out) // 2
    assert out[:half] == out[half:]  # two turns, the second after /reset: the same greedy reply
    assert half > 1


def test_a_pipe_that_is_not_utf8_is_a_mistake_with_a_line_number(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("안녕\n".encode("cp949"))))
    with pytest.raises(InputError, match=r"<stdin>:1: is not UTF-8"):
        talk(engine)


class Terminal:
    """A program under a real pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.main, side = pty.openpty()
        self.program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(side)
        self.seen = b""

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def wait(self, pattern: str, seconds: float = 120, again: str = "") -> str:
        """Read until `pattern` has come; what came since the last wait.

        `again` is typed once more every second. A Ctrl-C that falls between readline's prompt and
        its first read wakes nobody in CPython; a person presses it again.
        """
        deadline = time.monotonic() + seconds
        next_press = time.monotonic() + 1
        while time.monotonic() < deadline:
            if again and time.monotonic() > next_press:
                self.type(again)
                next_press += 1
            text = self.seen.decode("utf-8", "ignore")
            if found := re.search(pattern, text, re.S):
                self.seen = text[found.end() :].encode()
                return text[: found.end()]
            if select.select([self.main], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.main, 4096)
                except OSError:  # the program ended
                    break
        raise AssertionError(f"no {pattern!r} in {self.seen.decode('utf-8', 'replace')!r}")


def test_in_a_terminal_hangul_is_edited_ctrl_c_stops_a_reply_and_ctrl_d_ends(
    chat_model: Path,
) -> None:
    terminal = Terminal(str(chat_model), "400", "3.0")
    try:
        terminal.wait("나 › ")
        terminal.type("/도움\x7f\x7fhelp\n")  # two backspaces take two syllables, not two bytes
        assert "Ctrl-D" in terminal.wait("Ctrl-D ends.*나 › ")
        for _ in range(8):  # a random model may end by itself before it is stopped
            terminal.type("안녕하세요\n")
            terminal.wait("안녕하세요\r\n.")
            terminal.type("\x03")
            end = terminal.wait("나 › ")
            if "stopped" in end:
                break
        assert "stopped" in end
        assert terminal.program.poll() is None
        terminal.type("/reset\n")
        terminal.wait("a new conversation.*나 › ")
        terminal.type("\x03")
        terminal.wait("Ctrl-D ends.*나 › ", again="\x03")
        terminal.type("\x04")
        assert terminal.program.wait(timeout=20) == 0
    finally:
        if terminal.program.poll() is None:
            terminal.program.send_signal(signal.SIGKILL)
        terminal.program.wait()
        os.close(terminal.main)
