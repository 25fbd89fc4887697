"""Files of counts: written by each task, merged into one, kept, and merged again with another corpus's.

In: `Tally`s. Out: Parquet of `source, word, count`, in the order of 16 partitions by a hash of the
word (row group i holds partition i mod 16), with what the counts depend on in its metadata.

The decision: merging goes partition by partition, as a database aggregates what does not fit in
memory. All counts of a word lie in one partition of each file, so a sixteenth of the distinct words
is in memory at a time, the sums are exact, and the merged file has the same bytes however the corpus
was cut into files and tasks, and in whichever order they are given. A task whose table is full writes
it out as 16 more row groups and goes on with an empty one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError
from dedup.documents import parquet_writer
from tokenizer.base import Base
from tokenizer.tally import COUNTS, PARTITIONS, Tally

_METADATA = b"malmoi.counts"
_VERSION = "counts-2"


@dataclass(frozen=True)
class About:
    """What a file of counts says of itself.

    form: digest of the pre-token regex and the normalizer. undercount: no count is too high, and none
    too low by more than this (0: exact). sizes: occurrences of all words by source.
    """

    form: str
    undercount: int
    sizes: dict[str, int]


def form_of(base: Base) -> str:
    """What counts depend on besides the text: those of two forms cannot be merged."""
    named = f"{_VERSION}\0{base.pattern}\0{json.dumps(base.definition.get('normalizer'))}"
    return hashlib.sha256(named.encode()).hexdigest()


class CountsWriter:
    """An open file of counts."""

    def __init__(self, writer: pq.ParquetWriter, form: str) -> None:
        self._writer = writer
        self._form = form
        self._sizes: dict[str, int] = {}

    def append(self, table: pa.Table) -> None:
        """Append the next partition."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        sums = table.group_by("source", use_threads=False).aggregate([("count", "sum")])
        for row in sums.to_pylist():
            name = row["source"]
            self._sizes[name] = self._sizes.get(name, 0) + row["count_sum"]

    def close(self, undercount: int) -> None:
        about = {
            "form": self._form,
            "undercount": undercount,
            "sizes": dict(sorted(self._sizes.items())),
        }
        self._writer.add_key_value_metadata({_METADATA: json.dumps(about, ensure_ascii=False)})


@contextmanager
def counts_writer(path: Path, form: str) -> Iterator[CountsWriter]:
    """A file of counts that appears when it is whole; `close` must be called last."""
    with parquet_writer(path, COUNTS) as writer:
        yield CountsWriter(writer, form)


def about(path: Path) -> About:
    """What a file of counts says of itself. Raises InputError where it is none."""
    try:
        metadata = pq.read_metadata(path)
        found = (metadata.metadata or {}).get(_METADATA)
        names = metadata.schema.to_arrow_schema().names
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: is not a readable Parquet file ({error})") from error
    if found is None or names != COUNTS.names or metadata.num_row_groups % PARTITIONS:
        raise InputError(
            f"{path}: is no file of counts; give counts.parquet of a run with "
            "tokenizer.keep_counts, or what merge_counts wrote"
        )
    return About(**json.loads(found))


def check_form(paths: Sequence[Path], base: Base) -> None:
    """Raise InputError for files of counts that were not cut as this base cuts text."""
    wrong = [path for path in paths if about(path).form != form_of(base)]
    if wrong:
        raise InputError(
            [
                f"{path}: was counted with another pre-token regex or normalizer than {base.name} "
                "has; count that corpus again with this base"
                for path in wrong
            ]
        )


def merge_counts(
    files: Sequence[Path], out: Path, *, form: str | None = None, most: int | None = None
) -> None:
    """Add up files of counts into one; a source that occurs in several is one source.

    The same bytes for any order of the files and any way the texts were divided among them, as long
    as nothing is pruned. most: distinct words to keep, about; the rarest go first, and the file says
    by how much a count may be too low. form: what the files must have (`form_of`), and what is
    written where there are none.

    Raises InputError where a file is none of counts, or two were counted in different forms.
    """
    stated = [about(path) for path in files]
    forms = {own.form for own in stated} | ({form} if form else set())
    if len(forms) != 1:
        raise InputError(
            "files of counts: " + ", ".join(str(path) for path in files) + ": were counted with "
            "different pre-token regexes; count them again with one base"
        )
    pruned = 0
    with counts_writer(out, forms.pop()) as writer:
        for partition in range(PARTITIONS):
            tally = Tally()
            for path in files:
                for table in _read(path, partition):
                    tally.add_table(table)
                    if most is not None:
                        tally.prune(max(2, most // PARTITIONS))
            table = tally.rows().sort_by([("word", "ascending"), ("source", "ascending")])
            pruned = max(pruned, tally.undercount)
            writer.append(table)
        writer.close(pruned + sum(own.undercount for own in stated))


def _read(path: Path, partition: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(partition, file.num_row_groups, PARTITIONS):
            yield file.read_row_group(group, use_threads=False)


def read_counts_by_part(path: Path) -> Iterator[pa.Table]:
    """A merged file in parts of COUNTS; all rows of a word are in one part."""
    for partition in range(PARTITIONS):
        yield pa.concat_tables([COUNTS.empty_table(), *_read(path, partition)])


def read_counts(path: Path, min_count: int = 1) -> pa.Table:
    """Words of a merged file that occur min_count times or more in all sources together.

    Returns a table of COUNTS, always in the same order; `sizes_of` tells the sizes of the sources with
    the rare words. Only what is returned is in memory, and one partition.
    """
    parts = []
    for partition in range(PARTITIONS):
        parts += [_frequent(table, min_count) for table in _read(path, partition)]
    merged = pa.concat_tables([COUNTS.empty_table(), *parts])
    return merged.replace_schema_metadata({"sizes": json.dumps(about(path).sizes)})


def _frequent(table: pa.Table, min_count: int) -> pa.Table:
    if min_count <= 1:
        return table
    sums = table.group_by("word", use_threads=False).aggregate([("count", "sum")])
    kept = sums.filter(pc.greater_equal(sums["count_sum"], min_count))["word"]
    return table.filter(pc.is_in(table["word"], kept.combine_chunks()))


def sizes_of(counts: pa.Table) -> dict[str, int]:
    """Occurrences of all words by source, those that `read_counts` left out too."""
    known = (counts.schema.metadata or {}).get(b"sizes")
    if known is not None:
        return dict(json.loads(known))
    sums = counts.group_by("source", use_threads=False).aggregate([("count", "sum")])
    return dict(sorted(zip(sums["source"].to_pylist(), sums["count_sum"].to_pylist(), strict=True)))
