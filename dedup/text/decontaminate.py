"""Documents that contain text of an evaluation set.

In: the items of evaluation files (`evaluation_files.py`), then texts. Out: per text the item it
contains, or None. Items and texts are compared as their letters and digits alone, lower case, so
spacing and punctuation do not hide a copy.

What counts as an item: every string of the files that has a space in it and at least 13 letters and
digits, 40 where fewer than half are Hangul. What counts as a hit: a short item whole; of an item longer than 32 (80) any stretch
of 32 (80). A Korean stretch of 32 letters is about a sentence; the customary 13 words of English
would be twice that.

Every stretch of 13 letters is looked up by hash in one walk; what is found there is compared letter
by letter, so there are no false hits.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from configs.errors import InputError
from dedup.containers import Damaged
from dedup.text.evaluation_files import evaluation_items, found_files
from dedup.text.normalize import normalize_text

ANCHOR = 13
"""Letters of the stretch that is hashed; no item is shorter."""
KOREAN = (13, 32)
OTHER = (40, 80)
"""Fewest letters of an item, and the stretch of a longer one that makes a hit."""


class Contamination:
    """The items of evaluation files, ready to be looked for in texts. Picklable, read-only."""

    def __init__(self, items: Sequence[tuple[str, str]]) -> None:
        """`items`: (where it stands, its text). Too short ones are left out."""
        self.names: list[str] = []
        letters: list[NDArray[np.uint32]] = []
        lengths: list[int] = []
        starts: list[int] = []
        owners: list[int] = []
        seen: set[bytes] = set()
        at = 0
        for where, text in items:
            if not any(character.isspace() for character in text.strip()):
                continue
            text = normalize_text(text)
            codes = _letters(text)
            hangul = int(((codes >= 0xAC00) & (codes <= 0xD7A3)).sum())
            least, stretch = KOREAN if 2 * hangul >= len(codes) else OTHER
            key = codes.tobytes()
            if len(codes) < least or key in seen:
                continue
            seen.add(key)
            length = min(len(codes), stretch)
            for start in range(len(codes) - length + 1):
                starts.append(at + start)
                lengths.append(length)
                owners.append(len(self.names))
            shown = " ".join(text.split())
            self.names.append(f"{where}: {shown if len(shown) <= 60 else shown[:59] + '…'}")
            letters.append(codes)
            at += len(codes)
        self._letters = np.concatenate(letters) if letters else np.zeros(0, np.uint32)
        self._starts = np.array(starts, np.int64)
        self._lengths = np.array(lengths, np.int64)
        self._owners = np.array(owners, np.int64)
        self._heads, self._next = _index(self._letters, self._starts)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_files(cls, paths: Sequence[str]) -> Contamination:
        """Read evaluation files (paths, folders, globs). Raises InputError for what cannot be had."""
        items: list[tuple[str, str]] = []
        files, mistakes = found_files(paths)
        for path in files:
            try:
                items += evaluation_items(path)
            except (Damaged, OSError, ValueError, csv.Error) as error:
                mistakes.append(f"dedup.decontaminate: {path}: cannot be read ({error})")
        if mistakes:
            raise InputError(mistakes)
        return cls(items)

    def hits(self, texts: pa.Array) -> list[str | None]:
        """For each text the name of the first item found in it, or None."""
        if not len(self):
            return [None] * len(texts)
        found: list[str | None] = []
        for text in texts.to_pylist():
            owner = _find(
                _letters(text), self._letters, self._starts, self._lengths, self._owners,
                self._heads, self._next,
            )  # fmt: skip
            found.append(self.names[owner] if owner >= 0 else None)
        return found


# ── letters and their index ─────────────────────────────────────────────────────────────────────


def _is_letter(code: int) -> bool:
    return not 0xD800 <= code < 0xE000 and chr(code).isalnum()


_LETTER = np.array([_is_letter(code) for code in range(0x10000)], np.bool_)
_LOWER = np.arange(0x10000, dtype=np.uint32)
for _code in range(0x250):
    if len(chr(_code).lower()) == 1:
        _LOWER[_code] = ord(chr(_code).lower())


def _letters(text: str) -> NDArray[np.uint32]:
    """Code points of the letters and digits of a text, Latin in lower case."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
    codes = codes[codes < 0x10000]
    return _LOWER[codes[_LETTER[codes]]]


@njit(nogil=True, cache=True)
def _hash(codes, start):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for i in range(ANCHOR):
        total = total * np.uint64(1_000_003) + np.uint64(codes[start + i])
    total ^= total >> np.uint64(31)
    return total * np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True)
def _index(letters, starts):  # type: ignore[no-untyped-def]
    """Chained hash table: bucket → last stretch in it, and from each stretch to the one before."""
    bits = 4
    while (1 << bits) < 4 * len(starts):
        bits += 1
    heads = np.full(1 << bits, -1, np.int64)
    following = np.full(len(starts), -1, np.int64)
    shift = np.uint64(64 - bits)
    for i in range(len(starts) - 1, -1, -1):
        bucket = np.int64(_hash(letters, starts[i]) >> shift)
        following[i] = heads[bucket]
        heads[bucket] = i
    return heads, following


@njit(nogil=True, cache=True)
def _find(codes, letters, starts, lengths, owners, heads, following):  # type: ignore[no-untyped-def]
    """Owner of the first stretch found in the codes, or -1."""
    bits = 0
    while (1 << bits) < len(heads):
        bits += 1
    shift = np.uint64(64 - bits)
    for at in range(len(codes) - ANCHOR + 1):
        entry = heads[np.int64(_hash(codes, at) >> shift)]
        while entry >= 0:
            length = lengths[entry]
            if at + length <= len(codes):
                same = 0
                start = starts[entry]
                while same < length and codes[at + same] == letters[start + same]:
                    same += 1
                if same == length:
                    return owners[entry]
            entry = following[entry]
    return -1
