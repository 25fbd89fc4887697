"""A KakaoTalk export (PC, Android, iOS, Mac; Korean or English) → its conversations as dialogues.

In: a path and the source. Out: documents of kind chat, one for each conversation, and failures for
lines that are neither message nor note; an id ends in the number of the line that opens it.

The decisions:

* A conversation ends with a pause of six hours (a night, or a working day), not with the date line:
  people talk past midnight. After 400 turns it is cut, so that memory does not depend on the room.
* Messages in a row of one person are one turn, a line each. Roles alternate, the one who opens is
  the user: with two people, turns alternate by themselves, so each keeps a role. With more, every
  turn opens with its speaker ("화자3: …").
* Names are not for a model to learn: people are 화자1, 화자2, … in the order in which they first speak
  in this conversation, and the room's title is left out. Where a message says the name of anybody
  who speaks in the file, the label stands too; the file is read twice for that.
* Notes of the program (joined, left, deleted) and messages without words (photo, emoticon, call)
  are no text. What one person says alone is a document of kind text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from configs.schema import Source
from dedup import containers
from dedup.containers import Damaged, File
from dedup.formats.charset import SAMPLE, charset
from dedup.formats.kakao_lines import MAC, NOTE, Message, messages
from dedup.records import RAW_BYTES, Document, Failure, Unusable

PAUSE = timedelta(hours=6)
TURNS = 400

_WORDLESS = re.compile(
    r"사진(?: \d+장)?|동영상|이모티콘|음성메시지|(?:파일|연락처|지도|투표|일정|공지|샵검색) ?: .*"
    r"|(?:삭제된|가려진|읽을 수 없는) 메시지입니다\.?|메시지가 삭제되었습니다\.?"
    r"|(?:보이스톡|페이스톡|그룹콜|라이브톡)(?: ?(?:해요|취소|부재중|거절|응답 ?없음|시작|종료|했습니다)\.?| \d+:\d\d.*)?"
    r"|선물과 메시지를 보냈습니다\.?|<?(?:사진|동영상) (?:읽지 않음|생략)>?"
    r"|Photos?|\d+ photos|Videos?|Emoticons?|Voice message|File: .*|This message was deleted\.?"
    r"|\S+\.(?:jpe?g|png|gif|webp|mp4|mov|m4a|pdf|zip|hwpx?|docx?|xlsx?|pptx?)"
)
_KOREAN_NAME = re.compile("[가-힣]{2,3}")
_CALLED = "(?=야|아|씨|님|이|형|누나|언니|오빠)"


@dataclass
class _Conversation:
    """Messages without a long pause between them; `turns` are (who, messages in a row)."""

    line: int
    began: datetime
    last: datetime
    turns: list[tuple[str, list[str]]] = field(default_factory=list)
    messages: int = 0
    size: int = 0

    def add(self, message: Message) -> None:
        text = "\n".join(message.lines).replace("\x00", "").strip()
        self.last = message.time
        self.size += message.size
        if not text or (len(text) < NOTE and _WORDLESS.fullmatch(text)):
            return
        self.messages += 1
        if self.turns and self.turns[-1][0] == message.who:
            self.turns[-1][1].append(text)
        else:
            self.turns.append((message.who, [text]))


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """Conversations of an export, and a failure for each line that cannot be placed."""
    head = containers.head(file, SAMPLE)
    try:
        encoding, sample = charset(head, source)
    except Unusable as error:
        yield Failure(file.path, str(error), raw=head[:RAW_BYTES], size=len(head))
        return
    mac = sample.lstrip().replace('"', "").startswith(MAC)
    names = _Names(_speakers(file, encoding, mac))
    conversation: _Conversation | None = None
    any_message = failed = False
    for item in messages(file, encoding, mac):
        if isinstance(item, Failure):
            failed = True
            yield item
            continue
        any_message = True
        if conversation is not None and (
            abs(item.time - conversation.last) >= PAUSE
            or (len(conversation.turns) >= TURNS and conversation.turns[-1][0] != item.who)
        ):
            yield from _documents(conversation, f"{source.name}/{file.name}", names)
            conversation = None
        if conversation is None:
            conversation = _Conversation(item.line, item.time, item.time)
        conversation.add(item)
    if conversation is not None:
        yield from _documents(conversation, f"{source.name}/{file.name}", names)
    if not any_message and not failed:
        yield Failure(file.path, "holds no message of a KakaoTalk export", raw=head[:RAW_BYTES])


def _speakers(file: File, encoding: str, mac: bool) -> set[str]:
    found: set[str] = set()
    try:
        for item in messages(file, encoding, mac):
            if isinstance(item, Message):
                found.add(item.who)
    except Damaged:
        pass  # told when it is read
    return found - {""}


def _documents(conversation: _Conversation, name: str, names: _Names) -> Iterator[Document]:
    """The conversation without names; nothing where nobody said a word."""
    if not conversation.turns:
        return
    speakers = dict.fromkeys(who for who, _ in conversation.turns)
    labels = {who: f"화자{number}" for number, who in enumerate(speakers, 1)}
    people = len(labels)
    turns = [
        (labels[who], names.replaced("\n".join(said), labels)) for who, said in conversation.turns
    ]
    if people > 2:
        turns = [(label, f"{label}: {text}") for label, text in turns]
    segments = [(("user", "assistant")[n % 2], text) for n, (_, text) in enumerate(turns)]
    meta = {
        "began": conversation.began.isoformat(timespec="minutes"),
        "people": people,
        "messages": conversation.messages,
    }
    yield Document(
        f"{name}#{conversation.line}",
        "chat" if people > 1 else "text",
        "\n".join(text for _, text in turns),
        segments if people > 1 else None,
        None,
        orjson.dumps(meta).decode(),
        conversation.size,
    )


class _Names:
    """Finds the names of a file's speakers in a text.

    "@name" always, names of three letters and more as words, and of Korean names also the given one
    where somebody is called by it ("민준아").
    """

    def __init__(self, speakers: set[str]) -> None:
        self._who: dict[str, str] = {}
        at: dict[str, Any] = {}
        alone: dict[str, Any] = {}
        for who in sorted(speakers):
            self._who[who] = who
            _plant(at, who, "")
            if len(who) >= 3:
                _plant(alone, who, "(?![A-Za-z0-9])" if who[-1].isascii() else "")
            if _KOREAN_NAME.fullmatch(who):
                self._who.setdefault(who[-2:], who)
                _plant(alone, who[-2:], _CALLED)
        found = [f"@{_pattern(at)}"] if at else []
        found += [rf"(?<!\w){_pattern(alone)}"] if alone else []
        self._pattern = re.compile("|".join(found) or "(?!)")

    def replaced(self, text: str, labels: dict[str, str]) -> str:
        """Labels in the places of names; who has none yet gets the next."""

        def label(match: re.Match[str]) -> str:
            who = self._who[match[0].removeprefix("@")]
            return labels.setdefault(who, f"화자{len(labels) + 1}")

        return self._pattern.sub(label, text)


def _plant(tree: dict[str, Any], word: str, after: str) -> None:
    """Add a word to a tree of letters: with thousands of speakers an alternation would crawl."""
    for letter in word:
        tree = tree.setdefault(letter, {})
    tree.setdefault("", after)


def _pattern(tree: dict[str, Any]) -> str:
    found = [re.escape(letter) + _pattern(rest) for letter, rest in tree.items() if letter]
    if "" in tree:
        found.append(tree[""])  # last: the longest name wins
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"
