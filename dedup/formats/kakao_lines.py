"""A KakaoTalk export → its messages, and whether a file is one.

In: a file, its character set. Out: messages (line, time, speaker, text) in file order, and failures
for what is neither a message, nor part of one, nor a note of the program.

The exports differ by program and language: on a PC the day stands on a line of its own, phones put
the date before each message, the Mac writes CSV. The first message decides which it is: a date and
a comma in the middle of a PC message open nothing. What is no message continues the one before it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from dedup.containers import File
from dedup.formats.charset import Lines
from dedup.formats.delimited import Dialect, rows
from dedup.records import RAW_BYTES, Failure

NOTE = 500  # characters of the longest line that may be a note of the program
MESSAGE = 1_000_000  # bytes of one message; what follows it is no export

_CLOCK = (
    r"(?P<half>오전|오후|AM|PM|am|pm)?\s?(?P<hour>\d{1,2}):(?P<minute>\d\d)"
    r"(?:\s?(?P<after>[AaPp][Mm]))?"
)
_DAY = r"(?P<year>\d{4})(?:년|\.|-) ?(?P<month>\d{1,2})(?:월|\.|-) ?(?P<day>\d{1,2})(?:일|\.)?"
_DAY_EN = r"(?P<name>[A-Z][a-z]{2,8}) (?P<day>\d{1,2}), (?P<year>\d{4})"

# PC: the day on a line of its own, then "[name] [오후 3:12] text".
_DAY_LINES = [
    re.compile(rf"{_DAY} [월화수목금토일]요일"),
    re.compile(rf"\w+day, {_DAY_EN}"),
    re.compile(rf"-{{5,40}} ?(?:{_DAY}.{{0,12}}?) ?-{{5,40}}"),
    re.compile(rf"-{{5,40}} ?(?:\w+day, )?{_DAY_EN} ?-{{5,40}}"),
]
_BRACKETS = re.compile(rf"\[(?P<who>.{{1,100}}?)\] \[{_CLOCK}\] ?(?P<text>.*)", re.DOTALL)
# Phones: "2024년 1월 1일 오후 3:12, name : text" (Android), "2024. 1. 1. 오후 3:12, name : text" (iOS).
_AFTER = r"(?:, (?P<who>.{1,100}?) : (?P<text>.*)|(?P<note>[,:].*)?)"
_STAMPED = [
    re.compile(rf"{_DAY},? {_CLOCK}{_AFTER}", re.DOTALL),
    re.compile(rf"{_DAY_EN}(?:,| at)? {_CLOCK}{_AFTER}", re.DOTALL),
]
MAC = "Date,User,Message"

_TITLE = re.compile(r".*(?:카카오톡 대화|KakaoTalk Chats?(?: with .*)?)\s*")
_SAVED = re.compile(r"\s*(?:저장한 날짜|Date Saved)\s*:.*")
_NOTE = re.compile(
    r".*(?:님이|님을|님과) .*(?:들어왔|나갔|초대했|초대하였|내보냈)습니다\.?"
    r"|.*님이 (?:들어왔|나갔)습니다\.?|.*님을 (?:초대했|내보냈)습니다\.?|.*님이 .*방장이 되(?:었|셨)습니다\.?"
    r"|(?:채팅방 관리자|운영자|오픈채팅봇)가 .*습니다\.?"
    r"|.*(?:불법촬영물등|타인, 기관 등의 사칭|운영정책을 위반한|운영정책 보기).*"
    r"|.+ (?:joined|left) this chatroom\."
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass
class Message:
    """What one person sent at once; `line` is its first, from 1."""

    line: int
    time: datetime
    who: str
    lines: list[str]
    size: int


def recognised(head: bytes) -> bool:
    """Whether a file's first bytes are those of an export."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[: len(head) & ~1].decode("utf-16", "ignore")
    else:
        whole = head[: head.rfind(b"\n") + 1] or head  # the last character may be cut
        try:
            text = whole.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = whole.decode("cp949", "ignore")
    lines = [line.strip() for line in text.split("\n")][:80]
    lines = [line for line in lines if line]
    if not lines:
        return False
    if lines[0].replace('"', "") == MAC:
        return True
    opened = any(_opening(line) for line in lines[:3])
    dashed = any(line.startswith("-----") and _day(line) for line in lines)
    brackets = sum(_BRACKETS.match(line) is not None for line in lines)
    stamped = sum(bool((_stamped(line) or {}).get("who")) for line in lines)
    if opened or dashed:
        return brackets + stamped > 0
    return stamped >= 3 and 2 * stamped >= len(lines)


def messages(file: File, encoding: str, mac: bool) -> Iterator[Message | Failure]:
    """The messages of an export; `mac`: it is the CSV of a Mac. Raises Damaged."""
    lines = Lines(file, encoding)
    return _from_mac(lines, file.path) if mac else _from_text(lines, file.path)


def _from_text(lines: Lines, path: str) -> Iterator[Message | Failure]:
    day: datetime | None = None
    message: Message | None = None
    stamps: bool | None = None  # whether each message has its date; None before the first
    before: list[Failure] = []  # one, for all lines over the first message
    for at in lines:
        number, raw, size = at
        found: Message | None = None
        over = False  # whether the line ends the message before it, without being one
        try:
            line = lines.text(at).replace("\u202f", " ").rstrip()
            stamped = None if stamps is False else _stamped(line)
            brackets = None if stamps else _BRACKETS.fullmatch(line)
            if stamped and stamped["who"]:
                time, stamps = _time(stamped, _date(stamped)), True
                found = Message(number, time, stamped["who"].strip(), [stamped["text"]], size)
            elif stamped:
                over = True
            elif brackets and day is not None:
                time, stamps = _time(brackets.groupdict(), day), False
                found = Message(number, time, brackets["who"].strip(), [brackets["text"]], size)
            elif on := _day(line):
                day, over = _date(on), True
            elif message is not None and message.size > MESSAGE and line:
                raise ValueError(f"belongs to a message of more than {MESSAGE:,} bytes")
        except ValueError as error:
            yield Failure(path, str(error), line=number, raw=raw[:RAW_BYTES], size=size)
            continue
        if found is not None or over:
            if message is not None:
                yield message
            yield from before if found else ()
            before = [] if found else before
            message = found
        elif message is not None and not _is_note(line):
            message.lines.append(line)
            message.size += size
        elif stamps is None and line and not _is_note(line) and not _opening(line):
            first = before[0] if before else Failure(path, "", number, None, raw[:RAW_BYTES], 0)
            reason = f"lines {first.line} to {number} stand before the first message of an export"
            before = [replace(first, error=reason, size=first.size + size)]
        elif line and not _is_note(line) and not _opening(line):
            yield Failure(
                path, "belongs to no message", line=number, raw=raw[:RAW_BYTES], size=size
            )
    if message is not None:
        yield message
    yield from before


def _from_mac(lines: Lines, path: str) -> Iterator[Message | Failure]:
    for line, raw, cells in rows(lines, Dialect(",", csv.QUOTE_MINIMAL), 3):
        try:
            if isinstance(cells, str):
                raise ValueError(cells)
            if not cells or ",".join(cells) == MAC:
                continue
            if len(cells) != 3:
                raise ValueError(f"has {len(cells)} cells where the header has 3")
            time = datetime.fromisoformat(cells[0].strip())
            if not _is_note(cells[2].strip()):
                when = time.replace(tzinfo=None)
                yield Message(line, when, cells[1].strip(), cells[2].split("\n"), len(raw))
        except ValueError as error:
            yield Failure(path, str(error), line=line, raw=raw[:RAW_BYTES], size=len(raw))


def _is_note(line: str) -> bool:
    return len(line) < NOTE and _NOTE.fullmatch(line) is not None


def _opening(line: str) -> bool:
    return len(line) < NOTE and bool(_TITLE.fullmatch(line) or _SAVED.fullmatch(line))


def _stamped(line: str) -> dict[str, str] | None:
    if not line[:1].isalnum():
        return None
    for pattern in _STAMPED:
        match = pattern.fullmatch(line.strip())
        if match and (match["who"] or not match["note"] or _is_note(match["note"])):
            return match.groupdict()
    return None  # a date in the middle of a message, for one


def _day(line: str) -> dict[str, str] | None:
    line = line.strip()
    if len(line) > 100 or not (line.startswith("-----") or line[:1].isalnum()):
        return None
    for pattern in _DAY_LINES:
        if match := pattern.fullmatch(line):
            return match.groupdict()
    return None


def _date(found: dict[str, str]) -> datetime:
    """Raises ValueError for a day that is not."""
    if name := found.get("name"):
        month = _MONTHS.index(name[:3].lower()) + 1
    else:
        month = int(found["month"])
    return datetime(int(found["year"]), month, int(found["day"]))


def _time(found: dict[str, str], day: datetime) -> datetime:
    """Raises ValueError for a time that is not."""
    hour = int(found["hour"])
    half = (found.get("half") or found.get("after") or "").lower()
    if half:
        hour = hour % 12 + (12 if half in ("오후", "pm") else 0)
    return day.replace(hour=hour, minute=int(found["minute"]))
