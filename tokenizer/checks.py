"""The gates: what must hold of a tokenizer before it is written.

In: the tokenizer as a reader will see it (saved, and loaded again by transformers), the base, and
texts. Each gate returns figures for the report, often none, or raises `GateFailed` with an example.
`pass_gates` runs them all. `facts` of the eleven: Llama-3's 256 special ids survive saving, text
comes back byte for byte, no text without Hangul is cut differently, nothing of the base moves.

The padding of embedding rows belongs to the model (`pretrain/weights/embeddings.py`); here only that the ids
are 0 … vocab_size − 1, so that a model of vocab_size rows has one for each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

from tokenizers import Tokenizer

from configs.errors import InputError
from configs.progress import Log, Progress, silent
from tokenizer import samples
from tokenizer.base import Base
from tokenizer.bpe import Learned, has_hangul_lead
from tokenizer.chat import END, plain_ids, render_dialogue
from tokenizer.write import chat_template

_LEADS = re.compile("[가-\ud7bf]")
_MIXED = re.compile(r"[^\W가-힣ㄱ-ㆎᄀ-ᇿ_]")
_DIALOGUE = (
    {"role": "system", "text": "You are a careful assistant."},
    {"role": "user", "text": "Say <hello> in 3 words; don't\n\nadd more."},
    {"role": "assistant", "text": "Hello there, friend!"},
    {"role": "user", "text": "감사합니다."},
    {"role": "assistant", "text": "천만에요, 또 물어보세요."},
)


class GateFailed(InputError):
    """A gate found a case that breaks its promise; nothing has been written."""

    def __init__(self, gate: str, example: str) -> None:
        self.gate = gate
        self.example = example
        super().__init__(
            f"tokenizer: the gate {gate} failed, so nothing was written: {example}; "
            "try another base, or report this with the example"
        )


@dataclass(frozen=True)
class Candidate:
    """A tokenizer at the gates.

    saved: what transformers loaded from the folder. learned: what was added, of `asked` tokens.
    texts: held-out text of any kind.
    """

    base: Base
    saved: Any
    learned: Learned
    asked: int
    texts: Sequence[str] = field(repr=False)

    @cached_property
    def backend(self) -> Tokenizer:
        return self.saved.backend_tokenizer

    @cached_property
    def definition(self) -> dict[str, Any]:
        """`tokenizer.json` as the loaded tokenizer would write it."""
        return dict(json.loads(self.backend.to_str()))

    @cached_property
    def without_hangul(self) -> list[str]:
        lines = (line for text in self.texts for line in text.splitlines(keepends=True))
        own = (line for line in lines if line.strip() and not _LEADS.search(line))
        return [*samples.without_hangul(), *_joined(own)]

    @cached_property
    def vocab(self) -> dict[str, int]:
        return dict(self.backend.get_vocab(with_added_tokens=True))


def _joined(lines: Iterable[str], size: int = 2000) -> list[str]:
    """Lines in strings of about `size` characters, in order: fewer calls for the same text."""
    texts: list[str] = []
    part: list[str] = []
    length = 0
    for line in lines:
        part.append(line)
        length += len(line)
        if length >= size:
            texts.append("".join(part))
            part, length = [], 0
    return [*texts, "".join(part)] if part else texts


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def special_ids(candidate: Candidate) -> None:
    """1. Every added token of the base has its id after save and load, in text too."""
    for token in candidate.base.definition["added_tokens"]:
        content, index = token["content"], token["id"]
        found = candidate.backend.token_to_id(content)
        cut = candidate.backend.encode(content, add_special_tokens=False).ids
        if found != index or cut != [index]:
            raise GateFailed("special_ids", f"{content} was {index}, is {found} and is cut {cut}")
        beside = candidate.backend.encode(f"가{content}나", add_special_tokens=False).ids
        if index not in beside:
            raise GateFailed("special_ids", f"가{content}나 is cut {beside}, without {index}")


def round_trip(candidate: Candidate) -> None:
    """2. decode(encode(text)) is the text, byte for byte, on held-out and generated text.

    And decode(ids) is the text of the tokens' bytes, whatever ids a model produces.
    """
    texts = [*candidate.texts, *samples.without_hangul(), *samples.with_hangul()]
    ids = _ids(candidate.backend, texts)
    decoded = candidate.backend.decode_batch(ids, skip_special_tokens=False)
    for text, after in zip(texts, decoded, strict=True):
        before = candidate.base.comes_back(text)
        if before != after:
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
            raise GateFailed(
                "round_trip", f"{before[at : at + 20]!r} came back as {after[at : at + 20]!r}"
            )
    # The first four through transformers as well: it may have ideas of its own about spaces.
    for text in [*candidate.texts[:2], "I 'm here . 예 , 좋아요 !", "a  b\n\n c"]:
        before = candidate.base.comes_back(text)
        after = candidate.saved.decode(candidate.saved.encode(text, add_special_tokens=False))
        if before != after:
            raise GateFailed("round_trip", f"transformers: {before[:60]!r} became {after[:60]!r}")
    _broken_bytes(candidate)


def _broken_bytes(candidate: Candidate) -> None:
    if candidate.base.by_pieces:
        return  # pieces are whole characters: only the base's byte pieces can be broken UTF-8
    content = [*candidate.base.tokens(), *candidate.learned.tokens]
    sequences = samples.broken_ids(content, candidate.base.vocab_size)
    decoded = candidate.backend.decode_batch(sequences, skip_special_tokens=False)
    for ids, after in zip(sequences, decoded, strict=True):
        expected = candidate.base.shown(b"".join(content[index] for index in ids))
        if after != expected:
            raise GateFailed("round_trip", f"ids {ids} are {expected!r}, decoded to {after!r}")


def reachable(candidate: Candidate) -> None:
    """3. Every new token is what the merges alone make of its bytes."""
    model = candidate.backend.model
    ignored = model.ignore_merges
    model.ignore_merges = False
    try:
        for index, data in enumerate(candidate.learned.tokens, candidate.learned.first_id):
            cut = [piece.id for piece in model.tokenize(candidate.base.spelled(data))]
            if cut != [index]:
                raise GateFailed("reachable", f"token {index} {data!r} is cut into {cut}")
    finally:
        model.ignore_merges = ignored


def other_scripts(candidate: Candidate) -> dict[str, int]:
    """4. Text without Hangul has the ids it had."""
    texts = candidate.without_hangul
    before, after = _ids(candidate.base.tokenizer, texts), _ids(candidate.backend, texts)
    for text, old, new in zip(texts, before, after, strict=True):
        if old != new:
            at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
            raise GateFailed(
                "other_scripts", f"{text[:60]!r}: {old[at : at + 5]} became {new[at : at + 5]}"
            )
    return {"characters_without_hangul": sum(map(len, texts))}


def hangul_only(candidate: Candidate) -> dict[str, int]:
    """5. Every new token holds a Hangul lead; how many are cut in a character, or mixed."""
    partial = mixed = 0
    for index, data in enumerate(candidate.learned.tokens, candidate.learned.first_id):
        if not has_hangul_lead(data):
            raise GateFailed("hangul_only", f"token {index} {data!r} holds no Hangul")
        text = data.decode("utf-8", "ignore")
        partial += text.encode() != data
        mixed += bool(_MIXED.search(text))
    return {"partial_characters": partial, "mixed_scripts": mixed}


def base_kept(candidate: Candidate) -> None:
    """6. New ids follow the base's without a gap; its tokens and merges are untouched."""
    old, learned = candidate.base.definition["model"], candidate.learned
    for token, index in old["vocab"].items():
        if candidate.vocab.get(token) != index:
            raise GateFailed("base_kept", f"{token!r} was {index}, is {candidate.vocab.get(token)}")
    for index, data in enumerate(learned.tokens, candidate.base.vocab_size):
        if candidate.vocab.get(candidate.base.spelled(data)) != index:
            raise GateFailed("base_kept", f"{data!r} should have id {index}")
    merges = candidate.definition["model"]["merges"]
    if merges[: len(old["merges"])] != old["merges"]:
        raise GateFailed("base_kept", "the base's merges are not the first ones")
    text = {index: token for token, index in candidate.vocab.items()}
    new = [[text.get(left), text.get(right)] for left, right, _ in learned.merges]
    if merges[len(old["merges"]) :] != new:
        pairs = zip_longest(merges[len(old["merges"]) :], new)
        found, expected = next((a, b) for a, b in pairs if a != b)
        raise GateFailed("base_kept", f"a new merge is {found}, should be {expected}")


def clean_stop(candidate: Candidate) -> None:
    """7. As many tokens as asked, or fewer only because no pair was left."""
    learned = candidate.learned
    if len(learned.tokens) != candidate.asked and not learned.exhausted:
        raise GateFailed("clean_stop", f"{len(learned.tokens)} tokens of {candidate.asked}")
    if len(set(learned.tokens)) != len(learned.tokens):
        raise GateFailed("clean_stop", "two new tokens have the same bytes")


def no_added_subwords(candidate: Candidate) -> None:
    """8. No new token is an AddedToken."""
    before = candidate.base.definition["added_tokens"]
    after = candidate.definition["added_tokens"]
    if before != after:
        changed = [token["content"] for token in after if token not in before]
        raise GateFailed("no_added_subwords", f"added tokens differ: {changed[:5]}")


def vocabulary_size(candidate: Candidate) -> None:
    """9. len(tokenizer) is the largest id + 1: a model of that many rows has one for each."""
    size = candidate.base.vocab_size + len(candidate.learned.tokens)
    largest = max(candidate.vocab.values())
    gaps = candidate.base.vocab_size - len(candidate.base.definition["model"]["vocab"])
    if largest + 1 != size or len(candidate.saved) != size - gaps:
        raise GateFailed(
            "vocabulary_size",
            f"largest id {largest}, len {len(candidate.saved)}, expected {size} tokens",
        )


def pre_tokenizer_kept(candidate: Candidate) -> None:
    """10. Regex, normalizer, decoder and post-processor are the base's (llama.cpp knows them)."""
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        before, after = candidate.base.definition.get(part), candidate.definition.get(part)
        if after and after["type"] == "TemplateProcessing" and not after["special_tokens"]:
            after = before and after  # transformers loads "none" as a template that adds nothing
        if before != after:
            raise GateFailed("pre_tokenizer_kept", f"{part} was {before}, is {after}")


def chat_format(candidate: Candidate) -> None:
    """11. A dialogue's control ids and English are the base's, and text forges no control token."""
    if chat_template(candidate.base) is None or candidate.base.tokenizer.token_to_id(END) is None:
        return
    messages = [{"role": turn["role"], "content": turn["text"]} for turn in _DIALOGUE]
    rendered = candidate.saved.apply_chat_template(messages[:3], tokenize=False)
    before = candidate.base.tokenizer.encode(rendered, add_special_tokens=False).ids
    ids, _ = render_dialogue(candidate.saved, _DIALOGUE[:3])
    if ids != before:
        raise GateFailed("chat_format", f"{rendered[:80]!r}: {before[:12]} became {ids[:12]}")
    whole = candidate.saved.apply_chat_template(messages, tokenize=True, return_dict=False)
    if render_dialogue(candidate.saved, _DIALOGUE)[0] != whole:
        raise GateFailed("chat_format", "apply_chat_template and render_dialogue differ")
    for token in candidate.base.definition["added_tokens"]:
        if token["special"] and token["id"] in plain_ids(candidate.saved, token["content"]):
            raise GateFailed("chat_format", f"a user who writes {token['content']} forges it")


GATES: tuple[Callable[[Candidate], dict[str, int] | None], ...] = (
    special_ids,
    round_trip,
    reachable,
    other_scripts,
    hangul_only,
    base_kept,
    clean_stop,
    no_added_subwords,
    vocabulary_size,
    pre_tokenizer_kept,
    chat_format,
)


def pass_gates(candidate: Candidate, *, log: Log = silent) -> tuple[dict[str, str], dict[str, int]]:
    """Run every gate. Returns {gate: "passed"} and the figures. Raises GateFailed at the first."""
    figures: dict[str, int] = {}
    for index, gate in enumerate(GATES):
        log(Progress("tokenizer", "check", index, len(GATES), "gates", gate.__name__))
        figures.update(gate(candidate) or {})
    log(Progress("tokenizer", "check", len(GATES), len(GATES), "gates"))
    return {gate.__name__: "passed" for gate in GATES}, figures
