"""Which documents share a training sequence: a plan made once per source and sequence length.

In: the lengths of a source's documents. Out: a list of bins, each at most `sequence_length` tokens,
made of pieces (document, start, length). A document that fits is never cut; a longer one is cut into
pieces of exactly `sequence_length` and a rest, and the rest is packed like a document.

The decision: best-fit decreasing over the whole source, precomputed, instead of concatenating and
cutting a stream. The stream wastes nothing but cuts one document per sequence; this wastes well under
1 % on web text and needs 16 bytes of plan per piece. Best-fit decreasing is within 11/9 of the
optimum (Johnson 1973) and near it when short documents abound. Capacities are small integers, so the
open bins are kept in one stack per free space and the best one is found by counting up.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from configs.files import atomic, read_json, write_json
from pretrain.data.digests import Seen, digests
from pretrain.data.tokens import Tokens, TokenSet

PIECE = np.dtype([("document", "<i8"), ("start", "<i4"), ("length", "<i4")])


@njit(cache=True, nogil=True)
def _best_fit(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """The bin of each piece, for lengths in falling order: int64 [pieces]."""
    bins = np.empty(len(lengths), np.int64)
    top = np.full(capacity + 1, -1, np.int64)  # newest bin with exactly this much free space
    below = np.empty(len(lengths), np.int64)  # the bin under it in that stack
    opened = 0
    for piece in range(len(lengths)):
        free = lengths[piece]
        while free < capacity and top[free] < 0:
            free += 1
        chosen = top[free]
        if chosen < 0:
            chosen, free = opened, capacity
            opened += 1
        else:
            top[free] = below[chosen]
        rest = free - lengths[piece]
        below[chosen] = top[rest]
        top[rest] = chosen
        bins[piece] = chosen
    return bins


@dataclass(frozen=True)
class Plan:
    """Bins of one source: bin k holds pieces[bins[k]:bins[k + 1]]."""

    bins: NDArray[np.int64]
    pieces: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.bins) - 1

    def __getitem__(self, index: int) -> NDArray[np.void]:
        return self.pieces[int(self.bins[index]) : int(self.bins[index + 1])]

    @property
    def tokens(self) -> int:
        return int(self.pieces["length"].sum())


def cut(lengths: NDArray[np.int64], sequence_length: int) -> NDArray[np.void]:
    """Pieces of documents of these lengths, in document order (structured PIECE [pieces])."""
    counts = np.maximum(1, -(-lengths // sequence_length))
    pieces = np.empty(int(counts.sum()), PIECE)
    pieces["document"] = np.repeat(np.arange(len(lengths)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    pieces["start"] = (np.arange(len(pieces)) - first) * sequence_length
    rest = np.repeat(lengths, counts) - pieces["start"]
    pieces["length"] = np.minimum(rest, sequence_length)
    return pieces


def pack(pieces: NDArray[np.void], sequence_length: int) -> Plan:
    """Put pieces (each ≤ sequence_length tokens) into as few bins as best-fit decreasing finds."""
    order = np.argsort(-pieces["length"].astype(np.int64), kind="stable")
    bins = np.empty(len(pieces), np.int64)
    bins[order] = _best_fit(pieces["length"][order].astype(np.int64), sequence_length)
    by_bin = np.argsort(bins, kind="stable")
    counts = np.bincount(bins) if len(bins) else np.zeros(0, np.int64)
    return Plan(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), pieces[by_bin])


def _with_labels(documents: TokenSet, pieces: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which pieces of dialogues hold anything to learn beyond their first token."""
    return np.fromiter(
        (documents.mask(int(d), int(s), int(n))[1:].any() for d, s, n in pieces), bool, len(pieces)
    )


def make_plan(documents: TokenSet, sequence_length: int, objective: str) -> Plan:
    """The plan of a source. For `chat`, pieces in which the assistant says nothing are left out."""
    pieces = cut(documents.lengths(), sequence_length)
    pieces = pieces[pieces["length"] > 1]
    if objective == "chat":
        pieces = pieces[_with_labels(documents, pieces)]
    return pack(pieces, sequence_length)


def open_plan(
    tokens: Tokens, source: str, sequence_length: int, objective: str, split: str = "train"
) -> Plan:
    """The stored plan of a source (of one rendering of it), made and stored first where it is missing.

    It lies under `tokens/plans/<digest of the manifest>/`, so it can never be that of other tokens, with
    its files' SHA-256 beside it: a plan that is damaged, or half there, is made again from the lengths.
    """
    stem = f"{source}.{objective}.{sequence_length}"
    if split != "train":
        stem = f"{source}.{split}.{sequence_length}"
    folder = tokens.folder / "plans" / tokens.digest[:16]
    paths = [folder / f"{stem}.{part}.npy" for part in ("pieces", "bins")]
    record = folder / f"{stem}.json"
    if not _sound(paths, record):
        plan = make_plan(tokens.sets[source, split], sequence_length, objective)
        for path, array in zip(paths, (plan.pieces, plan.bins), strict=True):
            _save(path, array)
        _record(record, digests(paths, {}))
    pieces, bins = (
        np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None) for path in paths
    )
    return Plan(bins, pieces)


def _sound(paths: list[Path], record: Path) -> bool:
    """Whether the files are those that were recorded; hashed only where they have changed since.

    Without a record they are taken as they are, and recorded: an older version wrote none.
    """
    if not record.exists():
        if not all(path.is_file() for path in paths):
            return False
        _record(record, digests(paths, {}))
        return True
    try:
        noted = {name: (list(stamp), digest) for name, (stamp, digest) in read_json(record).items()}
        before = {str(path): noted[path.name] for path in paths}
        now = digests(paths, before)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
    if any(now[path][1] != before[path][1] for path in before):
        return False
    if now != before:  # a copy, hashed now and not at the next start
        _record(record, now)
    return True


def _record(path: Path, found: Seen) -> None:
    with suppress(OSError):  # somebody else's run may be read, and has no need of a record
        write_json(path, {Path(name).name: value for name, value in found.items()})


def _save(path: Path, array: NDArray) -> None:
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array)
