"""The files of a token shard while they grow: ids, offsets, bytes and masks of each source and split.

In: documents as they were encoded. Out: files, and for each source and split what the manifest says of
it. A set holds about FLUSH tokens before it writes them, so memory does not grow with the documents,
and digests are computed from what is written, not by reading it again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from configs.errors import InputError
from configs.files import sync
from pretrain.data.encode import Encoded

FLUSH = 1 << 20  # tokens a set holds before it writes them


class _File:
    """A file that grows, with the digest of what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()

    def append(self, values: NDArray[Any]) -> None:
        content = values.tobytes()
        with self.path.open("ab") as handle:
            handle.write(content)
        self._digest.update(content)

    def finish(self) -> str:
        self.path.touch()
        sync(self.path)
        return self._digest.hexdigest()


@dataclass
class _Set:
    """The growing files of one source and split inside one shard."""

    stem: Path
    source: str
    split: str
    kind: str
    masked: bool
    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    languages: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        names = ["ids", "offsets", "bytes", *(["mask"] if self.masked else [])]
        self._files = {
            name: _File(self.stem.with_name(f"{self.stem.name}.{name}")) for name in names
        }
        self._held: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        self._held["offsets"].append(np.zeros(1, "<i8"))
        self._waiting = 0

    def add(self, encoded: Encoded, sizes: NDArray[np.int64], languages: Sequence[str]) -> None:
        self._held["ids"].append(encoded.ids.astype("<u4", copy=False))
        self._held["offsets"].append((encoded.starts[1:] + self.tokens).astype("<i8", copy=False))
        self._held["bytes"].append(sizes.astype("<i8", copy=False))
        if self.masked:
            assert encoded.mask is not None
            self._held["mask"].append(encoded.mask)
        self.documents += len(sizes)
        self.tokens += len(encoded.ids)
        self.bytes += int(sizes.sum())
        self.languages.update(languages)
        self._waiting += len(encoded.ids)
        if self._waiting >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        for name, held in self._held.items():
            if held:
                self._files[name].append(np.concatenate(held))
            held.clear()
        self._waiting = 0

    def finish(self) -> dict[str, Any]:
        self._flush()
        return {
            "source": self.source,
            "split": self.split,
            "kind": self.kind,
            "masked": self.masked,
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "languages": dict(sorted(self.languages.items())),
            "sha256": {file.path.name: file.finish() for file in self._files.values()},
        }


class ShardFiles:
    """The sets of one shard, by source and split."""

    def __init__(self, file: Path, folder: Path) -> None:
        self._file, self._folder = file, folder
        self._sets: dict[tuple[str, str], _Set] = {}

    def add(
        self,
        batch: pa.RecordBatch,
        encoded: Encoded,
        sizes: NDArray[np.int64],
        kind: str,
        split: str | None = None,
    ) -> None:
        """The batch's documents as they were encoded; each to the set of its source and split."""
        sources = batch["source"].to_pylist()
        splits = batch["split"].to_pylist() if split is None else [split] * batch.num_rows
        languages = [language or "" for language in batch["language"].to_pylist()]
        members: dict[tuple[str, str], list[int]] = {}
        for row, name in enumerate(zip(sources, splits, strict=True)):
            members.setdefault(name, []).append(row)
        for name, rows in members.items():
            found = self._set(*name, kind, encoded.mask is not None)
            if len(rows) == batch.num_rows:
                found.add(encoded, sizes, languages)
            else:
                found.add(_chosen(encoded, rows), sizes[rows], [languages[row] for row in rows])

    def _set(self, source: str, split: str, kind: str, masked: bool) -> _Set:
        if (source, split) not in self._sets:
            if not source or "/" in source or "\0" in source or len(source.encode()) > 200:
                raise InputError(
                    f"{self._file}: the source {source!r} cannot name a file; give its documents a "
                    "short source without '/'"
                )
            stem = self._folder / f"{source}.{split}"
            self._sets[source, split] = _Set(stem, source, split, kind, masked)
        found = self._sets[source, split]
        if found.kind != kind:
            raise InputError(mixed(f"{self._file}: source {source}", found.kind, kind))
        return found

    def finish(self) -> list[dict[str, Any]]:
        return [self._sets[name].finish() for name in sorted(self._sets)]


def mixed(where: str, *kinds: str) -> str:
    """The line for a source that holds documents of several kinds."""
    return f"{where} mixes {' and '.join(kinds)} documents; give each kind a source of its own"


def _chosen(encoded: Encoded, rows: Sequence[int]) -> Encoded:
    """Some of the documents, in the order given."""
    spans = [slice(int(encoded.starts[row]), int(encoded.starts[row + 1])) for row in rows]
    starts = np.cumsum([0, *(span.stop - span.start for span in spans)], dtype=np.int64)
    mask = None if encoded.mask is None else np.concatenate([encoded.mask[s] for s in spans])
    return Encoded(np.concatenate([encoded.ids[s] for s in spans]), starts, mask)
