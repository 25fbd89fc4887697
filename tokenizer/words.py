"""Documents → how often each word with Hangul occurs, by source.

In: files of documents (Parquet of the data stage, or plain ones) and the base's pre-token regex.
Out: one Arrow table `source, word, count` (int64), sorted, of every pre-token that contains a Hangul
syllable. A *word* here is a pre-token, what the regex cuts: mostly one eojeol with the space before
it. Only `split = train` is read.

The decision: text is split at spaces first, and the regex runs over the *distinct* pieces. In every
regex of this family a single space before a non-space starts a new pre-token, so cutting there
changes nothing (`_CUTS_AT_SPACES`; one that is not listed runs over whole texts, in `tokenizers`), and most pieces
repeat. The regex engine here is `regex`, and its Unicode tables are newer than those of
`tokenizers`: a piece with a character outside `_AGREED` goes through `tokenizers` itself, so the
counts are equal to its own.

One file is one task. Each leaves its counts as a Parquet file whose metadata names the input and
the regex, so an interrupted count goes on where it stopped, with the same result.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import regex
from tokenizers import Regex, normalizers, pre_tokenizers

from configs.files import atomic
from configs.progress import Log, Progress, silent
from dedup.documents import read_documents
from dedup.executor import Tell, run_tasks
from tokenizer.base import GPT2_PATTERN, LLAMA3_PATTERN, Base

COUNTS = pa.schema([("source", pa.string()), ("word", pa.string()), ("count", pa.int64())])

_SYLLABLE = regex.compile("[가-힣]")
_QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
_CUTS_AT_SPACES = frozenset({LLAMA3_PATTERN, GPT2_PATTERN, _QWEN2_PATTERN})
# Latin, Greek, Cyrillic, jamo, punctuation, arrows and shapes, CJK, syllables, full width, emoji:
# letters, digits and spaces of these ranges are the same in every Unicode version in use.
_AGREED = regex.compile(
    "[\u0000-\u024f\u0370-\u03ff\u0400-\u04ff\u1100-\u11ff\u2000-\u206f\u20a0-\u20bf"
    "\u2100-\u218b\u2190-\u2bff\u3000-\u312f\u3131-\u318e\u3200-\u33ff\u4e00-\u9fef"
    "\uac00-\ud7a3\ufe00-\ufe0f\uff01-\uffee\U0001f300-\U0001faff]*+"
)


class PreTokens:
    """The base's pre-tokenizer, counting only pre-tokens that contain a Hangul syllable."""

    def __init__(self, pattern: str, normalizer: normalizers.Normalizer | None = None) -> None:
        self._pieces = regex.compile(pattern)
        self._exact = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
        self._normalizer = normalizer
        self._listed = pattern in _CUTS_AT_SPACES

    def count(self, texts: Iterable[str]) -> Counter[str]:
        """Number of occurrences of each word with Hangul in the texts."""
        opening: Counter[str] = Counter()  # pieces with no space before them
        following: Counter[str] = Counter()
        for text in texts:
            if self._normalizer is not None:
                text = self._normalizer.normalize_str(text)
            if self._listed:
                pieces = text.split(" ")
                opening[pieces[0]] += 1
                following.update(pieces[1:])
            else:
                opening[text] += 1
        words: Counter[str] = Counter()
        for before, counted in (("", opening), (" ", following)):
            for piece, count in counted.items():
                if _SYLLABLE.search(piece):
                    for word in self._cut(before + piece):
                        if _SYLLABLE.search(word):
                            words[word] += count
        return words

    def _cut(self, piece: str) -> list[str]:
        if self._listed and _AGREED.fullmatch(piece):
            return self._pieces.findall(piece)
        return [word for word, _ in self._exact.pre_tokenize_str(piece)]


@dataclass(frozen=True)
class _Task:
    source: Path
    result: Path
    pattern: str
    normalizer: normalizers.Normalizer | None
    key: str

    def __str__(self) -> str:
        return str(self.source)


def _key(file: Path, form: str) -> str:
    """Digest of all that the counts of a file depend on."""
    state = file.stat()
    named = f"{file}\0{state.st_size}\0{state.st_mtime_ns}\0{form}"
    return hashlib.sha256(named.encode()).hexdigest()


def _finished(task: _Task) -> bool:
    if not task.result.is_file():
        return False
    metadata = pq.read_schema(task.result).metadata or {}
    return metadata.get(b"malmoi.key") == task.key.encode()


def _count_file(task: _Task, tell: Tell) -> None:
    """Count one file into its result; tells the characters read."""
    pre_tokens = PreTokens(task.pattern, task.normalizer)
    counts: dict[str, Counter[str]] = {}
    for batch in read_documents([task.source], split="train", columns=["source", "text"]):
        texts: dict[str, list[str]] = {}
        columns = batch.column("source").to_pylist(), batch.column("text").to_pylist()
        for source, text in zip(*columns, strict=True):
            texts.setdefault(source, []).append(text)
        for source, own in texts.items():
            counts.setdefault(source, Counter()).update(pre_tokens.count(own))
            tell(sum(map(len, own)))
    rows = sorted((source, word) for source, words in counts.items() for word in words)
    table = pa.table(
        {
            "source": [source for source, _ in rows],
            "word": [word for _, word in rows],
            "count": [counts[source][word] for source, word in rows],
        },
        schema=COUNTS.with_metadata({"malmoi.key": task.key}),
    )
    with atomic(task.result) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def count_words(
    files: Sequence[Path], base: Base, folder: Path, *, workers: int, log: Log = silent
) -> pa.Table:
    """Count the words with Hangul in `files`, one result per file in `folder`, and merge them.

    Returns a table with the columns of COUNTS, sorted by source and word; the same for any number of
    workers. Files counted by an earlier call with the same content and regex are not read again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    form = f"counts-1 {base.pattern} {json.dumps(base.definition.get('normalizer'))}"
    tasks = [
        _Task(
            file,
            folder / f"{index:05d}.parquet",
            base.pattern,
            base.tokenizer.normalizer,
            _key(file, form),
        )
        for index, file in enumerate(files)
    ]
    # The largest first: otherwise one worker may be left alone with it at the end.
    left = sorted(
        (task for task in tasks if not _finished(task)),
        key=lambda task: -task.source.stat().st_size,
    )
    size = sum(file.stat().st_size for file in files)
    done = size - sum(task.source.stat().st_size for task in left)
    characters = 0.0

    def tell() -> None:
        message = f"{characters / 1e6:.1f} M characters"
        log(Progress("tokenizer", "count", done, size, "B", message))

    def on_progress(more: float) -> None:
        nonlocal characters
        characters += more
        tell()

    def on_done(task: _Task, _: None) -> None:
        nonlocal done
        done += task.source.stat().st_size
        tell()

    tell()
    run_tasks(_count_file, left, workers, on_done=on_done, on_progress=on_progress, on_tick=tell)
    return _merged([task.result for task in tasks])


def _merged(results: Sequence[Path]) -> pa.Table:
    table = pa.concat_tables(pq.read_table(result) for result in results)
    table = table.group_by(["source", "word"], use_threads=False).aggregate([("count", "sum")])
    table = table.rename_columns(["source", "word", "count"])
    return table.sort_by([("source", "ascending"), ("word", "ascending")])


def balanced(
    counts: pa.Table, balance: float, min_count: int
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Weigh the sources: words, sorted, and their weights [words], int64.

    A source of n words in all counts as n^balance, scaled so that the largest keeps its counts:
    factor = (n_largest / n)^(1 − balance). Without it one genre decides (reviews are seven tenths of
    the test corpus, and 0.5 gained 1.4 points of tokens, averaged over sources). Words that occur
    fewer than min_count times, unweighted, are left out.
    """
    if counts.num_rows == 0:
        return [], np.zeros(0, np.int64)
    sources = counts.column("source").combine_chunks().dictionary_encode()
    index = sources.indices.to_numpy()
    count = counts.column("count").to_numpy()
    sizes = np.bincount(index, weights=count)
    factor = (sizes.max() / sizes) ** (1 - balance)
    weight = np.rint(count * factor[index]).astype(np.int64)
    table = pa.table({"word": counts.column("word"), "count": count, "weight": weight})
    table = table.group_by("word", use_threads=False).aggregate(
        [("count", "sum"), ("weight", "sum")]
    )
    table = table.filter(pc.greater_equal(table.column("count_sum"), min_count))
    table = table.sort_by("word")
    return table.column("word").to_pylist(), table.column("weight_sum").to_numpy().astype(np.int64)
