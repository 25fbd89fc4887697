"""A column of texts as code points and lines, a piece at a time.

In: a column of texts. Out: `Points`, some rows decoded into arrays that stay in the processor's cache
while one compiled walk after the other goes over them: which lines may be boilerplate, what is prose,
what is counted. Each walk is a function of its own, because one that did it all ran a third slower
(the compiler keeps too much alive in the loops).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from dedup.utf8 import buffers, decode_all, longest

WHITE = 1 << 15
"""The flag of white space."""

_PIECE = 1 << 18  # bytes of text; one longer text makes a piece of its own


@dataclass
class Points:
    """Rows [first, first + rows) of a column.

    The code points of the r-th are points[starts[r] : starts[r] + lengths[r]], and a newline follows.
    Its lines are [lines[r], lines[r + 1]): line_ends says where each ends, counted from the row's start,
    the last with the row; line_flags has the flags of its characters, or-ed. spaces: white space
    characters of each row. A walk that cuts shortens lengths, and leaves the lines as they were.
    """

    first: int
    rows: int
    points: NDArray[np.uint32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    spaces: NDArray[np.int64]
    lines: NDArray[np.int64]
    line_ends: NDArray[np.int64]
    line_flags: NDArray[np.uint16]

    def text(self, row: int, most: int | None = None) -> str:
        """Row `first + row` as it stands, or its first `most` characters."""
        start, length = int(self.starts[row]), int(self.lengths[row])
        end = start + (length if most is None else min(length, most))
        return self.points[start:end].tobytes().decode("utf-32-le", "surrogatepass")


def decoded(texts: pa.Array, flags: NDArray[np.uint16]) -> Iterator[Points]:
    """The pieces of a column (string or large_string, no nulls), one valid until the next is asked for.

    flags: of the characters of the BMP, the highest bit of them says that it is white space.
    """
    offsets, data = buffers(texts)
    ends = [0]
    while ends[-1] < len(texts):
        most = offsets[ends[-1]] + _PIECE
        ends.append(max(ends[-1] + 1, int(np.searchsorted(offsets, most, "right")) - 1))
    rows = int(np.diff(ends).max(initial=0))
    room = max(_PIECE, longest(offsets)) + rows + 1
    per_row = [np.empty(rows + 1, np.int64) for _ in range(4)]
    piece = Points(
        first=0, rows=0, points=np.empty(room, np.uint32), starts=per_row[0], lengths=per_row[1],
        spaces=per_row[2], lines=per_row[3], line_ends=np.empty(room, np.int64),
        line_flags=np.empty(room, np.uint16),
    )  # fmt: skip
    for first, end in pairwise(ends):
        piece.first, piece.rows = first, end - first
        _decode(
            offsets[first : end + 1], data, flags, piece.points, piece.starts,
            piece.lengths, piece.spaces, piece.lines, piece.line_ends, piece.line_flags,
        )  # fmt: skip
        yield piece


@njit(nogil=True, cache=True)
def _decode(  # type: ignore[no-untyped-def]
    offsets, data, flags, points, starts, lengths, spaces, lines, line_ends, line_flags
):
    to = line = 0
    for row in range(len(offsets) - 1):
        starts[row], lines[row] = to, line
        own = points[to:]
        length = decode_all(data, offsets[row], offsets[row + 1], own)
        blank = 0
        seen = np.uint16(0)
        for i in range(length):
            code = own[i]
            if code == 10:
                blank += 1
                line_ends[line], line_flags[line] = i, seen
                line += 1
                seen = np.uint16(0)
            elif code < 0x10000:
                flag = flags[code]
                seen |= flag
                blank += flag >> np.uint16(15)
        line_ends[line], line_flags[line] = length, seen
        line += 1
        lengths[row], spaces[row] = length, blank
        own[length] = 10
        to += length + 1
    lines[len(offsets) - 1] = line
