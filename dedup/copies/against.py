"""New documents against what earlier runs keep: the same text by digest, near ones by bands.

In: `dedup.against`, the indexes of those runs, and the digests, band keys and sketches of the new
documents. Out: which new document has the text of an earlier one, and which earlier documents may be
near to a new one. Their texts are read for the exact comparison alone, and only theirs.

The decision: an earlier document is never judged again. Those that may be near to a new one go into
the selection in front of all new ones; so a new document that is near to one of them goes, and names
it. What the earlier run removed is not asked about: its kept copy answers for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from configs.errors import InputError
from configs.schema import Dedup
from dedup.copies.bands import band_keys
from dedup.copies.index import Index, Signed, Signing, manifest_path, packing, read_manifest
from dedup.copies.room import Room
from dedup.copies.set_file import Part
from dedup.text.filters import near_for


def manifests(dedup: Dedup) -> list[Path]:
    """The files that stand for the earlier runs as inputs.

    Raises InputError, a line per mistake, for runs without an index and ones signed otherwise.
    """
    mistakes: list[str] = []
    for run in dedup.against:
        try:
            _signs_alike(dedup, Path(run), read_manifest(Path(run)))
        except InputError as error:
            mistakes += [f"dedup.against: {line}" for line in error.lines]
    if mistakes:
        raise InputError(mistakes)
    return [manifest_path(Path(run)) for run in dedup.against]


_ROWS = 65_536
"""Signatures that are copied at a time."""


@dataclass
class Earlier:
    """The earlier runs, as one list of documents: run after run, in the order of the config.

    labels: what the audit trail calls each run: its folder's name, or its path where names repeat.
    first: the number of the first document of each run, and last of all how many there are.
    """

    indexes: list[Index]
    labels: list[str]
    first: NDArray[np.int64]

    @classmethod
    def open(cls, dedup: Dedup, own: Path) -> Earlier:
        """Open what the config names; `own` is the folder of the run itself.

        Raises InputError, a line per mistake: no index, one of another version, documents that were
        signed otherwise, the run itself.
        """
        indexes: list[Index] = []
        mistakes: list[str] = []
        for name in dedup.against:
            run = Path(name)
            try:
                if run.resolve() == own.resolve():
                    raise InputError(f"{run}: is this run itself; name an earlier one")
                _signs_alike(dedup, run, read_manifest(run))
                indexes.append(Index.open(run))
            except InputError as error:
                mistakes += [f"dedup.against: {line}" for line in error.lines]
        if mistakes:
            raise InputError(mistakes)
        names = [index.run.name for index in indexes]
        labels = [
            name if names.count(name) == 1 else str(index.run)
            for name, index in zip(names, indexes, strict=True)
        ]
        first = np.cumsum([0, *(index.documents for index in indexes)]).astype(np.int64)
        return cls(indexes, labels, first)

    def folders(self) -> dict[str, str]:
        """{label: folder}."""
        return {
            label: str(index.run) for label, index in zip(self.labels, self.indexes, strict=True)
        }

    def digest(self) -> str:
        """Of what the runs keep and how they sign: their manifests."""
        digest = hashlib.sha256()
        for index in self.indexes:
            digest.update(manifest_path(index.run).read_bytes())
        return digest.hexdigest()

    def same_text(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The first earlier document with each digest (uint64 [n, 2]), or −1."""
        found = np.full(len(digests), -1, np.int64)
        for number, index in enumerate(self.indexes):
            left = np.flatnonzero(found < 0)
            rows = index.same_text(digests[left])
            found[left] = np.where(rows >= 0, rows + self.first[number], -1)
        return found

    def names(self, documents: NDArray[np.int64]) -> list[str]:
        """Ids of earlier documents, by number."""
        return [self.indexes[run].id(row) for run, row in self._rows(documents)]

    def clusters(self, documents: NDArray[np.int64]) -> list[str]:
        """The clusters they were put into."""
        found: dict[int, str] = {}
        for run, index in enumerate(self.indexes):
            inside = documents[(documents >= self.first[run]) & (documents < self.first[run + 1])]
            rows = (inside - self.first[run]).tolist()
            for number, record in zip(
                inside.tolist(), index.read(rows, ["cluster_id"]) if rows else [], strict=True
            ):
                found[number] = record["cluster_id"]
        return [found[number] for number in documents.tolist()]

    def labels_of(self, documents: NDArray[np.int64]) -> list[str]:
        """What the audit trail calls the runs they are of."""
        return [self.labels[run] for run, _ in self._rows(documents)]

    def _rows(self, documents: NDArray[np.int64]) -> list[tuple[int, int]]:
        run = np.searchsorted(self.first, documents, side="right") - 1
        return list(zip(run.tolist(), (documents - self.first[run]).tolist(), strict=True))

    def near(
        self,
        signing: Signing,
        bands: Sequence[NDArray[np.uint64]],
        sketches: NDArray[np.uint8],
        least: int,
        room: Room,
    ) -> Candidates:
        """Earlier documents that share a band with a new one and agree with it on ≥ `least` minima.

        bands: the new documents' keys, one array per band. sketches: the low bytes of their minima,
        [documents, permutations]. What is found is held in `room`.
        """
        documents, parts, found = [], [], []
        count = 0
        for number, index in enumerate(self.indexes):
            pool = next(pool for pool in index.pools if pool.signing == signing)
            members = _candidates(pool, bands, sketches, least)
            rows = pool.members[members].astype(np.int64)
            shingles = pool.shingles[members].astype(np.int64)
            at = 0
            for path, inside in index.places(rows):
                end = at + len(inside)
                numbers = np.arange(count + at, count + end)
                parts.append(Part(path, inside, numbers, int(shingles[at:end].sum())))
                at = end
            documents.append(rows + self.first[number])
            found.append((pool, members))
            count += len(members)
        keys = room.empty((signing.bands, count), np.uint64)
        low = room.empty((count, signing.permutations), np.uint8)
        at = 0
        for pool, members in found:
            for begin in range(0, len(members), _ROWS):
                signatures = np.array(pool.signatures[members[begin : begin + _ROWS]])
                end = at + len(signatures)
                keys[:, at:end] = band_keys(signatures, signing.bands, signing.rows)
                low[at:end] = signatures
                at = end
        return Candidates(np.concatenate([np.zeros(0, np.int64), *documents]), keys, low, parts)


@dataclass
class Candidates:
    """Earlier documents that may be near to new ones: their numbers in `Earlier`, ascending; their band
    keys, uint64 [bands, candidates]; the low bytes of their minima, [candidates, permutations]; and
    where their texts are."""

    documents: NDArray[np.int64]
    keys: NDArray[np.uint64]
    sketches: NDArray[np.uint8]
    parts: list[Part]


def _signs_alike(dedup: Dedup, run: Path, manifest: dict[str, Any]) -> None:
    """Raise InputError where a source of this config signs in a way that the index has not."""
    has = [Signing.read(entry) for entry in manifest["near"]]
    for source in dedup.sources:
        near = near_for(source, dedup)
        if near is None or Signing.of(near) in has:
            continue
        if not has:
            raise InputError(
                f"{run}: has no signatures, its near copies were not looked for; run it again with "
                f"dedup.near, or set near: none for the source {source.name}"
            )
        raise InputError(
            f"{run}: is signed with {' and with '.join(map(str, has))}, and the source {source.name} "
            f"here with {Signing.of(near)}; set dedup.near to the same, or run the earlier one again"
        )


def _candidates(
    pool: Signed, bands: Sequence[NDArray[np.uint64]], sketches: NDArray[np.uint8], least: int
) -> NDArray[np.int64]:
    wanted = np.zeros(len(pool.members), np.bool_)
    shift, mask = packing(len(pool.members))
    for stored, keys in zip(pool.bands, bands, strict=True):
        order = np.argsort(keys, kind="stable")
        _join(stored, shift, mask, keys, order, pool.signatures, sketches, least, wanted)
    return np.flatnonzero(wanted)


@njit(nogil=True, cache=True)
def _join(stored, shift, mask, keys, order, signatures, sketches, least, wanted):  # type: ignore[no-untyped-def]
    """Merge one band's sorted keys with the new documents' in order; mark who agrees with one."""
    begin = 0
    at = 0
    while at < len(order):
        key = keys[order[at]] >> shift
        end = at + 1
        while end < len(order) and keys[order[end]] >> shift == key:
            end += 1
        low, high = begin, len(stored)  # the next equal key is seldom near: gallop
        step = 1
        while begin + step < len(stored) and stored[begin + step] >> shift < key:
            low = begin + step
            step *= 2
        high = min(len(stored), begin + step + 1)
        while low < high:
            middle = (low + high) // 2
            if stored[middle] >> shift < key:
                low = middle + 1
            else:
                high = middle
        begin = low
        while begin < len(stored) and stored[begin] >> shift == key:
            member = stored[begin] & mask
            begin += 1
            if wanted[member]:
                continue
            for i in range(at, end):
                document = order[i]
                equal = 0
                for k in range(sketches.shape[1]):
                    equal += np.uint8(signatures[member, k]) == sketches[document, k]
                if equal >= least:
                    wanted[member] = True
                    break
        at = end
