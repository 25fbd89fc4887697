"""Rows of documents → token ids, many at a time.

In: texts and dialogues. Out: ids end to end, BOS before and EOS after each document, as uint32, and
for dialogues which ids the assistant says, as uint8.

The decision: whole batches go through the tokenizer's own `encode_batch_fast`, dialogues too (their
turns are texts like others), and what is around the ids is put there by NumPy. The tokenizer's lists
of Python integers are the cost: about a twentieth of the time. Special tokens are switched off while
text is encoded: a page that says `<|eot_id|>` must not end a turn. This file knows nothing of torch
and transformers, so a worker process is up in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.errors import InputError
from tokenizer.chat import BOS, END, END_HEADER, HEADER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids = NDArray[np.uint32]
Mask = NDArray[np.uint8]


def special_id(tokenizer: PreTrainedTokenizerFast, content: str, fallback: int | None) -> int:
    """The id of Llama-3's `content`, or of the tokenizer's own token in that role."""
    found = tokenizer.backend_tokenizer.token_to_id(content)
    if found is None:
        found = fallback
    if found is None:
        raise InputError(
            f"tokenizer: it has neither {content} nor a token of its own in that role; "
            "use a tokenizer with beginning-of-text and end-of-text tokens"
        )
    return int(found)


def begin_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return special_id(tokenizer, "<|begin_of_text|>", tokenizer.bos_token_id)


def end_id(tokenizer: PreTrainedTokenizerFast) -> int:
    return special_id(tokenizer, "<|end_of_text|>", tokenizer.eos_token_id)


@dataclass(frozen=True)
class Encoded:
    """Documents end to end. starts: int64 [documents + 1] into ids; mask: dialogues only."""

    ids: Ids
    starts: NDArray[np.int64]
    mask: Mask | None = None


class Encoder:
    """A tokenizer with the ids that stand around a document. What it is set to stays as it is."""

    def __init__(self, backend: Tokenizer, begin: int, end: int) -> None:
        self._backend, self._begin, self._end = backend, begin, end
        self._roles: dict[str, list[int]] = {}

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Encoder:
        return cls(tokenizer.backend_tokenizer, begin_id(tokenizer), end_id(tokenizer))

    def texts(self, texts: Sequence[str]) -> Encoded:
        """Each text between BOS and EOS."""
        found = [encoding.ids for encoding in self._encode(texts)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        starts = np.zeros(len(found) + 1, np.int64)
        np.cumsum(lengths + 2, out=starts[1:])
        ids = np.empty(int(starts[-1]), np.uint32)
        inside = np.ones(len(ids), bool)
        inside[starts[:-1]] = inside[starts[1:] - 1] = False
        ids[starts[:-1]], ids[starts[1:] - 1] = self._begin, self._end
        ids[inside] = np.fromiter(chain.from_iterable(found), np.uint32, int(lengths.sum()))
        return Encoded(ids, starts)

    def dialogues(self, dialogues: Sequence[Sequence[Mapping[str, str]]]) -> Encoded:
        """Each dialogue in Llama-3's format and EOS: the ids and mask of `tokenizer.chat`.

        Raises InputError where the tokenizer has none of the format's control tokens.
        """
        if not dialogues:
            return Encoded(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(0, np.uint8))
        begin, end = self._control(BOS), self._control(END)
        turns = [turn for segments in dialogues for turn in segments]
        said = iter(self._encode([turn["text"].strip() for turn in turns]))
        ids: list[int] = []
        mask: list[int] = []
        starts = [0]
        for segments in dialogues:
            front = [begin] if begin == self._begin else [self._begin, begin]
            ids += front
            mask += [0] * len(front)
            for turn in segments:
                opening, content = self._opening(turn["role"]), [*next(said).ids, end]
                ids += opening
                ids += content
                mask += [0] * len(opening)
                mask += [int(turn["role"] == "assistant")] * len(content)
            ids.append(self._end)
            mask.append(0)
            starts.append(len(ids))
        return Encoded(
            np.array(ids, np.uint32), np.array(starts, np.int64), np.array(mask, np.uint8)
        )

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        before = self._backend.encode_special_tokens
        self._backend.encode_special_tokens = True  # as text: a page may name a control token
        try:
            return list(self._backend.encode_batch_fast(list(texts), add_special_tokens=False))
        finally:
            self._backend.encode_special_tokens = before

    def _opening(self, role: str) -> list[int]:
        if role not in self._roles:
            name, gap = (encoding.ids for encoding in self._encode([role, "\n\n"]))
            self._roles[role] = [
                self._control(HEADER),
                *name,
                self._control(END_HEADER),
                *gap,
            ]
        return self._roles[role]

    def _control(self, token: str) -> int:
        found = self._backend.token_to_id(token)
        if found is None:
            raise InputError(
                f"tokenizer: it has no {token}, so it cannot write dialogues in Llama-3's format; "
                "leave dialogues out, or use a tokenizer that has these tokens"
            )
        return int(found)


def encode_rows(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[dict[str, Any], list[int], list[int] | None]]:
    """Rows with their ids and, for dialogues, the loss mask. BOS and EOS stand around each."""
    encoder = Encoder.of(tokenizer)
    talks = encoder.dialogues([row["segments"] for row in rows if row["kind"] == "chat"])
    texts = encoder.texts([row["text"] for row in rows if row["kind"] != "chat"])
    nth = {"chat": 0, "text": 0}
    for row in rows:
        kind = "chat" if row["kind"] == "chat" else "text"
        encoded, at = (talks if kind == "chat" else texts), nth[kind]
        nth[kind] += 1
        where = slice(int(encoded.starts[at]), int(encoded.starts[at + 1]))
        mask = None if encoded.mask is None else encoded.mask[where].tolist()
        yield row, encoded.ids[where].tolist(), mask


def trained_bytes(row: dict[str, Any]) -> int:
    """UTF-8 bytes of what bits per byte is measured on: the text, or what the assistant says."""
    if row["kind"] == "chat":
        return said_bytes(row["segments"])
    return len(row["text"].encode("utf-8"))


def said_bytes(segments: Sequence[Mapping[str, str]]) -> int:
    """UTF-8 bytes of what the assistant says in a dialogue."""
    said = (turn["text"] for turn in segments if turn["role"] == "assistant")
    return sum(len(text.encode("utf-8")) for text in said)
