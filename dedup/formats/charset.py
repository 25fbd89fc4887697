"""The character set of a file that is read line by line.

In: a file's first bytes, and what the source says. Out: `charset` names it, `Lines` decodes by it.

The decision: one character set for the whole file, fixed by its first line that is not ASCII where
the first bytes do not tell. Line by line would be wrong: a short CP949 line can be valid UTF-8 by
chance ("째" is "°"). A line that does not fit is the caller's failure, and the next one goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from configs.schema import Source
from dedup import containers
from dedup.containers import Damaged, File, Oversized
from dedup.extract import codec, decode
from dedup.records import Unusable

SAMPLE = 1 << 18  # bytes

_WIDE = ("utf-16", "utf-32")  # a newline is not one byte
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def charset(head: bytes, source: Source) -> tuple[str, str]:
    """Name of the character set, and the sample decoded (its last line may be cut).

    Raises Unusable where nothing fits.
    """
    declared = None if source.encoding == "auto" else codec(source.encoding)
    name = next((found for mark, found in _BOMS if head.startswith(mark)), None)
    nuls = head.count(0)
    if name is None and declared and declared.startswith(_WIDE):
        name = declared
    if name is None and nuls > len(head) / 50:  # UTF-16 without its mark: half of ASCII is NUL
        name = "utf-16-le" if head[1::2].count(0) > nuls / 2 else "utf-16-be"
        text = head.decode(name, "replace")
        if text.count("\ufffd") > 1 or 2 * sum(map(str.isalnum, text)) < len(text):
            raise Unusable("is a binary file")
    if name is not None:
        return name, _lines(head.decode(name, "replace"))
    cut = head.rfind(b"\n") + 1 if len(head) >= SAMPLE else 0
    try:
        text, name = decode(head[:cut] or head, declared)
    except ValueError as error:
        raise Unusable("is a binary file" if nuls else str(error)) from None
    return name, _lines(text)


def _lines(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


class Line(NamedTuple):
    """A line's number from 1, its bytes (the first 4 kB of one over the limit), and their count."""

    number: int
    raw: bytes
    size: int


class Lines:
    """The lines of a file, those first that were given back."""

    def __init__(self, file: File, charset: str) -> None:
        wide = charset if charset.startswith(_WIDE) else None
        self._numbered = _numbered(file, wide)
        self._again: deque[Line] = deque()
        self._damage: Damaged | None = None
        self._charset = "utf-8" if wide else charset
        self._fixed = wide is not None or charset != "utf-8"
        self._limit = file.limit

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        """Raises Damaged where the file breaks off."""
        if self._again:
            return self._again.popleft()
        if self._damage is not None:
            raise self._damage
        try:
            return next(self._numbered)
        except Damaged as damage:  # told again once the lines given back are through
            self._damage = damage
            raise

    def back(self, lines: list[Line]) -> None:
        self._again.extendleft(reversed(lines))

    def text(self, line: Line) -> str:
        """The line decoded, without \\r. Raises Unusable if it does not fit, or is too long."""
        if line.size > len(line.raw) + 1:
            raise Unusable(f"is a line of {line.size:,} bytes; the limit is {self._limit:,}")
        try:
            text = line.raw.decode(self._charset)
            self._fixed = self._fixed or not line.raw.isascii()
        except UnicodeDecodeError as error:
            if self._fixed:
                raise Unusable(
                    f"is not {error.encoding} (byte {error.start} of its line)"
                ) from None
            try:
                text = line.raw.decode("cp949")
            except UnicodeDecodeError:
                raise Unusable("is neither UTF-8 nor CP949") from None
            self._charset, self._fixed = "cp949", True
        return text.removesuffix("\r")


def _numbered(file: File, wide: str | None) -> Iterator[Line]:
    number = 0
    for block in containers.blocks(file, wide):
        if isinstance(block, Oversized):
            number += 1
            yield Line(number, block.start, block.size)
            continue
        for raw in block.removesuffix(b"\n").split(b"\n"):
            number += 1
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            yield Line(number, raw, len(raw) + 1)
