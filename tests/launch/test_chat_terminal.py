"""Talking in a terminal, through a pipe, and one reply for a script."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest

from configs.errors import InputError
from launch.chat.ansi import printable
from launch.chat.backend import Message
from launch.chat.dialogue import Session, fit
from launch.chat.engine import Engine
from launch.chat.sampling import Sampling
from launch.chat.slash import Next, run
from launch.chat.terminal import converse, one_reply, talk

PROGRAM = """
import sys
from pathlib import Path
from launch.chat.engine import Engine
from launch.chat.terminal import talk
engine = Engine(Path(sys.argv[1]), threads=1)  # never closed: the program must end all the same
talk(engine, system="짧게", max_new_tokens=int(sys.argv[2]), temperature=float(sys.argv[3]))
"""
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
    "OMP_NUM_THREADS": "1",
    "TERM": "xterm",
    "LC_ALL": "C.UTF-8",
    "MALMOI_HISTORY": "",
}
TYPING = """
from launch.chat.line import typed
for message in typed(print, "a hint", ["help", "reset", "retry"]):
    print(f"<{message!r}>")
"""
COLUMNS = 60


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
    assert len(turns) == 61  # they are left out of the prompt, not forgotten
    assert len(prompt) + room <= engine.context
    assert room >= 64
    text = engine.tokenizer.decode(prompt)
    assert "짧게" in text
    assert "질문 0" not in text


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert printable("가\x1b[31m나\x07\x9b\r다\n\t\u202e") == "가[31m나다\n\t"


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
    """A program under a real pseudo-terminal, and the screen as a terminal emulator shows it."""

    def __init__(self, program: str, *arguments: str, columns: int = COLUMNS, **environment: str):
        self.main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.screen = pyte.Screen(columns, 24)
        self.emulator = pyte.ByteStream(self.screen)
        self.program = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            env={**ENVIRONMENT, **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(side)
        self.seen = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.program.poll() is None:
            self.program.send_signal(signal.SIGKILL)
        self.program.wait()
        os.close(self.main)

    def shows(self, wanted: Callable[[list[str]], bool], seconds: float = 30) -> list[str]:
        """Read until the lines on the screen are as wanted; they, without the empty ones."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # pyte gives a wide character a second, empty cell; its `display` leaves that out.
            lines = [line.rstrip() for line in self.screen.display if line.strip()]
            if wanted(lines):
                return lines
            if select.select([self.main], [], [], 0.1)[0]:
                self._read()
        raise AssertionError(f"the screen is {lines}")

    def _read(self) -> None:
        new = os.read(self.main, 4096)
        self.emulator.feed(new)
        self.seen += new

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
                    self._read()
                except OSError:  # the program ended
                    break
        raise AssertionError(f"no {pattern!r} in {self.seen.decode('utf-8', 'replace')!r}")


def test_in_a_terminal_hangul_is_edited_ctrl_c_stops_a_reply_and_ctrl_d_ends(
    chat_model: Path,
) -> None:
    with Terminal(PROGRAM, str(chat_model), "400", "2.0") as terminal:
        terminal.wait("나 › ")
        terminal.type("/도움\x7f\x7fhelp\n")  # two backspaces take two syllables, not two bytes
        assert "Ctrl-D" in terminal.wait("Ctrl-D ends.*나 › ")
        for _ in range(8):  # a random model may end by itself before it is stopped
            terminal.type("안녕하세요\n")
            terminal.wait("안녕하세요\r\n.*?2004l\r.")  # the end of bracketed paste, then the reply
            terminal.type("\x03")
            end = terminal.wait("나 › ")
            if "stopped" in end:
                break
        assert "stopped" in end
        for _ in range(6):  # at any moment, before the first token and after the last one too
            terminal.type("안녕\n")
            terminal.wait("안녕\r\n")
            terminal.type("\x03")
            terminal.wait("나 › ", again="\x03")
        assert terminal.program.poll() is None
        terminal.type("/reset\n")
        terminal.wait("a new conversation.*나 › ")
        terminal.type("\x03")
        terminal.wait("Ctrl-D ends.*나 › ", again="\x03")
        terminal.type("\x04")
        assert terminal.program.wait(timeout=20) == 0


# --------------------------------------------------------------------------- editing a line


def test_wide_characters_are_edited_where_the_screen_shows_them() -> None:
    with Terminal(TYPING) as terminal:
        terminal.shows(lambda lines: lines == ["나 ›"])
        text = "가나다라마바사아자차" * 4  # 80 cells in a window of 60: the line wraps
        terminal.type(text)
        terminal.shows(lambda lines: "".join(lines) == "나 › " + text)
        terminal.type("\x7f" * 25)
        terminal.shows(lambda lines: lines == ["나 › " + text[:15]])
        assert terminal.screen.cursor.x == 5 + 2 * 15
        terminal.type("\x1b[D" * 3 + "힣")  # three to the left, and a syllable in between
        terminal.shows(lambda lines: lines == ["나 › " + text[:12] + "힣" + text[12:15]])
        assert terminal.screen.cursor.x == 5 + 2 * 13
        terminal.type("\x01\x1b[3~" + "A\x05!\n")  # Home, Delete, End
        edited = "A" + text[1:12] + "힣" + text[12:15] + "!"
        terminal.shows(lambda lines: f"<'{edited}'>" in lines)
        terminal.type("\x1b[A")  # the line before
        terminal.shows(lambda lines: lines[-1] == "나 › " + edited)


def test_messages_of_several_lines_are_written_and_come_back_whole(tmp_path: Path) -> None:
    history = tmp_path / "state" / "history"
    with Terminal(TYPING, MALMOI_HISTORY=str(history)) as terminal:
        terminal.wait("나 › ")
        for keys, message in (
            ("한 줄\\\n두 줄\n", "한 줄\n두 줄"),
            ("꼬리 \\\\\n", "꼬리 \\\\"),
            ('"""\n\n하나\n\n  둘"""\n', "하나\n\n  둘"),
            ('"""한 줄에"""\n', "한 줄에"),
            ("위\x1b\r아래\n", "위\n아래"),  # Alt+Enter
            ("\x1b[200~붙인\n글\n\x1b[201~\n", "붙인\n글"),  # pasted
            ("\u1112\u1161\u11ab\n", "한"),  # letters, as macOS writes file names
            ("/ret\t\n", "/retry"),
        ):
            terminal.type(keys)
            terminal.wait(re.escape(f"<{message!r}>"))
            terminal.wait("나 › ")
        terminal.type("\x04")
        assert terminal.program.wait(timeout=20) == 0
    assert history.stat().st_mode & 0o777 == 0o600
    with history.open("a", encoding="utf-8") as file:
        file.write('{"broken"')
    with Terminal(TYPING, MALMOI_HISTORY=str(history)) as terminal:
        terminal.wait("나 › ")
        terminal.type("\x1b[A" * 4 + "\n")
        terminal.wait(re.escape(f"<{'위' + chr(10) + '아래'!r}>"))


def test_a_history_that_cannot_be_kept_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Terminal(TYPING, MALMOI_HISTORY=str(tmp_path / "file" / "history")) as terminal:
        terminal.wait("나 › ")
        terminal.type("안녕\n")
        terminal.wait("<'안녕'>")


# -------------------------------------------------------------------------------- commands


@pytest.fixture
def session(engine: Engine) -> Session:
    session = Session.over([engine], "짧게", Sampling(max_tokens=8, seed=5))
    for text in ("첫째", "둘째"):
        session.ask(text)
        session.turns.append({"role": "assistant", "text": f"{text} 답"})
    return session


def test_commands_show_and_change_the_conversation(session: Session) -> None:
    assert run(session, "/system") == ("system: 짧게", Next.LINE)
    assert run(session, "/system 길게 답한다") == ("system: 길게 답한다", Next.LINE)
    assert run(session, "/system -") == ("system: (none)", Next.LINE)
    said, _ = run(session, "/tokens")
    assert re.fullmatch(r"\d+ of 512 tokens, 4 messages", said)
    said, _ = run(session, "/params temperature=0.2 top_k=40 seed=none")
    assert "temperature=0.2  " in said
    assert "seed=none" in said
    assert (session.sampling.temperature, session.sampling.top_k) == (0.2, 40)
    assert run(session, "/undo") == ("taken back: 둘째", Next.LINE)
    assert [turn["text"] for turn in session.turns] == ["첫째", "첫째 답"]
    assert run(session, "/retry") == ("", Next.REPLY)
    assert [turn["text"] for turn in session.turns] == ["첫째"]
    assert run(session, "/reset")[1] is Next.LINE
    assert session.turns == []
    assert run(session, "/undo")[0] == run(session, "/retry")[0] == "nothing was asked yet"
    assert run(session, "/exit") == ("", Next.END)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/retrry", "did you mean /retry"),
        ("/etc/passwd", "written //"),
        ("/params temprature=1", "did you mean temperature"),
        ("/params temperature=hot", "temperature: must be a number from 0 to 2, not hot"),
        ("/params temperature=nan", "must be a number"),
        ("/params top_k=1.5", "must be a whole number"),
        ("/params max_tokens=0", "from 1 to"),
        ("/params temperature=1 seed=-1", "seed: must be"),
        ("/params temperature", "is no NAME=VALUE"),
        ("/save", "file name is missing"),
        ("/save /no/such/folder/talk.json", "cannot be written"),
        ("/load /no/such/file", "cannot be read"),
        ("/load .", "cannot be read"),
        ("/save ~nobody-of-this-name/talk.json", "home directory"),
        ("/save " + "가" * 200, "too long"),
    ],
)
def test_a_wrong_command_is_explained_and_changes_nothing(
    session: Session, line: str, says: str
) -> None:
    before = (session.sampling, [*session.turns], session.system)
    said, then = run(session, line)
    assert says in said
    assert then is Next.LINE
    assert (session.sampling, session.turns, session.system) == before


def test_a_saved_conversation_is_loaded_again_and_nothing_else_is_overwritten(
    session: Session, engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "이야기.json"
    assert "4 messages written" in run(session, f"/save {path}")[0]
    other = Session.over([engine, engine], None, Sampling())
    assert "4 messages read" in run(other, f"/load {path}")[0]
    assert [d.turns for d in other.dialogues] == [session.turns, session.turns]
    assert (other.system, other.sampling.seed, other.sampling.max_tokens) == ("짧게", 5, 8)
    run(other, "/undo")
    assert "2 messages written" in run(other, f"/save {path}")[0]  # its own kind it does overwrite

    notes = tmp_path / "notes.txt"
    for content in (
        "글",
        "[1]",
        '{"malmoi": "dialogue", "dialogues": []}',
        '{"malmoi": "dialogue", "dialogues": [{"model": "m", "messages": [{"role": "tool", "content": ""}]}]}',
        '{"malmoi": "dialogue", "dialogues": [{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}]}',
    ):
        notes.write_text(content, encoding="utf-8")
        before = [*session.turns]
        assert "is no" in run(session, f"/load {notes}")[0]
        assert session.turns == before
        assert "take another name" in run(session, f"/save {notes}")[0]
        assert notes.read_text(encoding="utf-8") == content


def test_a_retry_says_something_else_though_a_seed_is_set(session: Session) -> None:
    session.sampling = Sampling(max_tokens=20, temperature=1.5, seed=1)

    def said() -> str:
        return "".join(delta.text for delta in session.begin(session.dialogues[0]))

    session.ask("안녕")
    first = said()
    assert said() == first
    session.retries += 1
    assert said() != first


def test_lines_of_a_pipe_are_data_and_no_commands_that_touch_files(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(session: Session, interactive: bool) -> None:
        asked.append(session.turns[-1]["text"])

    text = f"/save {tmp_path / 'x.json'}\n//둘\n/reset\n/quit\n뒤\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    converse(Session.over([engine], None, Sampling()), note)
    assert asked == [f"/save {tmp_path / 'x.json'}", "//둘"]
    assert not (tmp_path / "x.json").exists()


def test_a_question_too_long_for_the_context_is_taken_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = f"{'가' * 3000}\n안녕\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    with pytest.raises(InputError, match="were not answered: 1"):  # told at the end, for a script
        talk(engine, max_new_tokens=5, temperature=0)
    out, err = capsys.readouterr()
    assert "context is 512" in err
    assert out.count("\n") >= 1
    assert out == one_reply(engine, "안녕", max_new_tokens=5, temperature=0) + "\n"
