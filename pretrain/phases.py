"""A phase made ready: its data, how long it is, and how a step is divided.

In: the config and the token shards. Out: `Work`, which train.py goes through step by step, and the
`identity` that a checkpoint must share with the run that resumes it. Mistakes in the phases that only
show once the data is known (a source without text, dialogues that are none) are found here, all at
once and before the first step.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from configs.errors import InputError
from configs.load import output_keys
from configs.schema import Config, Phase, Pretrain
from pretrain.batches import Sequences, Share
from pretrain.order import Order
from pretrain.packing import open_plan
from pretrain.tokens import Tokens


@dataclass(frozen=True)
class Work:
    """Phase `index` of the run: `total` sequences, shared out `share.sequences` to a step."""

    index: int
    phase: Phase
    sequences: Sequences
    total: int
    share: Share

    @property
    def steps(self) -> int:
        return -(-self.total // self.share.sequences)

    @property
    def tokens(self) -> int:
        return self.total * self.sequences.sequence_length


@dataclass(frozen=True)
class PhaseReport:
    """What a phase did. tokens: padding included. Losses: means per target, in nats."""

    name: str
    steps: int
    tokens: int
    loss_first: float
    loss_last: float


def sequence_length(pretrain: Pretrain, phase: Phase) -> int:
    return phase.sequence_length or pretrain.sequence_length


def check_phases(pretrain: Pretrain, tokens: Tokens, longest: int | None, new_tokens: int) -> None:
    """Raise InputError with every phase that asks for data that is not there or does not fit.

    longest: the model's max_position_embeddings, where it has a limit. new_tokens: rows that
    `embed.new_rows` would train.
    """
    mistakes = []
    known = ", ".join(tokens.sources)
    for number, phase in enumerate(pretrain.phases):
        length = sequence_length(pretrain, phase)
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
        for source, share in phase.mixture.items():
            where = f"pretrain.phases.{number}.mixture.{source}"
            documents = tokens.sets.get((source, "train"))
            if documents is None:
                if share > 0:
                    mistakes.append(f"{where}: has no document to train on; these have: {known}")
            elif phase.objective == "chat" and documents.kind != "chat":
                mistakes.append(
                    f"{where}: holds {documents.kind}, not dialogues; a chat phase needs a source "
                    "of format chat"
                )
    if mistakes:
        raise InputError(mistakes)


def make_work(config: Config, tokens: Tokens, index: int, world_size: int) -> Work:
    """Plan, order and length of phase `index` for `world_size` ranks.

    Raises InputError where a source of its mixture has nothing to learn from.
    """
    pretrain = config.pretrain
    assert pretrain is not None
    phase = pretrain.phases[index]
    length = sequence_length(pretrain, phase)
    plans = {
        source: open_plan(tokens, source, length, phase.objective)
        for source, share in phase.mixture.items()
        if share > 0
    }
    for source, plan in plans.items():
        if not len(plan):
            raise InputError(
                f"pretrain.phases.{index}.mixture.{source}: nothing in it can be learned from "
                f"(objective {phase.objective}); leave it out"
            )
    sizes = {source: len(plan) for source, plan in plans.items()}
    if phase.tokens is not None:
        total = -(-phase.tokens // length)
    else:
        assert phase.epochs is not None
        total = max(1, round(phase.epochs * sum(sizes.values())))
    order = Order(config.seed, f"{index}/{phase.name}", phase.mixture, sizes)
    sequences = Sequences(tokens, plans, order, length, phase.objective)
    per_step = max(1, (phase.global_batch_tokens or pretrain.global_batch_tokens) // length)
    return Work(
        index, phase, sequences, total, Share.of(per_step, world_size, pretrain.micro_batch)
    )


def identity(config: Config, tokens: Tokens) -> str:
    """A digest of everything that decides the losses, except how many ranks compute them how."""
    settings = dict(output_keys(config, "pretrain")["pretrain"])
    for name in ("documents", "tokenizer"):  # where they lie; what they hold is in the tokens
        settings.pop(name, None)
    text = json.dumps([config.seed, tokens.digest, settings], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
