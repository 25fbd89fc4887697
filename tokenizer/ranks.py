"""tiktoken's form of a tokenizer: the ranks file that Meta ships beside Llama-3.

In: the base and what was learned. Out: `original/tokenizer.model`, a line per token (base64, space,
rank), and `original/tiktoken.json`, the regex and the control tokens, which a ranks file lacks.

The decision: both forms must cut alike, and they merge by different rules. tiktoken merges the
neighbours that make the token of the lowest rank, however it is split; a list of merges names the
splits. They agree where *every* split of every token is a merge, in the order of ranks, as in the
list that Llama-3's was converted to. So the other splits of the new tokens are merges too: 15,428
beside the 32,005 learned ones at +32k. Of 322,644 words of the test corpus 6 were cut otherwise
without them (1.5 in a million occurrences), with them none. A base whose merges are not like that
(GPT-2, Qwen: one split per token) keeps its list as learned, and has no ranks file.

The file stands in `original/`, as on the hub: llama.cpp's converter and transformers take a
`tokenizer.model` beside tokenizer.json for SentencePiece's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import models

from configs.errors import InputError, missing_extra
from configs.files import atomic, read_json, write_json
from tokenizer.base import Base
from tokenizer.bpe import Learned
from tokenizer.ranks_file import read_ranks

if TYPE_CHECKING:
    from tiktoken import Encoding

_HANGUL = re.compile(rb"[\xea-\xed]")

RANKS_FILES = ("original/tokenizer.model", "original/tiktoken.json")


def in_rank_order(base: Base, learned: Learned) -> Learned:
    """What was learned, with every split of every new token as a merge, in the order of ranks.

    It comes back as it was where the base's merges are not all splits, or where a new token could
    then no longer be made by merges.
    """
    if not learned.tokens or not base.merges_are_all_splits:
        return learned
    ordered = replace(learned, merges=all_splits(base, learned))
    return learned if unreachable(base, ordered) else ordered


def all_splits(base: Base, learned: Learned) -> list[tuple[int, int, int]]:
    """Every split that holds a new token, as merges (left, right, result), by rank of the result.

    Splits that lead to an old token come first: their rank is below all new ones.
    """
    old = base.tokens()
    id_of = {data: index for index, data in enumerate(old) if data}
    id_of.update((data, learned.first_id + index) for index, data in enumerate(learned.tokens))
    new = set(learned.tokens)
    merges = [
        (id_of[left], id_of[right], index)
        for index, data in enumerate(old)
        if _HANGUL.search(data)
        for left, right in _splits(data, id_of)
        if left in new or right in new
    ]
    for data in learned.tokens:
        merges += sorted((id_of[a], id_of[b], id_of[data]) for a, b in _splits(data, id_of))
    return merges


def _splits(data: bytes, id_of: dict[bytes, int]) -> Iterable[tuple[bytes, bytes]]:
    for cut in range(1, len(data)):
        if data[:cut] in id_of and data[cut:] in id_of:
            yield data[:cut], data[cut:]


def unreachable(base: Base, learned: Learned) -> list[int]:
    """Positions of the new tokens that the merges do not make of their own bytes."""
    model = base.definition["model"]
    vocab = {**model["vocab"]}
    vocab.update(
        (base.spelled(data), learned.first_id + index) for index, data in enumerate(learned.tokens)
    )
    text = {index: token for token, index in vocab.items()}
    merges = [tuple(merge) for merge in model["merges"]]
    merges += [(text[left], text[right]) for left, right, _ in learned.merges]
    cut = models.BPE(
        vocab,
        merges,
        unk_token=model.get("unk_token"),
        fuse_unk=bool(model.get("fuse_unk")),
        byte_fallback=bool(model.get("byte_fallback")),
    ).tokenize
    return [
        index
        for index, data in enumerate(learned.tokens)
        if [piece.id for piece in cut(base.spelled(data))] != [learned.first_id + index]
    ]


def has_ranks(base: Base, learned: Learned) -> bool:
    """Whether a ranks file cuts as these merges do."""
    if base.by_pieces or base.definition.get("normalizer") or not base.merges_are_all_splits:
        return False
    return learned.merges == all_splits(base, learned)


def write_ranks(folder: Path, base: Base, learned: Learned) -> None:
    """Write RANKS_FILES into the tokenizer's folder. Only where `has_ranks`."""
    added = {token["id"]: token["content"] for token in base.definition["added_tokens"]}
    content: Sequence[bytes] = [*base.tokens(), *learned.tokens]
    with atomic(folder / RANKS_FILES[0]) as temporary, temporary.open("wb") as handle:
        handle.writelines(
            base64.b64encode(data) + f" {rank}\n".encode()
            for rank, data in enumerate(content)
            if data
        )
    write_json(
        folder / RANKS_FILES[1],
        {
            "name": "malmoi",
            "pat_str": base.pattern,
            "special_tokens": {added[index]: index for index in sorted(added)},
        },
    )


def load_encoding(folder: Path | str) -> Encoding:
    """The ranks file of a tokenizer's folder as a `tiktoken.Encoding`.

    `llama_models`' own Tokenizer numbers the control tokens from the end of the ranks and so cannot
    read an extended file; here they have the ids of tiktoken.json.

    Raises InputError where there is none, or it is damaged.
    """
    try:
        import tiktoken
    except ModuleNotFoundError:
        raise missing_extra("tiktoken", "llama3") from None
    ranks, companion = (Path(folder) / name for name in RANKS_FILES)
    if not ranks.is_file() or not companion.is_file():
        raise InputError(
            f"{folder}: no tiktoken form there ({RANKS_FILES[0]}, {RANKS_FILES[1]}); "
            "it is written for bases that came from a ranks file, such as Llama-3"
        )
    kept = read_json(companion)
    return tiktoken.Encoding(
        kept["name"],
        pat_str=kept["pat_str"],
        mergeable_ranks=read_ranks(ranks)[0],
        special_tokens=kept["special_tokens"],
    )
