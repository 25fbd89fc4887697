"""What of a text is written to be read: without code, tables, markup and addresses.

In: the code points of a normalised text. Out: those of its prose. Technical writing is half code and
English names, and rules that judge all of it drop 57 % of Korean documentation.

Cut whole: front matter, fenced code, and lines that are rows of tables, rules, directives, indented
code, or that open or end as code does and hold no Hangul. Cut out of lines, leaving a space: inline
code, includes, targets of links, addresses, tags, entities. A line that goes leaves its line end. Everything but front
matter and fences is a matter of one line, so one walk does it; tests/dedup/text/test_prose.py has the same
rules as regular expressions.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dedup.text.points import Points
from dedup.utf8 import table

# Bits of the table of characters.
HANGUL, WORD, RULE, SPACE, IN_ADDRESS = 1, 2, 4, 8, 16


def _bits_of(code: int) -> int:
    character = chr(code)
    bits = 0
    if 0xAC00 <= code <= 0xD7A3:
        bits |= HANGUL
    if character.isalnum() or character == "_":
        bits |= WORD
    if character in "-=*_~^\"'`+:.#":
        bits |= RULE
    if character.isspace():
        bits |= SPACE
    if not bits & (HANGUL | SPACE) and character not in "<>()\"'":
        bits |= IN_ADDRESS
    return bits


CHARACTERS = table(_bits_of)

# Bits of a line's characters, or-ed: without them a cut within the line cannot be. The bits of
# boilerplate.MARKS stand above them in `line_flags`.
TICK, LINK, SLASH, TAG, INCLUDE, ENTITY = 1, 2, 4, 8, 16, 32
TRIGGERS = np.zeros(1 << 16, np.uint16)
for _character, _bit in (
    ("`", TICK), ("]", LINK | INCLUDE), ("/", SLASH), (">", TAG), ("&", ENTITY),
):  # fmt: skip
    TRIGGERS[ord(_character)] = _bit


def _words(*words: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Words as the kernel reads them: code points one after the other, and where each ends."""
    points = [ord(character) for word in words for character in word]
    return np.array(points, np.int64), np.cumsum([0, *map(len, words)])


CODE_OPENINGS, CODE_ENDS = _words(
    "$", ">>>", "...", "#!", "//", "/*", "*/", "import ", "#include", "using ", "public ",
    "private ", "def ", "class ", "return ", "var ", "let ", "const ",
)  # fmt: skip


def prose(text: str) -> str:
    """The prose of one text."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).copy()
    length = _prose(points, CHARACTERS, CODE_OPENINGS, CODE_ENDS, TRIGGERS)
    return points[:length].tobytes().decode("utf-32-le", "surrogatepass")


def keep_prose(piece: Points) -> None:
    """Leave only the prose of each row of a piece, decoded with TRIGGERS among its flags."""
    _keep_prose(
        piece.rows, piece.points, piece.starts, piece.lengths, piece.lines, piece.line_ends,
        piece.line_flags, CHARACTERS, CODE_OPENINGS, CODE_ENDS,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _keep_prose(  # type: ignore[no-untyped-def]
    rows, points, starts, lengths, lines, line_ends, line_flags, characters, openings, code_ends
):
    for row in range(rows):
        start = starts[row]
        own = points[start : start + lengths[row] + 1]
        first, last = lines[row], lines[row + 1]
        length = prose_points(
            own, line_ends[first:last], line_flags[first:last], last - first, characters, openings,
            code_ends,
        )  # fmt: skip
        own[length] = 10
        lengths[row] = length


@njit(nogil=True, cache=True)
def _prose(points, characters, openings, code_ends, triggers):  # type: ignore[no-untyped-def]
    ends = np.empty(len(points) + 1, np.int64)
    flags = np.empty(len(points) + 1, np.uint16)
    lines = 0
    seen = np.uint16(0)
    for i in range(len(points)):
        if points[i] == 10:
            ends[lines], flags[lines] = i, seen
            lines += 1
            seen = np.uint16(0)
        elif points[i] < 0x10000:
            seen |= triggers[points[i]]
    ends[lines], flags[lines] = len(points), seen
    return prose_points(points, ends, flags, lines + 1, characters, openings, code_ends)


@njit(nogil=True, cache=True)
def _bits(code, characters):  # type: ignore[no-untyped-def]
    if code < 0x10000:
        return characters[code]
    return np.uint8(WORD | IN_ADDRESS if code >= 0x20000 else IN_ADDRESS)


@njit(nogil=True, cache=True)
def _holds_hangul(points, start, end):  # type: ignore[no-untyped-def]
    for i in range(start, end):  # noqa: SIM110 (compiled)
        if 0xAC00 <= points[i] <= 0xD7A3:
            return True
    return False


@njit(nogil=True, cache=True)
def _after_front_matter(points, length):  # type: ignore[no-untyped-def]
    if length < 8 or points[3] != 10:
        return 0
    if points[0] != 45 or points[1] != 45 or points[2] != 45:
        return 0
    for i in range(4, length - 3):
        if points[i] == 10 and points[i + 1] == 45 and points[i + 2] == 45 and points[i + 3] == 45:
            if i + 4 == length:
                return length
            if points[i + 4] == 10:
                return i + 5
    return 0


@njit(nogil=True, cache=True)
def _fence(points, start, end):  # type: ignore[no-untyped-def]
    """The place after ``` or ~~~ at the head of a line, 0 where there is none."""
    while start < end and (points[start] == 32 or points[start] == 9 or points[start] == 62):
        start += 1
    if start + 3 > end or (points[start] != 96 and points[start] != 126):
        return 0
    if points[start] != points[start + 1] or points[start] != points[start + 2]:
        return 0
    return start + 3


@njit(nogil=True, cache=True)
def _closes(points, at, end):  # type: ignore[no-untyped-def]
    """Whether a line holds nothing behind its fence."""
    while at < end and (points[at] == 96 or points[at] == 126):
        at += 1
    while at < end and (points[at] == 32 or points[at] == 9):
        at += 1
    return at == end


@njit(nogil=True, cache=True)
def _opens_as_code(points, at, end, openings, ends):  # type: ignore[no-untyped-def]
    """The place behind a word that code begins with, 0 where there is none."""
    for w in range(len(ends) - 1):
        size = ends[w + 1] - ends[w]
        if at + size > end or points[at] != openings[ends[w]]:
            continue
        same = True
        for i in range(1, size):
            if points[at + i] != openings[ends[w] + i]:
                same = False
                break
        if same:
            return at + size
    return 0


@njit(nogil=True, cache=True)
def _imports(points, at, end, characters):  # type: ignore[no-untyped-def]
    """The place behind `from … import`, 0 where it is none."""
    if at + 13 > end or points[at] != 102 or points[at + 1] != 114 or points[at + 2] != 111:
        return 0
    if points[at + 3] != 109 or points[at + 4] != 32:
        return 0
    i = at + 5
    while i < end and _bits(points[i], characters) & WORD:
        i += 1
    if i == at + 5 or i + 7 > end:
        return 0
    if points[i] != 32 or points[i + 1] != 105 or points[i + 2] != 109 or points[i + 3] != 112:
        return 0
    if points[i + 4] != 111 or points[i + 5] != 114 or points[i + 6] != 116:
        return 0
    return i + 7


@njit(nogil=True, cache=True)
def _is_no_prose(points, start, end, characters, openings, ends):  # type: ignore[no-untyped-def]
    """Whether a line is a row of a table, a rule, a directive, or code without Hangul."""
    first = start
    while first < end and points[first] == 32:
        first += 1
    if first == end:
        return end - start >= 4
    head = points[first]
    if head == 124:
        return True
    if head < 128 and characters[head] & RULE:
        run = first
        while run < end and _bits(points[run], characters) & RULE:
            run += 1
        if run - first >= 3 and end - run <= 2:
            return True
        if head == 58 and run - first >= 3 and points[first + 1] == 58 and points[first + 2] == 58:
            return True
    if (first - start >= 4 or points[start] == 9) and not _holds_hangul(points, start, end):
        return True
    last = end - 1
    while points[last] == 32:
        last -= 1
    tail = points[last]
    if tail < 128:
        before = -1  # what must hold no Hangul ends here
        if (
            tail == 59 or tail == 123 or tail == 125 or tail == 92 or tail == 61 or tail == 40
            or tail == 44 or tail == 41
        ):  # fmt: skip
            before = last
        elif tail == 62 and last > start:
            if points[last - 1] == 45 or points[last - 1] == 61:
                before = last - 1
            else:
                i = last - 1
                while i > start and _bits(points[i], characters) & WORD:
                    i -= 1
                if i < last - 1:
                    if points[i] == 47 and i > start:
                        i -= 1
                    if points[i] == 60:
                        before = i
        if before >= 0 and not _holds_hangul(points, start, before):
            return True
    if head < 128:
        behind = _opens_as_code(points, first, end, openings, ends)
        if not behind and head == 102:
            behind = _imports(points, first, end, characters)
        if behind and not _holds_hangul(points, behind, end):
            return True
    return False


# ── within a line ───────────────────────────────────────────────────────────────────────────────
# Each takes a line in place, out[start:end], and returns its new end.


@njit(nogil=True, cache=True)
def _without_spans(out, start, end, first, second, last, fewest, most):  # type: ignore[no-untyped-def]
    """Cut `first` (then `second`, if not 0), fewest to most characters and `last`."""
    to = at = start
    while at < end:
        if out[at] == first and (second == 0 or (at + 1 < end and out[at + 1] == second)):
            inside = at + (1 if second == 0 else 2)
            stop = inside
            while stop < end and out[stop] != last and stop - inside <= most:
                stop += 1
            if stop < end and out[stop] == last and fewest <= stop - inside <= most:
                out[to] = 32
                to += 1
                at = stop + 1
                continue
        out[to] = out[at]
        to += 1
        at += 1
    return to


@njit(nogil=True, cache=True)
def _scheme(out, at, end):  # type: ignore[no-untyped-def]
    """The place behind http://, https://, ftp:// or ftps://, 0 where there is none."""
    i = at
    if at + 4 < end and out[at] == 104 and out[at + 1] == 116 and out[at + 2] == 116:
        if out[at + 3] != 112:
            return 0
        i = at + 4
    elif at + 3 < end and out[at] == 102 and out[at + 1] == 116 and out[at + 2] == 112:
        i = at + 3
    else:
        return 0
    if i < end and out[i] == 115:
        i += 1
    if i + 3 <= end and out[i] == 58 and out[i + 1] == 47 and out[i + 2] == 47:
        return i + 3
    return 0


@njit(nogil=True, cache=True)
def _without_addresses(out, start, end, characters):  # type: ignore[no-untyped-def]
    to = at = start
    while at < end:
        if out[at] == 104 or out[at] == 102:
            inside = _scheme(out, at, end)
            stop = inside
            while inside and stop < end and _bits(out[stop], characters) & IN_ADDRESS:
                stop += 1
            if stop > inside:
                out[to] = 32
                to += 1
                at = stop
                continue
        out[to] = out[at]
        to += 1
        at += 1
    return to


@njit(nogil=True, cache=True)
def _without_tags(out, start, end):  # type: ignore[no-untyped-def]
    to = at = start
    while at < end:
        if out[at] == 60 and at + 1 < end:
            name = at + 1
            if out[name] == 47 and name + 1 < end:
                name += 1
            if 65 <= out[name] <= 90 or 97 <= out[name] <= 122 or out[name] == 33:
                stop = name + 1
                while stop < end and out[stop] != 60 and out[stop] != 62 and stop - name <= 400:
                    stop += 1
                if stop < end and out[stop] == 62 and stop - name <= 401:
                    out[to] = 32
                    to += 1
                    at = stop + 1
                    continue
        out[to] = out[at]
        to += 1
        at += 1
    return to


@njit(nogil=True, cache=True)
def _without_includes(out, start, end):  # type: ignore[no-untyped-def]
    """Cut Microsoft's `[!INCLUDE [title](…)]`."""
    to = at = start
    while at < end:
        if out[at] == 91 and at + 1 < end and out[at + 1] == 33:
            i = at + 2
            while i < end and (65 <= out[i] <= 90 or 97 <= out[i] <= 122):
                i += 1
            named = i > at + 2
            while i < end and (out[i] == 32 or out[i] == 9):
                i += 1
            if named and i < end and out[i] == 91:
                i += 1
                while i < end and out[i] != 93:
                    i += 1
                i += 1
                while i < end and out[i] != 93:
                    i += 1
                if i < end:
                    out[to] = 32
                    to += 1
                    at = i + 1
                    continue
        out[to] = out[at]
        to += 1
        at += 1
    return to


@njit(nogil=True, cache=True)
def _without_entities(out, start, end):  # type: ignore[no-untyped-def]
    """Cut `&nbsp;`, `&#160;` and `&#xA0;`: names of at most eight letters or digits."""
    to = at = start
    while at < end:
        if out[at] == 38:
            stop = at + 1
            if stop < end and out[stop] == 35:
                stop += 1
            first = stop
            while stop < end and stop - first < 9 and out[stop] < 128:
                code = out[stop] | 32
                if not (48 <= out[stop] <= 57 or 97 <= code <= 122):
                    break
                stop += 1
            if stop < end and out[stop] == 59 and 2 <= stop - first <= 8:
                out[to] = 32
                to += 1
                at = stop + 1
                continue
        out[to] = out[at]
        to += 1
        at += 1
    return to


# ── the walk ────────────────────────────────────────────────────────────────────────────────────


@njit(nogil=True, cache=True)
def prose_points(points, line_ends, line_flags, lines, characters, openings, ends):  # type: ignore[no-untyped-def]
    """Leave the prose of a text's code points at their front, in place; returns its length.

    line_ends [lines]: where each line ends, the last with the text; line_flags: its TRIGGERS, or-ed.
    """
    length = line_ends[lines - 1]
    to = 0
    fence = 0  # the character of the fence that is open
    start = _after_front_matter(points, length)
    for line in range(lines):
        end = line_ends[line]
        if end < start:  # front matter
            continue
        seen = line_flags[line]
        behind = _fence(points, start, end)
        if fence:
            if behind and points[behind - 1] == fence and _closes(points, behind, end):
                fence = 0
        elif behind:
            fence = points[behind - 1]
        elif not _is_no_prose(points, start, end, characters, openings, ends):
            begun = to
            if to == start:
                to = end
            else:
                for i in range(start, end):
                    points[to] = points[i]
                    to += 1
            if seen & TICK:
                to = _without_spans(points, begun, to, 96, 0, 96, 1, 200)
            if seen & INCLUDE:
                to = _without_includes(points, begun, to)
            if seen & LINK:
                to = _without_spans(points, begun, to, 93, 40, 41, 0, 400)
            if seen & SLASH:
                to = _without_addresses(points, begun, to, characters)
            if seen & TAG:
                to = _without_tags(points, begun, to)
            if seen & ENTITY:
                to = _without_entities(points, begun, to)
        if end < length and not fence:
            points[to] = 10
            to += 1
        start = end + 1
    return to
