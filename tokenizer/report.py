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
from dataclasses import asdict, dataclass, field
from itertools import islice, zip_longest
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tokenizer.base import token_bytes
from tokenizer.words import PreTokens

_HANGUL = re.compile("[가-힣]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
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


def count_tokens(tokenizer: Tokenizer, counts: Counter[str]) -> int:
    """Tokens that the counted strings cost."""
    words = list(counts)
    encodings = tokenizer.encode_batch_fast(words, add_special_tokens=False)
    return sum(
        len(encoding.ids) * counts[word] for encoding, word in zip(encodings, words, strict=True)
    )


def eojeols_of(pieces: Iterable[str]) -> Counter[str]:
    """Counts of the pieces with Hangul, each with the space it has before it in a text."""
    return Counter(" " + piece for piece in pieces if _HANGUL.search(piece))


def share_saved(before: float, after: float) -> float | None:
    """The share of `before` that `after` does without; None where there was nothing."""
    return round(1 - after / before, 4) if before else None


@dataclass(frozen=True)
class Prepared:
    """Texts of one source under the base. words: with Hangul; eojeols: with Hangul, pieces: of all.

    tokens, eojeol_tokens, all_tokens: on the words, on the eojeols, on the whole text.
    """

    texts: Sequence[str] = field(repr=False)
    words: Counter[str] = field(repr=False)
    eojeols: Counter[str] = field(repr=False)
    pieces: int
    tokens: int
    eojeol_tokens: int
    all_tokens: int

    @property
    def korean(self) -> bool:
        """Whether the source counts in the means."""
        return bool(self.pieces) and self.eojeols.total() / self.pieces >= KOREAN_SHARE

    @property
    def syllables(self) -> int:
        """Hangul syllables of the text."""
        return sum(len(_HANGUL.findall(word)) * count for word, count in self.words.items())


def prepare(
    before: Tokenizer, pre_tokens: PreTokens, texts: Mapping[str, Sequence[str]]
) -> dict[str, Prepared]:
    """What is the same for every tokenizer that extends `before`; texts: source → documents."""
    prepared = {}
    for name, own in sorted(texts.items()):
        words = pre_tokens.count(own)
        pieces = [piece for text in own for piece in text.split()]
        eojeols = eojeols_of(pieces)
        spent = count_tokens(before, words), count_tokens(before, eojeols)
        everything = sum(map(len, _ids(before, own)))
        prepared[name] = Prepared(own, words, eojeols, len(pieces), *spent, everything)
    return prepared


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


@dataclass(frozen=True)
class Figures:
    """All sources: shares of tokens saved and fertility are means over the Korean sources.

    uses: how often each new token was used on all the texts, [new tokens].
    """

    heldout: dict[str, dict[str, Any]]
    tokens_saved: float | None
    all_tokens_saved: float | None
    fertility_before: float | None
    fertility_after: float | None
    uses: list[int] = field(repr=False)


def measure(after: Tokenizer, prepared: Mapping[str, Prepared], first_id: int = 0) -> Figures:
    """Measure an extended tokenizer on every source (`prepare`); first_id: of its new tokens."""
    sources = {}
    uses = np.zeros(max(after.get_vocab_size() - first_id, 0), np.int64)
    for name, own in prepared.items():
        ids = [np.array(one, np.int64) for one in _ids(after, own.texts)]
        for one in ids:
            uses += np.bincount(one[one >= first_id] - first_id, minlength=len(uses))
        sources[name] = _figures(after, own, sum(map(len, ids)))
    korean = [figures for figures in sources.values() if figures.korean]
    return Figures(
        heldout={name: asdict(figures) for name, figures in sources.items()},
        tokens_saved=_mean([figures.saved for figures in korean]),
        all_tokens_saved=_mean(
            [share_saved(own.all_tokens_before, own.all_tokens_after) for own in korean]
        ),
        fertility_before=_mean([figures.fertility_before for figures in korean]),
        fertility_after=_mean([figures.fertility_after for figures in korean]),
        uses=uses.tolist(),
    )


def _figures(after: Tokenizer, own: Prepared, all_tokens: int) -> SourceFigures:
    number = own.eojeols.total()
    tokens = count_tokens(after, own.words)
    return SourceFigures(
        documents=len(own.texts),
        characters=sum(map(len, own.texts)),
        words=own.words.total(),
        tokens_before=own.tokens,
        tokens_after=tokens,
        saved=share_saved(own.tokens, tokens),
        all_tokens_before=own.all_tokens,
        all_tokens_after=all_tokens,
        eojeols=number,
        fertility_before=round(own.eojeol_tokens / number, 4) if number else None,
        fertility_after=round(count_tokens(after, own.eojeols) / number, 4) if number else None,
        korean=own.korean,
    )


def usage(uses: Sequence[int], first_id: int, shown: int = 60) -> dict[str, Any] | None:
    """How the new tokens were used: the share of them never used, in all and by tenths of their rank
    (the first learned first), and the commonest with their counts. None where there are none.
    """
    if not uses:
        return None
    never = np.array(uses) == 0
    tenths = [part for part in np.array_split(never, 10) if len(part)]
    order = sorted(range(len(uses)), key=lambda index: (-uses[index], index))
    return {
        "never_used": round(float(never.mean()), 4),
        "never_used_by_tenth": [round(float(part.mean()), 4) for part in tenths],
        "commonest": [[first_id + index, uses[index]] for index in order[:shown] if uses[index]],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None


def segments(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text as the tokenizer cuts it; a token that ends inside a character shows its bytes.

    Tokens are shown as text for byte-level and SentencePiece's kind, as they are for any other.
    """
    shown = _shown_bytes if "ByteLevel" in str(tokenizer.decoder) else _shown_piece
    return [shown(token) for token in tokenizer.encode(text, add_special_tokens=False).tokens]


def _shown_bytes(token: str) -> str:
    try:
        data = token_bytes(token)
    except KeyError:  # an added token is its own text
        return token
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"⟨{data.hex(' ')}⟩"


def _shown_piece(token: str) -> str:
    byte = _BYTE_PIECE.fullmatch(token)
    return f"⟨{byte[1].lower()}⟩" if byte else token.replace("▁", " ")


def choose_sentences(
    before: Tokenizer,
    after: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    saved: Mapping[str, float],
    count: int = 10,
) -> list[dict[str, Any]]:
    """Plain Korean sentences, cut both ways; the same ones for the same base and texts.

    saved: share of tokens saved, by source. Sources take turns, each with the sentence whose own
    saving is the nearest to the source's: typical ones, not the best.
    """
    ranked = {
        name: _typical(before, after, own, saved[name])
        for name, own in sorted(texts.items())
        if name in saved
    }
    turns = (one for turn in zip_longest(*ranked.values()) for one in turn if one is not None)
    chosen = list(dict.fromkeys(turns))[:count]
    sources = {sentence: name for name, own in reversed(ranked.items()) for sentence in own}
    return [
        {
            "text": text,
            "source": sources[text],
            "before": segments(before, text),
            "after": segments(after, text),
        }
        for text in chosen
    ]


def _typical(
    before: Tokenizer, after: Tokenizer, texts: Sequence[str], saved: float, most: int = 300
) -> list[str]:
    """Sentences of a source, the most typical first, out of the first `most` plain ones."""
    parts = (part.strip() for text in texts for part in _SENTENCE_END.split(text))
    plain = (
        part
        for part in parts
        if 25 <= len(part) <= 60 and _PLAIN.fullmatch(part) and part.count(" ") >= 4
    )
    found = sorted(set(islice(plain, most)))
    spent = [[len(ids) for ids in _ids(tokenizer, found)] for tokenizer in (before, after)]
    ranked = sorted(
        (abs(1 - b / a - saved), sentence) for sentence, a, b in zip(found, *spent, strict=True)
    )
    return [sentence for _, sentence in ranked]
