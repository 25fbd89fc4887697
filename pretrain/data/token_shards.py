"""Documents → token shards, on all cores.

In: documents in the Parquet contract of `dedup.documents` (or files of one's own, as it reads them)
and a tokenizer. Out, under `tokens/`: one folder per share of an input file, `shards/<key>/`, with, for
every source and split,

    <source>.<split>.ids       uint32  every document's tokens, BOS first and EOS last, end to end
    <source>.<split>.offsets   int64   documents + 1 starts into .ids
    <source>.<split>.bytes     int64   UTF-8 bytes of each document's text
    <source>.<split>.mask      uint8   dialogues only: 1 on the tokens the assistant says

and `manifest.json`, written last: the shards in the order of the input, with SHA-256 digests that were
computed while the files were written. Pairs have more splits than train and heldout: their renderings
(`pairs.py`), in shards of their own, so that what is asked of pairs never has text encoded again.

The decision: a share is some row groups (about SHARE bytes of text), and its key a digest of the input
file, its place there and the tokenizer. Shares depend on the file alone, so any number of workers
writes the same bytes, a worker holds a batch at a time however large the file is, and a preparation
that was killed goes on with the shares that are missing. Processes and not threads: with one process
the tokenizer spreads a batch over the cores and then waits for Python to take its lists apart
(tests/benchmarks/token_shards.py has both). The cost is that every input file is read once more, for
its digest, when it is new or was changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import InputError
from configs.files import read_json, sha256, sync, write_json
from configs.machine import cores
from configs.progress import Log, Progress, silent
from dedup.documents import document_files
from dedup.executor import Tell, run_tasks
from pretrain.data.digests import Seen, digests, stamp
from pretrain.data.encode import Encoder, begin_id, end_id, said_bytes
from pretrain.data.input_shares import Share, shares
from pretrain.data.pairs import PairForms, asked, plain, sides
from pretrain.data.shard_files import ShardFiles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 2  # of the shard format; part of every key
WORTH = 4 << 20  # bytes of text for which another process is started: a few seconds of encoding


# ── one share → one shard ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Job:
    """A share to encode into the folder `target`. pairs: its pairs' renderings, not its documents."""

    share: Share
    target: Path
    key: str
    pairs: PairForms | None = None

    def __str__(self) -> str:
        return str(self.share)


def write_shard(encoder: Encoder, alone: bool, job: Job, tell: Tell) -> None:
    """Encode a share into its shard, which appears whole or not at all; tells the bytes of text read.

    alone: no other process encodes, so the tokenizer may use all cores. Raises InputError where the
    share cannot be read, or a source is not one kind of document.
    """
    if not alone:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    target = job.target
    partial_folder = target.with_name(target.name + ".tmp")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    shard = ShardFiles(job.share.file, partial_folder)
    counted: Counter[str] = Counter()
    for batch in job.share.batches():
        if job.pairs is None:
            counted.update(_add_documents(shard, batch, encoder))
        else:
            _add_pairs(shard, batch, encoder, job.pairs, job.share.file)
        tell(batch["text"].nbytes)
    sets = shard.finish()
    pairs = counted.pop("", 0)
    record = {
        "key": job.key,
        "sets": sets,
        "pairs": pairs,
        "skipped": dict(sorted(counted.items())),
    }
    names = [name for described in sets for name in described["sha256"]]
    write_json(partial_folder / "shard.json", record)
    write_json(
        partial_folder / "verified.json", {name: stamp(partial_folder / name) for name in names}
    )
    shutil.rmtree(target, ignore_errors=True)
    partial_folder.rename(target)
    sync(target.parent)


def _add_documents(shard: ShardFiles, batch: pa.RecordBatch, encoder: Encoder) -> dict[str, int]:
    """Texts, dialogues and held-out pairs. What is left: {kind: documents}, "" for pairs to train."""
    kinds, splits = batch["kind"].to_pylist(), batch["split"].to_pylist()
    rows: dict[str, list[int]] = {"text": [], "parallel": [], "chat": []}
    left: Counter[str] = Counter()
    for row, (kind, split) in enumerate(zip(kinds, splits, strict=True)):
        if kind == "parallel" and split == "train":
            left[""] += 1
        elif kind in rows:
            rows[kind].append(row)
        else:
            left[kind] += 1
    for kind in ("text", "parallel"):
        if rows[kind]:
            some = batch if len(rows[kind]) == len(kinds) else batch.take(pa.array(rows[kind]))
            texts = some["text"]
            sizes = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
            shard.add(some, encoder.texts(texts.to_pylist()), sizes, kind)
    if rows["chat"]:
        some = batch.take(pa.array(rows["chat"]))
        talks = [segments or [] for segments in some["segments"].to_pylist()]
        sizes = np.array([said_bytes(segments) for segments in talks], np.int64)
        shard.add(some, encoder.dialogues(talks), sizes, "chat")
    return left


def _add_pairs(
    shard: ShardFiles, batch: pa.RecordBatch, encoder: Encoder, forms: PairForms, file: Path
) -> None:
    """Pairs to train, in their renderings."""
    chosen = pc.and_(pc.equal(batch["kind"], "parallel"), pc.equal(batch["split"], "train"))
    batch = batch.filter(chosen)
    if not batch.num_rows:
        return
    ids = batch["id"].to_pylist()
    pairs = []
    for identity, segments in zip(ids, batch["segments"].to_pylist(), strict=True):
        pair = sides(segments)
        if pair is None:
            raise InputError(
                f"{file}: the pair {identity} lacks its Korean or its English text; a document of "
                "kind parallel has segments with the roles ko and en"
            )
        pairs.append((identity, pair))
    for split, turned in (("train", False), ("train-turned", True)):
        texts = [plain(forms, identity, pair, turned=turned) for identity, pair in pairs]
        sizes = np.array([len(text.encode()) for text in texts], np.int64)
        shard.add(batch, encoder.texts(texts), sizes, "parallel", split)
    asking = [
        n for n, source in enumerate(batch["source"].to_pylist()) if source in forms.chat_sources
    ]
    if asking:
        some = batch.take(pa.array(asking))
        for split, turned in (("chat", False), ("chat-turned", True)):
            talks = [asked(forms, *pairs[number], turned=turned) for number in asking]
            sizes = np.array([said_bytes(segments) for segments in talks], np.int64)
            shard.add(some, encoder.dialogues(talks), sizes, "parallel", split)


# ── all shares → the folder ─────────────────────────────────────────────────────────────────────


def write_tokens(
    paths: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_file: Path,
    folder: Path,
    *,
    pairs: PairForms | None = None,
    workers: int | None = None,
    log: Log = silent,
) -> None:
    """Encode every document of `paths` into `folder`; shares already encoded are left alone.

    workers: processes; by default one per core. Raises InputError where a path matches nothing, a file
    cannot be read, a source mixes kinds, or no document is found.
    """
    forms = pairs or PairForms()
    tokenizer_digest = sha256(tokenizer_file)
    files = document_files(paths)
    folder.mkdir(parents=True, exist_ok=True)
    contents = _input_digests(files, folder, log)
    jobs = []
    for file in files:
        for share in shares(file):
            content = f"{VERSION}/{tokenizer_digest}/{file.name}/{contents[file]}/{share.name}"
            jobs.append(_job(share, content, folder))
    encode = partial(_encode, Encoder.of(tokenizer), workers or cores(), log)
    encode(jobs)
    entries: list[tuple[Job, dict[str, Any]]] = []
    rendered: list[Job] = []
    for job in jobs:
        record = read_json(job.target / "shard.json")
        entries.append((job, record))
        if record["pairs"]:
            also = _job(job.share, f"{job.key}/{forms.key()}", folder, forms)
            rendered.append(also)
    encode(rendered)
    entries += [(job, read_json(job.target / "shard.json")) for job in rendered]
    described = [
        {"key": job.key, "file": job.share.file.name, "sets": record["sets"]}
        for job, record in entries
    ]
    skipped: Counter[str] = Counter()
    for _, record in entries:
        skipped.update(record["skipped"])
    # preferences are documents, too, which another phase reads by itself
    if not any(shard["sets"] for shard in described) and not skipped["preference"]:
        raise InputError(
            f"{paths[0]}: no document to train on; loosen the filters, or name other documents"
        )
    manifest = {
        "version": VERSION,
        "tokenizer_sha256": tokenizer_digest,
        "vocab_size": len(tokenizer),
        "begin": begin_id(tokenizer),
        "end": end_id(tokenizer),
        "skipped": dict(sorted(skipped.items())),
        "shards": described,
    }
    path = folder / "manifest.json"
    if not path.is_file() or read_json(path) != manifest:
        write_json(path, manifest)


def _job(share: Share, content: str, folder: Path, pairs: PairForms | None = None) -> Job:
    key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return Job(share, folder / "shards" / key, key, pairs)


def _input_digests(files: Sequence[Path], folder: Path, log: Log) -> dict[Path, str]:
    """The digest of each input file; of those that were not touched since the last call, as recorded."""
    record = folder / "inputs.json"
    seen: Seen = read_json(record) if record.is_file() else {}
    log(Progress("pretrain", "tokens", 0, None, "B", "reading the input's digests"))
    try:
        found = digests([file.resolve() for file in files], seen)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    write_json(record, found)
    return {file: found[str(file.resolve())][1] for file in files}


def _encode(encoder: Encoder, workers: int, log: Log, jobs: Sequence[Job]) -> None:
    """Write the shards that are missing, the largest first, so that none is left alone at the end."""
    once = {job.key: job for job in jobs}.values()
    left = [job for job in once if not (job.target / "shard.json").is_file()]
    left.sort(key=lambda job: -job.share.bytes)
    size = sum(job.share.bytes for job in jobs)
    done = float(size - sum(job.share.bytes for job in left))

    def on_progress(more: float) -> None:
        nonlocal done
        done += more
        log(Progress("pretrain", "tokens", min(done, size), size, "B"))

    workers = min(workers, len(left), 1 + sum(job.share.bytes for job in left) // WORTH)
    if left:
        run_tasks(
            partial(write_shard, encoder, workers <= 1), left, workers, on_progress=on_progress
        )
    log(Progress("pretrain", "tokens", size, size, "B"))
