"""Dialogues as a measure: how well a model reads what the assistant said, and how it talks itself.

In: documents of kind chat; replies as text. Out: bits per byte of the assistant's turns (the same figure
that training and `malmoi chat-vector` choose by), prompts to answer, and `Talk`, figures of the answers.

Everything is counted in bytes, letters and eojeol, never in tokens, so that models with different
vocabularies stand on the same lines. distinct-n (Li et al. 2016) falls with the length of a text, as any
ratio of types to tokens does: compare it only between models that were given as many tokens to speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from configs.errors import InputError
from configs.progress import Log, silent
from pretrain.evaluation.measure import BYTES_PER_SOURCE, choose, measure

Row = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What a model makes of dialogues. bytes: of the assistant's turns."""

    dialogues: int
    bytes: int
    bits_per_byte: float


@dataclass(frozen=True)
class Talk:
    """What a model answers. distinct_1, distinct_2: different n-grams of eojeol as a share of all.

    korean: share of the letters that are Hangul; stopped: of the replies that ended by themselves;
    length: median in characters; empty: replies without a letter or digit. Shares are None where there
    is nothing to take them of.
    """

    replies: int
    distinct_1: float | None
    distinct_2: float | None
    korean: float | None
    stopped: float
    length: float
    empty: int


def choose_dialogues(
    documents: str | Path | Sequence[str | Path],
    *,
    split: str | None = "heldout",
    most: int | None = BYTES_PER_SOURCE,
) -> list[Row]:
    """Whole dialogues of each source, drawn by a hash of their ids; see `choose`.

    Raises InputError where there is none.
    """
    first = documents if isinstance(documents, str | Path) else documents[0]
    kept = "held-out " if split == "heldout" else ""
    try:
        return choose(documents, split=split, most=most, kinds=("chat",))
    except InputError as error:
        if "no held-out document" not in error.lines[0]:
            raise
        raise InputError(
            f"{first}: holds no {kept}dialogue; name some with --dialogues (format: messages)"
        ) from None


def read_dialogues(
    model_folder: str | Path,
    rows: Sequence[Row],
    *,
    window: int | None = None,
    micro_batch: int | None = None,
    log: Log = silent,
) -> Said:
    """Bits per byte of what the assistant says, over all sources by bytes.

    Raises InputError where the model's tokenizer has no tokens for roles.
    """
    found = measure(model_folder, rows, sequence_length=window, micro_batch=micro_batch, log=log)
    found = [one for one in found if one.source]
    size = sum(one.bytes for one in found)
    if not size:
        raise InputError(
            f"{model_folder}: its tokenizer has no tokens for roles, so it cannot read dialogues"
        )
    bits = sum(one.bits_per_byte * one.bytes for one in found) / size
    return Said(sum(one.documents for one in found), size, bits)


def prompts(rows: Sequence[Row], most: int) -> list[list[dict[str, str]]]:
    """The turns before the assistant's last one, of `most` dialogues that have such, sources in turn."""
    by_source: dict[str, list[list[dict[str, str]]]] = {}
    for row in rows:
        turns: list[dict[str, str]] = row["segments"] or []
        said = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
        if said and any(turn["role"] == "user" for turn in turns[: said[-1]]):
            by_source.setdefault(str(row.get("source")), []).append(turns[: said[-1]])
    in_turn = chain.from_iterable(zip_longest(*by_source.values()))
    return list(islice((turns for turns in in_turn if turns is not None), most))


def talk(replies: Sequence[tuple[str, bool]]) -> Talk:
    """Figures of replies, each with whether it ended by itself; at least one."""
    texts = [text for text, _ in replies]
    words = [text.split() for text in texts]
    letters = [char for text in texts for char in text if char.isalpha()]
    return Talk(
        replies=len(replies),
        distinct_1=_distinct(words, 1),
        distinct_2=_distinct(words, 2),
        korean=sum(map(_is_hangul, letters)) / len(letters) if letters else None,
        stopped=sum(ended for _, ended in replies) / len(replies),
        length=float(median(map(len, texts))),
        empty=sum(not any(char.isalnum() for char in text) for text in texts),
    )


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    grams = [tuple(words[at : at + n]) for words in texts for at in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _is_hangul(char: str) -> bool:
    return "가" <= char <= "힣" or "ᄀ" <= char <= "ᇿ" or "ㄱ" <= char <= "ㆎ"
