"""How the next token of each reply in a batch is chosen.

In: logits, shape (replies, vocabulary), and each reply's `Sampling`. Out: the same logits with the
chosen entry of a row at +inf, so that the batching loop's argmax takes the token chosen here.

The decision: one uniform number per token, a function of the reply's seed and the position alone
(Philox, Salmon et al., SC 2011), turned into a token by the inverse of the cumulative distribution.
So a reply with a seed is the same whatever runs beside it, and no noise is drawn for a vocabulary
of 160,000. Order of the steps, as in transformers: repetition penalty (Keskar et al., CTRL, 2019),
temperature, top-k, top-p (Holtzman et al., ICLR 2020), min-p (Nguyen et al., 2024). On a CPU a row
is numpy's, whose vectorised sort takes 0.5 ms for 128,256 entries where torch's takes 18 (one core
with AVX-512); on a GPU all rows are sorted at once.
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
SEED_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: seeds of siblings lie far apart (splitmix64)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request asks for.

    max_tokens: tokens to generate at most (None: up to the context's end). temperature: 0 is
    greedy. top_p: probability mass kept, in (0, 1]. stop: strings that end the reply. seed: None
    draws a new one. top_k: likeliest tokens kept, 0 keeps all. min_p: least probability, as a share
    of the likeliest token's. repetition_penalty: above 1 makes tokens of prompt and reply less
    likely. logprobs: report each token's log probability and this many alternatives (None: no
    report).
    """

    max_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's parameters: those of `Sampling`, and a 64-bit seed that is certain."""

    temperature: float
    top_p: float
    seed: int
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None

    @classmethod
    def of(cls, sampling: Sampling, seed: int, index: int = 0) -> Draw:
        """The parameters of the `index`-th reply to one request; index 0 has the seed itself."""
        return cls(
            sampling.temperature,
            sampling.top_p,
            (seed + index * SEED_STEP) % 2**64,
            sampling.top_k,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.logprobs,
        )

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def plain(self) -> bool:
        """Whether the batching loop's argmax alone does it."""
        return self.greedy and self.repetition_penalty == 1 and self.logprobs is None


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token's log probability (natural, temperature 1, over tokens that may be chosen).

    top: the likeliest tokens at its place, likeliest first, with theirs.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) for this seed and this position in the sequence."""
    bits = np.random.Philox(key=seed & (2**64 - 1), counter=[0, 0, 0, position])
    return float(np.random.Generator(bits).random())


def penalise(logits: torch.Tensor, tokens: Sequence[int], penalty: float) -> None:
    """Make `tokens` less likely (penalty above 1) in one row of logits, in place.

    As transformers' RepetitionPenaltyLogitsProcessor: positive logits are divided, negative ones
    multiplied, once per token however often it occurs.
    """
    ids = torch.tensor(tokens, dtype=torch.long, device=logits.device)
    seen = logits[ids]
    logits[ids] = torch.where(seen < 0, seen * penalty, seen / penalty)


def choose(logits: torch.Tensor, draw: Draw, position: int) -> int:
    """The token for one row of logits, shape (vocabulary,), -inf where a token is not allowed."""
    if draw.greedy:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / draw.temperature, dim=-1).cpu().numpy()
    least = _least(probabilities, draw)
    ids = np.flatnonzero((probabilities >= least) & (probabilities > 0))
    if not ids.size:  # a model whose logits are no numbers must not end the replies beside it
        return int(logits.nan_to_num(float("-inf")).argmax())
    mass = np.cumsum(probabilities[ids], dtype=np.float64)
    at = np.searchsorted(mass, mass[-1] * uniform(draw.seed, position), side="right")
    return int(ids[min(int(at), ids.size - 1)])


def _least(probabilities: np.ndarray, draw: Draw) -> float:
    """The smallest probability that stays; tokens as likely as the last one stay too."""
    least = draw.min_p * float(probabilities.max()) if draw.min_p else 0.0
    if not draw.top_k and draw.top_p >= 1:
        return least
    size, whole = probabilities.size, 1.0
    if 0 < draw.top_k < size:
        rest = np.partition(probabilities, size - draw.top_k)[size - draw.top_k :]
        least = max(least, float(rest.min()))
        whole = float(rest.sum(dtype=np.float64))
    else:
        # All tokens under this together hold less than 1 - top_p, so none of them is in the nucleus;
        # what is left to sort of a trained model's 128,256 entries is a few hundred.
        rest = probabilities[probabilities >= (1 - draw.top_p) / size]
    if draw.top_p < 1:
        ranked = np.sort(rest)[::-1]
        last = np.searchsorted(np.cumsum(ranked, dtype=np.float64), draw.top_p * whole)
        least = max(least, float(ranked[min(int(last), ranked.size - 1)]))
    return least


def choose_together(
    logits: torch.Tensor, draws: Sequence[Draw], positions: Sequence[int]
) -> torch.Tensor:
    """As `choose` for sampled rows at once: logits (rows, vocabulary) → tokens, shape (rows,).

    For a GPU, where a row at a time would wait for the device each time. It takes the inverse of the
    cumulative distribution in order of probability, `choose` in order of ids: a seed's reply is the
    same on every GPU, and another on a CPU.
    """

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    temperature = column([draw.temperature for draw in draws])
    ranked, ids = torch.softmax(logits.double() / temperature, dim=-1).sort(descending=True)
    size = ranked.shape[-1]
    rank = torch.arange(size, device=logits.device)[None, :]
    ranked *= rank < column([draw.top_k or size for draw in draws])
    before = ranked.cumsum(-1) - ranked
    ranked *= before < column([draw.top_p for draw in draws]) * ranked.sum(-1, keepdim=True)
    ranked *= ranked >= column([draw.min_p for draw in draws]) * ranked[:, :1]
    mass = ranked.cumsum(-1)
    number = column([uniform(draw.seed, at) for draw, at in zip(draws, positions, strict=True)])
    last = ((ranked > 0).sum(-1, keepdim=True) - 1).clamp(min=0)
    at = torch.minimum(torch.searchsorted(mass, mass[:, -1:] * number, right=True), last)
    return ids.gather(-1, at)[:, 0]


def score(logits: torch.Tensor, token: int, alternatives: int) -> TokenScore:
    """The log probability of `token` under one row of logits, and of the likeliest others."""
    everything = torch.logsumexp(logits, dim=-1)
    values, ids = torch.topk(logits, alternatives)
    top = zip(ids.tolist(), (values - everything).tolist(), strict=True)
    return TokenScore(token, float(logits[token] - everything), tuple(top))


class BatchSampler(ContinuousBatchingLogitsProcessorList):
    """Takes the place of the batching loop's own processors.

    Transformers' per-request processors know temperature, top-k and top-p, no seed, and only what a
    generation config turned on beforehand. Requests carry a `Draw` as the keyword `draw`.
    `allowed`: shape (vocabulary,), bool, False for padding rows and control tokens.

    `scores`: of requests that asked for log probabilities, the newest token's, until taken.
    """

    def __init__(self, allowed: torch.Tensor) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self.scores: dict[str, TokenScore] = {}
        self._banned = (~allowed).nonzero().flatten()
        self._rows: list[tuple[str, Draw, int, list[int]]] = []

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Nothing to check: the engine makes the keyword itself."""

    def prepare_tensor_args(
        self, requests_in_batch: Sequence[Any], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        """Note the parameters of the rows of the step that follows (the loop is synchronous)."""
        self._rows = []
        for request in requests_in_batch:
            if request.has_new_token:
                state = request.state
                draw: Draw = state.logit_processor_kwargs["draw"]
                # prompt + generated so far: the same after the loop evicts and refills a request
                position = len(state.initial_tokens) + len(state.generated_tokens)
                penalised = draw.repetition_penalty != 1
                seen = state.initial_tokens + state.generated_tokens if penalised else []
                self._rows.append((state.request_id, draw, position, seen))
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Mask, choose, and raise the chosen entries. Rows past the requests are padding."""
        scores.index_fill_(1, self._banned, float("-inf"))
        if all(draw.plain for _, draw, _, _ in self._rows):
            return scores
        original = scores
        if any(draw.logprobs is not None and seen for _, draw, _, seen in self._rows):
            original = scores.clone()
        for row, (_, draw, _, seen) in enumerate(self._rows):
            if seen:
                penalise(scores[row], seen, draw.repetition_penalty)
        chosen = self._choose(scores)
        for row, (name, draw, _, _) in enumerate(self._rows):
            if draw.logprobs is not None:
                self.scores[name] = score(original[row], chosen[row], draw.logprobs)
        for row, token in enumerate(chosen):
            scores[row, token] = float("inf")
        return scores

    def _choose(self, scores: torch.Tensor) -> list[int]:
        rows = self._rows
        if scores.device.type == "cpu":
            return [choose(scores[i], draw, at) for i, (_, draw, at, _) in enumerate(rows)]
        chosen = scores[: len(rows)].argmax(-1)
        sampled = [i for i, (_, draw, _, _) in enumerate(rows) if not draw.greedy]
        if sampled:
            chosen[sampled] = choose_together(
                scores[sampled], [rows[i][1] for i in sampled], [rows[i][2] for i in sampled]
            )
        return [int(token) for token in chosen.tolist()]
