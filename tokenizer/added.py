"""Words as they reach the merges, where a base has Korean words as AddedTokens.

In: counted words and a base. Out: the words cut at the base's added tokens, which are taken out of a
text before its regex runs. Many Korean models were made with `add_tokens`; without this the merges
would be learned on words that never get there, and their first tokens would copy the added ones.
"""

from __future__ import annotations

import numpy as np
import regex

from tokenizer.base import Base
from tokenizer.bpe import Longs

_SYLLABLE = regex.compile("[가-힣]")


def added_words(base: Base) -> list[str]:
    """The base's added tokens that contain a Hangul syllable, longest first."""
    contents = [token["content"] for token in base.definition["added_tokens"]]
    return sorted(filter(_SYLLABLE.search, contents), key=lambda own: (-len(own), own))


def cut_at_added(base: Base, words: list[str], weights: Longs) -> tuple[list[str], Longs]:
    """Words and weights [words] as they are once the added tokens are taken out; sorted, distinct."""
    added = added_words(base)
    if not added:
        return words, weights
    # `|` takes the first alternative that fits, and the longest stand first, as `tokenizers` does.
    found = regex.compile("|".join(regex.escape(word) for word in added))
    left: dict[str, int] = {}
    for word, weight in zip(words, weights.tolist(), strict=True):
        for part in found.split(word):
            if _SYLLABLE.search(part):
                left[part] = left.get(part, 0) + weight
    rest = sorted(left)
    return rest, np.array([left[word] for word in rest], np.int64)
