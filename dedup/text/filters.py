"""Quality rules: a text is kept, or goes with a reason; and the quality score of what stays.

In: normalised texts, the limits (`configs.schema.Filters`) and the language of the source. Out: a
`Judgement`. The order of the rules is the order of `REASONS`; the first that a text breaks is its
reason, so counts by reason add up.

Only prose is judged (see dedup/text/prose.py), and a text of which too little is left to judge is not
judged by ratios at all. A text becomes a Python string only where a count says that a closer look is
worth it.

`quality` (0..1, two decimals) decides between duplicates which copy stays. It is the mean of four
parts, each 0..1: length (40 characters → 0, 4,000 → 1, on a log scale), lines that end as sentences
do, freedom from repetition, freedom from symbols, digits, stray jamo and broken characters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.schema import Dedup, Filters, Near, Source
from dedup.text.boilerplate import cut_lines, is_boilerplate
from dedup.text.language import CERTAIN, language_share
from dedup.text.measures import Measures, measure_and_show
from dedup.text.mojibake import broken_characters, repaired
from dedup.text.prose import prose
from dedup.text.spam import STARTS, spam

REASONS = (
    "too_short", "too_long", "mojibake", "wrong_language", "little_hangul", "symbols", "digits",
    "word_length", "duplicate_lines", "repeated_words", "spam",
)  # fmt: skip

SPAM_PHRASES = 3
"""So many different phrases must come together before their density counts."""

_RATIOS = (
    "wrong_language", "little_hangul", "symbols", "digits", "word_length", "duplicate_lines",
    "repeated_words",
)  # fmt: skip

ENOUGH = 30
"""Letters of prose below which ratios say nothing, and only length, mojibake and spam are judged."""


@dataclass(frozen=True)
class Judgement:
    """reasons: None for a text that stays. quality: float32 [texts]. texts: boilerplate cut.

    values: by reason, the figure of each text that the rule compares with its `bounds`. repaired:
    texts whose mojibake was undone.
    """

    reasons: list[str | None]
    quality: NDArray[np.float32]
    texts: pa.Array
    values: dict[str, NDArray[Any]]
    repaired: int = 0


# ── which rules a source is under ───────────────────────────────────────────────────────────────


def preset(name: str) -> Filters | None:
    """The limits of a preset by name; None for "none". Raises KeyError for another name."""
    return {
        "korean_web": Filters(),
        "english_web": Filters(min_hangul=0, min_language=0.45, mean_word=(2.5, 12.0)),
        "none": None,
    }[name]


def _kind(source: Source) -> str:
    return source.format if source.format in ("chat", "parallel") else "text"


def limits_for(source: Source, dedup: Dedup, kind: str | None = None) -> Filters | None:
    """The limits a source's documents are under, None for no filtering.

    `kind`: the documents' own, where a format of `auto` turned out to be chat or parallel. Without
    a word in the source, text is under dedup.filters (English under english_web where that says
    korean_web) and other kinds are not filtered.
    """
    if source.filters is not None:
        return source.filters if isinstance(source.filters, Filters) else preset(source.filters)
    if (kind or _kind(source)) != "text":
        return None
    if isinstance(dedup.filters, Filters):
        return dedup.filters
    if dedup.filters == "korean_web" and source.language == "en":
        return preset("english_web")
    return preset(dedup.filters)


def pii_for(source: Source, dedup: Dedup) -> str:
    """What happens to personal data of this source: "mask", "drop" or "keep"."""
    return source.pii or dedup.pii


def near_for(source: Source, dedup: Dedup, kind: str | None = None) -> Near | None:
    """How near copies of this source are found, None where they stay (dialogues, by default)."""
    chosen = source.near
    if chosen is None:
        chosen = "none" if (kind or _kind(source)) == "chat" else dedup.near
    return chosen if isinstance(chosen, Near) else None


# ── judging ─────────────────────────────────────────────────────────────────────────────────────


def bounds(limits: Filters, language: str) -> dict[str, tuple[float, float]]:
    """Least and most allowed, by reason, in the order of `REASONS`."""
    return {
        "too_short": (limits.min_characters, np.inf),
        "too_long": (0, limits.max_characters),
        "mojibake": (0, limits.max_broken),
        "wrong_language": (0 if language == "any" else limits.min_language, np.inf),
        "little_hangul": (limits.min_hangul if language == "ko" else 0, np.inf),
        "symbols": (0, limits.max_symbols),
        "digits": (0, limits.max_digits),
        "word_length": limits.mean_word,
        "duplicate_lines": (0, limits.max_duplicate_lines),
        "repeated_words": (0, limits.max_repeated_words),
        "spam": (0, limits.max_spam),
    }


def judge(texts: pa.Array, limits: Filters, language: str) -> Judgement:
    """Judge normalised texts (string or large_string, no nulls) of a source in `language`.

    language "ko", "en" or "any"; the Hangul rule is for "ko", the language rules not for "any".
    """
    texts, counted, beginnings = _counted(texts, limits, language)
    characters = np.maximum(counted.characters, 1)

    def written(row: int) -> str:
        return prose(texts[row].as_py())

    share = language_share(texts, language, counted, beginnings)
    broken = np.zeros(len(texts))
    suspect = (counted.replaced > 0) | (counted.high_latin >= 4) | (counted.hanja > 0)
    for row in np.flatnonzero(suspect).tolist():
        broken[row] = broken_characters(
            written(row), bool(counted.replaced[row]), int(counted.high_latin[row]),
            int(counted.hanja[row]),
        )  # fmt: skip
    meant = {row: repaired(texts[row].as_py()) for row in np.flatnonzero(broken).tolist()}
    mended = {row: text for row, text in meant.items() if text is not None}
    if mended:
        renewed = texts.to_pylist()
        for row, text in mended.items():
            renewed[row] = text
        again = judge(pa.array(renewed, texts.type), limits, language)
        return replace(again, repaired=again.repaired + len(mended))
    spammed = np.zeros(len(texts))
    # A phrase is ten characters at most: fewer possible starts than this cannot fill the share.
    for row in np.flatnonzero(counted.starts * 10 > limits.max_spam * characters).tolist():
        phrases, filled = spam(written(row))
        if phrases >= SPAM_PHRASES:
            spammed[row] = filled / characters[row]
    enough = counted.letters >= ENOUGH
    words = np.maximum(counted.words, 1)
    values: dict[str, NDArray[Any]] = {
        "too_short": counted.whole,
        "too_long": counted.whole,
        "mojibake": broken / characters,
        "wrong_language": share,
        "little_hangul": (counted.hangul + counted.jamo) / np.maximum(counted.letters, 1),
        "symbols": counted.symbols / characters,
        "digits": counted.digits / characters,
        "word_length": counted.word_characters / words,
        "duplicate_lines": counted.duplicate_lines / characters,
        "repeated_words": counted.repeated_words / characters,
        "spam": spammed,
    }
    breaks: dict[str, NDArray[np.bool_]] = {
        reason: (values[reason] < least) | (values[reason] > most)
        for reason, (least, most) in bounds(limits, language).items()
    }
    for reason in _RATIOS:
        breaks[reason] &= enough
    if language == "ko":
        breaks["little_hangul"] |= counted.hangul < limits.min_syllables
    table = np.stack([breaks[reason] for reason in REASONS])
    first = np.where(table.any(axis=0), table.argmax(axis=0), -1)
    reasons = [REASONS[at] if at >= 0 else None for at in first.tolist()]
    return Judgement(reasons, _quality(counted, broken), texts, values)


def _counted(
    texts: pa.Array, limits: Filters, language: str
) -> tuple[pa.Array, Measures, dict[int, str]]:
    """The texts without boilerplate, what is counted of them, and the beginnings CLD2 shall see.

    A text of which lines are cut is counted anew: one in a hundred is.
    """
    foreign = {"ko": CERTAIN, "en": np.inf}.get(language, 0.0)
    shown = measure_and_show(
        texts, prose=True, starts=STARTS, foreign=foreign, lines=limits.boilerplate
    )
    found: dict[int, set[str]] = {}
    for row, line in shown.lines:
        if is_boilerplate(line):
            found.setdefault(row, set()).add(line)
    cut = list(found)
    if not cut:
        return texts, shown.measures, shown.beginnings
    renewed = pa.array(
        [cut_lines(texts[row].as_py(), lines) for row, lines in found.items()], texts.type
    )
    again = measure_and_show(renewed, prose=True, starts=STARTS, foreign=foreign)
    for column, values in zip(shown.measures, again.measures, strict=True):
        column[cut] = values
    beginnings = {row: text for row, text in shown.beginnings.items() if row not in found}
    beginnings.update((cut[row], text) for row, text in again.beginnings.items())
    mask = np.zeros(len(texts), np.bool_)
    mask[cut] = True
    texts = pc.replace_with_mask(texts, pa.array(mask), renewed)
    return texts, shown.measures, beginnings


def _quality(counted: Measures, broken: NDArray[np.float64]) -> NDArray[np.float32]:
    characters = np.maximum(counted.characters, 1)
    length = np.clip(np.log10(np.maximum(counted.whole, 1) / 40) / 2, 0, 1)
    sentences = counted.sentence_lines / np.maximum(counted.lines, 1)
    repetition = (counted.duplicate_lines + counted.repeated_words) / characters
    noise = (counted.symbols + counted.digits / 2 + counted.jamo + 20 * broken) / characters
    score = (
        length + sentences + np.clip(1 - 2 * repetition, 0, 1) + np.clip(1 - 3 * noise, 0, 1)
    ) / 4
    return np.round(score, 2).astype(np.float32)
