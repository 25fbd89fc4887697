"""Korean–English pairs → what is trained: the two texts behind one another, or a translation.

In: the sides of a pair and its document id. Out: its text for a plain phase, or the two turns of a
translation dialogue for a chat phase; each in two renderings, which differ in direction.

The decision: a pair's direction, form and template are a pure function of (seed, id), so the pairs
divide themselves evenly without any state; the second rendering, `turned`, is the same with the
direction reversed. An epoch of the data order reads one rendering and the next epoch the other
(`order.py`), so no pair is seen twice in an epoch and every pair is seen both ways. They are rendered
once, when token shards are written, for text must be tokenized whole: sides that were tokenized apart
and joined would have a token border at every seam that no tokenizer makes. The cost is the tokens of
the pairs on disk twice, and twice again if a chat phase names their source.

Held-out pairs are not rendered: bits per byte are measured on their two texts, Korean first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LANGUAGES = ("ko", "en")

_PLAIN: dict[str, tuple[str, ...]] = {
    "en": (
        "한국어: {source}\n영어: {target}",
        "Korean: {source}\nEnglish: {target}",
        "다음 한국어를 영어로 옮기면 이렇다.\n\n{source}\n\n{target}",
        "The following Korean text is given with its English translation.\n\n{source}\n\n{target}",
    ),
    "ko": (
        "영어: {source}\n한국어: {target}",
        "English: {source}\nKorean: {target}",
        "다음 영어를 한국어로 옮기면 이렇다.\n\n{source}\n\n{target}",
        "The following English text is given with its Korean translation.\n\n{source}\n\n{target}",
    ),
}
"""Text of a translation, by the language it goes into."""

_ASKED: dict[str, tuple[str, ...]] = {
    "en": (
        "다음 글을 영어로 옮겨 주세요.\n\n{source}",
        "{source}\n\n위 글을 영어로 번역해 줘.",
        "Translate the following text into English.\n\n{source}",
        "How would you say this in English?\n\n{source}",
    ),
    "ko": (
        "다음 글을 한국어로 옮겨 주세요.\n\n{source}",
        "{source}\n\n위 글을 한국어로 번역해 줘.",
        "Translate the following text into Korean.\n\n{source}",
        "How would you say this in Korean?\n\n{source}",
    ),
}
"""What a user says who wants a translation, by the language it goes into."""


@dataclass(frozen=True)
class PairForms:
    """How pairs are rendered. translate: share that stand in a template, in plain phases.

    chat_sources: sources of pairs that a chat phase names, which are also written as dialogues.
    """

    seed: int = 0
    translate: float = 0.5
    chat_sources: frozenset[str] = frozenset()

    def key(self) -> str:
        """What decides the renderings, as text: part of the name of every shard that holds them."""
        return f"{self.seed}/{self.translate}/{sorted(self.chat_sources)}/{_PLAIN}/{_ASKED}"


def sides(segments: Iterable[Mapping[str, str]] | None) -> tuple[str, str] | None:
    """The Korean and the English text of a pair; None where one of them is missing."""
    found = {segment["role"]: segment["text"] for segment in segments or ()}
    if not all(found.get(language) for language in LANGUAGES):
        return None
    return found["ko"], found["en"]


def _chance(forms: PairForms, identity: str) -> tuple[int, float, int]:
    """The direction (0: into English), a number in [0, 1), and one to choose a template by."""
    text = f"{forms.seed}/pair/{identity}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=16).digest()
    direction = digest[0] & 1
    share = int.from_bytes(digest[1:8], "little") / 2**56
    return direction, share, int.from_bytes(digest[8:], "little")


def _directed(pair: tuple[str, str], direction: int) -> tuple[str, str, str]:
    """First text, second text, and the language of the second."""
    return (pair[0], pair[1], "en") if direction == 0 else (pair[1], pair[0], "ko")


def plain(forms: PairForms, identity: str, pair: tuple[str, str], *, turned: bool) -> str:
    """The text of a pair for a phase that learns every token."""
    direction, share, choice = _chance(forms, identity)
    first, second, into = _directed(pair, direction ^ turned)
    if share >= forms.translate:
        return f"{first}\n{second}"
    templates = _PLAIN[into]
    return templates[choice % len(templates)].format(source=first, target=second)


def asked(
    forms: PairForms, identity: str, pair: tuple[str, str], *, turned: bool
) -> list[dict[str, str]]:
    """A pair as a dialogue: the user asks for a translation, the assistant gives it."""
    direction, _, choice = _chance(forms, identity)
    first, second, into = _directed(pair, direction ^ turned)
    templates = _ASKED[into]
    return [
        {"role": "user", "text": templates[choice % len(templates)].format(source=first)},
        {"role": "assistant", "text": second},
    ]
