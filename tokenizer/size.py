"""How many tokens to add: what each size saves, what it costs, and the best of them.

In: tokens on held-out and on training words at every size (`curve.tokens_by_size`), and the config.
Out: `Sizes`, the size curve of the report and its best size, which `new_tokens: auto` takes.

**The cost.** A token passes N weights of the layers and h·(V + k) of the output head (h hidden
size, V the base's vocabulary, k new tokens; looking an embedding up is free). With t(k) tokens for a
Korean character (tokens on words with Hangul ÷ their syllables, mean over the Korean sources), one
character costs

    training   6 · (N + h·(V + k)) · t(k) FLOPs        inference   2 · (N + h·(V + k)) · t(k)

(6N and 2N: Kaplan et al. 2020, §2.1; attention over the context is left out, which favours few
tokens, so it errs on the side of a small k). Both have their least value at the same k, however much
is trained and served: where another token saves the share h / (N + h·(V + k)) of all tokens.

**The bound.** For an 8B model that lies beyond 100,000 tokens, and on a small corpus most of them
would hardly be seen. Adam moves a weight by about the learning rate in a step at most, so n
occurrences at 2e-5 move a row by no more than n · 2e-5 in each coordinate; it takes 1,000
(`SEEN`) to come 0.02 from where it started, the spread of the rows of a Llama (`initializer_range`).
A token has to occur that often in the planned training, counted at the size at which it is the last
(nine in ten of each 128).

**The rule.** Of the sizes in steps of 128 (a vocabulary that is a multiple of 128 stays one) up to
the last token that is seen often enough, the one of the fewest FLOPs per Korean character.

Planned training: tokens of the phases that train the new rows, each source by its share of the
mixture and the share of its tokens that stand on words with Hangul; without `pretrain`, the corpus
once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from configs.schema import Phase, Pretrain
from tokenizer.shape import Reals, Shape

MOST = 65_536
"""Tokens that are learned for the curve; with them Llama-3's vocabulary is 193,792, about the 216,000
that Tao et al. 2024 (Scaling Laws with Vocabulary, table 1) find best for a model of 7B."""
SEEN = 1000
STEP = 128
DRAWN = (0, 500, 1000, 2000, 3000, 4000, 6000, 8000, 12_000, 16_000, 24_000, 32_000, 48_000, MOST)

Longs = npt.NDArray[np.int64]


# ── the text ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class HeldOut:
    """Held-out text of one source. words: with Hangul; syllables: in those words.

    all_tokens: of the whole text under the base. korean: whether it counts in the means.
    """

    name: str
    words: int
    syllables: int
    all_tokens: int
    korean: bool


def planned_tokens(
    pretrain: Pretrain | None,
    heldout: Sequence[HeldOut],
    tokens: Longs,
    sizes: Mapping[str, int],
) -> Reals:
    """Tokens on words with Hangul in the whole training, at every size [new + 1].

    tokens [new + 1, sources]: on the held-out words with Hangul of each source. sizes: words with
    Hangul to train on, by source.
    """
    spent = tokens.astype(np.float64)
    everything = np.array([one.all_tokens for one in heldout]) - spent[0] + spent
    shares = spent / np.maximum(everything, 1)
    per_word = spent / np.maximum([one.words for one in heldout], 1)
    index = {one.name: at for at, one in enumerate(heldout)}
    korean = [at for at, one in enumerate(heldout) if one.korean] or list(range(len(heldout)))

    def of(figures: Reals, name: str) -> Reals:
        """Of a source, or the mean of the Korean ones where nothing of it is held out."""
        at = index.get(name)
        return figures[:, at] if at is not None else figures[:, korean].mean(axis=1)

    def once(names: Sequence[str]) -> Reals:
        zero = np.zeros(len(spent))
        return sum((sizes[name] * of(per_word, name) for name in names if name in sizes), zero)

    if pretrain is None:
        return once(list(sizes))
    total = np.zeros(len(spent))
    for phase in pretrain.phases:
        if not _learns_rows(phase):
            continue
        if phase.epochs is not None:
            total += phase.epochs * once(list(phase.mixture))
        else:
            for name, share in phase.mixture.items():
                total += (phase.tokens or 0) * share * of(shares, name)
    return total


def _learns_rows(phase: Phase) -> bool:
    return phase.train == "all" or any(group.startswith("embed") for group in phase.train)


# ── the curve ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Size:
    """One size. saved: share of the tokens on words with Hangul; tokens_per_character: t(k).

    parameters, bytes: of the new rows (16-bit). *_flops: per Korean character. other_text: share of
    FLOPs that a token of any other language costs more. seen: how often the last token occurs in the
    planned training.
    """

    new_tokens: int
    saved: float
    tokens_per_character: float
    parameters: int
    bytes: int
    training_flops: float
    inference_flops: float
    other_text: float
    seen: int


@dataclass(frozen=True)
class Sizes:
    """The curve and its best size, as report.json has them.

    bound: what decided: "flops" (more tokens would cost more than they save), "seen" (the next ones
    would be seen too rarely) or "pairs" (no more were learned). model: the shape that was taken.
    planned_tokens: tokens on words with Hangul in the planned training, at the best size.
    """

    best: int
    bound: Literal["flops", "seen", "pairs"]
    least_seen: int
    model: str
    layers: int
    hidden: int
    tied: bool
    planned: Literal["pretrain", "corpus"]
    planned_tokens: int
    reason: str
    curve: list[dict[str, Any]]


def size_curve(
    shape: Shape,
    base_vocab_size: int,
    heldout: Sequence[HeldOut],
    tokens: Longs,
    trained: Longs,
    planned: Reals,
    *,
    asked: int | None,
    from_config: bool,
) -> Sizes:
    """Choose the best size and draw the curve.

    tokens [new + 1, sources]: on held-out words with Hangul. trained [new + 1]: on the training
    words by their weights. planned [new + 1]: `planned_tokens`. asked: a size to draw as well.
    """
    korean = [
        at for at, one in enumerate(heldout) if one.korean and one.syllables and tokens[0, at]
    ]
    if not korean:  # nothing to judge by but the words that were learned from
        own = trained[:, None].astype(np.float64)
        per_character, saved = own / own[0], 1 - own[:, 0] / own[0, 0]
    else:
        own = tokens[:, korean].astype(np.float64)
        per_character = own / [heldout[at].syllables for at in korean]
        saved = (1 - own / own[0]).mean(axis=1)
    character = per_character.mean(axis=1)
    last = len(trained) - 1
    vocab = base_vocab_size + np.arange(last + 1.0)
    flops = shape.flops(vocab) * character
    # each use of the k-th token is one token less, so its occurrences are a difference
    seen = np.concatenate([[np.inf], -np.diff(trained)]) / trained * planned
    enough = _seen_enough(seen[1:])
    choice = np.array([*range(0, enough + 1, STEP), *([enough] if enough < STEP else [])])
    best = int(choice[np.argmin(flops[choice])])
    bound: Literal["flops", "seen", "pairs"] = "flops"
    if best + STEP > enough:
        bound = "seen" if enough < last else "pairs"
    drawn = {size for size in (*DRAWN, best, last, asked) if size is not None and size <= last}

    def one(size: int) -> Size:
        parameters = size * shape.row
        return Size(
            new_tokens=size,
            saved=round(float(saved[size]), 4),
            tokens_per_character=round(float(character[size]), 4),
            parameters=parameters,
            bytes=2 * parameters,
            training_flops=_four_digits(3 * flops[size]),
            inference_flops=_four_digits(flops[size]),
            other_text=round(float(2 * size * shape.hidden / shape.flops(vocab)[0]), 4),
            seen=int(min(seen[size], 1e15)) if size else 0,
        )

    from_corpus = not from_config
    return Sizes(
        best=best,
        bound=bound,
        least_seen=SEEN,
        model=shape.name,
        layers=shape.layers,
        hidden=shape.hidden,
        tied=shape.tied,
        planned="corpus" if from_corpus else "pretrain",
        planned_tokens=round(float(planned[best])),
        reason=_reason(bound, shape.name, best, last, from_corpus=from_corpus),
        curve=[asdict(one(size)) for size in sorted(drawn)],
    )


def most_tokens(asked: int | Literal["auto"]) -> int:
    """How many tokens to learn: those asked for, and enough to draw the curve."""
    return 0 if asked == 0 else MOST if asked == "auto" else max(asked, MOST)


def _seen_enough(seen: Reals) -> int:
    """How many tokens are seen often enough: whole steps of which nine in ten are (a single one may
    save fewer tokens than it occurs), or, short of one step, the first tokens."""
    for start in range(0, len(seen), STEP):
        if np.percentile(seen[start : start + STEP], 10) < SEEN:
            return start or int(np.argmax(seen < SEEN))
    return len(seen)


def _reason(
    bound: Literal["flops", "seen", "pairs"], model: str, best: int, last: int, *, from_corpus: bool
) -> str:
    """Why the best size is the best, for a person."""
    if bound == "seen":
        text = "the corpus, read once," if from_corpus else "the planned training"
        more = "; more training tokens or more text allow more" if best == 0 else ""
        return f"{text} would show the next tokens less than {SEEN:,} times each{more}"
    if bound == "pairs":
        return f"no more than {last:,} were learned, and all of them make Korean cheaper"
    return f"the fewest FLOPs per Korean character with {model}"


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")
