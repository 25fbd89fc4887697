"""How the next token of each reply in a batch is chosen.

In: logits, shape (replies, vocabulary), and each reply's `Sampling`. Out: the same shape with all
but one entry per row at -inf, so that the batching loop's argmax takes the token chosen here.

The decision: one uniform number per token, a function of the reply's seed and the position alone
(Philox, Salmon et al., SC 2011), turned into a token by the inverse of the cumulative distribution.
So a reply with a seed is the same whatever runs beside it, and no noise is drawn for a vocabulary
of 160,000. The nucleus (top-p, Holtzman et al., ICLR 2020) is found with numpy, whose vectorised sort
takes 0.5 ms for 128,256 entries where torch.s takes 18 (one core with AVX-512).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)

GREEDY_BELOW = 1e-3  # a temperature under this is greedy: dividing by it would overflow


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request asks for.

    max_tokens: tokens to generate at most (None: up to the context's end). temperature: 0 is
    greedy. top_p: probability mass kept, in (0, 1]. stop: strings that end the reply. seed: None
    draws a new one.
    """

    max_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's parameters: temperature, top_p and the 64-bit seed."""

    temperature: float
    top_p: float
    seed: int


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) for this seed and this position in the sequence."""
    bits = np.random.Philox(key=seed & (2**64 - 1), counter=[0, 0, 0, position])
    return float(np.random.Generator(bits).random())


def choose(logits: torch.Tensor, draw: Draw, position: int) -> int:
    """The token for one row of logits, shape (vocabulary,), -inf where a token is not allowed."""
    if draw.temperature < GREEDY_BELOW:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / draw.temperature, dim=-1).cpu().numpy()
    least = 0.0  # the smallest probability that stays; tokens as likely as the last one stay too
    if draw.top_p < 1:
        ranked = np.sort(probabilities)[::-1]
        last = np.searchsorted(np.cumsum(ranked, dtype=np.float64), draw.top_p)
        least = ranked[min(int(last), ranked.size - 1)]
    ids = np.flatnonzero((probabilities >= least) & (probabilities > 0))
    mass = np.cumsum(probabilities[ids], dtype=np.float64)
    at = np.searchsorted(mass, mass[-1] * uniform(draw.seed, position), side="right")
    return int(ids[min(int(at), ids.size - 1)])


class BatchSampler(ContinuousBatchingLogitsProcessorList):
    """Takes the place of the batching loop's own processors.

    Transformers' per-request processors know temperature, top-k and top-p, no seed, and only what a
    generation config turned on beforehand. Requests carry a `Draw` as the keyword `draw`.
    `allowed`: shape (vocabulary,), bool, False for padding rows and control tokens.
    """

    def __init__(self, allowed: torch.Tensor) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._banned = ~allowed
        self._rows: list[tuple[Draw, int]] = []

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Nothing to check: the engine makes the keyword itself."""

    def prepare_tensor_args(
        self, requests_in_batch: Sequence[Any], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        """Note the parameters of the rows of the step that follows (the loop is synchronous)."""
        self._rows = [
            (
                request.state.logit_processor_kwargs["draw"],
                # prompt + generated so far: the same after the loop evicts and refills a request
                len(request.state.initial_tokens) + len(request.state.generated_tokens),
            )
            for request in requests_in_batch
            if request.has_new_token
        ]
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Mask, choose, and leave one finite entry per row. Rows past the requests are padding."""
        scores = scores.masked_fill(self._banned, float("-inf"))
        if all(draw.temperature < GREEDY_BELOW for draw, _ in self._rows):
            return scores
        for row, (draw, position) in enumerate(self._rows):
            token = choose(scores[row], draw, position)
            scores[row] = float("-inf")
            scores[row, token] = 0.0
        return scores
