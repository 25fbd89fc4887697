"""A phase made ready: its data, how long it is, and how a step is divided.

In: the config and the token shards. Out: `Work`, which train.py goes through step by step. Mistakes in the phases that only show once the data is
known (a source without text, dialogues that are none, text that would be repeated too often) are found
here, before the first step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from configs.errors import InputError
from configs.schema import Config, GrowingBatch, Phase, Pretrain
from pretrain.checkpoints.identity import identify
from pretrain.data.batches import Sequences, Share
from pretrain.data.order import Order
from pretrain.data.packing import open_plan
from pretrain.data.pairs import PairForms
from pretrain.data.steps import Steps
from pretrain.data.tokens import Tokens, renderings

REPEATED = 4
"""Passes over a source above which a phase is warned of: up to four, repeated text teaches nearly as
much as new text (Muennighoff et al. 2023, "Scaling Data-Constrained Language Models")."""


@dataclass(frozen=True)
class Work:
    """Phase `index` of the run: its sequences, how they make steps, and how ranks divide a step."""

    index: int
    phase: Phase
    sequences: Sequences
    division: Steps
    world_size: int
    micro_batch: int

    @property
    def steps(self) -> int:
        return self.division.count

    @property
    def total(self) -> int:
        """Sequences of the phase."""
        return self.division.total

    @property
    def tokens(self) -> int:
        return self.total * self.sequences.sequence_length

    def span(self, step: int) -> tuple[int, int]:
        """The sequences [first, last) of a step, counted from 0 in the phase."""
        return self.division.span(step)

    def share_of(self, step: int) -> Share:
        """How the ranks divide a step."""
        return Share.of(self.division.size(step), self.world_size, self.micro_batch)

    @property
    def share(self) -> Share:
        """How they divide the largest step, for which the engine is made."""
        return Share.of(self.division.largest, self.world_size, self.micro_batch)

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over each source in the whole phase."""
        return self.sequences.order.epochs(self.total)


@dataclass(frozen=True)
class PhaseReport:
    """What a phase did. tokens: padding included. Losses: means per target, in nats.

    epochs: passes over each source.
    """

    name: str
    steps: int
    tokens: int
    loss_first: float
    loss_last: float
    epochs: dict[str, float] = field(default_factory=dict)


def sequence_length(pretrain: Pretrain, phase: Phase) -> int:
    return phase.sequence_length or pretrain.sequence_length


def pair_forms(config: Config) -> PairForms:
    """How this run's pairs are rendered."""
    assert config.pretrain is not None
    asking = [phase for phase in config.pretrain.phases if phase.objective == "chat"]
    sources = frozenset(name for phase in asking for name in phase.mixture)
    return PairForms(config.seed, config.pretrain.pairs.translate, sources)


def check_phases(pretrain: Pretrain, tokens: Tokens, longest: int | None, new_tokens: int) -> None:
    """Raise InputError with every phase that asks for data that is not there or does not fit.

    longest: the model's max_position_embeddings, where it has a limit. new_tokens: rows that
    `embed.new_rows` would train.
    """
    mistakes = []
    known = ", ".join(tokens.sources)
    for number, phase in enumerate(pretrain.phases):
        length = sequence_length(pretrain, phase)
        mistakes += batch_mistakes(pretrain, number, length)
        if longest is not None and length > longest:
            mistakes.append(
                f"pretrain.phases.{number}: sequence_length {length} is more than the model's "
                f"{longest} positions; make it {longest} or less"
            )
        if phase.train != "all" and not new_tokens:
            mistakes += [
                f"pretrain.phases.{number}.train: {group} names the rows of new tokens, and the "
                "tokenizer has none; leave it out, or set tokenizer.new_tokens"
                for group in phase.train
                if group.endswith(".new_rows")
            ]
        for source, share in phase.mixture.items() if phase.objective != "preference" else ():
            where = f"pretrain.phases.{number}.mixture.{source}"
            documents = tokens.sets.get((source, "train"))
            if documents is None:
                if share > 0:
                    mistakes.append(f"{where}: has no document to train on; these have: {known}")
            elif phase.objective == "chat" and documents.kind not in ("chat", "parallel"):
                mistakes.append(
                    f"{where}: holds {documents.kind}, not dialogues; a chat phase needs a source "
                    "of format chat, or pairs of format parallel"
                )
        if isinstance(phase.max_epochs, dict):
            mistakes += [
                f"pretrain.phases.{number}.max_epochs.{source}: the mixture has no such source; it has "
                f"{', '.join(phase.mixture)}"
                for source in phase.max_epochs
                if source not in phase.mixture
            ]
    if mistakes:
        raise InputError(mistakes)


def batch_mistakes(pretrain: Pretrain, number: int, length: int) -> list[str]:
    """A batch that is no sequence, and tokens that are no batch."""
    phase = pretrain.phases[number]
    where = f"pretrain.phases.{number}"
    key = "pretrain" if phase.global_batch_tokens is None else where
    size = pretrain.sequence_parallel
    if length % size:
        return [
            f"{where if phase.sequence_length else 'pretrain'}.sequence_length: {length:,} tokens cannot be "
            f"divided among the {size} ranks of sequence_parallel; make it {-(-length // size) * size:,}"
        ]
    batch = phase.global_batch_tokens or pretrain.global_batch_tokens
    smallest = batch.start if isinstance(batch, GrowingBatch) else batch
    if phase.objective == "preference":  # a step is one pair at least
        return []
    if smallest < length:
        return [
            f"{key}.global_batch_tokens: {smallest:,} tokens are not one sequence of {length:,}; "
            f"make it {length:,} or more, or sequence_length less"
        ]
    if phase.tokens is not None and phase.tokens < smallest:
        return [
            f"{where}.tokens: {phase.tokens:,} are fewer than one batch of {smallest:,}; train on more, "
            f"or set the phase's global_batch_tokens to {max(length, phase.tokens):,} or less"
        ]
    return []


def make_work(config: Config, tokens: Tokens, index: int, world_size: int) -> Work:
    """Plan, order and length of phase `index` for `world_size` ranks.

    Raises InputError where a source of its mixture has nothing to learn from, the phase is shorter
    than a batch, or goes through a source more often than `max_epochs` allows.
    """
    pretrain = config.pretrain
    assert pretrain is not None
    phase = pretrain.phases[index]
    length = sequence_length(pretrain, phase)
    plans = {
        source: [
            open_plan(tokens, source, length, phase.objective, split)
            for split in renderings(tokens.sets[source, "train"].kind, phase.objective)
        ]
        for source, share in phase.mixture.items()
        if share > 0
    }
    for source, found in plans.items():
        if not all(map(len, found)):
            raise InputError(
                f"pretrain.phases.{index}.mixture.{source}: nothing in it can be learned from "
                f"(objective {phase.objective}); leave it out"
            )
    sizes = {source: [len(plan) for plan in found] for source, found in plans.items()}
    once = {source: sum(found) / len(found) for source, found in sizes.items()}
    if phase.tokens is not None:
        total = -(-phase.tokens // length)
    else:
        assert phase.epochs is not None
        total = max(1, round(phase.epochs * sum(once.values())))
    order = Order(config.seed, f"{index}/{phase.name}", phase.mixture, sizes)
    work = Work(
        index,
        phase,
        Sequences(tokens, plans, order, length, phase.objective),
        division(pretrain, phase, total),
        world_size,
        pretrain.micro_batch,
    )
    least = work.division.size(0)
    if phase.epochs is not None and total < least:
        raise InputError(
            f"pretrain.phases.{index}.epochs: {phase.epochs:g} are {total * length:,} tokens, fewer than "
            f"one batch of {least * length:,}; train on more, or set the phase's global_batch_tokens "
            f"to {total * length:,} or less"
        )
    _check_epochs(work, once)
    return work


def division(pretrain: Pretrain, phase: Phase, total: int) -> Steps:
    """The steps of a phase of `total` sequences."""
    length = sequence_length(pretrain, phase)
    batch = phase.global_batch_tokens or pretrain.global_batch_tokens
    if isinstance(batch, GrowingBatch):
        sizes = (max(1, batch.start // length), max(1, batch.end // length))
        return Steps.growing(total, *sizes, over=batch.over // length)
    return Steps.even(total, max(1, batch // length))


def _limits(phase: Phase) -> dict[str, float]:
    if isinstance(phase.max_epochs, dict):
        return dict(phase.max_epochs)
    return {} if phase.max_epochs is None else dict.fromkeys(phase.mixture, phase.max_epochs)


def _check_epochs(work: Work, once: Mapping[str, float]) -> None:
    """Raise InputError for each source that is gone through more often than it may be.

    once: sequences of a pass over each source.
    """
    limits, passes = _limits(work.phase), work.epochs
    order = work.sequences.order
    mistakes = []
    for source, limit in limits.items():
        if passes.get(source, 0.0) <= limit:
            continue
        fits = _fitting(order, source, limit, work.total) * work.sequences.sequence_length
        mistakes.append(
            f"pretrain.phases.{work.index}.max_epochs: {work.tokens:,} tokens go {passes[source]:.2f} "
            f"times through {source}, and {limit:g} are allowed; {fits:,} tokens fit, or a share of "
            f"about {limit * once[source] / work.total:.2g} in the mixture, or more text"
        )
    if mistakes:
        raise InputError(mistakes)


def _fitting(order: Order, source: str, limit: float, most: int) -> int:
    """The most sequences of a phase, up to `most`, that go through a source `limit` times or less."""
    return bisect_right(range(most), limit, key=lambda n: order.epochs(n)[source]) - 1


def repeated_sources(work: Work) -> str | None:
    """A warning where a phase repeats text often and nobody has said how often it may."""
    if work.phase.objective != "pretrain" or work.phase.max_epochs is not None:
        return None
    often = [f"{name} {passes:.1f}" for name, passes in work.epochs.items() if passes > REPEATED]
    if not often:
        return None
    return (
        f"phase {work.phase.name} repeats text more than {REPEATED} times ({', '.join(often)} epochs): "
        "less is learned with each pass; give more text or fewer tokens, or set max_epochs"
    )


def identity(config: Config, tokens: Tokens) -> str:
    """A digest of everything that decides the losses, except how many ranks compute them how.

    Preference phases are not in it: theirs comes after (preference/tune.py).
    """
    return identify(config, tokens).digest
