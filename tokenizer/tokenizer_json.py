"""A `tokenizer.json` → its content, checked, and the tokenizer.

In: the file of a BPE with a token for every byte. Out: the mapping, with its added tokens in
`model.vocab` and its merges as pairs; or an InputError that names the file and what is wrong with it.
`tokenizers` loads much that would go wrong later: two tokens of one id, ids far beyond any model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from configs.errors import InputError
from tokenizer.byte_letters import alphabet
from tokenizer.piece_model import byte_pieces

MOST_IDS = 1 << 24
"""Ids beyond this are taken for damage: no model has as many rows, and each costs memory here."""


def read_mapping(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); fetch the file again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object; fetch the file again")
    return value


def named(token: object) -> str | None:
    """A special token as the configs write it: a string, or a mapping with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def load_definition(path: Path, content: dict[str, Any]) -> Tokenizer:
    """Check that it is a BPE with all bytes and load it; its added tokens go into the vocabulary."""
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise InputError(
            f"{path}: not the tokenizer.json of a BPE (no model.vocab mapping); "
            "give a byte-level BPE tokenizer such as Llama-3's"
        )
    kind, by_pieces = model.get("type", "BPE"), bool(model.get("byte_fallback"))
    bytes_of = byte_pieces() if by_pieces else alphabet()
    lacking = sum(letter not in model["vocab"] for letter in bytes_of)
    if kind != "BPE" or lacking:
        raise InputError(
            f"{path}: {kind} tokenizer, not a byte-level BPE "
            f"({lacking} of 256 bytes have no token); give one such as Llama-3's"
        )
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise InputError(
                f"{path}: model.{option} is {model[option]!r}, so text is not cut by its merges alone; "
                "give a base without it"
            )
    _join_added(path, content, model["vocab"])
    try:
        # Old files write a merge as "left right"; a token holds no space there.
        model["merges"] = [
            merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]
        ]
    except (KeyError, TypeError):
        raise InputError(f"{path}: model.merges is damaged; fetch the file again") from None
    return loaded(path, content)


def _join_added(path: Path, content: dict[str, Any], vocab: dict[str, Any]) -> None:
    """Put the added tokens into the vocabulary, and hold that each id is one token's."""
    try:
        for token in content.setdefault("added_tokens", []):
            text, index = str(token["content"]), int(token["id"])
            if vocab.setdefault(text, index) != index:
                raise InputError(
                    f"{path}: {text!r} is {index} in added_tokens and {vocab[text]} in model.vocab; "
                    "fetch the file again"
                )
        sizes = len(set(vocab.values())), len(vocab), max(int(index) for index in vocab.values())
        lowest = min(vocab.values())
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged vocabulary ({error!r}); fetch it again") from None
    if sizes[0] != sizes[1]:
        raise InputError(f"{path}: {sizes[1] - sizes[0]} ids belong to two tokens; fetch it again")
    if lowest < 0 or sizes[2] >= MOST_IDS:
        raise InputError(
            f"{path}: ids from {lowest} to {sizes[2]}; an id is at least 0 and below {MOST_IDS:,}: "
            "fetch the file again"
        )


def loaded(path: Path, content: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # tokenizers raises a bare Exception for every defect of the file
        raise InputError(f"{path}: tokenizers cannot load it ({error}); fetch it again") from None
