"""Lines of JSON objects → the text of one field, unescaped, without parsing the rest.

In: a block of lines (UTF-8 bytes) and a key. Out: per line where the key's string stands, and its
content appended to one buffer, white space at its ends trimmed, ready to be an Arrow column.

The decision: nearly all bytes of a corpus stand in one string per line. A JSON parser makes a Python
string of each (UTF-8 → UCS-2) and Arrow makes UTF-8 of it again: 150 MB/s. Here those bytes are
copied once, and what is left of the line, with a number in the string's place, is parsed by orjson,
which therefore still decides what is JSON. Any line that is not plainly in order is SLOW: the caller
parses it whole. So this file can be fast without having to be a validator, except of the string.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FAST, SLOW, BLANK = 0, 1, 2

_QUOTE, _BACKSLASH, _NEWLINE = 0x22, 0x5C, 0x0A
_STEP = 32  # bytes copied at a time


@njit(nogil=True, cache=True, inline="always")
def _is_space(byte: int) -> bool:
    """What str.strip takes from ASCII."""
    return byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31


@njit(nogil=True, cache=True, inline="always")
def _is_blank(byte: int) -> bool:
    """What a line may hold between its tokens, or hold and still be no record."""
    return byte == 32 or byte == 9 or 11 <= byte <= 13


@njit(nogil=True, cache=True)
def wide_space(data: np.ndarray, begin: int, end: int) -> bool:
    """Whether UTF-8 text begins or ends with white space beyond ASCII."""
    for at in (begin, end - 2):
        if begin <= at and at + 2 <= end and data[at] == 0xC2 and data[at + 1] in (0x85, 0xA0):
            return True
    for at in (begin, end - 3):
        if at < begin or at + 3 > end:
            continue
        one, two, three = data[at], data[at + 1], data[at + 2]
        if (
            (one == 0xE1 and two == 0x9A and three == 0x80)
            or (one == 0xE2 and two == 0x80 and (three <= 0x8A or three in (0xA8, 0xA9, 0xAF)))
            or (one == 0xE2 and two == 0x81 and three == 0x9F)
            or (one == 0xE3 and two == 0x80 and three == 0x80)
        ):
            return True
    return False


@njit(nogil=True, cache=True, inline="always")
def _hex(data: np.ndarray, at: int, end: int) -> int:
    """Four hexadecimal digits; -1 where there are none."""
    if at + 4 > end:
        return -1
    value = 0
    for i in range(at, at + 4):
        c = data[i]
        if 48 <= c <= 57:
            digit = c - 48
        elif 97 <= c <= 102:
            digit = c - 87
        elif 65 <= c <= 70:
            digit = c - 55
        else:
            return -1
        value = value * 16 + digit
    return value


@njit(nogil=True, cache=True)
def _string_end(data: np.ndarray, at: int, end: int) -> int:
    """Index of the quote that closes the string whose content begins at `at`; -1 for none."""
    while at < end:
        c = data[at]
        if c == _QUOTE:
            return at
        if c == _NEWLINE or (c == _BACKSLASH and at + 1 < end and data[at + 1] == _NEWLINE):
            return -1
        at += 2 if c == _BACKSLASH else 1
    return -1


@njit(nogil=True, cache=True)
def _value_of(data: np.ndarray, begin: int, end: int, key: np.ndarray) -> int:
    """Index of the first byte of the value of a key of the line's own object; -1 for none."""
    depth = 0
    key_next = False
    at = begin
    while at < end:
        c = data[at]
        if c == _QUOTE:
            close = _string_end(data, at + 1, end)
            if close < 0:
                return -1
            if depth == 1 and key_next and close - at - 1 == len(key):
                same = True
                for i in range(len(key)):
                    if data[at + 1 + i] != key[i]:
                        same = False
                        break
                if same:
                    at = close + 1
                    while at < end and _is_blank(data[at]):
                        at += 1
                    if at == end or data[at] != 0x3A:
                        return -1
                    at += 1
                    while at < end and _is_blank(data[at]):
                        at += 1
                    return at if at < end else -1
            key_next = False
            at = close
        elif c in (0x7B, 0x5B):
            depth += 1
            key_next = c == 0x7B
        elif c in (0x7D, 0x5D):
            depth -= 1
        elif c == 0x2C and depth == 1:
            key_next = True
        elif c == _NEWLINE:
            return -1
        at += 1
    return -1


@njit(nogil=True, cache=True, inline="always")
def _copy(data: np.ndarray, out: np.ndarray) -> bool:
    """Copy bytes; whether none of them ends a run of plain ones. Without a branch, as vectors."""
    special = np.uint8(0)
    for i in range(_STEP):
        c = data[i]
        out[i] = c
        ends = np.uint8(c < 32) | np.uint8(c == _QUOTE) | np.uint8(c == _BACKSLASH)
        special = np.uint8(special | ends)
    return bool(special == 0)


@njit(nogil=True, cache=True)
def _unescape(data: np.ndarray, at: int, end: int, out: np.ndarray, to: int) -> tuple[int, int]:
    """Copy a string's content, whose first byte is at `at`; (its closing quote or -1, end in out)."""
    start = to
    while at < end:
        c = data[at]
        if c == _QUOTE:
            return at, to
        if c < 32:
            return -1, to
        if c != _BACKSLASH:
            if to == start and c == 32:
                at += 1
                continue
            while at + _STEP <= end and _copy(data[at : at + _STEP], out[to : to + _STEP]):
                at += _STEP
                to += _STEP
            if at == end:
                return -1, to
            c = data[at]
            while c != _BACKSLASH and c != _QUOTE and c >= 32:
                out[to] = c
                to += 1
                at += 1
                if at == end:
                    return -1, to
                c = data[at]
            continue
        if at + 1 >= end:
            return -1, to
        c = data[at + 1]
        at += 2
        if c == 0x75:
            code = _hex(data, at, end)
            at += 4
            if 0xD800 <= code < 0xDC00 and at + 6 <= end:
                low = _hex(data, at + 2, end)
                if data[at] != _BACKSLASH or data[at + 1] != 0x75 or not 0xDC00 <= low < 0xE000:
                    return -1, to
                at += 6
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                out[to] = 0xF0 | (code >> 18)
                out[to + 1] = 0x80 | ((code >> 12) & 0x3F)
                out[to + 2] = 0x80 | ((code >> 6) & 0x3F)
                out[to + 3] = 0x80 | (code & 0x3F)
                to += 4
            elif code <= 0 or 0xD800 <= code < 0xE000:  # no number, NUL, or half a pair
                return -1, to
            elif code < 0x80:
                if not (to == start and _is_space(code)):
                    out[to] = code
                    to += 1
            elif code < 0x800:
                out[to] = 0xC0 | (code >> 6)
                out[to + 1] = 0x80 | (code & 0x3F)
                to += 2
            else:
                out[to] = 0xE0 | (code >> 12)
                out[to + 1] = 0x80 | ((code >> 6) & 0x3F)
                out[to + 2] = 0x80 | (code & 0x3F)
                to += 3
            continue
        if c == 0x6E:
            c = 10
        elif c == 0x74:
            c = 9
        elif c == 0x72:
            c = 13
        elif c == 0x62:
            c = 8
        elif c == 0x66:
            c = 12
        elif c not in (_QUOTE, _BACKSLASH, 0x2F):
            return -1, to
        if not (to == start and _is_space(c)):
            out[to] = c
            to += 1
    return -1, to


@njit(nogil=True, cache=True)
def find_texts(data: np.ndarray, key: np.ndarray, out: np.ndarray, table: np.ndarray) -> int:
    """Fill table, int64 [lines, 6], and out, uint8 [at least len(data)]; returns the lines.

    Columns of the table: begin and end of the line (no newline), begin and end of the string with
    its quotes, end of its content in out (it begins where the row before ended), FAST, SLOW or BLANK.
    data: uint8, valid UTF-8. key: its bytes as they stand between the quotes.
    """
    lines = 0
    at = 0
    to = 0
    size = len(data)
    while at < size:
        begin = at
        while begin < size and _is_blank(data[begin]):
            begin += 1
        start = to
        close = -1
        table[lines, 0] = at
        table[lines, 5] = SLOW
        if begin == size or data[begin] == _NEWLINE:
            table[lines, 5] = BLANK
        elif data[begin] == 0x7B:
            value = _value_of(data, begin, size, key)
            if value >= 0 and data[value] == _QUOTE:
                close, to = _unescape(data, value + 1, size, out, start)
            while to > start and _is_space(out[to - 1]):
                to -= 1
            if close >= 0 and to > start and not wide_space(out, start, to):
                table[lines, 2] = value
                table[lines, 3] = close + 1
                table[lines, 5] = FAST
            else:
                to = start
        end = close if close >= 0 else begin  # so that most bytes are read once
        while end < size and data[end] != _NEWLINE:
            end += 1
        table[lines, 1] = end
        table[lines, 4] = to
        lines += 1
        at = end + 1
    return lines
