"""A text as a tokenizer cuts it, on one line: colours behind the pieces, or bars between them.

Pieces come as `tokenizer.report.segments` writes them. On a terminal each piece has one of four
backgrounds, in turn, as in report.html; elsewhere, and where NO_COLOR is set, a bar parts them.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Sequence

# Dark letters on pale ground read on light and dark terminals: green, orange, blue, yellow.
_GROUNDS = (151, 223, 153, 229)
_BYTES = re.compile("⟨[0-9a-f ]+⟩")


def colours_wanted() -> bool:
    """Whether stdout is a terminal that may be coloured."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def line(pieces: Sequence[str], *, colour: bool) -> str:
    """The pieces on one line; the space that opens a piece shows as ␣, a tab as \\t."""
    shown = [_visible(piece) for piece in pieces]
    if not colour:
        return "|".join(shown)
    return "".join(
        f"\x1b[38;5;16;48;5;{_GROUNDS[index % 4]}m{piece}\x1b[0m"
        for index, piece in enumerate(shown)
    )


def _visible(piece: str) -> str:
    """Control characters escaped: a text must not be able to move the cursor of the reader."""
    if _BYTES.fullmatch(piece):  # bytes of a cut character
        return piece
    piece = piece.replace(" ", "␣").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return "".join(
        char if unicodedata.category(char)[0] != "C" or char == "\u200d" else f"\\u{ord(char):04x}"
        for char in piece
    )
