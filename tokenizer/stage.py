"""Documents → a Llama-3 tokenizer that knows Korean.

In: runs/<name>/dedup/documents, or the files of `tokenizer.documents`. Out: runs/<name>/tokenizer/,
a Hugging Face folder with new_tokens.tsv, and report.json last of all: where it stands, the stage is
finished.

The decision: the tokenizer is built in tokenizer/.work/, loaded from there as a user would load it,
and judged (`checks.py`); only what passed every gate is renamed into place. The counts of each input
file stay in .work/ too, until the stage is finished, so a killed count goes on where it was.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import InputError
from configs.files import read_json, sha256, sync, write_json
from configs.machine import cores
from configs.progress import Log, Progress, silent
from configs.schema import Config, Tokenizer
from dedup.documents import document_files, read_documents
from tokenizer.base import Base, load_base
from tokenizer.bpe import Learned, encode_words, learn
from tokenizer.checks import Candidate, pass_gates
from tokenizer.load import load_tokenizer
from tokenizer.report import choose_example, measure
from tokenizer.words import PreTokens, balanced, count_words
from tokenizer.write import FILES, write_folder

HELDOUT_CHARACTERS = 1_000_000
"""Most held-out text per source that is measured and checked, chosen by a hash of the id."""


@dataclass(frozen=True)
class Report:
    """tokenizer/report.json.

    asked: tokens asked for; new_tokens: tokens written; note: says so where they differ, and where
    there was no held-out text. measured_on: split of the texts behind `heldout`. heldout: figures of
    each source (`report.SourceFigures`). tokens_saved: share of the tokens spent on words with
    Hangul, all_tokens_saved: of all tokens, fertility_*: tokens per eojeol with Hangul; means over
    the Korean sources. words_learned_from: distinct words; sizes: words with Hangul by source.
    tokens: figures of the gates (partial_characters, mixed_scripts, …). seconds: by step.
    """

    base: str
    base_vocab_size: int
    asked: int
    new_tokens: int
    vocab_size: int
    note: str
    tokenizer_sha256: str
    measured_on: str
    heldout: dict[str, dict[str, Any]]
    tokens_saved: float | None
    all_tokens_saved: float | None
    fertility_before: float | None
    fertility_after: float | None
    example: dict[str, Any] | None
    gates: dict[str, str]
    tokens: dict[str, int]
    words_learned_from: int
    sizes: dict[str, int]
    seconds: dict[str, float]


class _Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[step] = round(time.monotonic() - started, 2)


def run(config: Config, folder: Path, *, log: Log | None = None) -> Report:
    """Make the tokenizer of the run in `folder`; a finished one is left as it is.

    Raises InputError where there are no documents, no Korean in them, or no usable base, and
    GateFailed where the result would break a promise; then nothing is in place.
    """
    log = log or silent
    settings = config.tokenizer
    if settings is None:
        raise InputError("tokenizer: the config has no such section; add it, or skip this stage")
    out = folder / "tokenizer"
    if (out / "report.json").is_file():
        return Report(**read_json(out / "report.json"))
    work = out / ".work"
    clock = _Clock()
    paths: Sequence[str | Path] = settings.documents or [folder / "dedup" / "documents"]
    # With nothing to learn a corpus is only measured on, and may be missing.
    files = [] if _may_be_missing(settings, folder) else document_files(paths)
    log(Progress("tokenizer", "load base", message=settings.base))
    with clock("base"):
        base = load_base(settings.base)
    learned, sizes, words_learned_from = _learn(settings, base, files, work, clock, log)
    with clock("write"):
        log(Progress("tokenizer", "write", message=f"{len(learned.tokens):,} new tokens"))
        shutil.rmtree(work / "new", ignore_errors=True)
        write_folder(work / "new", base, learned)
        saved = load_tokenizer(work / "new")
    with clock("heldout"):
        measured_on, texts = _measured_texts(files, log)
    with clock("gates"):
        all_texts = [text for own in texts.values() for text in own]
        candidate = Candidate(base, saved, learned, settings.new_tokens, all_texts)
        gates, figures = pass_gates(candidate, log=log)
    with clock("report"):
        log(Progress("tokenizer", "report"))
        backend = saved.backend_tokenizer
        pre_tokens = PreTokens(base.pattern, base.tokenizer.normalizer)
        worth = measure(base.tokenizer, backend, pre_tokens, texts)
        example = choose_example(base.tokenizer, backend, texts, worth.tokens_saved or 0.0)
    for name in FILES:
        (work / "new" / name).replace(out / name)
    sync(out)
    report = Report(
        base=settings.base,
        base_vocab_size=base.vocab_size,
        asked=settings.new_tokens,
        new_tokens=len(learned.tokens),
        vocab_size=base.vocab_size + len(learned.tokens),
        note=_note(settings, learned, measured_on),
        tokenizer_sha256=sha256(out / "tokenizer.json"),
        measured_on=measured_on,
        heldout=worth.heldout,
        tokens_saved=worth.tokens_saved,
        all_tokens_saved=worth.all_tokens_saved,
        fertility_before=worth.fertility_before,
        fertility_after=worth.fertility_after,
        example=example,
        gates=gates,
        tokens=figures,
        words_learned_from=words_learned_from,
        sizes=sizes,
        seconds=clock.seconds,
    )
    write_json(out / "report.json", asdict(report))
    shutil.rmtree(work, ignore_errors=True)
    if report.note:
        log(Progress("tokenizer", "done", message=report.note))
    return report


def _may_be_missing(settings: Tokenizer, folder: Path) -> bool:
    missing = not settings.documents and not (folder / "dedup" / "documents").is_dir()
    return settings.new_tokens == 0 and missing


def _learn(
    settings: Tokenizer, base: Base, files: Sequence[Path], work: Path, clock: _Clock, log: Log
) -> tuple[Learned, dict[str, int], int]:
    """What was learned, words with Hangul by source, and distinct words learned from."""
    if settings.new_tokens == 0:
        return Learned(base.vocab_size, [], [], [], False), {}, 0
    workers = settings.workers if settings.workers != "auto" else cores()
    with clock("count"):
        counts = count_words(files, base, work / "counts", workers=workers, log=log)
        sizes = {
            row["source"]: row["count_sum"]
            for row in counts.group_by("source", use_threads=False)
            .aggregate([("count", "sum")])
            .sort_by("source")
            .to_pylist()
        }
    if not sizes:
        where = ", ".join(settings.documents) or "the run's documents"
        raise InputError(
            f"tokenizer: no Hangul in {where}, so there are no Korean tokens to learn; "
            "check the corpus, or set tokenizer.new_tokens=0 to keep the base"
        )
    with clock("learn"):
        words, weights = balanced(counts, settings.balance, settings.min_count)
        ids, ends = encode_words(base, words, log=log)
        learned = learn(ids, ends, weights, base.tokens(), settings.new_tokens, log=log)
    if not learned.tokens:
        raise InputError(
            f"tokenizer: no word with Hangul occurs {settings.min_count} times or more and is not "
            "a token already; give more text, a lower tokenizer.min_count, or new_tokens=0"
        )
    return learned, sizes, int(np.count_nonzero(weights))


def _note(settings: Tokenizer, learned: Learned, measured_on: str) -> str:
    notes = []
    if learned.exhausted:
        notes.append(
            f"{len(learned.tokens):,} new tokens instead of the {settings.new_tokens:,} asked for: "
            "no pair was left to merge; give more text, or a lower tokenizer.min_count"
        )
    if measured_on == "train":
        notes.append("no document is held out: measured on text it was trained on")
    return ". ".join(notes)


def _measured_texts(files: Sequence[Path], log: Log) -> tuple[str, dict[str, list[str]]]:
    """Held-out texts by source, or, where nothing is held out, a sample of the others."""
    for split in ("heldout", "train") if files else ():
        texts = _sample(files, split, log)
        if any(texts.values()):
            return split, texts
    return "none", {}


def _sample(files: Sequence[Path], split: str, log: Log) -> dict[str, list[str]]:
    """At most HELDOUT_CHARACTERS of each source: the documents of the smallest hashes of their ids."""
    kept: dict[str, list[tuple[bytes, str]]] = {}
    sizes: dict[str, int] = {}
    for index, file in enumerate(files):
        log(Progress("tokenizer", "read held-out", index, len(files), "files"))
        for batch in read_documents([file], split=split, columns=["id", "source", "text"]):
            for row in batch.to_pylist():
                name = row["source"]
                rank = hashlib.blake2b(row["id"].encode(), digest_size=8).digest()
                kept.setdefault(name, []).append((rank, row["text"]))
                sizes[name] = sizes.get(name, 0) + len(row["text"])
                if sizes[name] > 4 * HELDOUT_CHARACTERS:
                    kept[name] = _smallest(kept[name])
                    sizes[name] = sum(len(text) for _, text in kept[name])
    return {name: [text for _, text in _smallest(own)] for name, own in sorted(kept.items())}


def _smallest(ranked: list[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    total = 0
    chosen: list[tuple[bytes, str]] = []
    for rank, text in sorted(ranked):
        total += len(text)
        if chosen and total > HELDOUT_CHARACTERS:
            break
        chosen.append((rank, text))
    return chosen
