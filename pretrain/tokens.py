"""Documents → token shards that training reads through memory maps.

In: documents in the Parquet contract of `dedup.documents` and a tokenizer folder. Out, under
`tokens/`: one folder per input file, `shards/<key>/`, holding for every source and split

    <source>.<split>.ids       uint32  every document's tokens, BOS first and EOS last, end to end
    <source>.<split>.offsets   int64   documents + 1 starts into .ids
    <source>.<split>.bytes     int64   UTF-8 bytes of each document's text
    <source>.<split>.mask      uint8   dialogues only: 1 on the tokens the assistant says

and `manifest.json`, written last: the shards in the order of the input files, with sha256 digests.

The decision: a shard's key is a digest of its input file and of the tokenizer, so a preparation that
was killed goes on with the files that are missing, a changed file is encoded again, and nothing else
is. The cost is one more read of every input file. Text is encoded with special tokens switched off:
a page that says `<|eot_id|>` must not end a turn.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from configs.errors import InputError
from configs.files import read_json, sha256, sync, write_json
from configs.progress import Log, Progress, silent
from dedup.documents import document_files, read_documents
from tokenizer.chat import render_dialogue

VERSION = 1  # of the shard format; part of every key
BATCH = 512  # documents encoded at a time (the tokenizer spreads a batch over the cores)
COLUMNS = ("kind", "text", "segments", "source", "language", "split")
TRAINABLE = ("text", "parallel", "chat")


def special_id(tokenizer: PreTrainedTokenizerFast, content: str, fallback: int | None) -> int:
    """The id of Llama-3's `content`, or of the tokenizer's own token in that role."""
    ids: dict[str, int] = tokenizer.get_vocab()
    found = ids.get(content, fallback)
    if found is None:
        raise InputError(
            f"tokenizer: it has neither {content} nor a token of its own in that role; "
            "use a tokenizer with beginning-of-text and end-of-text tokens"
        )
    return int(found)


def begin_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return special_id(tokenizer, "<|begin_of_text|>", tokenizer.bos_token_id)


def end_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return special_id(tokenizer, "<|end_of_text|>", tokenizer.eos_token_id)


@dataclass
class _Set:
    """The growing files of one source and split inside one shard."""

    source: str
    split: str
    kind: str
    stem: Path
    offsets: list[int]
    lengths: list[int]
    languages: dict[str, int]

    def write(self, ids: list[int], mask: list[int] | None, size: int, language: str) -> None:
        with self.stem.with_name(self.stem.name + ".ids").open("ab") as handle:
            handle.write(np.asarray(ids, dtype="<u4").tobytes())
        if mask is not None:
            with self.stem.with_name(self.stem.name + ".mask").open("ab") as handle:
                handle.write(np.asarray(mask, dtype=np.uint8).tobytes())
        self.offsets.append(self.offsets[-1] + len(ids))
        self.lengths.append(size)
        self.languages[language] = self.languages.get(language, 0) + 1

    def finish(self) -> dict[str, Any]:
        for name, values in (("offsets", self.offsets), ("bytes", self.lengths)):
            file = self.stem.with_name(f"{self.stem.name}.{name}")
            file.write_bytes(np.asarray(values, dtype="<i8").tobytes())
        names = ["ids", "offsets", "bytes"] + (["mask"] if self.kind == "chat" else [])
        files = [self.stem.with_name(f"{self.stem.name}.{name}") for name in names]
        for file in files:
            sync(file)
        return {
            "source": self.source,
            "split": self.split,
            "kind": self.kind,
            "documents": len(self.lengths),
            "tokens": self.offsets[-1],
            "bytes": sum(self.lengths),
            "languages": self.languages,
            "sha256": {file.name: sha256(file) for file in files},
        }


def encode_rows(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[dict[str, Any], list[int], list[int] | None]]:
    """Rows with their ids and, for dialogues, the loss mask. BOS and EOS stand around each."""
    begin, end = begin_id(tokenizer), end_id(tokenizer)
    backend = tokenizer.backend_tokenizer
    plain = [row["text"] for row in rows if row["kind"] != "chat"]
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        encodings = iter(backend.encode_batch_fast(plain, add_special_tokens=False))
    finally:
        backend.encode_special_tokens = before
    for row in rows:
        if row["kind"] == "chat":
            ids, mask = render_dialogue(tokenizer, row["segments"])
            front = [] if ids[:1] == [begin] else [begin]
            yield row, [*front, *ids, end], [0] * len(front) + [*mask, 0]
        else:
            yield row, [begin, *next(encodings).ids, end], None


def _write_shard(file: Path, target: Path, key: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Encode one input file into `target`, which appears whole or not at all."""
    partial = target.with_name(target.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sets: dict[tuple[str, str], _Set] = {}
    skipped: dict[str, int] = {}
    for batch in read_documents([file], columns=COLUMNS, batch_rows=BATCH):
        rows = batch.to_pylist()
        for row in rows:
            if row["kind"] not in TRAINABLE:
                skipped[row["kind"]] = skipped.get(row["kind"], 0) + 1
        rows = [row for row in rows if row["kind"] in TRAINABLE]
        for row, ids, mask in encode_rows(rows, tokenizer):
            name = (row["source"], row["split"])
            if name not in sets:
                _check_source(file, row["source"])
                stem = partial / f"{row['source']}.{row['split']}"
                sets[name] = _Set(row["source"], row["split"], row["kind"], stem, [0], [], {})
            if sets[name].kind != row["kind"]:
                raise InputError(
                    f"{file}: source {row['source']} mixes {sets[name].kind} and {row['kind']} "
                    "documents; give each kind a source of its own"
                )
            size = trained_bytes(row)
            sets[name].write(ids, mask, size, row["language"] or "")
    described = [sets[name].finish() for name in sorted(sets)]
    write_json(partial / "shard.json", {"key": key, "sets": described, "skipped": skipped})
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    sync(target.parent)


def _check_source(file: Path, source: str) -> None:
    """Raise InputError where a source cannot be part of a file's name (own Parquet may say anything)."""
    if not source or "/" in source or "\0" in source or len(source.encode("utf-8")) > 200:
        raise InputError(
            f"{file}: the source {source!r} cannot name a file; give its documents a short source "
            "without '/'"
        )


def trained_bytes(row: dict[str, Any]) -> int:
    """UTF-8 bytes of what bits per byte is measured on: the text, or what the assistant says."""
    if row["kind"] == "chat":
        said = (turn["text"] for turn in row["segments"] if turn["role"] == "assistant")
        return sum(len(text.encode("utf-8")) for text in said)
    return len(row["text"].encode("utf-8"))


def write_tokens(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_file: Path,
    folder: Path,
    *,
    log: Log = silent,
) -> None:
    """Encode every document of `paths` into `folder`; files already encoded are left alone.

    Raises InputError where a path matches nothing, a source mixes kinds, or no document is found.
    """
    tokenizer_digest = sha256(tokenizer_file)
    files = document_files(paths)
    shards: list[dict[str, Any]] = []
    skipped: dict[str, int] = {}
    for number, file in enumerate(files):
        log(Progress("pretrain", "tokens", number, len(files), "files", file.name))
        content = f"{VERSION}/{tokenizer_digest}/{file.name}/{sha256(file)}"
        key = hashlib.sha256(content.encode("utf-8")).hexdigest()[:24]
        target = folder / "shards" / key
        if not (target / "shard.json").is_file():
            _write_shard(file, target, key, tokenizer)
        shard = read_json(target / "shard.json")
        shards.append({"key": key, "file": file.name, "sets": shard["sets"]})
        for kind, count in shard["skipped"].items():
            skipped[kind] = skipped.get(kind, 0) + count
    log(Progress("pretrain", "tokens", len(files), len(files), "files"))
    if not any(shard["sets"] for shard in shards):
        raise InputError(
            f"{paths[0]}: no document to train on; loosen the filters, or name other documents"
        )
    manifest = {
        "version": VERSION,
        "tokenizer_sha256": tokenizer_digest,
        "vocab_size": len(tokenizer),
        "begin": begin_id(tokenizer),
        "end": end_id(tokenizer),
        "skipped": skipped,
        "shards": shards,
    }
    path = folder / "manifest.json"
    if not path.is_file() or read_json(path) != manifest:
        write_json(path, manifest)


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
        self.documents = sum(described["documents"] for _, described in parts)
        self.tokens = sum(described["tokens"] for _, described in parts)
        self.bytes = sum(described["bytes"] for _, described in parts)
        self._stems = [folder / f"{source}.{split}" for folder, _ in parts]
        self._first = np.cumsum([0] + [described["documents"] for _, described in parts])
        self._offsets = [_map(stem, "offsets", "<i8") for stem in self._stems]
        self._ids = [_map(stem, "ids", "<u4") for stem in self._stems]
        self._mask = [_map(stem, "mask", "u1") for stem in self._stems if self.kind == "chat"]
        languages: dict[str, int] = {}
        for _, described in parts:
            for language, count in described["languages"].items():
                languages[language] = languages.get(language, 0) + count
        self.language = max(sorted(languages), key=lambda name: languages[name])

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, BOS and EOS included: int64 [documents]."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets])

    def byte_counts(self) -> NDArray[np.int64]:
        """UTF-8 bytes of each document: int64 [documents]."""
        return np.concatenate([_map(stem, "bytes", "<i8") for stem in self._stems])

    def _slice(self, document: int, start: int, length: int | None) -> tuple[int, slice]:
        shard = int(np.searchsorted(self._first, document, side="right")) - 1
        offsets = self._offsets[shard]
        row = document - int(self._first[shard])
        low, high = int(offsets[row]) + start, int(offsets[row + 1])
        return shard, slice(low, high if length is None else min(high, low + length))

    def ids(self, document: int, start: int = 0, length: int | None = None) -> NDArray[np.uint32]:
        """Tokens of a document, or of `length` of them from `start`: uint32 [≤ length]."""
        shard, where = self._slice(document, start, length)
        return self._ids[shard][where]

    def mask(self, document: int, start: int = 0, length: int | None = None) -> NDArray[np.uint8]:
        """1 where a dialogue's token is the assistant's: uint8, as long as `ids`."""
        shard, where = self._slice(document, start, length)
        return self._mask[shard][where]


def _map(stem: Path, name: str, dtype: str) -> NDArray[Any]:
    return np.memmap(stem.with_name(f"{stem.name}.{name}"), dtype=dtype, mode="r")


@dataclass(frozen=True)
class Tokens:
    """A finished `tokens/` folder: its sets by (source, split), and what the manifest says."""

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
    """Map a finished `tokens/` folder; with `verify`, every file's digest is compared first.

    Raises InputError naming the file whose bytes are not those that were written.
    """
    manifest = read_json(folder / "manifest.json")
    parts: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
    for shard in manifest["shards"]:
        where = folder / "shards" / shard["key"]
        for described in shard["sets"]:
            for name, digest in described["sha256"].items() if verify else ():
                if not (where / name).is_file() or sha256(where / name) != digest:
                    raise InputError(
                        f"{where / name}: its bytes are not those that were written; "
                        f"remove the folder {where.name} and run again to encode it anew"
                    )
            parts.setdefault((described["source"], described["split"]), []).append(
                (where, described)
            )
    sets = {name: TokenSet(*name, found) for name, found in sorted(parts.items())}
    return Tokens(
        folder=folder,
        digest=sha256(folder / "manifest.json"),
        tokenizer_sha256=manifest["tokenizer_sha256"],
        vocab_size=manifest["vocab_size"],
        begin=manifest["begin"],
        end=manifest["end"],
        sets=sets,
    )
