"""Documents → a Llama-3 tokenizer that knows Korean.

In: runs/<name>/dedup/documents, or the files of `tokenizer.documents`. Out: runs/<name>/tokenizer/,
a Hugging Face folder with new_tokens.tsv, and report.json last of all: where it stands, the stage is
finished.

The decision: the tokenizer is built in tokenizer/.work/, loaded from there as a user would load it,
and judged (`checks.py`); only what passed every gate is renamed into place. The counts of each input
file stay in .work/ too, until the stage is finished, so a killed count goes on where it was.

Learning goes on to `size.MOST` tokens whatever was asked, because the first k are the +k tokenizer:
a few seconds buy the size curve, from which `new_tokens: auto` takes the best size.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import InputError
from configs.files import read_json, sha256, sync, write_json
from configs.machine import cores
from configs.progress import Log, Progress, silent
from configs.schema import Config, Tokenizer
from dedup.documents import document_files, read_documents
from dedup.ray_engine import cluster_of
from tokenizer.added import cut_at_added
from tokenizer.base import Base, check_room, load_base, without_prefix
from tokenizer.bpe import Ids, Learned, Longs, encode_words, learn
from tokenizer.checks import Candidate, pass_gates
from tokenizer.curve import first_tokens, tokens_by_size
from tokenizer.forms import check_forms
from tokenizer.load import load_tokenizer
from tokenizer.pieces import learn_pieces
from tokenizer.ranks import in_rank_order
from tokenizer.report import Prepared, choose_sentences, measure, prepare, usage
from tokenizer.shape import model_shape
from tokenizer.size import HeldOut, Sizes, most_tokens, planned_tokens, size_curve
from tokenizer.weights import balanced
from tokenizer.words import MERGED, PreTokens, count_words, sizes_of
from tokenizer.write import FILES, OTHER_FORMS, write_folder

HELDOUT_CHARACTERS = 1_000_000
"""Most held-out text per source that is measured and checked, chosen by a hash of the id."""


@dataclass(frozen=True)
class Report:
    """tokenizer/report.json.

    asked: tokens asked for; new_tokens: tokens written; note: says so where they differ, and where
    there was no held-out text. measured_on: split of the texts behind `heldout`. heldout: figures of
    each source (`report.SourceFigures`). sentences: cut both ways, `example` is the first of them.
    sizes_compared: the size curve (`size.Sizes`). usage: of the new tokens on those texts. tokens_saved: share of the tokens spent on words with
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
    sentences: list[dict[str, Any]] = field(default_factory=list)
    sizes_compared: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


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
    # With nothing to learn, or counts given, a corpus is only measured on, and may be missing.
    files = [] if _may_be_missing(settings, folder) else document_files(paths)
    log(Progress("tokenizer", "load base", message=settings.base))
    with clock("base"):
        base = load_base(settings.base)
    most = _most_tokens(settings, base)
    counted = _learn(settings, base, files, work, most, clock, log)
    with clock("heldout"):
        measured_on, texts = _measured_texts(files, log)
        pre_tokens = PreTokens(base.pattern, base.tokenizer.normalizer)
        prepared = prepare(without_prefix(base.tokenizer), pre_tokens, texts)
    with clock("size"):
        log(Progress("tokenizer", "compare sizes"))
        compared = _compare_sizes(config, base, counted, prepared)
        asked = settings.new_tokens
        if asked == "auto":
            asked = compared.best if compared else 0
        learned = counted.learned
        if not base.by_pieces:
            learned = in_rank_order(base, first_tokens(learned, asked))
    with clock("write"):
        log(Progress("tokenizer", "write", message=f"{len(learned.tokens):,} new tokens"))
        shutil.rmtree(work / "new", ignore_errors=True)
        write_folder(work / "new", base, learned)
        saved = load_tokenizer(work / "new")
    with clock("gates"):
        all_texts = [text for own in texts.values() for text in own]
        candidate = Candidate(base, saved, learned, asked, all_texts)
        gates, figures = pass_gates(candidate, log=log)
        figures.update(check_forms(work / "new", candidate))
    with clock("report"):
        log(Progress("tokenizer", "report"))
        backend = saved.backend_tokenizer
        worth = measure(without_prefix(backend), prepared, base.vocab_size)
        korean = {name: own["saved"] for name, own in worth.heldout.items() if own["korean"]}
        sentences = choose_sentences(base.tokenizer, backend, texts, korean)
    for name in FILES:
        (work / "new" / name).replace(out / name)
    for name in OTHER_FORMS:
        if (work / "new" / name).is_file():
            (out / name).parent.mkdir(exist_ok=True)
            (work / "new" / name).replace(out / name)
            sync((out / name).parent)
    if settings.keep_counts and (work / "counts" / MERGED).is_file():
        (work / "counts" / MERGED).replace(out / "counts.parquet")
    sync(out)
    report = Report(
        base=settings.base,
        base_vocab_size=base.vocab_size,
        asked=asked,
        new_tokens=len(learned.tokens),
        vocab_size=base.vocab_size + len(learned.tokens),
        note=_note(settings, asked, learned, compared, measured_on),
        tokenizer_sha256=sha256(out / "tokenizer.json"),
        measured_on=measured_on,
        heldout=worth.heldout,
        tokens_saved=worth.tokens_saved,
        all_tokens_saved=worth.all_tokens_saved,
        fertility_before=worth.fertility_before,
        fertility_after=worth.fertility_after,
        example=sentences[0] if sentences else None,
        gates=gates,
        tokens=figures,
        words_learned_from=len(counted.weights),
        sizes=counted.sizes,
        seconds=clock.seconds,
        sentences=sentences,
        sizes_compared=asdict(compared) if compared else None,
        usage=usage(worth.uses, base.vocab_size),
    )
    write_json(out / "report.json", asdict(report))
    shutil.rmtree(work, ignore_errors=True)
    if report.note:
        log(Progress("tokenizer", "done", message=report.note))
    return report


def _most_tokens(settings: Tokenizer, base: Base) -> int:
    """How many tokens are learned, which may be more than asked for (the size curve)."""
    if settings.new_tokens == "auto" and base.by_pieces:
        raise InputError(
            "tokenizer.new_tokens: auto compares sizes of byte-level bases only, and this one is of "
            "SentencePiece's kind; give a number, such as 16000"
        )
    if settings.new_tokens != "auto":
        check_room(base, settings.new_tokens)
        if base.by_pieces:
            return settings.new_tokens
    return most_tokens(settings.new_tokens)


def _may_be_missing(settings: Tokenizer, folder: Path) -> bool:
    missing = not settings.documents and not (folder / "dedup" / "documents").is_dir()
    return (settings.new_tokens == 0 or bool(settings.counts)) and missing


@dataclass(frozen=True)
class _Counted:
    """Words with Hangul to learn from, and what was learned from them.

    ids [N], ends [words], weights [words]. sizes: words with Hangul by source, repeats and all.
    """

    learned: Learned
    ids: Ids
    ends: Longs
    weights: Longs
    sizes: dict[str, int]


def _learn(
    settings: Tokenizer,
    base: Base,
    files: Sequence[Path],
    work: Path,
    most: int,
    clock: _Clock,
    log: Log,
) -> _Counted:
    if most == 0:
        none = np.zeros(0, np.int64)
        nothing = Learned(base.vocab_size, [], [], [], False)
        return _Counted(nothing, none.astype(np.int32), none, none, {})
    workers = settings.workers if settings.workers != "auto" else cores()
    with clock("count"):
        counts = count_words(
            files,
            base,
            work / "counts",
            workers=workers,
            cluster=cluster_of(settings),
            also=document_files(settings.counts),
            min_count=settings.min_count,
            max_words=settings.max_words,
            log=log,
        )
        sizes = sizes_of(counts)
    if not sizes:
        where = ", ".join(settings.documents) or "the run's documents"
        raise InputError(
            f"tokenizer: no Hangul in {where}, so there are no Korean tokens to learn; "
            "check the corpus, or set tokenizer.new_tokens=0 to keep the base"
        )
    with clock("learn"):
        words, weights = balanced(counts, settings.balance)
        words, weights = cut_at_added(base, words, weights)
        ids, ends = encode_words(base, words, log=log)
        if base.by_pieces:
            learned = learn_pieces(base, words, weights, most, log=log)
        else:
            learned = learn(ids, ends, weights, base.tokens(), most, log=log)
    if not learned.tokens:
        raise InputError(
            "tokenizer: every word with Hangul is a token already, or rarer than tokenizer.min_count "
            f"({settings.min_count}); give more text, a lower min_count, or new_tokens=0"
        )
    return _Counted(learned, ids, ends, weights, sizes)


def _compare_sizes(
    config: Config, base: Base, counted: _Counted, prepared: Mapping[str, Prepared]
) -> Sizes | None:
    """The size curve; None where nothing was learned or there is no Korean to judge by."""
    learned, asked = counted.learned, config.tokenizer.new_tokens if config.tokenizer else None
    if not learned.tokens or base.by_pieces or not any(own.words for own in prepared.values()):
        return None
    words = sorted(set().union(*(own.words for own in prepared.values())))
    counts = np.array([[own.words[word] for own in prepared.values()] for word in words], np.int64)
    ids, ends = encode_words(base, words)
    heldout = [
        HeldOut(name, own.words.total(), own.syllables, own.all_tokens, own.korean)
        for name, own in prepared.items()
    ]
    tokens = tokens_by_size(base, learned, ids, ends, counts)
    weights = counted.weights[:, None]
    trained = tokens_by_size(base, learned, counted.ids, counted.ends, weights)[:, 0]
    return size_curve(
        model_shape(config.pretrain),
        base.vocab_size,
        heldout,
        tokens,
        trained,
        planned_tokens(config.pretrain, heldout, tokens, counted.sizes),
        asked=None if asked == "auto" else asked,
        from_config=config.pretrain is not None,
    )


def _note(
    settings: Tokenizer, asked: int, learned: Learned, compared: Sizes | None, measured_on: str
) -> str:
    notes = []
    if settings.new_tokens == "auto":
        reason = compared.reason if compared else "there is no Korean text to judge sizes by"
        notes.append(f"new_tokens: auto took {asked:,}: {reason}")
    elif len(learned.tokens) < asked:
        notes.append(
            f"{len(learned.tokens):,} new tokens instead of the {asked:,} asked for: "
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
