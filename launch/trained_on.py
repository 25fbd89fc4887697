"""Which models and checkpoints were trained on a document: at which steps, in which of them it is.

In: a run folder and the ids of documents of its corpus. Out: a `Trained` for each id. Token shards hold
no ids, and need none: documents lie in them in the order of the input, sequence i of a phase is a pure
function of (seed, phase, mixture, i), so the way from a document to the steps that read it can be gone
backwards (packing plan, order of data, division into steps), without having recorded anything.

The decision: exact or not at all. Where the token shards are gone, or no longer belong to the documents
that are on the disk, the answer is that it cannot be told, and everything after the first step of a phase
that names the source may hold it. Steps that a guard left out changed no weights and do not count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.files import read_json
from configs.load import load
from configs.schema import Config

_IN_ORDER = ("id", "kind", "source", "split")
_KINDS = ("text", "parallel", "chat")


@dataclass(frozen=True)
class Trained:
    """What a run did with one document.

    steps: optimizer steps (from 1, over all phases) that read it, in order; times: how often it was
    read. checkpoints: those on disk whose weights saw it. model: the run's model, if it did. why: in
    words, where it was not trained on, or where that cannot be told (then certain is false and
    checkpoints are all that may hold it). tokenizer: whether the run's tokenizer was made with it.
    """

    run: str
    id: str
    source: str
    steps: list[int] = field(default_factory=list)
    times: int = 0
    checkpoints: list[str] = field(default_factory=list)
    model: str | None = None
    certain: bool = True
    why: str = ""
    tokenizer: bool = False

    @property
    def anywhere(self) -> bool:
        """Whether anything of the run may hold it."""
        return bool(self.checkpoints or self.model or self.tokenizer)


def trained_on(run: Path, wanted: Collection[tuple[str, str]]) -> list[Trained]:
    """What the run in `run` did with documents, given by (source, id); those it never read are left out.

    Raises InputError where its config cannot be read.
    """
    config = load(str(run / "config.yaml"))
    if config.pretrain is None:
        return []
    from launch.trained_on_pairs import trained_on_pairs

    pairs = trained_on_pairs(run, config, wanted)
    rows, counted = _rows(run, config, wanted)
    if not rows:
        return pairs
    steps = _Steps(run, config, counted)
    ordered = sorted(rows.items())
    return [*(steps.of(source, id, split, row) for (source, id), (split, row) in ordered), *pairs]


# ── from ids to places in the shards ────────────────────────────────────────────────────────────


def _rows(
    run: Path, config: Config, wanted: Collection[tuple[str, str]]
) -> tuple[dict[tuple[str, str], tuple[str, int]], Counter[tuple[str, str]]]:
    """{(source, id): (split, number of the document in its source and split)}, and their counts."""
    from dedup.documents import document_files

    assert config.pretrain is not None
    own: list[str | Path] = [*config.pretrain.documents] or [run / "dedup" / "documents"]
    try:
        files = document_files([*own, *config.pretrain.replay])
    except InputError:  # the documents were removed
        return {}, Counter()
    names = {source for source, _ in wanted}
    found: dict[tuple[str, str], tuple[str, int]] = {}
    counted: Counter[tuple[str, str]] = Counter()
    for file in files:
        for ids, kinds, sources, splits in _columns(file):
            for id, kind, source, split in zip(ids, kinds, sources, splits, strict=True):
                if kind not in _KINDS:
                    continue
                if source in names and (source, id) in wanted:
                    found.setdefault((source, id), (split, counted[source, split]))
                counted[source, split] += 1
    return found, counted


def _columns(file: Path) -> Iterator[tuple[list[str], ...]]:
    """id, kind, source and split of a file's documents, in order, some at a time."""
    if file.suffix == ".parquet" and {*_IN_ORDER, "cluster_id"} <= set(pq.read_schema(file).names):
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(65_536, columns=list(_IN_ORDER)):
                yield tuple(batch[name].to_pylist() for name in _IN_ORDER)
        return
    from pretrain.data.input_shares import shares

    for share in shares(file):
        for batch in share.batches():
            yield tuple(batch[name].to_pylist() for name in _IN_ORDER)


# ── from places to steps ────────────────────────────────────────────────────────────────────────


class _Steps:
    """The way from a document of one run to its steps, and from those to checkpoints."""

    def __init__(self, run: Path, config: Config, counted: Counter[tuple[str, str]]) -> None:
        from pretrain.data.tokens import open_tokens
        from pretrain.phases import make_work

        self.run, self.config, self.problem = run, config, ""
        assert config.pretrain is not None
        stage = run / "pretrain"
        self.reached = _reached(stage)
        self.works = []
        try:
            self.tokens = open_tokens(stage / "tokens")
            other = [
                source
                for (source, split), documents in self.tokens.sets.items()
                if split in ("train", "heldout") and documents.documents != counted[source, split]
            ]
            if other:
                self.problem = (
                    f"the documents on disk are not those that were trained on ({other[0]})"
                )
            else:
                self.works = [
                    make_work(config, self.tokens, number, 1)
                    for number in range(len(config.pretrain.token_phases))
                ]
        except (OSError, ValueError, KeyError, InputError):
            self.problem = "its token shards are gone or not whole"
        self.left_out = _left_out(stage)
        self.begins = np.cumsum([0, *(work.steps for work in self.works)]).tolist()

    def of(self, source: str, id: str, split: str, row: int) -> Trained:
        """What became of one document."""
        pretrain = self.config.pretrain
        assert pretrain is not None
        tokenizer = split == "train" and pretrain.tokenizer is None and _made_here(self.run)
        known = Trained(str(self.run), id, source, tokenizer=tokenizer)
        if split != "train":
            return replace(known, why="it is held out: evaluated on, never trained on")
        phases = pretrain.token_phases
        naming = [n for n, phase in enumerate(phases) if phase.mixture.get(source, 0) > 0]
        if not naming:
            return replace(known, why="no phase reads its source")
        if self.problem:
            checkpoints, model = self._after(0)
            why = f"{self.problem}, so it cannot be told which steps read it; all of these may"
            return replace(known, checkpoints=checkpoints, model=model, certain=False, why=why)
        steps = sorted(step for number in naming for step in self._steps(number, source, row))
        done = [step for step in steps if step <= self.reached]
        if not done:
            when = f"; it would be at step {steps[0]:,}" if steps else ""
            why = f"none of the {self.reached:,} steps read it{when}"
            return replace(known, why=why)
        checkpoints, model = self._after(done[0])
        return replace(
            known,
            steps=list(dict.fromkeys(done)),
            times=len(done),
            checkpoints=checkpoints,
            model=model,
        )

    def _steps(self, number: int, source: str, row: int) -> Iterator[int]:
        """The steps (from 1, over all phases) of one phase that read a piece of the document."""
        from pretrain.data.order import Place
        from pretrain.data.packing import open_plan
        from pretrain.data.tokens import renderings

        work = self.works[number]
        kind, objective = self.tokens.sets[source, "train"].kind, work.phase.objective
        length = work.sequences.sequence_length
        for rendering, split in enumerate(renderings(kind, objective)):
            plan = open_plan(self.tokens, source, length, objective, split)
            pieces = np.flatnonzero(plan.pieces["document"] == row)
            bins = np.searchsorted(plan.bins, pieces, side="right") - 1
            for index in dict.fromkeys(bins.tolist()):
                place = Place(source, index, 0, rendering)
                for sequence in work.sequences.order.numbers(place, work.total):
                    step = work.division.at(sequence)
                    if not any(n == number and a <= step <= b for n, a, b in self.left_out):
                        yield self.begins[number] + step + 1

    def _after(self, step: int) -> tuple[list[str], str | None]:
        """Checkpoints and model that were saved after a step."""
        from pretrain.checkpoints.checkpoint import found, step_of

        checkpoints = [
            str(path)
            for path in reversed(found(self.run / "pretrain" / "checkpoints"))
            if step_of(path) >= max(1, step)
        ]
        for folder in sorted((self.run / "pretrain" / "phases").glob("[0-9]*")):
            ends = self.begins[int(folder.name)] if int(folder.name) < len(self.begins) else None
            if folder.name.isdigit() and (ends is None or ends >= step):
                checkpoints.append(str(folder))
        model = self.run / "model"
        return checkpoints, str(model) if (model / "config.json").is_file() else None


def _made_here(run: Path) -> bool:
    return (run / "tokenizer" / "report.json").is_file()


def _reached(stage: Path) -> int:
    """The last step that was trained, by metrics.jsonl."""
    last = 0
    try:
        with (stage / "metrics.jsonl").open("rb") as handle:
            for line in handle:
                try:
                    last = max(last, int(json.loads(line)["step"]))
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError:
        return last
    return last


def _left_out(stage: Path) -> list[tuple[int, int, int]]:
    """(phase, first step, last step) that changed no weights."""
    try:
        entries = read_json(stage / "left_out.json")["left_out"]
        return [(e["phase"], e["first_step"], e["last_step"]) for e in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []
