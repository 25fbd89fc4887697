"""Input files → shares: what one worker encodes at a time, the same ones on every machine.

In: a file of documents in the Parquet contract of `dedup.documents`, or one of one's own as the data
stage reads it. Out: shares of it, some row groups each (about SHARE bytes of text), and their documents
in batches of bounded text.

The decision: shares depend on the file alone, so any number of workers writes the same shards, and a
worker holds a batch at a time however large the file or its row groups are. A file of one row group is
one share, for Parquet cannot be entered between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.schema import Dedup
from dedup.documents import plain_shares, read_share
from dedup.plan import Task
from dedup.utf8 import mended

SHARE = 128 << 20  # bytes of text in a share, at least, where the file has that many
ROWS = 1024  # documents in a batch, at most …
TEXT = 4 << 20  # … and bytes of their text
COLUMNS = ["id", "kind", "text", "segments", "source", "language", "split"]


@dataclass(frozen=True)
class Share:
    """Part of an input file: its row groups [first, last), or a share that the data stage reads.

    name: tells it from the file's others. bytes: of its text, about.
    """

    file: Path
    part: tuple[int, int] | tuple[Dedup, Task]
    name: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.file} ({self.name})"

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its documents, COLUMNS of them, at most ROWS and about TEXT bytes of text at a time.

        Raises InputError where the file cannot be read.
        """
        try:
            for batch in self._read():
                yield from _bounded(batch)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{self.file}: cannot be read ({error}); make it again") from error

    def _read(self) -> Iterator[pa.RecordBatch]:
        if isinstance(self.part[1], Task):
            assert isinstance(self.part[0], Dedup)
            for batch in read_share(self.part[0], self.part[1]):
                yield batch.select(COLUMNS)
            return
        assert isinstance(self.part[0], int)
        with pq.ParquetFile(self.file) as file:
            groups = list(range(self.part[0], self.part[1]))
            for batch in file.iter_batches(
                ROWS, row_groups=groups, columns=COLUMNS, use_threads=False
            ):
                batch = batch.select(COLUMNS)
                number = COLUMNS.index("text")
                text = pc.fill_null(mended(batch["text"]), "")
                yield batch.set_column(number, batch.schema.field(number), text)


def _bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices of at most ROWS documents and, unless one is longer, TEXT bytes."""
    ends = np.cumsum(pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False))
    start = 0
    while start < batch.num_rows:
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + TEXT, side="right"))
        stop = min(max(stop, start + 1), start + ROWS, batch.num_rows)
        yield batch.slice(start, stop - start)
        start = stop


def shares(file: Path) -> list[Share]:
    """An input file in shares, the same ones on every machine.

    Raises InputError where it cannot be read.
    """
    if file.suffix == ".parquet":
        try:
            metadata = pq.read_metadata(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{file}: is not a readable Parquet file ({error})") from error
        names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        if {"id", "text", "source", "split", "cluster_id"} <= set(names):
            return _row_groups(file, metadata, names.index("text"))
    dedup, parts = plain_shares(file)
    return [
        Share(file, (dedup, part), f"{number} of {len(parts)}", part.bytes)
        for number, part in enumerate(parts)
    ]


def _row_groups(file: Path, metadata: pq.FileMetaData, text: int) -> list[Share]:
    found: list[Share] = []
    first = size = 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).column(text).total_uncompressed_size
        if size >= SHARE or group == metadata.num_row_groups - 1:
            found.append(Share(file, (first, group + 1), f"groups {first}-{group + 1}", size))
            first, size = group + 1, 0
    return found
