"""What is counted about a text before it is judged: letters, digits, words, lines, repetitions.

In: a column of texts. Out: `Measures`, one number per text and name, of the whole text or of its
prose alone. Compiled walks decode, cut what is no prose and count, a piece of the column at a time;
Python strings would bound the filters at a few MB/s.

Repetition is counted by hashing (64 bits, open addressing): lines that repeat an earlier line, and
the commonest sequence of three words. Two different lines of a text collide once in 10¹⁴ texts.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from dedup.text.boilerplate import MARKS, candidates
from dedup.text.points import WHITE, decoded
from dedup.text.prose import TRIGGERS, keep_prose
from dedup.text.starts import Starts, pair_place
from dedup.utf8 import table

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


# A character's byte: its class, and what else is known of it.
KIND, MARKUP, HIGH, ENDS, REPLACED = 0x0F, 0x10, 0x20, 0x40, 0x80
RARE = MARKUP | HIGH | REPLACED


def _high_latin() -> set[int]:
    """What Windows-1252 has above ASCII, but for what is typed on purpose."""
    codes = set(range(0xA1, 0x100))
    for byte in range(0x80, 0xA0):
        codes.update(map(ord, bytes([byte]).decode("cp1252", "ignore")))
    return codes - set(map(ord, "…‘’“”–—•·™°×÷±§¶®©«»¡¿²³½¼¾"))


_TABLE = table(_class)
_TABLE[list(_high_latin())] |= HIGH
_TABLE[[ord(character) for character in "*_|#\\"]] |= MARKUP
_TABLE[[ord(character) for character in _ENDINGS + ".!?…。\"'”’)~"]] |= ENDS
_TABLE[0xFFFD] |= REPLACED

_FLAGS = TRIGGERS | MARKS  # of characters, or-ed over a line
_FLAGS |= np.where(_TABLE & KIND == SPACE, WHITE, 0).astype(np.uint16)

BEGINNING = 4096
"""Characters of a text that `measure_and_show` shows."""


def measure(texts: pa.Array, *, prose: bool = False, starts: Starts | None = None) -> Measures:
    """Count; `texts` is string or large_string without nulls. Releases the GIL; one thread.

    `prose` leaves out code, tables, markup and addresses.
    """
    return measure_and_show(texts, prose=prose, starts=starts).measures


class Shown(NamedTuple):
    """What is counted of texts, and what a caller needs to see of them.

    beginnings: by row, the first characters of the texts (of their prose) with little Hangul. lines:
    (row, line) for each line that may be boilerplate.
    """

    measures: Measures
    beginnings: dict[int, str]
    lines: list[tuple[int, str]]


def measure_and_show(
    texts: pa.Array,
    *,
    prose: bool = False,
    starts: Starts | None = None,
    foreign: float = 0.0,
    lines: bool = False,
) -> Shown:
    """`measure`, with a closer look while the texts lie decoded.

    foreign: share of Hangul among the letters below which a text's beginning is shown, BEGINNING
    characters of it. lines: whether lines that may be boilerplate are.
    """
    phrases = starts or Starts()
    columns = np.zeros((len(Measures._fields), len(texts)), np.float64)
    shown = Shown(Measures(*columns), {}, [])
    counted = shown.measures
    room = _Room(0)
    for piece in decoded(texts, _FLAGS):
        if lines:
            shown.lines.extend(candidates(piece))
        own = slice(piece.first, piece.first + piece.rows)
        counted.whole[own] = piece.lengths[: piece.rows] - piece.spaces[: piece.rows]
        if prose:
            keep_prose(piece)
        if len(piece.points) > room.points:
            room = _Room(len(piece.points))
        _count(
            piece.rows, piece.points, piece.starts, piece.lengths, piece.lines, _TABLE,
            phrases.firsts, phrases.pairs, phrases.triples, room.lines, room.hashes, room.sizes,
            room.lettered, room.words, columns[:, own],
        )  # fmt: skip
        _repeat(
            piece.rows, room.words, room.hashes, room.sizes, room.lettered, room.lines, room.counts,
            columns[:, own],
        )  # fmt: skip
        if foreign:
            hangul = counted.hangul[own] + counted.jamo[own]
            few = hangul < foreign * np.maximum(counted.letters[own], 1)
            for row in np.flatnonzero(few & (counted.letters[own] > 0)).tolist():
                shown.beginnings[piece.first + row] = piece.text(row, BEGINNING)
    return shown


class _Room:
    """Scratch arrays for pieces of so many code points."""

    def __init__(self, points: int) -> None:
        slots = 64
        while slots < 2 * points:  # at most one word, and one line, in two characters
            slots *= 2
        self.points = points
        self.lines = np.empty(slots, np.uint64)  # an open-addressing table
        self.counts = np.empty(slots, np.int32)
        self.hashes = np.empty(points + 1, np.uint64)  # of words
        self.sizes = np.empty(points + 1, np.int64)
        self.lettered = np.empty(points + 1, np.uint8)
        self.words = np.empty(points + 2, np.int64)  # where the words of each row end


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
def _beyond(code):  # type: ignore[no-untyped-def]
    """The class of a character outside the BMP."""
    if code >= 0x20000:
        return np.uint8(HANJA)
    return np.uint8(SYMBOL) if 0x1F000 <= code < 0x1FB00 else np.uint8(LETTER)


@njit(nogil=True, cache=True)
def _count(  # type: ignore[no-untyped-def]
    rows, points, starts, lengths, row_lines, bits, firsts, pairs, triples, table, word_hash,
    word_size, word_letters, word_ends, out,
):  # fmt: skip
    """All but the repeated words, whose words it leaves behind."""
    one = np.uint64(1)
    seed = np.uint64(0x9E3779B97F4A7C15)
    classed = np.zeros(16, np.int64)
    words = 0
    for row in range(rows):
        mask = _cleared(table, row_lines[row + 1] - row_lines[row])
        classed[:] = 0
        lines = replaced = high = begun = syllables = 0
        sentences = duplicate = total = np.int64(0)
        before = words
        pair = np.int64(0)
        first = second = False  # whether a phrase begins with the last character, the one before
        line, line_size, last = seed, np.int64(0), np.uint32(0)
        word, size = seed, np.int64(0)
        lettered, marks = False, 0  # a letter in the word; how many of its characters are markup
        own = points[starts[row] : starts[row] + lengths[row] + 1]
        for i in range(len(own)):
            code = own[i]
            if 0xAC00 <= code <= 0xD7A3:
                syllables += 1
                lettered = True
            else:
                known = bits[code] if code < 0x10000 else _beyond(code)
                kind = known & KIND
                classed[kind] += 1
                if kind == SPACE:
                    if size:
                        word_hash[words], word_size[words] = word, size
                        word_letters[words] = lettered
                        words += 1
                        total += size
                        if marks == size:  # *** and | are left of markup, ★★★ is somebody's
                            classed[SYMBOL] -= marks
                            classed[OTHER] += marks
                        line = _mix(line, word)
                        line_size += size
                        word, size, lettered, marks = seed, np.int64(0), False, 0
                    if code == 10 and line_size:  # the newline behind the text closes its last line
                        lines += 1
                        sentences += last < 0x10000 and bits[last] & ENDS != 0
                        line |= one
                        slot = _slot(table, mask, line)
                        if table[slot] == line:
                            duplicate += line_size
                        table[slot] = line
                        line, line_size = seed, np.int64(0)
                    continue
                lettered |= kind != SYMBOL and kind != DIGIT and kind != OTHER
                if known & RARE:
                    marks += known & MARKUP != 0
                    high += known & HIGH != 0
                    replaced += known & REPLACED != 0
            word = _mix(word, code)
            size += 1
            if second:
                begun += triples[pair_place(pair, code)]
            second = first
            if first:
                pair = pair_place(last, code)
                begun += pairs[pair]
            first = code < 0x10000 and firsts[code]
            last = code
        word_ends[row] = words
        classed[HANGUL], classed[SPACE] = syllables, 0
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
        out[8, row] = words - before
        out[9, row] = total
        out[10, row] = lines
        out[11, row] = sentences
        out[12, row] = duplicate
        out[14, row] = replaced
        out[15, row] = high
        out[16, row] = begun


@njit(nogil=True, cache=True)
def _repeat(rows, word_ends, hashes, sizes, lettered, table, counts, out):  # type: ignore[no-untyped-def]
    """Characters that the commonest three words in a row take, where they come three times or more."""
    one = np.uint64(1)
    first = 0
    for row in range(rows):
        end = word_ends[row]
        mask = _cleared(table, end - first)
        best = np.int64(0)
        for i in range(first, end - 2):
            if lettered[i] + lettered[i + 1] + lettered[i + 2] < 2:
                continue
            key = _mix(_mix(hashes[i], hashes[i + 1]), hashes[i + 2]) | one
            slot = _slot(table, mask, key)
            if table[slot] != key:
                table[slot], counts[slot] = key, 1
            else:
                counts[slot] += 1
                if counts[slot] >= 3:
                    best = max(best, counts[slot] * (sizes[i] + sizes[i + 1] + sizes[i + 2]))
        out[13, row] = min(best, out[9, row])
        first = end
