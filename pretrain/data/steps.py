"""Which sequences belong to which optimizer step, for a batch that stays or that grows.

In: how many sequences a phase has and how many make a step. Out: for step k the sequences [first,
last), in O(log stairs), so that a run resumes at any step without going through those before.

A batch that grows (McCandlish et al. 2018: the useful batch grows as the loss falls) does so in stairs,
multiples of the first batch: 1M to 4M tokens over 10B are 1M, 2M and 3M tokens for 3.3B tokens each,
then 4M to the end. Stairs and not a slope, for a batch that divides evenly among the ranks at the
start does so on every stair; on a slope most steps would carry empty slots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """The steps of a phase. total: its sequences; sizes: of a step, on each stair.

    begins, firsts: the first step and the first sequence of each stair.
    """

    total: int
    sizes: Sequence[int]
    begins: Sequence[int] = (0,)
    firsts: Sequence[int] = (0,)

    @classmethod
    def even(cls, total: int, size: int) -> Steps:
        """Steps of `size` sequences; the last one may be shorter."""
        return cls(total, (size,))

    @classmethod
    def growing(cls, total: int, start: int, end: int, over: int) -> Steps:
        """Steps of `start` sequences that become `end` while `over` sequences are trained."""
        sizes = [*range(start, end, start), end]
        growing = max(1, len(sizes) - 1)
        lengths = [max(1, round(over / growing / size)) for size in sizes[:-1]]  # steps
        begins, firsts = [0], [0]
        for size, length in zip(sizes, lengths, strict=False):
            begins.append(begins[-1] + length)
            firsts.append(firsts[-1] + length * size)
        return cls(total, tuple(sizes), tuple(begins), tuple(firsts))

    @property
    def count(self) -> int:
        """Optimizer steps in all."""
        return self.at(self.total - 1) + 1 if self.total else 0

    @property
    def largest(self) -> int:
        """Sequences of the largest step that the phase comes to."""
        return self.size(max(0, self.count - 1))

    def size(self, step: int) -> int:
        """Sequences of a step, were it not the last."""
        return self.sizes[bisect_right(self.begins, step) - 1]

    def span(self, step: int) -> tuple[int, int]:
        """The sequences [first, last) of a step."""
        stair = bisect_right(self.begins, step) - 1
        first = self.firsts[stair] + (step - self.begins[stair]) * self.sizes[stair]
        return min(first, self.total), min(first + self.sizes[stair], self.total)

    def at(self, sequence: int) -> int:
        """The step that a sequence belongs to."""
        stair = bisect_right(self.firsts, sequence) - 1
        return self.begins[stair] + (sequence - self.firsts[stair]) // self.sizes[stair]

    def stairs(self) -> list[tuple[int, int, int]]:
        """(first step, steps, sequences in each) of every stair that the phase comes to."""
        ends = [*self.begins[1:], max(self.count, self.begins[-1])]
        found = zip(self.begins, ends, self.sizes, strict=True)
        return [
            (begin, min(end, self.count) - begin, size)
            for begin, end, size in found
            if begin < self.count
        ]
