"""Texts → the same texts in one spelling, so that copies compare equal and rules see one form.

NFC; zero-width characters and controls gone; odd spaces and full-width ASCII in their plain form;
runs of ㅋㅋㅋ, ㅎㅎㅎ, ㅠㅠㅠ cut to two and of !!!! to three; newlines alone as line ends, no
trailing spaces, at most two blank lines. Hanja stay, and so does old Hangul: U+119E and U+11A2 are
what Korean keyboards type as dots (39 % of comment pages have them), and are no sign of NFD.

What is mapped is mapped before NFC composes, so that running it twice changes nothing more.

The decision: `normalize_text` says what is done, in plain Python; `normalize` does the same to a
column in one compiled walk. Only a text with a character that NFC could change goes through Python.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from dedup.utf8 import buffers, column, decode, encode, plain_run, table

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
_BLANK_LINES = re.compile("\\n{4,}")


def normalize_text(text: str) -> str:
    """One text, normalised. Idempotent."""
    if _ODD.search(text):
        text = _LINE_END.sub("\n", text)
        text = _DROP.sub("", text)
        if "\u200d" in text:
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
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip()


def normalize(texts: pa.Array) -> pa.LargeStringArray:
    """Texts in one spelling; nulls stay null. Takes string or large_string.

    Releases the GIL but for the texts that NFC could change; one thread.
    """
    offsets, data = buffers(pc.fill_null(texts, ""))
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(texts) + 1, np.int64)
    by_hand = np.zeros(len(texts), np.bool_)
    first = int(offsets[0])
    odd = np.ones(len(out) + 16, np.uint8)
    _find_odd(data[first : int(offsets[-1])], odd)
    words = odd[: len(odd) // 8 * 8].view(np.uint64)
    _normalize(offsets, data, first, odd, words, _ACTIONS, _BEFORE_JOINER, out, ends, by_hand)
    done = column(ends, out)
    rows = np.flatnonzero(by_hand)
    if len(rows):
        renewed = [normalize_text(text) for text in texts.take(pa.array(rows)).to_pylist()]
        done = pc.replace_with_mask(done, pa.array(by_hand), pa.array(renewed, pa.large_string()))
    return pc.if_else(texts.is_null(), None, done) if texts.null_count else done


# ── the same, compiled ──────────────────────────────────────────────────────────────────────────

# What is done with a character. RUN_OF_* are kept up to a length; BY_HAND sends the text to Python.
_KEEP, _DROPPED, _TO_SPACE, _FULL_WIDTH_ASCII, _BREAK, _CARRIAGE, _ZWJ, _JAMO, _MARK = range(9)
_DOT, _NEWLINE, _BLANK, _BY_HAND = range(9, 13)


def _seconds_of_compositions() -> set[int]:
    """Characters of the BMP that NFC may join to the one before them, combining class or not."""
    seconds = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    for code in (*range(0x3400), *range(0xF900, 0x10000)):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
    return seconds


_SECONDS = _seconds_of_compositions()
_NAMED = {"\u200d": _ZWJ, "\r": _CARRIAGE, ".": _DOT, "\n": _NEWLINE, " ": _BLANK, "\t": _BLANK}


def _action(code: int) -> int:
    character = chr(code)
    if character in _NAMED:
        return _NAMED[character]
    if _ODD.match(character):
        if _DROP.match(character):
            return _DROPPED
        if _SPACE.match(character):
            return _TO_SPACE
        return _FULL_WIDTH_ASCII if 0xFF01 <= code <= 0xFF5E else _BREAK
    if (
        code in _SECONDS
        or unicodedata.combining(character)
        or not unicodedata.is_normalized("NFC", character)
    ):
        return _BY_HAND
    if 0x3131 <= code <= 0x3163:
        return _JAMO
    return _MARK if character in "!?,…" else _KEEP


_ACTIONS = table(_action)
_BEFORE_JOINER = np.zeros(0x10000, np.bool_)  # in the BMP; beyond it, U+1F000 to U+1FAFF
_BEFORE_JOINER[0x2600:0x27C0] = True
_BEFORE_JOINER[0xFE0F] = True


@njit(nogil=True, cache=True)
def _find_odd(data, odd):  # type: ignore[no-untyped-def]
    """Unmark the bytes with which nothing is to be done.

    Those are of ASCII and of syllables up to U+D77F, with no mark twice in a row, and of newlines
    behind what is no white space. Compares without a branch, of which LLVM makes vectors.
    """
    for i in range(1, len(data) - 1):
        before, byte, after = data[i - 1], data[i], data[i + 1]
        syllable = (
            np.uint8(byte == 0xEB)
            | np.uint8(byte == 0xEC)
            | (np.uint8(byte == 0xEA) & np.uint8(after >= 0xB0))
            | (np.uint8(byte == 0xED) & np.uint8(after < 0x9E))
        )
        mark = (
            np.uint8(byte == 33)
            | np.uint8(byte == 44)
            | np.uint8(byte == 46)
            | np.uint8(byte == 63)
        )
        odd[i] = (
            (np.uint8(byte >= 0xC0) & (syllable ^ np.uint8(1)))
            | np.uint8(byte == 127)
            | (np.uint8(byte < 32) & (np.uint8(byte != 10) | np.uint8(before <= 32)))
            | (mark & np.uint8(byte == after))
        )


@njit(nogil=True, cache=True)
def _normalize(offsets, data, first, odd, odd_words, actions, before_joiner, out, ends, by_hand):  # type: ignore[no-untyped-def]
    to = 0
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        start = to
        last = np.int64(-1)  # the character before, once dropped ones are gone
        run = 0
        while at < end:
            byte = data[at]
            if byte > 0x3F and to > start:
                stop = plain_run(odd, odd_words, at - first, end - first) + first
                while stop > at and stop < end and data[stop] & 0xC0 == 0x80:
                    stop -= 1  # not in the middle of a character
                if stop > at:
                    source, target = data[at:stop], out[to : to + stop - at]
                    for i in range(len(source)):
                        target[i] = source[i]
                    to += stop - at
                    at = stop
                    code = np.int64(data[at - 1])
                    last, run = code if code < 0x80 else np.int64(0xAC00), 1
                    continue
            if 0x30 <= byte < 0x7F:  # an ASCII letter or digit, or a mark that may stand in a row
                code, size = np.int64(byte), 1
                if byte != 0x3F:
                    out[to] = byte
                    to += 1
                    at += 1
                    last, run = code, 1
                    continue
            elif byte == 0xEB or byte == 0xEC or (byte == 0xEA and data[at + 1] >= 0xB0):
                # A syllable up to U+CFFF; which one no rule asks.
                out[to] = byte
                out[to + 1] = data[at + 1]
                out[to + 2] = data[at + 2]
                to += 3
                at += 3
                last, run = np.int64(0xAC00), 1
                continue
            else:
                code, size = decode(data, at)
            at += size
            if 0xAC00 <= code <= 0xD7A3:
                out[to] = data[at - 3]
                out[to + 1] = data[at - 2]
                out[to + 2] = data[at - 1]
                to += 3
                last, run = code, 1
                continue
            if code < 0x10000:
                action = actions[code]
            elif (
                0x1F000 <= code < 0x1FB00 or 0x20000 <= code < 0x2F800 or 0x30000 <= code < 0x32400
            ):
                action = np.uint8(_KEEP)
            else:
                action = np.uint8(_BY_HAND)
            if action == _BY_HAND:
                by_hand[row] = True
                break
            if action == _DROPPED:
                continue
            if action == _ZWJ and not (
                before_joiner[last] if 0 <= last < 0x10000 else 0x1F000 <= last < 0x1FB00
            ):
                continue
            if action == _CARRIAGE:
                if at < end and data[at] == 10:
                    at += 1
                code, action = np.int64(10), np.uint8(_NEWLINE)
            elif action == _BREAK:
                code, action = np.int64(10), np.uint8(_NEWLINE)
            elif action == _TO_SPACE:
                code, action = np.int64(32), np.uint8(_BLANK)
            elif action == _FULL_WIDTH_ASCII:
                code -= 0xFEE0
                action = actions[code]
            run = run + 1 if code == last else 1
            last = code
            if action == _JAMO and run > 2:
                continue
            if action == _MARK and run > 3:
                continue
            if action == _DOT and run > 5:
                if run == 6:
                    to -= 2  # five were written, three stay
                continue
            if action == _NEWLINE:
                while to > start and (out[to - 1] == 32 or out[to - 1] == 9):
                    to -= 1
                if to == start or (
                    to - start > 3 and out[to - 1] == 10 and out[to - 2] == 10 and out[to - 3] == 10
                ):
                    continue
            elif action == _BLANK and to == start:
                continue
            to = encode(code, out, to)
        if by_hand[row]:
            to = start
        while to > start and (out[to - 1] == 32 or out[to - 1] == 9 or out[to - 1] == 10):
            to -= 1
        ends[row + 1] = to
