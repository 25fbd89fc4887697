"""The readable sources of the sample: `source/*.txt` and `source/dialogues.jsonl`.

A file holds texts one after the other, each with a head (`=== id: …`, then a key and its value a
line), a line `---`, and the body. Everything was written for this project.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "source"
KOREAN = ("notice", "news", "encyclopedia", "review", "forum", "recipe", "howto", "essay")


@dataclass(frozen=True)
class Text:
    """One text. `head` holds what else its head says (in planted.txt: what is to become of it)."""

    id: str
    title: str
    author: str
    date: str
    body: str
    head: dict[str, str] = field(default_factory=dict)


def read(name: str) -> list[Text]:
    """The texts of `source/<name>.txt`, in file order."""
    whole = (SOURCE / f"{name}.txt").read_text(encoding="utf-8")
    texts = []
    for part in re.split(r"(?m)^=== (?=id: )", whole)[1:]:
        top, body = part.split("\n---\n", 1)
        head = dict(line.split(": ", 1) for line in top.split("\n"))
        named = {key: head.pop(key) for key in ("id", "title", "author", "date")}
        texts.append(Text(**named, body=body.strip(), head=head))
    return texts


def dialogues() -> str:
    """150 dialogues as JSON lines: id and messages."""
    return (SOURCE / "dialogues.jsonl").read_text(encoding="utf-8")
