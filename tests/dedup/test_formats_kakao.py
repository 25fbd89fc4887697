"""KakaoTalk exports: who answers whom is kept, who they are is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Source
from dedup.formats import READERS, kakao, kakao_lines
from dedup.formats.kakao_lines import recognised
from dedup.records import Document, Failure

PC = """김하늘 님과 카카오톡 대화
저장한 날짜 : 2024-01-03 09:00:00

--------------- 2024년 1월 1일 월요일 ---------------
[김하늘] [오후 11:58] 새해 복 많이 받아!
[김하늘] [오후 11:59] 내일 뭐 해?
--------------- 2024년 1월 2일 화요일 ---------------
[이바다] [오전 12:01] 하늘아 너도 복 많이 받아
아직 정한 건 없어

같이 산에 갈까?
[김하늘] [오전 12:02] 사진
[김하늘] [오전 12:03] 좋아 @이바다
[이바다] [오전 12:04] 삭제된 메시지입니다.
[이바다] [오전 9:04] 일어났어?
[김하늘] [오전 9:05] 응 2024년 1월 2일 오전 9:00, 알람이 울렸어
"""

ANDROID = """산악회 님과 카카오톡 대화
저장한 날짜 : 2024년 1월 3일 오전 9:00


2024년 1월 1일 오후 3:10
2024년 1월 1일 오후 3:10, 박가람님이 김하늘님, 이바다님을 초대했습니다.
2024년 1월 1일 오후 3:12, 김하늘 : 모두 안녕하세요
2024년 1월 1일 오후 3:13, 이바다 : 안녕하세요 : )
반갑습니다
2024년 1월 1일 오후 3:13, 이바다 : 이모티콘
2024년 1월 1일 오후 3:14, 박가람 : 김하늘씨 어서 오세요
2024년 1월 1일 오후 3:15, 김하늘님이 나갔습니다.
"""

IOS = """박가람 님과 카카오톡 대화
저장한 날짜 : 2024. 1. 3. 오전 9:00


2024년 1월 1일 월요일
2024. 1. 1. 오후 3:12, 박가람 : 어디쯤이야?
2024. 1. 1. 15:13, 나 : 거의 다 왔어
2024. 1. 1. 15:13: 박가람님이 들어왔습니다.
2024. 1. 1. 오후 3:14, 박가람 : 보이스톡 해요
2024. 1. 1. 오후 3:14, 박가람 : 보이스톡보다 글이 편해
"""

MAC = """Date,User,Message
2024-01-01 15:12:09,"박가람","어디쯤이야?"
2024-01-01 15:13:00,"나","거의 다 왔어
""역"" 앞이야"
2024-01-01 15:13:30,"박가람","박가람님이 들어왔습니다."
2024-01-01 15:14:00,"박가람","사진 3장"
2024-01-01 15:15:00,"박가람","그래, 기다릴게"
"""

ENGLISH = """KakaoTalk Chats with River
Date Saved : Jan 3, 2024 at 9:00 AM

Monday, January 1, 2024
Jan 1, 2024 at 3:12 PM, River : Where are you?
Jan 1, 2024 at 3:13 PM, Me : Nearly there
Jan 1, 2024 at 3:14 PM, River : Photo
"""


def read(path: Path, **source: Any) -> tuple[list[Document], list[Failure]]:
    items = list(READERS["kakao"](str(path), path.name, Source(name="s", paths=["."], **source)))
    return (
        [item for item in items if isinstance(item, Document)],
        [item for item in items if isinstance(item, Failure)],
    )


def written(folder: Path, text: str, name: str = "a.txt", encoding: str = "utf-8-sig") -> Path:
    (folder / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    return folder / name


def test_a_pc_export_becomes_dialogues_parted_by_a_long_pause(tmp_path: Path) -> None:
    (night, morning), failures = read(written(tmp_path, PC))
    assert not failures
    assert (night.id, morning.id) == ("s/a.txt#5", "s/a.txt#15")
    assert night.kind == "chat"
    assert night.segments == [
        ("user", "새해 복 많이 받아!\n내일 뭐 해?"),
        ("assistant", "화자1아 너도 복 많이 받아\n아직 정한 건 없어\n\n같이 산에 갈까?"),
        ("user", "좋아 화자2"),
    ]
    assert night.text == "\n".join(text for _, text in night.segments)
    assert json.loads(night.meta or "") == {"began": "2024-01-01T23:58", "people": 2, "messages": 4}
    assert morning.segments == [
        ("user", "일어났어?"),
        ("assistant", "응 2024년 1월 2일 오전 9:00, 알람이 울렸어"),
    ]


def test_in_a_group_every_turn_opens_with_its_speaker(tmp_path: Path) -> None:
    (document,), failures = read(written(tmp_path, ANDROID))
    assert not failures
    assert document.segments == [
        ("user", "화자1: 모두 안녕하세요"),
        ("assistant", "화자2: 안녕하세요 : )\n반갑습니다"),
        ("user", "화자3: 화자1씨 어서 오세요"),
    ]


@pytest.mark.parametrize(
    ("text", "name", "turns"),
    [
        (IOS, "a.txt", ["어디쯤이야?", "거의 다 왔어", "보이스톡보다 글이 편해"]),
        (MAC, "a.csv", ["어디쯤이야?", '거의 다 왔어\n"역" 앞이야', "그래, 기다릴게"]),
        (ENGLISH, "a.txt", ["Where are you?", "Nearly there"]),
    ],
)
def test_exports_of_other_programs_read_the_same(
    tmp_path: Path, text: str, name: str, turns: list[str]
) -> None:
    (document,), failures = read(written(tmp_path, text, name))
    assert not failures
    assert document.segments is not None
    assert [text for _, text in document.segments] == turns
    assert [role for role, _ in document.segments] == ["user", "assistant", "user"][: len(turns)]


@pytest.mark.parametrize("text", [PC, ANDROID, IOS, MAC, ENGLISH])
def test_no_name_of_a_speaker_is_left_anywhere(tmp_path: Path, text: str) -> None:
    documents, _ = read(written(tmp_path, text))
    for name in ("김하늘", "하늘아", "이바다", "박가람", "산악회", "River"):
        assert not any(name in str(document) for document in documents)


def test_who_is_spoken_of_is_hidden_if_they_speak_anywhere_in_the_file(tmp_path: Path) -> None:
    text = """2024. 1. 1. 오후 3:12, 박가람 : 김하늘은 언제 와? Ann said another thing
2024. 1. 1. 오후 3:13, Ann : 가람아 몰라, @나 물어봐. 나는 몰라
2024. 1. 2. 오후 3:13, 김하늘 : 왔어
2024. 1. 2. 오후 3:14, 나 : 그래
"""
    (first, _), _ = read(written(tmp_path, text))
    assert first.text.split("\n") == [
        "화자3은 언제 와? 화자2 said another thing",
        "화자1아 몰라, 화자4 물어봐. 나는 몰라",
    ]


def test_thousands_of_speakers_do_not_slow_the_reading_down(tmp_path: Path) -> None:
    lines = [
        f"2024. 1. 1. 오후 3:{n % 60:02}, 사람{n:05} : 안녕하세요 사람{n // 2:05}님 반갑습니다\n"
        for n in range(8000)
    ]
    documents, _ = read(written(tmp_path, "".join(lines)))
    assert not any("사람0" in document.text for document in documents)


def test_lines_without_end_after_a_message_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kakao_lines, "MESSAGE", 1000)
    text = "2024. 1. 1. 오후 3:12, 박가람 : 안녕\n" + "이어지는 말이 끝나지 않는다\n" * 100
    (document,), failures = read(written(tmp_path, text + "2024. 1. 1. 오후 3:13, 나 : 응\n"))
    assert document.segments is not None
    assert document.segments[1] == ("assistant", "응")
    assert len(failures) + document.segments[0][1].count("\n") == 100


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
@pytest.mark.parametrize("text", [PC, ANDROID, IOS, MAC, ENGLISH])
def test_an_export_is_recognised_by_its_first_bytes(
    tmp_path: Path, text: str, encoding: str
) -> None:
    path = written(tmp_path, text, encoding=encoding)
    assert recognised(path.read_bytes()[:4096])
    documents, failures = read(path)
    assert documents
    assert not failures


@pytest.mark.parametrize(
    "text",
    [
        "",
        "우물 이야기\n\n[김하늘] 이 글은 산 너머 마을의 이야기다.\n2024년 1월 1일, 눈이 왔다.\n",
        "2024년 1월 1일 오후 3:12, 눈이 왔다. 그날의 기록 : 없다.\n이어지는 글이 더 길다.\n" * 2,
        "[main] [12:30] started\n[main] [12:31] stopped\n",
        "Date,User,Message,Room\n",
        "카카오톡 대화 내보내기를 설명하는 글이다.\n",
    ],
)
def test_other_text_is_not_taken_for_an_export(text: str) -> None:
    assert not recognised(text.encode())


def test_a_long_talk_is_cut_so_that_memory_does_not_grow_with_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kakao, "TURNS", 10)
    day = "--------------- 2024년 1월 1일 월요일 ---------------\n"
    lines = "".join(f"[{'가나'[n % 2]}] [오후 1:{n:02}] 말 {n}\n" for n in range(30))
    documents, _ = read(written(tmp_path, day + lines))
    assert [len(document.segments or []) for document in documents] == [10, 10, 10]


def test_what_one_person_says_alone_is_text_and_no_dialogue(tmp_path: Path) -> None:
    day = "--------------- 2024년 1월 1일 월요일 ---------------\n"
    (document,), _ = read(written(tmp_path, f"{day}[나] [오후 1:00] 장보기: 두부\n"))
    assert (document.kind, document.segments, document.text) == ("text", None, "장보기: 두부")


def test_lines_that_cannot_be_placed_are_failures_and_the_rest_is_read(tmp_path: Path) -> None:
    lines = [
        "누가 앞에 붙인 말".encode(),
        "또 한 줄".encode(),
        "2024년 1월 1일 오후 3:12, 가람 : 안녕\x00하세요".encode(),
        "2024년 13월 1일 오후 3:12, 가람 : 없는 달".encode(),
        b"\xff\xfe\xff",
        f"2024년 1월 1일 오후 3:13, 나 : {'네 안녕하세요 ' * 30}".encode(),
    ]
    (tmp_path / "a.txt").write_bytes(b"\n".join(lines))
    (document,), failures = read(tmp_path / "a.txt")
    assert document.segments == [
        ("user", "안녕하세요"),
        ("assistant", ("네 안녕하세요 " * 30).strip()),
    ]
    found = sorted((failure.line, failure.error) for failure in failures)
    assert found[0] == (1, "lines 1 to 2 stand before the first message of an export")
    assert [line for line, _ in found] == [1, 4, 5]
    assert "month" in found[1][1]
    assert "utf-8" in found[2][1]


@pytest.mark.parametrize(
    "content", [b"", b"plain text\n" * 3, bytes(300), "그냥 글\n".encode() * 500]
)
def test_a_file_that_is_no_export_is_one_failure(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    documents, failures = read(tmp_path / "a.txt")
    assert not documents
    assert len(failures) == 1
