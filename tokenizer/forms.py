"""The other forms of a tokenizer cut as tokenizer.json does: checked with the libraries they are for.

In: a written folder and the texts of the gates. Out: how many texts were compared. tiktoken reads
`original/`, SentencePiece reads `tokenizer.model`.

The decision: text on which the *base's* two forms differ already is left out and counted. Their regex
engines have Unicode tables of different years (tiktoken), and control tokens in a text are only
known to one of them (SentencePiece); neither can be mended by whoever adds tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizer import samples
from tokenizer.base import Base
from tokenizer.bpe import Learned
from tokenizer.checks import Candidate, GateFailed
from tokenizer.pieces import MODEL_FILE
from tokenizer.ranks import RANKS_FILES, load_encoding, write_ranks

CHARACTERS = 2_000_000
"""Most text that is compared, of what is held out; generated text comes on top."""

Cut = Callable[[str], list[int]]


def check_forms(folder: Path, candidate: Candidate) -> dict[str, int]:
    """Compare each form in `folder` with the candidate. Raises GateFailed with the text that differs.

    Returns texts_compared, and texts_left_out where there are some; nothing where there is no other
    form, or its library is missing.
    """
    base = candidate.base
    forms: list[tuple[str, Cut, Callable[[], Cut]]] = []
    if (folder / RANKS_FILES[0]).is_file() and importlib.util.find_spec("tiktoken"):
        forms.append(("tiktoken", _tiktoken(folder), lambda: _base_tiktoken(folder, base)))
    if (folder / MODEL_FILE).is_file():
        data = (folder / MODEL_FILE).read_bytes()
        model = base.piece_model
        forms.append(
            ("sentencepiece", _pieces(data), lambda: _pieces(model.data if model else data))
        )
    figures: dict[str, int] = {}
    for name, cut, cut_of_base in forms:
        texts = [*_some(candidate.texts), *samples.with_hangul(), *candidate.without_hangul]
        compared, left_out = _compare(name, candidate, texts, cut, cut_of_base)
        figures["texts_compared"] = compared
        if left_out:
            figures["texts_left_out"] = left_out
    return figures


def _some(texts: Iterable[str]) -> list[str]:
    kept, left = [], CHARACTERS
    for text in texts:
        left -= len(text)
        if left < 0:
            break
        kept.append(text)
    return kept


def _compare(
    name: str, candidate: Candidate, texts: list[str], cut: Cut, cut_of_base: Callable[[], Cut]
) -> tuple[int, int]:
    encodings = candidate.backend.encode_batch_fast(texts, add_special_tokens=False)
    other: Cut | None = None
    left_out = 0
    for text, encoding in zip(texts, encodings, strict=True):
        found = cut(text)
        if found == encoding.ids:
            continue
        other = other or cut_of_base()
        before = candidate.base.tokenizer.encode(text, add_special_tokens=False).ids
        if other(text) != before:
            left_out += 1
            continue
        pairs = zip(encoding.ids, found, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
        raise GateFailed(
            "other_forms",
            f"{name} cuts {text[:60]!r} into {found[at : at + 5]} where tokenizer.json has "
            f"{encoding.ids[at : at + 5]}",
        )
    return len(texts) - left_out, left_out


def _tiktoken(folder: Path) -> Cut:
    encoding = load_encoding(folder)
    return lambda text: encoding.encode(text, allowed_special="all")


def _base_tiktoken(folder: Path, base: Base) -> Cut:
    own = folder / ".base"
    write_ranks(own, base, Learned(base.vocab_size, [], [], [], False))
    try:
        return _tiktoken(own)
    finally:
        for name in RANKS_FILES:
            (own / name).unlink()
        (own / RANKS_FILES[0]).parent.rmdir()
        own.rmdir()


def _pieces(data: bytes) -> Cut:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=data).encode
