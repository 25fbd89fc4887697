"""A corpus → pieces of it, spread evenly: what a prediction is made from.

In: the config. Out: `Piece`s, source after source interleaved, together about `SAMPLE` bytes on disk,
or all of a corpus that is no larger. The same files give the same pieces.

The decision: a file that can be entered in the middle (plain JSONL, Parquet by row groups) is sampled
in many places; any other is read from its start and stopped early, since a compressed stream has no
other place to begin. What such a piece stands for is then told from how far it was read.
"""

from __future__ import annotations

import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, cast

from configs.schema import Dedup, Source
from dedup.containers import Damaged, File, bare_suffix, chunks, compressed, local_file
from dedup.forms import form_of
from dedup.paths import is_remote
from dedup.plan import Part, plan

SAMPLE = 64_000_000  # bytes on disk, of which each source gets its share
PIECE = 1_000_000  # bytes of a piece, at the most
LEAST = 8  # pieces of a source: smaller ones where its share is small
_SMALLEST = 20_000
_PROBED = 4_000_000  # bytes of a compressed file that tell how much it holds


@dataclass(frozen=True)
class Piece:
    """Something to read. most: bytes of records after which to stop, None: read all of it."""

    source: int
    parts: tuple[Part, ...]
    bytes: int
    most: int | None = None


@dataclass(frozen=True)
class Sample:
    """pieces: in the order to read them. bytes: of each source on disk. alone: of each source, bytes of
    the largest file that one worker has to read alone. unknown: names of the sources whose size is not
    told beforehand; nothing of them is sampled."""

    pieces: list[Piece]
    bytes: list[int]
    alone: list[int]
    unknown: list[str]

    @property
    def total(self) -> int:
        """Bytes on disk of all sources."""
        return sum(self.bytes)


def draw(dedup: Dedup, *, size: int = SAMPLE) -> Sample:
    """Choose the pieces. Raises InputError with the mistakes that `plan` finds."""
    parts: list[list[Part]] = [[] for _ in dedup.sources]
    unsplit = dedup.model_copy(update={"shard": 1 << 62})  # what is cut here needs no lines counted
    for task in plan(unsplit):
        parts[task.source] += task.parts
    sizes = [sum(part.size or 0 for part in mine) for mine in parts]
    unknown = [
        number for number, mine in enumerate(parts) if any(not _known(part) for part in mine)
    ]
    for number in unknown:
        sizes[number] = 0
    total = sum(sizes)
    ordered: list[tuple[float, int, Piece]] = []
    for number, mine in enumerate(parts):
        if number in unknown:
            continue
        source = dedup.sources[number]
        want = size * sizes[number] / total if total else 0
        piece = max(_SMALLEST, min(PIECE, int(want) // LEAST))
        count = max(1, round(want / piece))
        if total <= size or count * piece >= sizes[number]:
            found = _everything(number, source, mine, dedup, piece)
        else:
            found = _spread(number, source, mine, dedup, piece, count)
        for at, one in enumerate(found):
            # The golden ratio's multiples: wherever reading is stopped, what was read is spread out.
            ordered.append(((at * 0.6180339887) % 1.0, number, one))
    ordered.sort(key=lambda item: item[:2])
    names = [dedup.sources[number].name for number in unknown]
    alone = [
        0 if number in unknown else _alone(source, parts[number], dedup)
        for number, source in enumerate(dedup.sources)
    ]
    return Sample([one for _, _, one in ordered], sizes, alone, names)


def _alone(source: Source, parts: Sequence[Part], dedup: Dedup) -> int:
    """Bytes of the largest file, or of a task where that one is shared out."""
    largest = max(parts, key=lambda part: part.size or 0)
    size = largest.size or 0
    shared = size > dedup.shard and bool(_cuts(largest, source, dedup, dedup.shard, 0))
    return dedup.shard if shared else size


def bytes_read(piece: Piece, documents: int, record_bytes: int) -> float:
    """Bytes on disk that a piece stands for, of which so many records were read."""
    if piece.most is None or record_bytes < piece.most:
        return piece.bytes
    part = piece.parts[0]
    if bare_suffix(part.path) in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        rows = sum(pq.read_metadata(one.path).num_rows for one in piece.parts)
        return piece.bytes * min(1.0, documents / max(1, rows))
    return min(float(piece.bytes), record_bytes / _expansion(part.path))


def _known(part: Part) -> bool:
    """Whether a part has a size, and lies here. A hub's shard has neither."""
    return part.size is not None and part.end is None and not is_remote(part.path)


def _everything(
    number: int, source: Source, parts: Sequence[Part], dedup: Dedup, piece: int
) -> list[Piece]:
    found: list[Piece] = []
    group: list[Part] = []
    for part in parts:
        size = part.size or 0
        cuts = _cuts(part, source, dedup, piece) if size > piece else []
        found += [Piece(number, (cut,), cut.size or 0) for cut in cuts]
        if not cuts:
            group.append(part)
        if group and sum(one.size or 0 for one in group) >= piece:
            found.append(_group(number, group))
            group = []
    if group:
        found.append(_group(number, group))
    return found


def _spread(
    number: int, source: Source, parts: Sequence[Part], dedup: Dedup, piece: int, count: int
) -> list[Piece]:
    """About `count` pieces at even distances in the source."""
    ends = list(accumulate(part.size or 0 for part in parts))
    found: dict[tuple[int, int], Piece] = {}
    deep: dict[int, int] = {}  # files that are read from their start: how often they were hit
    for step in range(count):
        place = int((step + 0.5) * ends[-1] / count)
        at = bisect_right(ends, place)
        part = parts[at]
        inside = place - (ends[at] - (part.size or 0))
        if (part.size or 0) > piece:
            cuts = _cuts(part, source, dedup, piece, inside)
            if cuts:
                cut = cuts[0]
                found[at, cut.begin] = Piece(number, (cut,), cut.size or 0)
                continue
            deep[at] = deep.get(at, 0) + 1
            found[at, 0] = Piece(number, (part,), part.size or 0, 2 * piece * deep[at])
            continue
        group: list[Part] = []
        while at < len(parts) and sum(one.size or 0 for one in group) < piece:
            if (parts[at].size or 0) > piece:
                break
            group.append(parts[at])
            at += 1
        found[at - len(group), 0] = _group(number, group)
    return list(found.values())


def _group(number: int, parts: Sequence[Part]) -> Piece:
    return Piece(number, tuple(parts), sum(part.size or 0 for part in parts))


def _cuts(
    part: Part, source: Source, dedup: Dedup, piece: int, place: int | None = None
) -> list[Part]:
    """Shares of about `piece` bytes of a file that can be entered in the middle: all of them, or the
    one at `place`. [] for other files.

    `before` is not the number of records there, which would have to be counted, only a number that is
    as large: it keeps ids of two shares apart.
    """
    size = part.size or 0
    form = form_of(local_file(part.path, limit=dedup.max_record), source)
    if form == "parquet":
        from dedup.formats.parquet import shares

        groups = shares(part.path, max(1, round(size / piece)))
        if not groups:
            return []
        each = size // len(groups)
        found = [part._replace(begin=b, end=e, before=n, size=each) for b, e, n in groups]
        return found if place is None else [found[min(place * len(found) // size, len(found) - 1)]]
    if form != "jsonl" or compressed(part.path) or _wide(part.path, source):
        return []
    begins = list(range(0, size, piece)) if place is None else [max(0, min(place, size - piece))]
    ends = [min(begin + piece, size) for begin in begins]
    return [
        part._replace(begin=begin, end=end, before=begin, size=end - begin)
        for begin, end in zip(begins, ends, strict=True)
    ]


def _wide(path: str, source: Source) -> bool:
    """Whether a newline is not one byte."""
    with Path(path).open("rb") as file:
        marked = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return marked or source.encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))


def _expansion(path: str) -> float:
    """Bytes that a byte on disk becomes, by the first of them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = sum(entry.file_size for entry in archive.infolist())
        return max(1.0, inside / max(1, Path(path).stat().st_size))
    with Path(path).open("rb") as raw:
        more: dict[str, Any] = {"open": lambda: cast("BinaryIO", raw)}
        pieces = chunks(File(path, path, **more))
        inside = 0
        try:
            for chunk in pieces:
                inside += len(chunk)
                if inside >= _PROBED:
                    break
        except Damaged:
            pass
        read = Path(path).stat().st_size if raw.closed else raw.tell()  # read to its end
        pieces.close()  # type: ignore[attr-defined]
    return inside / read if inside and read else 1.0
