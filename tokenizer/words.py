"""Documents → how often each word with Hangul occurs, by source.

In: files of documents (Parquet of the data stage, or plain ones) and the base's pre-token regex.
Out: one Arrow table `source, word, count` (int64) of every pre-token that contains a Hangul syllable.
A *word* here is a pre-token, what the regex cuts: mostly one eojeol with the space before it. Only
`split = train` is read.

The decision: a task is a share of a file (row groups of about `SHARE` bytes of text, or what the data
stage would cut from a plain file), and leaves its counts as a file whose name is a digest of all that
they depend on: the file, its size and time, the share, the regex. So a count that was killed at any
moment goes on where it was, here or on a Ray cluster, and the shares, hence the bytes, do not depend
on the number of workers. A worker holds `WORDS` words at most; past that it writes them out (exact,
the default), or drops the rarest (`max_words`: less disk, and the most by which a count can be too low
is known).

Texts are cut by the kernel of `cutting.py` where it knows the regex, else by `tokenizers` itself, at a
fiftieth of the speed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import normalizers

from configs.errors import InputError
from configs.files import remove_leftovers
from configs.progress import Log, Progress, silent
from configs.schema import Dedup
from dedup.documents import plain_shares, read_share
from dedup.executor import Cluster, Tell, run_tasks
from dedup.plan import Task as Share
from dedup.utf8 import mended
from tokenizer.base import Base
from tokenizer.counts import (
    CountsWriter,
    check_form,
    counts_writer,
    form_of,
    merge_counts,
    read_counts,
    sizes_of,
)
from tokenizer.cutting import RULES, count_texts
from tokenizer.pre_tokens import splitter
from tokenizer.tally import COUNTS, PARTITIONS, Tally
from tokenizer.weights import lowest_count

SHARE = 32_000_000
"""Bytes of text in a task, about: a second of counting."""

WORDS = 2_000_000
"""Distinct words that a task holds before it writes them out: some 150 MB."""

MERGED = "merged.parquet"
"""Where `count_words` leaves the counts of all files, in its folder."""

__all__ = ["COUNTS", "MERGED", "PreTokens", "count_words", "sizes_of"]

_DOCUMENTS = {"id", "text", "source", "split", "cluster_id"}
_SYLLABLE = re.compile("[가-힣]")


class PreTokens:
    """The base's pre-tokenizer, counting only pre-tokens that contain a Hangul syllable."""

    def __init__(self, pattern: str, normalizer: normalizers.Normalizer | None = None) -> None:
        self._rules = RULES.get(pattern)
        self._exact = splitter(pattern)
        self._normalizer = normalizer

    def count(self, texts: Iterable[str]) -> Counter[str]:
        """Number of occurrences of each word with Hangul in the texts."""
        tally = Tally()
        whole = _column(list(texts))
        self.count_into(tally, whole, np.full(len(whole), tally.number(""), np.int32))
        rows = tally.rows()
        return Counter(dict(zip(rows["word"].to_pylist(), rows["count"].to_pylist(), strict=True)))

    def count_into(self, tally: Tally, texts: pa.Array, sources: npt.NDArray[np.int32]) -> None:
        """Count the words of texts [N], each under the number of its source [N].

        Bytes that are not UTF-8 (lone surrogates, say, in a file that others wrote) count as U+FFFD.
        """
        texts = mended(texts)
        if self._normalizer is not None:
            change = self._normalizer.normalize_str
            texts = pa.array([change(text) for text in texts.to_pylist()], pa.large_string())
        if self._rules is not None:
            count_texts(tally, self._rules, texts, sources)
            return
        counts: dict[int, Counter[str]] = {}
        for source, text in zip(sources.tolist(), texts.to_pylist(), strict=True):
            words = (word for word, _ in self._exact.pre_tokenize_str(text))
            own = counts.setdefault(source, Counter())
            own.update(word for word in words if _SYLLABLE.search(word))
        for source, own in counts.items():
            words, numbers = pa.array(own.keys(), pa.large_string()), np.array([*own.values()])
            tally.add(words, np.full(len(words), source, np.int32), numbers.astype(np.int64))


def _column(texts: list[str]) -> pa.Array:
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # lone surrogates
        raw = [text.encode("utf-8", "surrogatepass") for text in texts]
        return pa.array([text.decode("utf-8", "replace") for text in raw], pa.large_string())


RowGroups = tuple[int, int]
"""[first, last) of a Parquet file in the data stage's form."""


@dataclass(frozen=True)
class PlainShare:
    """A share of any other file, and the config under which the data stage would read it."""

    dedup: Dedup
    part: Share


@dataclass(frozen=True)
class _Task:
    """A share of a file: some row groups, or what the data stage would give one worker of a plain file."""

    source: Path
    share: RowGroups | PlainShare
    bytes: int
    result: Path
    pattern: str
    normalizer: normalizers.Normalizer | None
    form: str
    max_words: int | None

    def __str__(self) -> str:
        return str(self.source)


def _tasks(files: Sequence[Path], base: Base, folder: Path, max_words: int | None) -> list[_Task]:
    form = form_of(base)
    normalizer = base.tokenizer.normalizer
    tasks = []
    for file in files:
        state = file.stat()
        rows = _row_groups(file)
        shares: Sequence[tuple[RowGroups | PlainShare, str, int]] = (
            _plain(file) if rows is None else rows
        )
        for share, which, size in shares:
            named = (file.resolve(), state.st_size, state.st_mtime_ns, which, form, max_words)
            key = hashlib.sha256("\0".join(map(str, named)).encode()).hexdigest()[:32]
            result = folder / f"{key}.parquet"
            tasks.append(
                _Task(file, share, size, result, base.pattern, normalizer, form, max_words)
            )
    return tasks


def _row_groups(file: Path) -> list[tuple[RowGroups, str, int]] | None:
    """Shares of about SHARE bytes of text, their names, and those bytes; None: not in that form."""
    try:
        metadata = pq.read_metadata(file) if file.suffix == ".parquet" else None
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file}: is not a readable Parquet file ({error})") from error
    if metadata is None or not set(metadata.schema.to_arrow_schema().names) >= _DOCUMENTS:
        return None
    names = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    text = names.index("text")
    shares = []
    first = held = 0
    for group in range(metadata.num_row_groups):
        held += metadata.row_group(group).column(text).total_uncompressed_size
        if held >= SHARE or group == metadata.num_row_groups - 1:
            shares.append(((first, group + 1), f"{first}-{group + 1}", held))
            first, held = group + 1, 0
    return shares


def _plain(file: Path) -> list[tuple[PlainShare, str, int]]:
    dedup, parts = plain_shares(file)
    return [(PlainShare(dedup, part), "\n".join(part.fingerprint()), part.bytes) for part in parts]


def _batches(task: _Task) -> Iterator[pa.RecordBatch]:
    """Training documents of a share: source and text."""
    if isinstance(task.share, PlainShare):
        for batch in read_share(task.share.dedup, task.share.part):
            yield _training(batch)
        return
    try:
        with pq.ParquetFile(task.source) as file:
            for batch in file.iter_batches(
                1024,
                row_groups=list(range(*task.share)),
                columns=["source", "text", "split"],
                use_threads=False,
            ):
                yield _training(batch)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{task.source}: cannot be read ({error}); make it again") from error


def _training(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.filter(pc.equal(batch["split"], "train")).select(["source", "text"])


def _count_share(task: _Task, tell: Tell) -> None:
    """Count one share into its result; tells the bytes of text read."""
    pre_tokens = PreTokens(task.pattern, task.normalizer)
    tally = Tally()
    with counts_writer(task.result, task.form) as writer:
        for batch in _batches(task):
            named = batch["source"].dictionary_encode()
            names = [tally.number(name) for name in named.dictionary.to_pylist()]
            sources = np.array(names, np.int32)[named.indices.to_numpy()]
            pre_tokens.count_into(tally, batch["text"], sources)
            if task.max_words is not None:
                tally.prune(task.max_words)
            elif len(tally) > WORDS:
                _spill(tally, writer)
            tell(batch["text"].nbytes)
        _spill(tally, writer)
        writer.close(tally.undercount)


def _spill(tally: Tally, writer: CountsWriter) -> None:
    for partition in range(PARTITIONS):
        writer.append(tally.partition(partition))
    tally.clear()


def count_words(
    files: Sequence[Path],
    base: Base,
    folder: Path,
    *,
    workers: int,
    cluster: Cluster | None = None,
    also: Sequence[Path] = (),
    min_count: int | Literal["auto"] = 1,
    max_words: int | None = None,
    log: Log = silent,
) -> pa.Table:
    """Count the words with Hangul in `files`, one result per share in `folder`, and merge them.

    also: files of counts (`merge_counts`) to add. cluster: where tasks run instead of here; its nodes
    must see files and folder. max_words: most distinct words to hold, None for exact counts.

    Returns a table with the columns of COUNTS, without words that occur fewer than min_count times
    in all (`sizes_of` counts them; auto: `weights.lowest_count`); the same for any number of workers,
    and any order of the files.
    `folder`/MERGED has all words. Shares counted by an earlier call with the same content and regex
    are not read again.

    Raises InputError where a file cannot be read or counts of another regex are given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_form(also, base)
    remove_leftovers(folder)
    if cluster is not None:
        from dedup.ray_engine import need_shared_folder

        need_shared_folder(cluster, folder)
    tasks = _tasks(files, base, folder, max_words)
    # The largest first: otherwise one worker may be left alone with it at the end.
    left = sorted(
        (task for task in tasks if not task.result.is_file()), key=lambda task: -task.bytes
    )
    size = sum(task.bytes for task in tasks)
    done = size - sum(task.bytes for task in left)
    read = 0.0

    def tell() -> None:
        log(Progress("tokenizer", "count", done, size, "B", f"{read / 1e6:.1f} MB of text"))

    def on_progress(more: float) -> None:
        nonlocal read
        read += more
        tell()

    def on_done(task: _Task, _: None) -> None:
        nonlocal done
        done += task.bytes
        tell()

    tell()
    run_tasks(
        _count_share,
        left,
        workers,
        cluster=cluster,
        on_done=on_done,
        on_progress=on_progress,
        on_tick=tell,
    )
    log(Progress("tokenizer", "merge counts", message=f"{len(tasks) + len(also)} files"))
    merged = folder / MERGED
    results = list(dict.fromkeys(task.result for task in tasks))
    merge_counts([*results, *also], merged, form=form_of(base), most=max_words)
    return read_counts(merged, lowest_count(merged) if min_count == "auto" else min_count)
