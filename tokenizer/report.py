"""What the extension is worth: tokens before and after, on text that was not trained on.

In: two tokenizers and texts by source. Out: figures. The measure is tokens spent on words that
contain Hangul, averaged over sources (code and markup in a page do not count either way, and one
large source does not drown the rest); tokens of everything stand beside it. A *word* is a pre-token,
an *eojeol* what stands between white space; fertility is tokens per eojeol with Hangul.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokenizer.base import load_base, token_bytes
from tokenizer.load import load_tokenizer
from tokenizer.words import PreTokens

_HANGUL = re.compile("[가-힣]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_PLAIN = re.compile(r"[가-힣ㄱ-ㆎ ,.!?'\"()·]+")
KOREAN_SHARE = 0.1
"""A source counts in the means where at least this share of its eojeols contains Hangul."""


@dataclass(frozen=True)
class SourceFigures:
    """One source, held out. tokens_*: on words with Hangul; all_tokens_*: on the whole text."""

    documents: int
    characters: int
    words: int
    tokens_before: int
    tokens_after: int
    saved: float | None
    all_tokens_before: int
    all_tokens_after: int
    eojeols: int
    fertility_before: float | None
    fertility_after: float | None
    korean: bool


def _tokens(tokenizer: Tokenizer, counts: Counter[str]) -> int:
    words = list(counts)
    encodings = tokenizer.encode_batch_fast(words, add_special_tokens=False)
    return sum(
        len(encoding.ids) * counts[word] for encoding, word in zip(encodings, words, strict=True)
    )


def _eojeols(pieces: Iterable[str]) -> Counter[str]:
    """Pieces with Hangul, each with the space it has before it in a text."""
    return Counter(" " + piece for piece in pieces if _HANGUL.search(piece))


def _share(before: float, after: float) -> float | None:
    return round(1 - after / before, 4) if before else None


def measure_source(
    before: Tokenizer, after: Tokenizer, pre_tokens: PreTokens, texts: Sequence[str]
) -> SourceFigures:
    """Figures of one source under two tokenizers with the same pre-tokenizer."""
    words = pre_tokens.count(texts)
    pieces = [piece for text in texts for piece in text.split()]
    eojeols = _eojeols(pieces)
    number = eojeols.total()
    spent = [_tokens(tokenizer, words) for tokenizer in (before, after)]
    on_eojeols = [_tokens(tokenizer, eojeols) for tokenizer in (before, after)]
    everything = [
        sum(map(len, tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)))
        for tokenizer in (before, after)
    ]
    return SourceFigures(
        documents=len(texts),
        characters=sum(map(len, texts)),
        words=words.total(),
        tokens_before=spent[0],
        tokens_after=spent[1],
        saved=_share(spent[0], spent[1]),
        all_tokens_before=everything[0],
        all_tokens_after=everything[1],
        eojeols=number,
        fertility_before=round(on_eojeols[0] / number, 4) if number else None,
        fertility_after=round(on_eojeols[1] / number, 4) if number else None,
        korean=bool(pieces) and number / len(pieces) >= KOREAN_SHARE,
    )


@dataclass(frozen=True)
class Figures:
    """All sources: shares of tokens saved and fertility are means over the Korean sources."""

    heldout: dict[str, dict[str, Any]]
    tokens_saved: float | None
    all_tokens_saved: float | None
    fertility_before: float | None
    fertility_after: float | None


def measure(
    before: Tokenizer,
    after: Tokenizer,
    pre_tokens: PreTokens,
    texts: Mapping[str, Sequence[str]],
) -> Figures:
    """Measure every source of `texts` (source → documents)."""
    sources = {
        name: measure_source(before, after, pre_tokens, own) for name, own in sorted(texts.items())
    }
    korean = [figures for figures in sources.values() if figures.korean]
    return Figures(
        heldout={name: asdict(figures) for name, figures in sources.items()},
        tokens_saved=_mean([figures.saved for figures in korean]),
        all_tokens_saved=_mean(
            [_share(own.all_tokens_before, own.all_tokens_after) for own in korean]
        ),
        fertility_before=_mean([figures.fertility_before for figures in korean]),
        fertility_after=_mean([figures.fertility_after for figures in korean]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def segments(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text as the tokenizer cuts it; a token that ends inside a character shows its bytes."""
    shown = []
    for token in tokenizer.encode(text, add_special_tokens=False).tokens:
        try:
            data = token_bytes(token)
        except KeyError:  # not byte-level: the token is its own text
            shown.append(token)
            continue
        try:
            shown.append(data.decode())
        except UnicodeDecodeError:
            shown.append(f"⟨{data.hex(' ')}⟩")
    return shown


def choose_example(
    before: Tokenizer, after: Tokenizer, texts: Mapping[str, Sequence[str]], saved: float
) -> dict[str, Any] | None:
    """A plain Korean sentence whose saving is the nearest to `saved`: typical, not the best one."""
    best: tuple[float, str] | None = None
    for _, own in sorted(texts.items()):
        seen = 0
        for sentence in (part.strip() for text in own for part in _SENTENCE_END.split(text)):
            if not 25 <= len(sentence) <= 60 or not _PLAIN.fullmatch(sentence):
                continue
            if sentence.count(" ") < 4:
                continue
            tokens = [
                len(tokenizer.encode(sentence, add_special_tokens=False))
                for tokenizer in (before, after)
            ]
            distance = abs(1 - tokens[1] / tokens[0] - saved)
            if best is None or (distance, sentence) < best:
                best = (distance, sentence)
            seen += 1
            if seen == 200:
                break
    if best is None:
        return None
    text = best[1]
    return {"text": text, "before": segments(before, text), "after": segments(after, text)}


@dataclass(frozen=True)
class Compared:
    """One text under two tokenizers: its segments."""

    text: str
    a: list[str]
    b: list[str]


@dataclass(frozen=True)
class Comparison:
    """Two tokenizers side by side; `texts` in the order given.

    fertility_*: tokens per eojeol with Hangul, over all texts; None where there is none.
    """

    vocab_size_a: int
    vocab_size_b: int
    tokens_a: int
    tokens_b: int
    fertility_a: float | None
    fertility_b: float | None
    texts: list[Compared]

    @property
    def saved(self) -> float | None:
        """Share of a's tokens that b does without."""
        return _share(self.tokens_a, self.tokens_b)


def compare(a: str, b: str, texts: Sequence[str]) -> Comparison:
    """Cut texts with two tokenizers, each `llama3`, a folder, a tiktoken file or a hub id.

    Lone surrogates (a terminal's broken input) become U+FFFD. Raises InputError where a tokenizer
    cannot be loaded.
    """
    tokenizers = [_any_tokenizer(name) for name in (a, b)]
    compared = []
    for text in texts:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        compared.append(Compared(whole, *(segments(tokenizer, whole) for tokenizer in tokenizers)))
    eojeols = _eojeols(piece for one in compared for piece in one.text.split())
    number = eojeols.total()
    fertility = [
        round(_tokens(tokenizer, eojeols) / number, 4) if number else None
        for tokenizer in tokenizers
    ]
    return Comparison(
        vocab_size_a=tokenizers[0].get_vocab_size(),
        vocab_size_b=tokenizers[1].get_vocab_size(),
        tokens_a=sum(len(one.a) for one in compared),
        tokens_b=sum(len(one.b) for one in compared),
        fertility_a=fertility[0],
        fertility_b=fertility[1],
        texts=compared,
    )


def _any_tokenizer(name: str) -> Tokenizer:
    """Base tokenizers load as such; anything else transformers can load works too."""
    path = Path(name)
    if name == "llama3" or path.is_file() or (path / "tokenizer.model").is_file():
        return load_base(name).tokenizer
    return load_tokenizer(name).backend_tokenizer
