"""Markdown on a terminal while it streams: bold, code, headings, lists, quotes, links, tables.

In: a reply in pieces. Out: the same text with ANSI styles (ECMA-48 SGR) in place of the marks, as soon
as a mark is decided: a bold phrase comes when it is closed, a table when it ends, all else at once.

The decision: light, and never lossy. A mark that is not closed on its line stays as it was written, and
code keeps its fences and no indent, so it can be copied. As on the page, a closing mark may be followed
by a Korean particle (**말**은), which CommonMark forbids. Control characters are dropped, so that a
model can send no escape sequences of its own.
"""

from __future__ import annotations

import re

from rich.cells import cell_len

BOLD, ITALIC, UNDERLINE, STRIKE = ("1", "22"), ("3", "23"), ("4", "24"), ("9", "29")
DIM, CODE = ("2", "22"), ("36", "39")
Style = tuple[str, str]

# The start of a line that could still become one of several things.
_UNDECIDED = re.compile(r" *(?:#{1,6} *|(?:[-*+_] *)+|>|`{1,2}|`{3,}[^`]*|~{1,2}|~{3}.*|\|.*)?$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)$")
_RULE = re.compile(r" {0,3}(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})$")
_HEADING = re.compile(r" {0,3}#{1,6} +(?=\S)")
_QUOTE = re.compile(r" {0,3}> ?")
_BULLET = re.compile(r"( *)[-*+] +(?=\S)")
_ROW_RULE = re.compile(r" *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$")

_MARKS: tuple[tuple[re.Pattern[str], Style], ...] = (
    (re.compile(r"(`+)(?!`)(?P<text>[^\n]*?[^`\n])\1(?!`)"), CODE),
    (re.compile(r"\*\*(?=[^\s*])(?P<text>[^\n]*?[^\s*])\*\*(?!\*)"), BOLD),
    (re.compile(r"(?<![A-Za-z0-9])\*(?=[^\s*])(?P<text>[^*\n]*[^\s*])\*(?![A-Za-z0-9*])"), ITALIC),
    (re.compile(r"~~(?=\S)(?P<text>[^~\n]*\S)~~"), STRIKE),
)
_LINK = re.compile(r"\[(?P<text>[^\]\[\n]+)\]\((?P<address>https?://[^\s()]+)\)")
_SPECIAL = re.compile(r"[`*~\[\n]")
_LONGEST = 400  # characters a mark may wait for its end; then it is text
# Control characters, and those that turn the direction of writing round.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Without control characters, so that a model cannot send escape sequences to a terminal."""
    return _CONTROL.sub("", text)


def styled(text: str, style: Style, base: Style | None = None) -> str:
    """`text` in a style; `base` is the one it stands in, taken up again afterwards."""
    again = f"\x1b[{base[0]}m" if base else ""
    return f"\x1b[{style[0]}m{text}\x1b[{style[1]}m{again}"


class Markdown:
    """One reply. `feed` it pieces, then call `end`; what they return is written to the terminal.

    width: the terminal's columns; a wider table is shown as it was written.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._pending = ""
        self._at_start = True  # of a line
        self._fence = ""  # the mark that closes the code block, "" outside of one
        self._base: Style | None = None  # the style of the whole line
        self._rows: list[str] = []  # of a table

    def feed(self, text: str) -> str:
        """Take a piece, return what can be shown by now."""
        self._pending += printable(text)
        return self._run(over=False)

    def end(self) -> str:
        """The rest, and every style turned off."""
        out = self._run(over=True) + self._table()
        if self._base or self._fence:
            out += "\x1b[0m"
        return out

    def _run(self, *, over: bool) -> str:
        out = []
        while self._pending:
            before = (len(self._pending), self._at_start)
            out.append(self._step(over))
            if before == (len(self._pending), self._at_start):
                break
        return "".join(out)

    def _take(self, count: int) -> str:
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken

    def _step(self, over: bool) -> str:
        """One step; it changes nothing where more has to be known."""
        if self._fence:
            return self._code(over)
        return self._start(over) if self._at_start else self._inline(over)

    # ------------------------------------------------------------------------------ lines

    def _start(self, over: bool) -> str:
        line, newline, _ = self._pending.partition("\n")
        whole = bool(newline) or over
        if not whole and _UNDECIDED.match(line):
            return ""
        size = len(line) + len(newline)
        if whole and line.lstrip().startswith("|"):
            self._rows.append(self._take(size))
            return ""
        if self._rows:
            return self._table()  # and then this line again
        if whole and (fence := _FENCE.match(line)):
            self._fence = fence[1]
            return styled(self._take(size).rstrip("\n"), DIM) + newline
        if whole and _RULE.match(line):
            self._take(size)
            return styled("─" * min(40, self._width - 1), DIM) + newline
        self._at_start = False
        if heading := _HEADING.match(line):
            self._take(heading.end())
            self._base = BOLD
            return f"\x1b[{BOLD[0]}m"
        if quote := _QUOTE.match(line):
            self._take(quote.end())
            return styled("│ ", DIM)
        if bullet := _BULLET.match(line):
            self._take(bullet.end())
            return bullet[1] + "• "
        return ""

    def _code(self, over: bool) -> str:
        """Code as it is, in one colour; a line that could be the closing fence waits."""
        line, newline, _ = self._pending.partition("\n")
        if self._at_start:
            bare = line.strip(" ")
            could_close = not bare.strip(self._fence[0]) and len(line) - len(line.lstrip()) < 4
            if not newline and not over and could_close:
                return ""
            if could_close and len(bare) >= len(self._fence):
                self._fence = ""
                return styled(self._take(len(line)), DIM) + self._take(len(newline))
        self._at_start = bool(newline)
        code = self._take(len(line))
        return (styled(code, CODE) if code else "") + self._take(len(newline))

    # ----------------------------------------------------------------------------- within a line

    def _inline(self, over: bool) -> str:
        special = _SPECIAL.search(self._pending)
        if special is None:
            return self._take(len(self._pending))
        if special.start():
            if self._pending[special.start()] != "*":
                return self._take(special.start())
            if special.start() > 1:  # the character before it tells 2*3 from emphasis
                return self._take(special.start() - 1)
        if special[0] == "\n":
            self._take(1)
            self._at_start = True
            base, self._base = self._base, None
            return f"\x1b[{base[1]}m\n" if base else "\n"
        at = special.start()
        line = self._pending[: at + 4 * _LONGEST].partition("\n")[0]
        decided = over or len(line) < len(self._pending) or len(line) > _LONGEST
        if found := _mark(line, at):
            if found.end() == len(line) and not decided:
                return ""
            before = self._take(at)
            return before + _show(self._take(found.end() - at), self._base)
        if not decided:
            return ""
        run = len(line) - at - len(line[at:].lstrip(line[at]))
        return self._take(at + run)

    def _table(self) -> str:
        """The rows so far, in columns where they are a table that fits, as written elsewhere."""
        rows, self._rows = self._rows, []
        if not rows:
            return ""
        cells = [[c.strip() for c in row.strip().strip("|").split("|")] for row in rows]
        last = "\n" if rows[-1].endswith("\n") else ""
        if len(rows) < 2 or not _ROW_RULE.match(rows[1].rstrip("\n")):
            return "".join(_whole(row) for row in rows)
        body = [cells[0], *cells[2:]]
        count = max(len(row) for row in body)
        body = [[*row, *[""] * (count - len(row))] for row in body]
        shown = [[_whole(cell) for cell in row] for row in body]
        wide = [[cell_len(_unstyled(cell)) for cell in row] for row in shown]
        widths = [max(column) for column in zip(*wide, strict=True)]
        if sum(widths) + 2 * (count - 1) >= self._width:
            return "".join(rows)
        lines = [
            "  ".join(cell + " " * (widths[i] - wide[r][i]) for i, cell in enumerate(row)).rstrip()
            for r, row in enumerate(shown)
        ]
        lines[0] = styled(lines[0], BOLD)
        lines.insert(1, styled("  ".join("─" * width for width in widths), DIM))
        return "\n".join(lines) + last


def _mark(line: str, at: int) -> re.Match[str] | None:
    for pattern in (_LINK, *(pattern for pattern, _ in _MARKS)):
        if found := pattern.match(line, at):
            return found
    return None


def _show(text: str, base: Style | None) -> str:
    """One closed mark in its style, with the marks inside it."""
    if link := _LINK.fullmatch(text):
        address = "" if link["text"] == link["address"] else f" ({link['address']})"
        return styled(link["text"], UNDERLINE, base) + address
    for pattern, style in _MARKS:
        if found := pattern.fullmatch(text):
            inner = found["text"] if style is CODE else _whole(found["text"], style)
            return styled(inner, style, base)
    return text


def _whole(text: str, base: Style | None = None) -> str:
    """All marks of a text that is complete."""
    out, at = [], 0
    while special := _SPECIAL.search(text, at):
        out.append(text[at : special.start()])
        at = special.start()
        if found := _mark(text, at):
            out.append(_show(found[0], base))
            at = found.end()
        else:
            out.append(text[at])
            at += 1
    return "".join([*out, text[at:]])


def _unstyled(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)
