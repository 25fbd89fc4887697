"""Korean pieces for a SentencePiece base: Llama-2's family.

In: words with Hangul, their weights, and a base whose symbols are characters. Out: what was learned,
as for byte-level bases, and the `.model` file with the new pieces at its end.

The decision: the learning is the same (`bpe.py`), over characters. A character that the base lacks is
written as three byte pieces, which never merge; so the frequent syllables become pieces of their own
first, as many as cover COVERAGE of all syllables (SentencePiece's own default), and a word is cut
into parts at those that stay out.

SentencePiece merges what makes the piece of the highest score, however that is split, so every split
becomes a merge of tokenizer.json, and a piece that cannot be reached under that rule is left out. New
scores lie below all old ones, and every new piece holds Hangul: text without Hangul meets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import regex

from configs.files import atomic
from configs.progress import Log, silent
from tokenizer.base import Base
from tokenizer.bpe import Ids, Learned, Longs, learn
from tokenizer.piece_model import CONTROL, SPACE, USER_DEFINED, with_pieces
from tokenizer.ranks import all_splits, unreachable

MODEL_FILE = "tokenizer.model"
COVERAGE = 0.9995
"""Share of the syllables, by weight, that get a piece of their own."""

_SYLLABLE = regex.compile("[가-힣]")


def learn_pieces(
    base: Base, words: Sequence[str], weights: Longs, asked: int, *, log: Log = silent
) -> Learned:
    """Learn `asked` new pieces, or as many as there are.

    words, weights [words]: pre-tokens with Hangul, as `words.balanced` gives them.
    """
    content = base.tokens()
    seeds, seed_weights = _seeds(words, weights, {data.decode() for data in content}, asked)
    content += [seed.encode() for seed in seeds]
    ids, ends, own = _runs(base, words, weights, {seed: i for i, seed in enumerate(seeds)})
    found = learn(ids, ends, own, content, asked - len(seeds), log=log)
    learned = replace(
        found,
        first_id=base.vocab_size,
        tokens=[*content[base.vocab_size :], *found.tokens],
        weights=[*seed_weights, *found.weights],
    )
    return _reachable(base, learned)


def _seeds(
    words: Sequence[str], weights: Longs, known: set[str], asked: int
) -> tuple[list[str], list[int]]:
    """The syllables to add, most frequent first, and their weights."""
    count: dict[str, int] = {}
    for word, weight in zip(words, weights.tolist(), strict=True):
        for syllable in _SYLLABLE.findall(word):
            count[syllable] = count.get(syllable, 0) + weight
    uncovered = (1 - COVERAGE) * sum(count.values())
    chosen: list[str] = []
    for syllable in sorted(count, key=lambda own: (count[own], own)):
        uncovered -= count[syllable]
        if uncovered < 0 and syllable not in known:
            chosen.append(syllable)
    chosen.sort(key=lambda own: (-count[own], own))
    chosen = chosen[:asked]
    return chosen, [count[syllable] for syllable in chosen]


def _runs(
    base: Base, words: Sequence[str], weights: Longs, seeds: dict[str, int]
) -> tuple[Ids, Longs, Longs]:
    """The words as ids, cut into parts where a character is written in bytes: ids [N], where each
    part ends in them, and its weight."""
    content = base.tokens()
    seed = regex.compile(f"([{''.join(seeds)}])" if seeds else r"(\b\B)")
    cut = base.tokenizer.model.tokenize
    ids: list[int] = []
    ends: list[int] = []
    own: list[int] = []
    for word, weight in zip(words, weights.tolist(), strict=True):
        begin = len(ids)
        for part in seed.split(base.spelled(word.encode())):
            if part in seeds:
                ids.append(base.vocab_size + seeds[part])
                continue
            for token in cut(part) if part else ():
                if content[token.id]:
                    ids.append(token.id)
                elif len(ids) > begin:
                    ends.append(len(ids))
                    own.append(weight)
                    begin = len(ids)
        if len(ids) > begin:
            ends.append(len(ids))
            own.append(weight)
    return np.array(ids, np.int32), np.array(ends, np.int64), np.array(own, np.int64)


def _reachable(base: Base, learned: Learned) -> Learned:
    """With every split as a merge, and without the pieces that are then out of reach."""
    while True:
        ordered = replace(learned, merges=all_splits(base, learned))
        lost = set(unreachable(base, ordered))
        if not lost:
            return ordered
        kept = [index for index in range(len(learned.tokens)) if index not in lost]
        learned = replace(
            learned,
            tokens=[learned.tokens[index] for index in kept],
            weights=[learned.weights[index] for index in kept],
            exhausted=True,
        )


def write_model(folder: Path, base: Base, learned: Learned) -> None:
    """Write MODEL_FILE: the base's file with the new pieces. Only where `base.piece_model`."""
    model = base.piece_model
    assert model is not None
    special = {token["id"]: token for token in base.definition["added_tokens"]}
    added = [
        (special[index]["content"], CONTROL if special[index]["special"] else USER_DEFINED)
        for index in range(len(model.pieces), base.vocab_size)
    ]
    texts = [data.decode().replace(" ", SPACE) for data in learned.tokens]
    with atomic(folder / MODEL_FILE) as temporary:
        temporary.write_bytes(with_pieces(model, added, texts))
