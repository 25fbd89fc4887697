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


_BLOCK = 1 << 15  # bytes whose letters sixteen bits can count


@njit(nogil=True, cache=True)
def _letters(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Letters of each writing system in valid UTF-8."""
    found = np.zeros(5, np.int64)
    last = len(data) - 1
    for at in range(0, last, _BLOCK):
        end = min(at + _BLOCK, last)
        latin, han, hangul, kana, other = _count(data[at:end], data[at + 1 : end + 1])
        found[_LATIN] += latin
        found[_HAN] += han
        found[_HANGUL] += hangul
        found[_KANA] += kana
        found[_OTHER] += other
    if last >= 0 and 97 <= (data[last] | 32) <= 122:
        found[_LATIN] += 1
    return found


@njit(nogil=True, cache=True)
def _count(data, ahead):  # type: ignore[no-untyped-def]
    """Looks at each byte and the next, which is enough: those inside a character fit none of the
    ranges of first bytes. Compares without a branch, of which LLVM makes vectors."""
    latin = han = hangul = kana = other = np.uint16(0)
    for i in range(len(data)):
        byte, after = data[i], ahead[i]
        three, one, wide = np.uint8(byte == 0xE3), np.uint8(byte == 0xE1), np.uint8(byte == 0xEA)
        syllable = np.uint8(after >= 0xB0)
        old = np.uint8(after >= 0x84) & np.uint8(after <= 0x87)
        small = byte | np.uint8(32)
        is_latin = (np.uint8(small >= 97) & np.uint8(small <= 122)) | (
            np.uint8(byte >= 0xC3) & np.uint8(byte <= 0xC9)
        )
        is_hangul = (  # U+AC00–D7FF, U+3100–31BF, U+1100–11FF
            (np.uint8(byte >= 0xEB) & np.uint8(byte <= 0xED))
            | (wide & syllable)
            | (three & np.uint8(after >= 0x84) & np.uint8(after <= 0x86))
            | (one & old)
        )
        is_han = (  # U+4000–9FFF, U+3400–3FFF, U+F900–FAFF, U+20000 and on
            (np.uint8(byte >= 0xE4) & np.uint8(byte <= 0xE9))
            | (three & np.uint8(after >= 0x90))
            | (np.uint8(byte == 0xEF) & np.uint8(after >= 0xA4) & np.uint8(after <= 0xAB))
            | (np.uint8(byte == 0xF0) & np.uint8(after >= 0xA0))
        )
        is_kana = three & np.uint8(after >= 0x81) & np.uint8(after <= 0x83)
        is_other = (
            (np.uint8(byte >= 0xCD) & np.uint8(byte <= 0xE0))
            | (wide & (syllable ^ np.uint8(1)))
            | (one & (old ^ np.uint8(1)))
        )
        latin = np.uint16(latin + is_latin)
        hangul = np.uint16(hangul + is_hangul)
        han = np.uint16(han + is_han)
        kana = np.uint16(kana + is_kana)
        other = np.uint16(other + is_other)
    return latin, han, hangul, kana, other
