"""Token shards as training reads them: through memory maps, by document.

In: a `tokens/` folder that `token_shards.py` wrote. Out: for every source and split its documents, and
of each one its ids, its loss mask and its bytes.

The decision: files are mapped when they are first read and a bounded number stays mapped, so opening
a thousand shards costs as much as reading the manifest. Whether their bytes are those that were
written is asked at the start of training, by `verify`: a file that is as it was when its digest was
last taken (`digests.py`) is not read again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import InputError
from configs.files import read_json, sha256, write_json
from pretrain.data.digests import Seen, digests

MAPPED = 1024  # files of one set and kind that stay mapped; a process may have 65,530 maps


class TokenSet:
    """All documents of one source and split, across shards, numbered from 0 in input order."""

    def __init__(self, source: str, split: str, parts: list[tuple[Path, dict[str, Any]]]) -> None:
        kinds = {described["kind"] for _, described in parts}
        if len(kinds) > 1:
            raise InputError(
                f"source {source} mixes {' and '.join(sorted(kinds))} documents; "
                "give each kind a source of its own"
            )
        self.source, self.split, self.kind = source, split, kinds.pop()
        self.masked = all(d.get("masked", d["kind"] == "chat") for _, d in parts)
        self.documents = sum(described["documents"] for _, described in parts)
        self.tokens = sum(described["tokens"] for _, described in parts)
        self.bytes = sum(described["bytes"] for _, described in parts)
        self._stems = [folder / f"{source}.{split}" for folder, _ in parts]
        self._first = np.cumsum([0] + [described["documents"] for _, described in parts])
        self._offsets = self._mapped("offsets", "<i8")
        self._ids = self._mapped("ids", "<u4")
        self._mask = self._mapped("mask", "u1")
        languages: Counter[str] = Counter()
        for _, described in parts:
            languages.update(described["languages"])
        self.language = max(sorted(languages), key=lambda name: languages[name])

    def _mapped(self, name: str, dtype: str) -> Any:
        """Shard number → its file of that name."""
        return lru_cache(MAPPED)(lambda shard: _map(self._stems[shard], name, dtype))

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, BOS and EOS included: int64 [documents]."""
        return np.concatenate([np.diff(_map(stem, "offsets", "<i8")) for stem in self._stems])

    def byte_counts(self) -> NDArray[np.int64]:
        """UTF-8 bytes of each document: int64 [documents]."""
        return np.concatenate([_map(stem, "bytes", "<i8") for stem in self._stems])

    def _slice(self, document: int, start: int, length: int | None) -> tuple[int, slice]:
        shard = int(np.searchsorted(self._first, document, side="right")) - 1
        offsets = self._offsets(shard)
        row = document - int(self._first[shard])
        low, high = int(offsets[row]) + start, int(offsets[row + 1])
        return shard, slice(low, high if length is None else min(high, low + length))

    def ids(self, document: int, start: int = 0, length: int | None = None) -> NDArray[np.uint32]:
        """Tokens of a document, or of `length` of them from `start`: uint32 [≤ length]."""
        shard, where = self._slice(document, start, length)
        found: NDArray[np.uint32] = self._ids(shard)[where]
        return found

    def mask(self, document: int, start: int = 0, length: int | None = None) -> NDArray[np.uint8]:
        """1 where a dialogue's token is the assistant's: uint8, as long as `ids`."""
        shard, where = self._slice(document, start, length)
        found: NDArray[np.uint8] = self._mask(shard)[where]
        return found


def _map(stem: Path, name: str, dtype: str) -> NDArray[Any]:
    path = stem.with_name(f"{stem.name}.{name}")
    try:
        return np.memmap(path, dtype=dtype, mode="r")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); remove the folder {path.parent.name} and run again "
            "to encode it anew"
        ) from error


def renderings(kind: str, objective: str) -> tuple[str, ...]:
    """The splits that the epochs of a source of this kind read in turn: pairs have two."""
    if kind != "parallel":
        return ("train",)
    return ("train", "train-turned") if objective == "pretrain" else ("chat", "chat-turned")


@dataclass(frozen=True)
class Tokens:
    """A finished `tokens/` folder: its sets by (source, split), and what the manifest says.

    Splits: train and heldout; of pairs also train-turned, chat and chat-turned (`renderings`).
    """

    folder: Path
    digest: str
    tokenizer_sha256: str
    vocab_size: int
    begin: int
    end: int
    sets: dict[tuple[str, str], TokenSet]

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, split in self.sets if split == "train"})


def open_tokens(folder: Path, *, verify: bool = False) -> Tokens:
    """A finished `tokens/` folder; with `verify`, every file is compared with its digest first.

    Raises InputError naming the files that are missing or whose bytes are not those that were written.
    """
    manifest = read_json(folder / "manifest.json")
    shards = [(folder / "shards" / shard["key"], shard["sets"]) for shard in manifest["shards"]]
    if verify:
        verify_shards(shards)
    parts: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
    for where, sets in shards:
        for described in sets:
            name = (described["source"], described["split"])
            parts.setdefault(name, []).append((where, described))
    found = {name: TokenSet(*name, described) for name, described in sorted(parts.items())}
    return Tokens(
        folder=folder,
        digest=sha256(folder / "manifest.json"),
        tokenizer_sha256=manifest["tokenizer_sha256"],
        vocab_size=manifest["vocab_size"],
        begin=manifest["begin"],
        end=manifest["end"],
        sets=found,
    )


def verify_shards(shards: list[tuple[Path, list[dict[str, Any]]]]) -> None:
    """Compare the files of shards with the digests in the manifest.

    What is found sound is recorded in each shard's `verified.json`. Raises InputError with a line for
    each file that is missing or other than it was written.
    """
    wanted: dict[str, str] = {}
    seen: Seen = {}
    for where, sets in shards:
        record = _verified(where)
        for described in sets:
            for name, digest in described["sha256"].items():
                wanted[str(where / name)] = digest
                if name in record:
                    seen[str(where / name)] = (record[name], digest)
    there = [path for path in map(Path, wanted) if path.is_file()]
    found = digests(there, seen)
    wrong = [
        (
            Path(path),
            "is missing" if path not in found else "its bytes are not those that were written",
        )
        for path, digest in wanted.items()
        if path not in found or found[path][1] != digest
    ]
    if wrong:
        raise InputError(
            [
                f"{path}: {what}; remove the folder {path.parent.name} and run again to encode it anew"
                for path, what in wrong
            ]
        )
    for where, sets in shards:
        record = {
            name: list(found[str(where / name)][0])
            for described in sets
            for name in described["sha256"]
        }
        if record != _verified(where):
            write_json(where / "verified.json", record)


def _verified(shard: Path) -> dict[str, list[int]]:
    """What each file of a shard was when it was last found to be as written; {} where unknown."""
    try:
        found = read_json(shard / "verified.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
