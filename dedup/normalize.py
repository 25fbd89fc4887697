"""Texts → the same texts in one spelling, so that copies compare equal and rules see one form.

NFC; zero-width characters and controls gone; odd spaces and full-width ASCII in their plain form;
runs of ㅋㅋㅋ, ㅎㅎㅎ, ㅠㅠㅠ cut to two and of !!!! to three; newlines alone as line ends, no
trailing spaces, at most two blank lines. Hanja stay, and so does old Hangul: U+119E and U+11A2 are
what Korean keyboards type as dots (39 % of comment pages have them), and are no sign of NFD.

What is mapped is mapped before NFC composes, so that running it twice changes nothing more.
"""

from __future__ import annotations

import re
import unicodedata

import pyarrow as pa

# Controls (tab and newline excepted), soft hyphen, zero-width and directional marks.
# A zero-width joiner stays between the parts of an emoji.
_GONE = (
    "\\x00-\\x08\\x0e-\\x1f\\x7f-\\x9f\\u00ad\\u200b\\u200c\\u200e\\u200f\\u202a-\\u202e"
    "\\u2060-\\u2064\\u2066-\\u2069\\ufeff"
)
_SPACES = "\\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000\\u3164\\uffa0"
_ODD = re.compile(f"[{_GONE}\\u200d{_SPACES}\\r\\x0b\\x0c\\u2028\\u2029\\uff01-\\uff5e]")
_DROP = re.compile(f"[{_GONE}]+")
_JOINER = re.compile("(?<![\\u2600-\\u27bf\\ufe0f\\U0001f000-\\U0001faff])\\u200d")
_SPACE = re.compile(f"[{_SPACES}]")
_LINE_END = re.compile("\\r\\n?|[\\x0b\\x0c\\u2028\\u2029]")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FULL = re.compile("[\\uff01-\\uff5e]+")

_JAMO_RUN = re.compile("([\\u3131-\\u3163])\\1{2,}")
_MARK_RUNS = tuple((mark * 4, re.compile(re.escape(mark) + "{4,}"), mark * 3) for mark in "!?,…")
_DOTS = re.compile("\\.{6,}")
_TRAILING = re.compile("(?<![ \\t])[ \\t]+(?=\\n)")
_BLANK_LINES = re.compile("\\n{4,}")


def normalize_text(text: str) -> str:
    """One text, normalised. Idempotent."""
    if _ODD.search(text):
        text = _LINE_END.sub("\n", text)
        text = _DROP.sub("", text)
        text = _JOINER.sub("", text)
        text = _SPACE.sub(" ", text)
        text = _FULL.sub(lambda match: match[0].translate(_FULL_WIDTH), text)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    # Plain searches first: most texts hold none of these, and a search costs a tenth of a `sub`.
    text = _JAMO_RUN.sub(r"\1\1", text)
    for run, pattern, short in _MARK_RUNS:
        if run in text:
            text = pattern.sub(short, text)
    if "......" in text:
        text = _DOTS.sub("...", text)
    if " \n" in text or "\t\n" in text:
        text = _TRAILING.sub("", text)
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip()


def normalize(texts: pa.Array) -> pa.LargeStringArray:
    """Texts in one spelling; nulls stay null. Takes string or large_string."""
    return pa.array(
        [None if text is None else normalize_text(text) for text in texts.to_pylist()],
        pa.large_string(),
    )
