r"""Texts → how often each word with Hangul occurs, as the pre-token regex of the base would cut it.

In: UTF-8 bytes of Arrow columns. Out: a filled `Tally`. A *word* is a pre-token that contains a
Hangul syllable.

The decision: in the regexes of `RULES` such a pre-token is a whole run of letters, with at most one
character before it, and which one can be said from the two characters before the run. So no regex
runs at all: one pass decodes, cuts and hashes, 20 to 30 times as fast. With alternatives tried in
their order at each place, for Llama-3's and Qwen's:

- After a space or tab (not a line break): `[^\r\n\p{L}\p{N}]?\p{L}+` takes it along, since
  `\s+(?!\S)` leaves the last one of a run.
- After one other character ("(가"): it is taken along, unless ` ?[^\s\p{L}\p{N}]+` has taken it before,
  together with a space before it (" (가") or with others ("!(가").
- After an apostrophe that stands alone like that, `'s 't 're 've 'm 'll 'd` win, and the run begins after them.
- After a line break, a number, or at the start of the text: the run alone.

GPT-2's takes along only a space, and its contractions are lower case. What each character counts as
is asked of the engine (`classes.py`), and the tests compare with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from dedup.utf8 import buffers, decode
from tokenizer.base import LLAMA3_PATTERN
from tokenizer.classes import BREAK, LETTER, OTHER, SPACE, character_classes
from tokenizer.pre_tokens import GPT2_PATTERN
from tokenizer.tally import SEED, Tally, put, step

QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class Rules:
    """any_before: whether any character may be taken along, or only U+0020. fold: whether the letters
    of contractions may be of any case."""

    any_before: bool
    fold: bool


RULES = {
    LLAMA3_PATTERN: Rules(any_before=True, fold=True),
    QWEN2_PATTERN: Rules(any_before=True, fold=True),
    GPT2_PATTERN: Rules(any_before=False, fold=False),
}

_LETTER, _OTHER, _SPACE, _BREAK = LETTER, OTHER, SPACE, BREAK


@njit(nogil=True, cache=True)
def _contraction(data, at, end, fold):  # type: ignore[no-untyped-def]
    """Bytes of the letters after an apostrophe that belong to it: those of s t re ve m ll d."""
    if at >= end:
        return 0
    first = np.int64(data[at])
    if fold and first == 0xC5 and data[at + 1] == 0xBF:  # ſ is an s in lower case
        return 2
    if fold and 0x41 <= first <= 0x5A:
        first += 0x20
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return 1
    if at + 1 >= end:
        return 0
    second = np.int64(data[at + 1])
    if fold and 0x41 <= second <= 0x5A:
        second += 0x20
    if ((first == 0x72 or first == 0x76) and second == 0x65) or (first == 0x6C and second == 0x6C):
        return 2
    return 0


@njit(nogil=True, cache=True)
def _count(table, classes, any_before, fold, offsets, data, sources, at_word):  # type: ignore[no-untyped-def]
    """Count the texts from where `at_word` says; the bytes of a word there is no room for, or 0.

    at_word: row, byte (−1: the row's first), and what is known of the characters before: class, code
    and bytes of the last one, how many others in a row, and whether a space came before them.
    """
    row, at = at_word[0], at_word[1]
    last, last_code, last_size = at_word[2], at_word[3], at_word[4]
    others, spaced = at_word[5], at_word[6]
    while row < len(offsets) - 1:
        end = offsets[row + 1]
        if at < 0:
            at = offsets[row]
            last, last_code, last_size = np.int64(_BREAK), np.int64(0), np.int64(0)
            others, spaced = np.int64(0), np.int64(0)
        while at < end:
            code = np.int64(data[at])
            size = np.int64(1)
            if code >= 0x80:
                code, size = decode(data, at)
            kind = np.int64(classes[code])
            if kind != _LETTER:
                if kind == _OTHER:
                    if last == _OTHER:
                        others += 1
                    else:
                        others = np.int64(1)
                        spaced = np.int64(last == _SPACE and last_code == 0x20)
                last, last_code, last_size = kind, code, size
                at += size
                continue
            run = begin = at
            state = SEED
            alone = last == _OTHER and others == 1 and spaced == 0
            taken = np.int64(0)
            if alone and last_code == 0x27:
                taken = np.int64(_contraction(data, at, end, fold))
            if taken > 0:
                at += taken
                begin = at
            elif (last == _SPACE and (any_before or last_code == 0x20)) or (alone and any_before):
                begin -= last_size
                state = step(state, last_code)
            hangul = False
            while at < end:
                code = np.int64(data[at])
                size = np.int64(1)
                if code >= 0x80:
                    code, size = decode(data, at)
                if classes[code] != _LETTER:
                    break
                if 0xAC00 <= code <= 0xD7A3:
                    hangul = True
                state = step(state, code)
                at += size
            if hangul:
                if table.used[1] == len(table.rows) or table.used[0] + at - begin > len(
                    table.arena
                ):
                    at_word[0], at_word[1] = row, run
                    at_word[2], at_word[3], at_word[4] = last, last_code, last_size
                    at_word[5], at_word[6] = others, spaced
                    return at - begin
                put(table, state, sources[row], 1, data, begin, at)
            last = np.int64(_LETTER)
        row += 1
        at = np.int64(-1)
    return np.int64(0)


def count_texts(
    tally: Tally, rules: Rules, texts: pa.Array, sources: npt.NDArray[np.int32]
) -> None:
    """Count the words of texts [N] (valid UTF-8), each under the number of its source, int32 [N]."""
    offsets, data = buffers(texts)
    classes = character_classes()
    at_word = np.zeros(7, np.int64)
    at_word[1] = -1
    while size := _count(
        tally.table, classes, rules.any_before, rules.fold, offsets, data, sources, at_word
    ):
        tally.reserve(1, int(size))
