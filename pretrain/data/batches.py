"""Sequences as the model takes them: packed, isolated, labelled; and one step's share of them.

In: the place of a sequence (order.py), its pieces (packing.py), the token shards. Out: int64 arrays
[micro_batch, sequence_length] of input_ids, position_ids and targets; targets[t] is the token to be predicted at t.

Documents in one sequence must not see each other. That is said by position_ids that restart at 0 with
every piece, and by nothing else: transformers builds block-diagonal attention from them only when no
attention_mask is passed and no cache is in use. A piece's first token is no target, for nothing
before it belongs to it: −100 stands there, for padding and, in a chat phase, for what the assistant
does not say. Slots that a step has left over hold sequences without targets, so any number of ranks
can share any batch.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.data.order import Order
from pretrain.data.packing import Plan
from pretrain.data.tokens import Tokens, renderings

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """One micro-batch: int64 tensors [micro_batch, sequence_length]."""

    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
        )

    def flat(self) -> Batch:
        """All rows behind one another, [1, micro_batch × sequence_length]: positions keep them apart."""
        return Batch(*(t.view(1, -1) for t in (self.input_ids, self.position_ids, self.targets)))

    @property
    def target_count(self) -> int:
        return int((self.targets != IGNORED).sum())


@dataclass(frozen=True)
class Share:
    """How one optimizer step of `sequences` sequences is divided among the ranks.

    Slot (turn, rank, row) holds sequence (turn × world_size + rank) × micro_batch + row of the step;
    slots beyond the last sequence are left over.
    """

    sequences: int
    world_size: int
    micro_batch: int

    @classmethod
    def of(cls, sequences: int, world_size: int, micro_batch: int) -> Share:
        """The division with the micro-batch no larger than a rank's part of the step."""
        return cls(sequences, world_size, min(micro_batch, -(-sequences // world_size)))

    @property
    def accumulation(self) -> int:
        return -(-self.sequences // (self.world_size * self.micro_batch))

    def rows(self, turn: int, rank: int) -> range:
        """The step's sequences in one micro-batch of a rank (some may lie beyond the last)."""
        start = (turn * self.world_size + rank) * self.micro_batch
        return range(start, start + self.micro_batch)


class Sequences:
    """The training sequences of one phase, by their number i in the phase's order.

    plans: of each source, or of each of its renderings (`tokens.renderings`), in the order's turn.
    """

    def __init__(
        self,
        tokens: Tokens,
        plans: Mapping[str, Plan | Sequence[Plan]],
        order: Order,
        sequence_length: int,
        objective: str,
    ) -> None:
        self._tokens, self.order = tokens, order
        self._plans = {name: [p] if isinstance(p, Plan) else p for name, p in plans.items()}
        self._sets = {
            name: [
                tokens.sets[name, split]
                for split in renderings(tokens.sets[name, "train"].kind, objective)
            ]
            for name in plans
        }
        self.sequence_length, self._objective = sequence_length, objective

    def fill(
        self,
        i: int,
        ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        targets: NDArray[np.int64],
    ) -> None:
        """Write sequence i into three rows of length sequence_length, as `batch` prepares them."""
        place = self.order(i)
        documents = self._sets[place.source][place.rendering]
        plan = self._plans[place.source][place.rendering]
        at = 0
        for document, start, length in plan[place.index].tolist():
            end = at + length
            ids[at:end] = documents.ids(document, start, length)
            positions[at:end] = np.arange(length)
            targets[at : end - 1] = ids[at + 1 : end]
            if self._objective == "chat":
                said = documents.mask(document, start, length).astype(bool)
                targets[at : end - 1][~said[1:]] = IGNORED
            at = end
        positions[at:] = np.arange(self.sequence_length - at)

    def batch(self, numbers: list[int | None]) -> Batch:
        """A micro-batch of these sequences; None is a left-over slot, which has no targets."""
        shape = (len(numbers), self.sequence_length)
        ids = np.full(shape, self._tokens.end, np.int64)
        positions = np.tile(np.arange(self.sequence_length), (len(numbers), 1))
        targets = np.full(shape, IGNORED, np.int64)
        for row, number in enumerate(numbers):
            if number is not None:
                self.fill(number, ids[row], positions[row], targets[row])
        return Batch(*(torch.from_numpy(array) for array in (ids, positions, targets)))


@dataclass(frozen=True)
class StepData:
    """What one rank needs for one optimizer step."""

    first: int
    sequences: int
    tokens: int
    batches: list[Batch]
    digest: str


def step_data(
    sequences: Sequences, share: Share, rank: int, first: int, last: int, *, digest: bool
) -> StepData:
    """A rank's micro-batches of the step that takes sequences first … last − 1 of the phase."""
    count = min(share.sequences, last - first)
    batches = []
    for turn in range(share.accumulation):
        rows = share.rows(turn, rank)
        batches.append(sequences.batch([first + row if row < count else None for row in rows]))
    return StepData(
        first=first,
        sequences=count,
        tokens=count * sequences.sequence_length,
        batches=batches,
        digest=sequences.order.digest(first, count) if digest else "",
    )


def prefetch(steps: Iterator[StepData], depth: int = 2) -> Iterator[StepData]:
    """The same steps, made ready in a thread while the model is busy.

    An exception in the thread is raised here. The thread ends when the consumer stops.
    """
    ready: queue.Queue[StepData | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: StepData | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for step in steps:
                put(step)
                if stop.is_set():
                    return
            put(None)
        except BaseException as problem:
            put(problem)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
