"""Copies of a text, exact in nothing but a known degree: edited, shuffled, respelled, garbled.

The similarity stated for a copy is the exact Jaccard index of the sets of 5-character shingles
(white space collapsed), computed here in plain Python, so that it owes nothing to the kernel that it
is held against.
"""

from __future__ import annotations

import random
import re
import unicodedata

THRESHOLD = 0.8
MARGIN = 0.02

_WORDS = (
    "오늘", "조금", "그냥", "먼저", "다시", "함께", "천천히", "가끔", "여러", "모든", "작은", "다른", "새로", "그때",
    "우리", "사람", "마을", "아침", "저녁", "처음", "그래서", "물론", "이제", "겨우", "한참", "문득", "바로", "너무",
    "서로", "가장", "아직", "벌써", "늘", "꽤", "더", "잘", "또", "참", "곧", "꼭",
)  # fmt: skip


def shingles(text: str, length: int = 5) -> set[str]:
    collapsed = " ".join(unicodedata.normalize("NFC", text).split())
    return {collapsed[i : i + length] for i in range(max(1, len(collapsed) - length + 1))}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def edited(text: str, rate: float, name: str, titles: tuple[str, str]) -> tuple[str, float]:
    """`text` with that share of its words replaced, dropped or joined by another, and its Jaccard.

    The copy is shorter than the original (of two near copies the longer stays) and its similarity
    keeps away from the threshold, with and without the titles before the text.
    """
    for attempt in range(200):
        draw = random.Random(f"{name} at {rate} try {attempt}")
        parts = re.split(r"(\s+)", text)
        places = range(0, len(parts), 2)
        for place in draw.sample(places, round(rate * len(places))):
            kind = draw.random()
            word = draw.choice(_WORDS)
            if kind < 0.7:
                parts[place] = word
            elif kind < 0.9:
                parts[place] = ""
            else:
                parts[place] += " " + word
        copy = re.sub(r"[ \t]{2,}", " ", "".join(parts)).strip()
        bare = jaccard(text, copy)
        titled = jaccard(f"{titles[0]}\n\n{text}", f"{titles[1]}\n\n{copy}")
        clear = (bare - THRESHOLD) * (titled - THRESHOLD) > 0 and (
            min(abs(bare - THRESHOLD), abs(titled - THRESHOLD)) > MARGIN
        )
        if clear and len(copy) < len(text):
            return copy, bare
    raise AssertionError(f"no copy of {name} at {rate} keeps clear of the threshold")


def shuffled(text: str, name: str) -> str:
    """The sentences in another order, in one paragraph."""
    sentences = re.split(r"(?<=[.?!])\s+", text)
    random.Random(f"shuffle {name}").shuffle(sentences)
    return " ".join(sentences)


def decomposed(text: str) -> str:
    """Hangul as loose jamo, as macOS once spelled file names."""
    return unicodedata.normalize("NFD", text)


def spaced(text: str, name: str) -> str:
    """Carriage returns, no-break and zero-width spaces, and spaces at the ends of lines."""
    draw = random.Random(f"space {name}")
    spaces = (" ", " ", " ", "\u00a0", "\u3000", "\u200b ")
    odd = re.sub(" ", lambda _: draw.choice(spaces), text)
    return odd.replace("\n", "  \r\n") + " \t\r\n"


def rewrapped(text: str, width: int = 38) -> str:
    """Hard line ends at about `width` characters, as mail programs write them."""
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) >= width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "\n".join([*lines, line])


def full_width(text: str) -> str:
    """ASCII letters, digits and marks in their full-width forms."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def garbled(text: str, name: str) -> str:
    """Mojibake of three kinds, by the name of the planted text."""
    if name == "mojibake-1":
        return text.encode("cp949").decode("latin-1")
    if name == "mojibake-2":
        twice = text.encode("utf-8").decode("cp949", errors="replace")
        return re.sub("\ufffd+", "占쏙옙", twice)
    draw = random.Random(f"garble {name}")
    return "".join("\ufffd" if not c.isspace() and draw.random() < 0.2 else c for c in text)
