"""How long documents are and what they are written in: counts that are cheap enough to take of all.

In: texts in Arrow. Out: documents by length in powers of two, letters by writing system. One walk over
the UTF-8 bytes at about the speed of memory, without decoding: the first byte or two of a character say
which writing system it is of.

The decision: letters, not documents, are counted. A language model per document would have to choose
one for a Korean page with English code; the share of letters says what is there, and adds up.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from numpy.typing import NDArray

SCRIPTS = ("hangul", "latin", "han", "kana", "other")

_HANGUL, _LATIN, _HAN, _KANA, _OTHER = range(5)


def count_lengths(counts: dict[str, int], characters: pa.Array) -> None:
    """Add documents to {fewest characters of a bin: documents}; a bin ends where they have doubled."""
    sizes = np.maximum(pc.fill_null(characters, 0).to_numpy(zero_copy_only=False), 1)
    bins = np.bincount(np.frexp(sizes.astype(np.float64))[1] - 1)
    for power in np.flatnonzero(bins).tolist():
        counts[str(1 << power)] = counts.get(str(1 << power), 0) + int(bins[power])


def count_scripts(counts: dict[str, int], texts: pa.LargeStringArray) -> None:
    """Add the letters of the texts to {writing system: letters}, by the names of SCRIPTS."""
    if not len(texts):
        return
    _, ends, data = texts.buffers()
    places = np.frombuffer(ends, np.int64, len(texts) + 1, 8 * texts.offset)
    if data is None or places[0] == places[-1]:
        return
    found = _letters(np.frombuffer(data, np.uint8)[places[0] : places[-1]])
    for name, letters in zip(SCRIPTS, found.tolist(), strict=True):
        if letters:
            counts[name] = counts.get(name, 0) + letters


@njit(nogil=True, cache=True)
def _letters(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Letters of each writing system in valid UTF-8."""
    found = np.zeros(5, np.int64)
    size = len(data)
    at = 0
    while at < size:
        byte = data[at]
        if byte < 0x80:
            if 97 <= (byte | 32) <= 122:
                found[_LATIN] += 1
            at += 1
        elif byte < 0xE0:  # U+0080–07FF
            if 0xC3 <= byte <= 0xC9:
                found[_LATIN] += 1
            elif byte >= 0xCD:
                found[_OTHER] += 1
            at += 2
        elif byte < 0xF0:
            next_byte = data[at + 1] if at + 1 < size else np.uint8(0)
            if 0xEB <= byte <= 0xED or (byte == 0xEA and next_byte >= 0xB0):
                found[_HANGUL] += 1  # U+AC00–D7FF
            elif 0xE4 <= byte <= 0xE9:
                found[_HAN] += 1
            elif byte == 0xE3:  # U+3000–3FFF: marks, kana, single jamo, marks, rare Han
                if 0x81 <= next_byte <= 0x83:
                    found[_KANA] += 1
                elif 0x84 <= next_byte <= 0x86:
                    found[_HANGUL] += 1
                elif next_byte >= 0x90:
                    found[_HAN] += 1
            elif byte == 0xE1:
                found[_HANGUL if 0x84 <= next_byte <= 0x87 else _OTHER] += 1
            elif byte == 0xE0 or byte == 0xEA:
                found[_OTHER] += 1
            elif byte == 0xEF and 0xA4 <= next_byte <= 0xAB:
                found[_HAN] += 1
            at += 3
        else:
            if byte == 0xF0 and at + 1 < size and data[at + 1] >= 0xA0:
                found[_HAN] += 1  # U+20000 and on
            at += 4
    return found
