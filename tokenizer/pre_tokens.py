"""How a base cuts text into pre-tokens, as one string.

In: the `pre_tokenizer` (and, of SentencePiece's kind, the normalizer) of a `tokenizer.json`. Out: its
regex; and, the other way, the pre-tokenizer that cuts like it, without the step that turns text into
bytes. Where several are applied one after the other (DeepSeek, StarCoder), they are joined by NUL.

The decision: only steps that keep every character and cut the same text always alike are understood.
Others are refused by name, because words would be counted that the tokenizer never sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, pre_tokenizers

from configs.errors import InputError

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PIECE_PATTERN = r"[ ▁]?\p{L}+|\p{N}|[ ▁]?[^\s▁\p{L}\p{N}]+|[\s▁]+"
"""Where new pieces may lie in a SentencePiece base, which has no regex of its own: within a word,
with the space before it, as its own trainer has it."""

_NEXT = "\0"


def splitter(pattern: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of a base's `pattern`: strings come out, not bytes in disguise."""
    steps = [
        pre_tokenizers.Split(Regex(step), behavior="isolated", invert=False)
        for step in pattern.split(_NEXT)
    ]
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


def pattern_of(path: Path, content: dict[str, Any]) -> str:
    """The regex, or regexes, of a tokenizer.json. Raises InputError for what is not understood."""
    if content["model"].get("byte_fallback"):
        return _of_pieces(path, content)
    step = content.get("pre_tokenizer")
    steps = [step] if step else []
    if step and step.get("type") == "Sequence":
        steps = step.get("pretokenizers", [])
    patterns = [_regex(own) for own in steps[:-1]]
    match steps[-1] if steps else None:
        case {"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}:
            patterns.append(GPT2_PATTERN)
        case {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False} if patterns:
            pass
        case _:
            patterns.append(None)
    known = [pattern for pattern in patterns if pattern is not None]
    if len(known) != len(patterns):
        raise InputError(
            f"{path}: its pre-tokenizer is not one regex followed by bytes (as in GPT-2, Llama-3 and "
            "Qwen), nor several of them, so words cannot be counted as it cuts them; give another base"
        )
    return _NEXT.join(known)


def _regex(step: dict[str, Any]) -> str | None:
    match step:
        case {
            "type": "Split",
            "behavior": "Isolated",
            "invert": False,
            "pattern": {"Regex": regex},
        }:
            return str(regex)
        case {"type": "Split", "behavior": "Removed", "invert": True, "pattern": {"Regex": regex}}:
            return str(
                regex
            )  # older conversions of tiktoken's: what matches is kept, all text does
        case {"type": "Digits", "individual_digits": alone}:
            return r"\p{N}" if alone else r"\p{N}+"
    return None


def _of_pieces(path: Path, content: dict[str, Any]) -> str:
    """SentencePiece's kind: nothing but the writing of spaces as ▁ may happen to the text."""
    normalizer, step = content.get("normalizer"), content.get("pre_tokenizer")
    rules = [normalizer] if normalizer else []
    if normalizer and normalizer.get("type") == "Sequence":
        rules = normalizer.get("normalizers", [])
    plain = all(rule.get("type") in ("Prepend", "Replace") for rule in rules)
    kind = step.get("type") if step else None
    if not plain or kind not in (None, "Metaspace", "Split"):
        raise InputError(
            f"{path}: a tokenizer of SentencePiece's kind that changes text before it is cut "
            f"(normalizer {normalizer}, pre-tokenizer {kind}); give a base such as Llama-2's"
        )
    return PIECE_PATTERN
