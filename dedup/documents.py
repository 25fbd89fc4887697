"""The contract between the data stage and everybody: documents, removed documents, failed records.

Out of the stage come documents/*.parquet (`SCHEMA`), removed/*.parquet (`REMOVED_SCHEMA`) and
failed/*.jsonl. `read_documents` reads them back, and reads plain JSONL or Parquet of one's own in
the same form, always in the same order.

The decision: one flat Parquet schema for every kind of document. `text` is always the plain rendering
(what is hashed, filtered and counted); `segments` keeps the structure of dialogues and pairs beside
it. It costs the text of those kinds twice, and spares every reader a case distinction.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.files import atomic
from configs.schema import Dedup, Source

if TYPE_CHECKING:
    from dedup.plan import Task

SEGMENT = pa.struct([("role", pa.string()), ("text", pa.string())])

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # text, parallel, chat or preference
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("segments", pa.list_(SEGMENT)),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("language", pa.string()),
        pa.field("split", pa.string(), nullable=False),  # train or heldout
        pa.field("quality", pa.float32(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),  # id of the document that stayed
        pa.field("cluster_size", pa.int32(), nullable=False),  # with the copies that went
        pa.field("licence", pa.string()),
        pa.field("meta", pa.string()),  # JSON
    ]
)

REMOVED_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("kept_id", pa.string()),
        pa.field("similarity", pa.float64()),  # Jaccard, exact
        pa.field("text", pa.large_string()),
        pa.field("url", pa.string()),
    ]
)

PLAIN_HELDOUT = 0.005
"""Share of a plain corpus of one's own that is held out, by a hash of the id."""

_RAW_BYTES = 4096


def split_of(name: str, heldout: float) -> str:
    """ "heldout" for that share of all names, "train" for the rest; the same in every run."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "big") < heldout * 2**64 else "train"


@contextmanager
def parquet_writer(
    path: Path, schema: pa.Schema, *, scratch: bool = False
) -> Iterator[pq.ParquetWriter]:
    """A Parquet file that appears under its name only when it is whole; same rows, same bytes.

    `scratch`: as it is, for what is read once or twice more and then deleted: lz4 made it smaller by
    a third, for 3.3 of about 80 processor seconds per GB. What stays is packed with zstd at its
    first level: the third took twice the time, more than half of the whole last pass, and made Korean
    text smaller by a seventh.
    """
    few = {"kind", "source", "language", "split", "licence", "step", "reason"}
    with atomic(path) as temporary:
        writer = pq.ParquetWriter(
            temporary,
            schema,
            compression="none" if scratch else "zstd",
            compression_level=None if scratch else 1,
            write_statistics=not scratch,
            use_dictionary=[name for name in schema.names if name in few],
        )
        try:
            yield writer
        except BaseException:
            _abandon(writer)
            raise
        writer.close()


def _abandon(writer: pq.ParquetWriter) -> None:
    """Close a writer whose file is not wanted; a full disk must not hide the first error."""
    with suppress(OSError):
        writer.close()


def write_failed(path: Path, failed: Iterable[dict[str, Any]]) -> None:
    """failed/*.jsonl: path, line or offset, error, raw (base64 of at most 4,096 bytes)."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for failure in failed:
            handle.write(json.dumps(failure, ensure_ascii=False) + "\n")


def raw_field(raw: bytes) -> str:
    """The bounded base64 form in which a failed record's bytes are kept."""
    return base64.b64encode(raw[:_RAW_BYTES]).decode("ascii")


def read_documents(
    paths: Path | str | Sequence[str | Path],
    *,
    split: str | None = None,
    kinds: Collection[str] | None = None,
    sources: Collection[str] | None = None,
    columns: Sequence[str] | None = None,
    batch_rows: int = 1024,
) -> Iterator[pa.RecordBatch]:
    """Documents in `SCHEMA`, in batches of at most `batch_rows`, in file order and the same every time.

    paths: a folder documents/, or files, folders and globs. Files that are not in `SCHEMA` (JSONL,
    plain or compressed, or Parquet with a `text` or `messages` field, text, HTML, WARC) are read as
    the data stage reads them; their source is the file's name, and half a percent of them, by a hash
    of the id, is held out. Only documents of that split, those kinds and sources are given, and only
    those columns, in that order.

    Raises InputError where a path matches nothing or a plain file holds a record that cannot be read.
    """
    names = list(columns) if columns is not None else SCHEMA.names
    for path in document_files([paths] if isinstance(paths, str | Path) else paths):
        whole = list(dict.fromkeys([*names, "split", "kind", "source"]))
        for batch in _read_file(path, whole, batch_rows):
            chosen = _choose(batch, split, kinds, sources)
            if chosen.num_rows:
                yield chosen.select(names)


def _choose(
    batch: pa.RecordBatch,
    split: str | None,
    kinds: Collection[str] | None,
    sources: Collection[str] | None,
) -> pa.RecordBatch:
    wanted = {
        "split": None if split is None else [split],
        "kind": None if kinds is None else sorted(kinds),
        "source": None if sources is None else sorted(sources),
    }
    for column, values in wanted.items():
        if values is not None:
            batch = batch.filter(pc.is_in(batch[column], pa.array(values, pa.string())))
    return batch


def document_files(paths: Sequence[str | Path]) -> list[Path]:
    """Every file the paths mean, in the order given, folders and globs sorted, none twice."""
    found: dict[Path, None] = {}
    missing: list[str] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
            matches = [p for p in inside if p.suffix == ".parquet"] or inside
        elif path.is_file():
            matches = [path]
        else:
            found_names = glob.glob(str(given), recursive=True)  # noqa: PTH207 (absolute ones too)
            matches = sorted(Path(name) for name in found_names)
            matches = [match for match in matches if match.is_file()]
        if not matches:
            missing.append(f"{given}: no file is there; give a documents folder, a file or a glob")
        found.update(dict.fromkeys(matches))
    if missing:
        raise InputError(missing)
    return list(found)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _read_file(path: Path, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path}: is not a readable Parquet file ({error})") from error
        with file:
            if {"id", "text", "source", "split", "cluster_id"} <= set(file.schema_arrow.names):
                for batch in file.iter_batches(batch_rows, columns=columns, use_threads=False):
                    yield _readable(batch.select(columns))
                return
    for batch in _read_plain(path):
        for begin in range(0, batch.num_rows, batch_rows):
            yield batch.slice(begin, batch_rows)


def _readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Arrow takes whatever bytes a Parquet file holds for UTF-8; Python does not."""
    from dedup.utf8 import mended

    if "text" not in batch.schema.names:
        return batch
    number = batch.schema.names.index("text")
    return batch.set_column(number, batch.schema.field(number), mended(batch["text"]))


def plain_shares(path: Path) -> tuple[Dedup, list[Task]]:
    """A file of one's own as the data stage would divide it among workers, for `read_share`."""
    from dedup.read import plan

    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in path.name)
    name = name.split(".")[0].lstrip("_.-") or "corpus"
    dedup = Dedup(sources=[Source(name=name, paths=[str(path)], language="any")])
    return dedup, plan(dedup)


def _read_plain(path: Path) -> Iterator[pa.RecordBatch]:
    """A file of one's own, in `SCHEMA`: every document a cluster of itself."""
    dedup, shares = plain_shares(path)
    for share in shares:
        yield from read_share(dedup, share)


def read_share(dedup: Dedup, share: Task) -> Iterator[pa.RecordBatch]:
    """One of `plain_shares`, in `SCHEMA`. Raises InputError for a record that cannot be read."""
    from dedup.read import read

    name = dedup.sources[0].name
    for raw in read(share, dedup):
        if raw.failed:
            first = raw.failed[0]
            where = f"{first.path}:{first.line}" if first.line else first.path
            raise InputError(f"{where}: {first.error}; mend or remove it, or clean with dedup")
        batch = raw.batch
        count = batch.num_rows
        ids = batch["id"].to_pylist()
        split = [split_of(identity, PLAIN_HELDOUT) for identity in ids]
        filled = {
            **{field: batch[field] for field in ("id", "kind", "text", "segments", "url", "meta")},
            "source": [name] * count,
            "language": [None] * count,
            "split": split,
            "quality": [1.0] * count,
            "cluster_id": ids,
            "cluster_size": [1] * count,
            "licence": [None] * count,
        }
        yield as_batch(filled, SCHEMA)


def as_batch(columns: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """Columns (Arrow arrays or lists, by name) as one batch in the schema's order and types."""
    arrays = []
    for field in schema:
        column = columns[field.name]
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if not isinstance(column, pa.Array):
            column = pa.array(column, field.type)
        arrays.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
