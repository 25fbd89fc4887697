"""Does every rank see the same data? Asked once, before the first step.

In: what each rank has found on its own host. Out: nothing, or the same InputError on every rank, which
names the rank and the host that differ.

A rank whose disk holds other token shards, another config or another seed would train on, and nobody
would see more than a loss that is a little worse. So each rank computes a fingerprint (manifest,
settings, and the very tokens of some sequences of every phase) and they are compared; one rank of each
host compares the shards with their digests as well. The cost is a few milliseconds, and on a host with
a copy of its own one reading of the shards.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch.distributed as dist

from configs.errors import InputError
from configs.schema import Config
from pretrain.checkpoints.identity import identify
from pretrain.data.batches import Sequences
from pretrain.data.tokens import Tokens, open_tokens
from pretrain.phases import make_work
from pretrain.zero import Ranks

SAMPLED = 16  # sequences of a phase that go into its fingerprint

Value = TypeVar("Value")


def fingerprint(sequences: Sequences, total: int) -> str:
    """A digest of the tokens, positions and targets of some of a phase's first `total` sequences."""
    state = hashlib.blake2b(digest_size=16)
    chosen = sorted({int(i) for i in np.linspace(0, total - 1, min(SAMPLED, total))})
    for i in chosen:
        batch = sequences.batch([i])
        for part in (batch.input_ids, batch.position_ids, batch.targets):
            state.update(part.numpy().tobytes())
        state.update(sequences.order.digest(i, 1).encode())
    return state.hexdigest()


def open_same_tokens(config: Config, folder: Path, ranks: Ranks) -> Tokens:
    """The token shards in `folder`, as every rank sees them; every rank must call it.

    Raises InputError, on every rank, where files of them are missing or damaged on some host, and
    where a rank sees other data or has another config than most.
    """

    assert config.pretrain is not None
    phases = config.pretrain.token_phases
    tokens = on_every_rank(lambda: open_tokens(folder, verify=ranks.local_rank == 0))
    settings = identify(
        config, tokens
    ).digest  # names the shards too, so the manifest is compared first
    check_same_data({"the manifest of the token shards": tokens.digest})
    check_same_data({"the config (seed and settings)": settings})

    def sample() -> dict[str, str]:
        works = [make_work(config, tokens, index, ranks.world_size) for index in range(len(phases))]
        return {
            f"the data of phase {work.phase.name}": fingerprint(work.sequences, work.total)
            for work in works
        }

    check_same_data(on_every_rank(sample))
    return tokens


def on_every_rank(find: Callable[[], Value]) -> Value:
    """What `find` gives on this rank, if it fails on none; every rank must call it.

    Raises InputError on every rank where it raised one on some: the lines, with rank and host unless
    all ranks say the same. Another error is raised as it is, on the rank that had it.
    """
    found: Value | None = None
    problem: Exception | None = None
    try:
        found = find()
    except Exception as error:
        problem = error
    lines: tuple[str, ...] = ()
    if problem is not None:
        lines = problem.lines if isinstance(problem, InputError) else (repr(problem),)
    told = _gather(lines)
    if problem is not None and not isinstance(problem, InputError):
        raise problem
    if any(said for _, said in told):
        if all(said == told[0][1] for _, said in told):
            raise InputError(told[0][1])
        raise InputError(
            [
                f"rank {rank} on {host}: {line}"
                for rank, (host, said) in enumerate(told)
                for line in said
            ]
        )
    return found  # type: ignore[return-value]


def check_same_data(found: Mapping[str, str]) -> None:
    """Compare what each rank has found, {what it is: a digest of it}; every rank must call it.

    Raises InputError, on every rank, with the ranks and hosts that differ from most of the others.
    """
    told = _gather(dict(found))
    mistakes = []
    for what in dict.fromkeys(name for _, values in told for name in values):
        values = [value.get(what, "") for _, value in told]
        usual = Counter(values).most_common(1)[0][0]
        others = values.index(usual)
        mistakes += [
            f"rank {rank} on {host}: {what} differs from that of rank {others} on {told[others][0]}; "
            "give every host the same run folder, best on a disk that they share"
            for rank, (host, _) in enumerate(told)
            if values[rank] != usual
        ]
    if mistakes:
        raise InputError(mistakes)


def _gather(value: Value) -> list[tuple[str, Value]]:
    """Every rank's host and value, in the order of the ranks."""
    mine = (platform.node(), value)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [mine]
    everybody: list[tuple[str, Value]] = [mine] * dist.get_world_size()
    dist.all_gather_object(everybody, mine)
    return everybody
