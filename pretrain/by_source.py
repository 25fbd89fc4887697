"""The loss of a step, source by source: what a mean over a mixture hides.

In: −log p of every target of a micro-batch, and which sequence each row is (a sequence holds documents
of one source). Out: sums that ranks add up in one exchange, and from them the step's mean loss and the
mean of each source that the step had targets of.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.data.batches import IGNORED, StepData
from pretrain.phases import Work


class SourceLosses:
    """One rank's sums over the micro-batches of a step, in float64."""

    def __init__(
        self, work: Work, data: StepData, step: int, rank: int, device: torch.device
    ) -> None:
        self._order, self._share, self._rank = work.sequences.order, work.share_of(step), rank
        self._data = data
        self.names = sorted(name for name, share in work.phase.mixture.items() if share > 0)
        self._sums = torch.zeros(2, len(self.names), dtype=torch.float64, device=device)

    def add(self, turn: int, nats: Tensor, targets: Tensor) -> None:
        """Micro-batch `turn` (from 0): −log p and targets, rows behind one another or not."""
        numbers = self._share.rows(turn, self._rank)
        found = [
            self.names.index(self._order(self._data.first + number).source)
            if number < self._data.sequences
            else 0  # a slot that is left over has no targets
            for number in numbers
        ]
        # a product, not index_add: that adds in any order on a GPU
        places = functional.one_hot(torch.tensor(found), len(self.names)).double()
        rows = torch.stack([nats.double(), (targets != IGNORED).double()])
        self._sums += rows.view(2, len(found), -1).sum(2) @ places.to(nats.device)

    def sums(self) -> list[float]:
        """To be added up over the ranks: nats of each source, then its targets."""
        return [value for row in self._sums.tolist() for value in row]

    def means(self, sums: Sequence[float]) -> tuple[float, dict[str, float]]:
        """From the sums over all ranks: the loss of the step, and that of each source in it."""
        nats, targets = sums[: len(self.names)], sums[len(self.names) :]
        by_source = {
            name: total / count
            for name, total, count in zip(self.names, nats, targets, strict=True)
            if count
        }
        return sum(nats) / max(1.0, sum(targets)), by_source
