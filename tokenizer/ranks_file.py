"""A tiktoken ranks file → the tokens and their ranks; and what Llama-3's leaves unsaid.

In: lines of `base64 rank`, as in `llama_models/llama3/tokenizer.model`, or as this project writes them
(`ranks.py`): there the new tokens come after the control tokens, so the ranks have a gap. Out: ranks,
control tokens, regex. Neither the regex nor the control tokens stand in a ranks file; where no
`tiktoken.json` lies beside it, they are Llama-3's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from itertools import pairwise
from pathlib import Path

from configs.errors import InputError

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_RANKS = 128_000
LLAMA3_SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"

_NAMED_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
LLAMA3_SPECIALS = (
    *_NAMED_SPECIALS,
    *(f"<|reserved_special_token_{2 + i}|>" for i in range(256 - len(_NAMED_SPECIALS))),
)


def read_ranks(path: Path) -> tuple[dict[bytes, int], dict[str, int], str]:
    """Ranks of the tokens, ids of the control tokens, and the regex.

    Raises InputError, with the line where there is one, for a file that is damaged or is none.
    """
    data = path.read_bytes()
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise InputError(
                f"{path}:{number}: not a line of a tiktoken ranks file (base64, space, rank): "
                "damaged; fetch the file again"
            ) from None
    lacking = sum(bytes([byte]) not in ranks for byte in range(256))
    ordered = all(before < after for before, after in pairwise(ranks.values()))
    if lacking or not ordered or data.count(b"\n") > len(ranks):
        what = f"{lacking} of the 256 single bytes are missing" if lacking else "ranks out of order"
        raise InputError(f"{path}: {what}: not a whole tiktoken ranks file; fetch it again")
    specials, pattern = _companion(path, ranks)
    _check_digest(path, data, ranks)
    taken = {*ranks.values(), *specials.values()}
    if len(taken) != len(ranks) + len(specials) or taken != set(range(len(taken))):
        raise InputError(
            f"{path}: the ranks have gaps that no control token fills, or some that two share; "
            "give the tokenizer.json, or the tiktoken.json that was written beside the file"
        )
    return ranks, specials, pattern


def _companion(path: Path, ranks: dict[bytes, int]) -> tuple[dict[str, int], str]:
    """Control tokens and regex: of tiktoken.json beside the file, or Llama-3's."""
    beside = path.with_name("tiktoken.json")
    if beside.is_file():
        try:
            kept = json.loads(beside.read_text(encoding="utf-8"))
            specials = {str(token): int(index) for token, index in kept["special_tokens"].items()}
            return specials, str(kept["pat_str"])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{beside}: damaged ({error!r}); write it again") from None
    # The first rank that is missing: after the last one, or where an extended file has its gap.
    first = next((i for i, rank in enumerate(ranks.values()) if i != rank), len(ranks))
    return {token: first + index for index, token in enumerate(LLAMA3_SPECIALS)}, LLAMA3_PATTERN


def _check_digest(path: Path, data: bytes, ranks: dict[bytes, int]) -> None:
    """Llama-3's own lines must be Llama-3's: a flipped bit there would move no rank."""
    gap = len(ranks) > LLAMA3_RANKS and list(ranks.values())[LLAMA3_RANKS] != LLAMA3_RANKS
    if len(ranks) != LLAMA3_RANKS and not gap:
        return
    lines = data.splitlines(keepends=True)[:LLAMA3_RANKS]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    if digest != LLAMA3_SHA256:
        raise InputError(
            f"{path}: damaged: as large as Llama-3's vocabulary but its sha256 is {digest[:12]}…, "
            f"not {LLAMA3_SHA256[:12]}…; fetch it again"
        )
