"""What is counted about a text before it is judged: letters, digits, words, lines, repetitions.

In: a column of texts. Out: `Measures`, one number per text and name, of the whole text or of its
prose alone. One compiled kernel decodes, cuts what is no prose and counts; Python strings would bound
the filters at a few MB/s.

Repetition is counted by hashing (64 bits, open addressing): lines that repeat an earlier line, and
the commonest sequence of three words. Two different lines of a text collide once in 10¹⁴ texts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from dedup.text.prose import CHARACTERS, CODE_ENDS, CODE_OPENINGS, TRIGGERS, prose_points
from dedup.utf8 import buffers, decode, longest, table

# Classes of characters. OTHER is ordinary punctuation, and whatever has no class.
OTHER, HANGUL, LATIN, DIGIT, SYMBOL, HANJA, JAMO, SPACE, LETTER = range(9)
_ORDINARY = set(".,!?'\"()[]-:;·…~%/‘’“”‥–—「」『』《》〈〉、。ㆍᆞᆢ・&")
_ENDINGS = "다요죠까음함임됨네지라자"


class Measures(NamedTuple):
    """Per text; all arrays are float64 of shape [texts].

    characters: without white space; the next seven are counts of characters of a class (letters: all
    of them, Hangul included; symbols: not those of words that are bare markup, such as `***`). words:
    separated by white space; word_characters: their length together. lines: those not empty;
    sentence_lines: those that end as a sentence does. duplicate_lines: characters (spaces not counted)
    of the lines that repeat an earlier one. repeated_words: characters of the commonest sequence of
    three words, two of them with a letter, that occurs three times or more, all occurrences together,
    never more than the words have. replaced: U+FFFD. high_latin: U+0080 to U+00FF and what Windows has
    among them (mojibake, if many). starts: places where a phrase of the caller's `Starts` may begin.
    whole: characters of the text with what is no prose, without white space.
    """

    characters: NDArray[np.float64]
    hangul: NDArray[np.float64]
    latin: NDArray[np.float64]
    letters: NDArray[np.float64]
    digits: NDArray[np.float64]
    symbols: NDArray[np.float64]
    hanja: NDArray[np.float64]
    jamo: NDArray[np.float64]
    words: NDArray[np.float64]
    word_characters: NDArray[np.float64]
    lines: NDArray[np.float64]
    sentence_lines: NDArray[np.float64]
    duplicate_lines: NDArray[np.float64]
    repeated_words: NDArray[np.float64]
    replaced: NDArray[np.float64]
    high_latin: NDArray[np.float64]
    starts: NDArray[np.float64]
    whole: NDArray[np.float64]


def _class(code: int) -> int:
    if 0xD800 <= code < 0xE000:
        return OTHER
    character = chr(code)
    category = unicodedata.category(character)
    if 0xAC00 <= code <= 0xD7A3:
        return HANGUL
    if 0x1100 <= code <= 0x11FF or 0x3131 <= code <= 0x318E or 0xA960 <= code <= 0xA97F:
        return OTHER if character in _ORDINARY else JAMO
    if 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF:
        return HANJA
    if category[0] == "L":
        return LATIN if code < 0x250 else LETTER
    if category == "Nd":
        return DIGIT
    if character.isspace():
        return SPACE
    if category[0] in "SPCN" and character not in _ORDINARY and category != "Cn":
        return SYMBOL
    return OTHER


_CLASSES = table(_class)
_HIGH_LATIN = np.zeros(0x10000, np.bool_)
_HIGH_LATIN[0xA1:0x100] = True
for _byte in range(0x80, 0xA0):
    try:
        _HIGH_LATIN[ord(bytes([_byte]).decode("cp1252"))] = True
    except UnicodeDecodeError:
        continue
for _common in "…‘’“”–—•·™°×÷±§¶®©«»¡¿²³½¼¾":  # typed on purpose
    _HIGH_LATIN[ord(_common)] = False
_ENDS = np.zeros(0x10000, np.bool_)
_ENDS[[ord(character) for character in _ENDINGS + ".!?…。\"'”’)~"]] = True


PAIRS = 1 << 18
"""Size of a table of pairs of characters."""


@njit(nogil=True, cache=True)
def pair_place(first, second):  # type: ignore[no-untyped-def]
    """Where a table of `PAIRS` has this pair of characters; different pairs may share a place."""
    return ((np.int64(first) * 0x9E3779B1 + np.int64(second)) * 0x85EBCA77 >> 14) & 0x3FFFF


class Starts:
    """What phrases begin with: their first three characters, or both of a phrase of two.

    Spaces are not counted. Different beginnings may share a place, so no phrase is missed and a few
    places are found too many.
    """

    def __init__(self, phrases: Iterable[str] = ()) -> None:
        self.pairs = np.zeros(PAIRS, np.bool_)
        self.triples = np.zeros(PAIRS, np.bool_)
        for phrase in phrases:
            place = pair_place(ord(phrase[0]), ord(phrase[1]))
            if len(phrase) == 2:
                self.pairs[place] = True
            else:
                self.triples[pair_place(place, ord(phrase[2]))] = True


def measure(texts: pa.Array, *, prose: bool = False, starts: Starts | None = None) -> Measures:
    """Count; `texts` is string or large_string without nulls. Releases the GIL; one thread.

    `prose` leaves out code, tables, markup and addresses.
    """
    phrases = starts or Starts()
    columns = np.zeros((len(Measures._fields), len(texts)), np.float64)
    offsets, data = buffers(texts)
    _measure(
        offsets, data, longest(offsets), prose, CHARACTERS, CODE_OPENINGS, CODE_ENDS, TRIGGERS,
        _CLASSES, _HIGH_LATIN, _ENDS, phrases.pairs, phrases.triples, columns,
    )  # fmt: skip
    return Measures(*columns)


@njit(nogil=True, cache=True)
def _mix(state, value):  # type: ignore[no-untyped-def]
    state = (state ^ np.uint64(value)) * np.uint64(0xFF51AFD7ED558CCD)
    return state ^ (state >> np.uint64(29))


@njit(nogil=True, cache=True)
def _slot(table, mask, key):  # type: ignore[no-untyped-def]
    """Where the key stands in an open-addressing table, or the free slot it would take."""
    at = np.int64((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)) & mask
    while table[at] != 0 and table[at] != key:
        at = (at + 1) & mask
    return at


@njit(nogil=True, cache=True)
def _cleared(table, most):  # type: ignore[no-untyped-def]
    """Empty as much of a table as `most` keys need, half full; returns its mask."""
    mask = 63
    while mask < 2 * most:
        mask = mask * 2 + 1
    table[: mask + 1] = 0
    return mask


@njit(nogil=True, cache=True)
def _measure(  # type: ignore[no-untyped-def]
    offsets,
    data,
    room,
    cut,
    characters,
    openings,
    code_ends,
    triggers,
    classes,
    high_latin,
    ends,
    pairs,
    triples,
    out,
):
    one = np.uint64(1)
    seed = np.uint64(0x9E3779B97F4A7C15)
    points = np.empty(room + 1, np.int32)
    word_hash = np.empty(room // 2 + 2, np.uint64)
    word_size = np.empty(room // 2 + 2, np.int64)
    word_letters = np.empty(room // 2 + 2, np.uint8)
    slots = 64
    while slots < 2 * room:  # at most one word, and one line, in two bytes
        slots *= 2
    table = np.empty(slots, np.uint64)
    counts = np.empty(slots, np.int32)
    classed = np.zeros(9, np.int64)
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        length = breaks = spaces = 0
        while at < end:
            byte = data[at]
            if byte < 0x80:
                points[length] = byte
                breaks += byte == 10
                spaces += byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31
                at += 1
            else:
                code, size = decode(data, at)
                points[length] = code
                spaces += code < 0x10000 and classes[code] == SPACE
                at += size
            length += 1
        whole = length - spaces
        if cut:
            length = prose_points(points, length, characters, openings, code_ends, triggers)
        mask = _cleared(table, breaks + 1)
        classed[:] = 0
        words = lines = duplicate = replaced = high = begun = 0
        sentences = np.int64(0)
        pair = np.int64(0)
        word, size = seed, 0
        lettered, marks = False, 0  # a letter in the word; how many of its characters are markup
        line, line_size, last = seed, 0, np.int64(0)
        for i in range(length + 1):
            code = np.int64(points[i]) if i < length else np.int64(10)  # closes the last line
            if 0xAC00 <= code <= 0xD7A3:
                kind = np.int64(HANGUL)
            elif code < 0x10000:
                kind = np.int64(classes[code])
                high += high_latin[code]
                replaced += code == 0xFFFD
            elif code >= 0x20000:
                kind = np.int64(HANJA)
            else:
                kind = np.int64(SYMBOL if 0x1F000 <= code < 0x1FB00 else LETTER)
            if kind == SPACE:
                if size:
                    word_hash[words], word_size[words] = word, size
                    word_letters[words] = lettered
                    words += 1
                    if marks == size:  # *** and | are left of markup, ★★★ is somebody's
                        classed[SYMBOL] -= marks
                        classed[OTHER] += marks
                    lettered, marks = False, 0
                    line = _mix(line, word)
                    line_size += size
                    word, size = seed, 0
                if code == 10 and line_size:
                    lines += 1
                    sentences += last < 0x10000 and ends[last]
                    line |= one
                    slot = _slot(table, mask, line)
                    if table[slot] == line:
                        duplicate += line_size
                    table[slot] = line
                    line, line_size = seed, 0
            else:
                classed[kind] += 1
                if kind == SYMBOL:
                    marks += code == 42 or code == 95 or code == 124 or code == 35 or code == 92
                elif kind != DIGIT and kind != OTHER:
                    lettered = True
                word, size = _mix(word, code), size + 1
                begun += pairs[pair_place(last, code)]
                begun += triples[pair_place(pair, code)]
                pair = pair_place(last, code)
                last = code
        total = 0
        for i in range(words):
            total += word_size[i]
        # the commonest three words in a row, by the characters they take
        mask = _cleared(table, words)
        best = 0
        for i in range(words - 2):
            if word_letters[i] + word_letters[i + 1] + word_letters[i + 2] < 2:
                continue
            key = _mix(_mix(word_hash[i], word_hash[i + 1]), word_hash[i + 2]) | one
            slot = _slot(table, mask, key)
            if table[slot] != key:
                table[slot], counts[slot] = key, 1
            else:
                counts[slot] += 1
                taken = counts[slot] * (word_size[i] + word_size[i + 1] + word_size[i + 2])
                if counts[slot] >= 3:
                    best = max(best, taken)
        letters = classed[HANGUL] + classed[LATIN] + classed[HANJA] + classed[JAMO]
        letters += classed[LETTER]
        out[0, row] = classed.sum()
        out[1, row] = classed[HANGUL]
        out[2, row] = classed[LATIN]
        out[3, row] = letters
        out[4, row] = classed[DIGIT]
        out[5, row] = classed[SYMBOL]
        out[6, row] = classed[HANJA]
        out[7, row] = classed[JAMO]
        out[8, row] = words
        out[9, row] = total
        out[10, row] = lines
        out[11, row] = sentences
        out[12, row] = duplicate
        out[13, row] = min(best, total)
        out[14, row] = replaced
        out[15, row] = high
        out[16, row] = begun
        out[17, row] = whole
