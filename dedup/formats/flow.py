"""Paragraphs and table cells, as HWP and HWPX hand them over → the text of a document.

In: paragraphs in reading order, tables opened, their cells, tables closed. Out: lines.

The decisions: a row of a table is one line, its cells parted by " | ", because that is what a
reader of the text can still tell apart. Official documents lay whole pages out in tables: where a
cell holds several paragraphs, the cells of its row follow one another as paragraphs instead. What
hangs on a paragraph (a table, a box, a footnote in the middle of its sentence) comes after the
whole paragraph.
"""

from __future__ import annotations

Cells = dict[int, list[list[str]]]  # of a table: row → its cells → their lines


class Flow:
    """The text so far. Tables may stand in cells of tables."""

    def __init__(self) -> None:
        self._stack: list[list[str] | Cells] = [[]]
        self._tables: list[Cells] = []

    def paragraph(self, text: str) -> None:
        """Add a whole paragraph where the text is."""
        text = text.strip()
        if text:
            self._here().append(text)

    def begin(self) -> None:
        """A paragraph begins; its text is known at its `end`, what comes until then hangs on it."""
        self._stack.append([])

    def end(self, text: str) -> None:
        hanging = self._stack.pop()
        assert isinstance(hanging, list)
        self.paragraph(text)
        self._here().extend(hanging)

    def open_table(self) -> None:
        self._tables.append({})
        self._stack.append(self._tables[-1])

    def open_cell(self, row: int) -> None:
        """Paragraphs go into a new cell of this row from here on."""
        self._tables[-1].setdefault(row, []).append([])
        # the row last written to is the last key
        self._tables[-1][row] = self._tables[-1].pop(row)

    def close_table(self) -> None:
        table = self._tables.pop()
        self._stack.pop()
        for _, cells in sorted(table.items()):
            if any(len(cell) > 1 for cell in cells):
                lines = [line for cell in cells for line in cell]
            else:
                lines = [" | ".join(cell[0] for cell in cells if cell)]
            self._here().extend(line for line in lines if line)

    def text(self) -> str:
        """The text, once everything is closed."""
        return "\n".join(self._here())

    def _here(self) -> list[str]:
        for place in reversed(self._stack):
            if isinstance(place, list):
                return place
            if place:  # else it is a caption: it stands before the first cell, and belongs outside
                return next(reversed(place.values()))[-1]
        raise AssertionError("the document itself is always open")
