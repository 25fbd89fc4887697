"""A run's index: what it keeps, in a form that can be asked without reading its texts again.

In: a finished run folder. Out: an `Index`, all of it memory-mapped, so opening it costs the same for
a thousand documents as for a hundred million. `write_index` (index_writer.py) makes it; `find` and a
later run's `dedup.against` ask it; datasketch reads it.

    runs/x/dedup/index/
      manifest.json             signing parameters, files and their sizes, digest of the content
      ids.arrow                 id of each document, in the order of documents/*.parquet
      digests.npy               uint64 [documents, 2], ascending: what finds the same text
      digest_rows.npy           uint32 [documents]: whose digest it is
      near-0/members.npy        uint32 [members]: the documents that are signed like this
      near-0/signatures.npy     uint32 [members, permutations]: their minima, datasketch's affine32
      near-0/shingles.npy       uint32 [members]: shingles of each, repeats included
      near-0/bands.npy          uint64 [bands, members], each band ascending: key | member's number

Its size: 4 · permutations + 8 · bands + 28 bytes for each document and 8 + its length for the id:
about 770 bytes with 128 permutations and 25 bands.

The decision: band keys are stored sorted, so a look-up is one binary search per band and no hash
table is ever built. The cost is that nothing can be added: a later run has an index of its own, and
`against` takes several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from configs.errors import InputError, missing_extra
from configs.files import read_json
from configs.schema import Near
from dedup.copies.bands import band_keys
from dedup.copies.digest import digest
from dedup.copies.minhash import sign

FORMAT = 1

_PROBE = "말모이는 1911년에 주시경과 제자들이 엮기 시작한, 처음으로 나온 우리말 사전의 원고이다."
"""Signed and digested into every manifest: an index made by code that signs otherwise is refused."""


@dataclass(frozen=True)
class Signing:
    """How documents are signed. Only documents signed alike can be compared."""

    shingle: int
    permutations: int
    bands: int
    rows: int

    @classmethod
    def of(cls, near: Near) -> Signing:
        return cls(near.shingle, near.permutations, *near.banding)

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Signing:
        """From an entry of a manifest's `near`."""
        return cls(entry["shingle"], entry["permutations"], entry["bands"], entry["rows"])

    def __str__(self) -> str:
        return (
            f"shingle {self.shingle}, permutations {self.permutations}, "
            f"bands {self.bands} × rows {self.rows}"
        )


def probe(signing: Signing | None) -> list[int] | str:
    """What this code makes of one fixed text: its minima, or its digest."""
    if signing is None:
        return digest(_PROBE).hex()
    texts = pa.array([_PROBE], pa.large_string())
    minima: list[int] = (
        sign(texts, shingle=signing.shingle, count=signing.permutations).values[0].tolist()
    )
    return minima[:4]


def packing(members: int) -> tuple[np.uint64, np.uint64]:
    """(shift, mask): the low bits of a word in bands.npy hold the member's number."""
    shift = np.uint64(max(1, int(members).bit_length()))
    return shift, (np.uint64(1) << shift) - np.uint64(1)


class Signed:
    """The documents of an index that are signed alike. A member's number is its place here."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        self.signing = Signing(
            *(entry[key] for key in ("shingle", "permutations", "bands", "rows"))
        )
        self.threshold: float = entry["threshold"]
        self.members: NDArray[np.uint32] = _mapped(folder / "members.npy")
        self.signatures: NDArray[np.uint32] = _mapped(folder / "signatures.npy")
        self.shingles: NDArray[np.uint32] = _mapped(folder / "shingles.npy")
        self.bands: NDArray[np.uint64] = _mapped(folder / "bands.npy")

    def alike(self, signature: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Members that share a band with a signature, and on how many minima each agrees.

        The most alike first; equal ones in the order of their numbers.
        """
        keys = band_keys(signature[None, :], self.signing.bands, self.signing.rows)[:, 0]
        _, mask = packing(len(self.members))
        found = [
            band[slice(*np.searchsorted(band, [key & ~mask, key | mask], side="left"))] & mask
            for band, key in zip(self.bands, keys, strict=True)
        ]
        # `key | mask` itself is never stored: numbers are below 2**shift − 1.
        numbers = np.unique(np.concatenate(found)).astype(np.int64)
        equal = (self.signatures[numbers] == signature).sum(axis=1)
        order = np.lexsort((numbers, -equal))
        return numbers[order], equal[order]


class Index:
    """The index of one run. A document's row is its place in documents/*.parquet, files by name."""

    def __init__(self, run: Path, manifest: dict[str, Any]) -> None:
        folder = index_folder(run)
        self.run = run
        self.documents: int = manifest["documents"]
        self.against: dict[str, str] = manifest["against"]
        self.pools = [
            Signed(folder / f"near-{number}", entry)
            for number, entry in enumerate(manifest["near"])
        ]
        self._folder = folder
        self._files = [run / "dedup" / "documents" / entry["file"] for entry in manifest["files"]]
        self._starts = np.cumsum([0, *(entry["documents"] for entry in manifest["files"])])
        self._digests = _mapped(folder / "digests.npy")
        self._digest_rows = _mapped(folder / "digest_rows.npy")

    @classmethod
    def open(cls, run: Path | str) -> Index:
        """The index of a run folder.

        Raises InputError where there is none, where a file is missing or has another size, and where
        it was made by a version that signs or digests texts otherwise.
        """
        run = Path(run)
        manifest = read_manifest(run)
        folder = index_folder(run)
        for name, size in manifest["sizes"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise InputError(f"{path}: is missing or not whole; {_AGAIN.format(run=run)}")
        stale = manifest["format"] != FORMAT or manifest["digest_probe"] != probe(None)
        stale |= any(entry["probe"] != probe(Signing.read(entry)) for entry in manifest["near"])
        if stale:
            raise InputError(
                f"{folder}: was made by a version of malmoi that signs texts otherwise; "
                f"{_AGAIN.format(run=run)}"
            )
        return cls(run, manifest)

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """large_string [documents]."""
        return pa.ipc.open_file(pa.memory_map(str(self._folder / "ids.arrow"))).read_all()["id"]

    def id(self, row: int) -> str:
        name: str = self.ids[row].as_py()
        return name

    def same_text(self, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of the document with each digest (uint64 [n, 2], as in the files), or −1."""
        found = np.full(len(digests), -1, np.int64)
        if self.documents and len(digests):
            _find_digests(self._digests, self._digest_rows, digests, found)
        return found

    def row_of(self, text: str) -> int:
        """The row of the document whose text is this one but for white space, or −1."""
        words = np.frombuffer(digest(text), "<u8")
        return int(self.same_text(words[None, :])[0])

    def places(self, rows: NDArray[np.int64]) -> list[tuple[Path, NDArray[np.int64]]]:
        """Ascending rows as (documents file, rows in it)."""
        file = np.searchsorted(self._starts, rows, side="right") - 1
        return [
            (self._files[number], rows[file == number] - self._starts[number])
            for number in np.unique(file).tolist()
        ]

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Those columns of the documents of some rows, in the order of `rows`."""
        ascending = np.unique(np.asarray(rows, np.int64))
        found: dict[int, dict[str, Any]] = {}
        at = iter(ascending.tolist())
        for path, inside in self.places(ascending):
            for record in read_rows(path, inside, columns):
                found[next(at)] = record
        return [found[row] for row in rows]

    # ── datasketch ──────────────────────────────────────────────────────────────────────────────

    def lean_minhash(self, row: int) -> Any:
        """The document's signature as `datasketch.LeanMinHash` (seed 1, scheme affine32).

        Raises InputError for a document that was not signed (near: none, or a dialogue).
        """
        for pool in self.pools:
            at = int(np.searchsorted(pool.members, row))
            if at < len(pool.members) and pool.members[at] == row:
                return _lean(pool, at)
        raise InputError(
            f"{self.id(row)}: was not signed; near copies of its source were not sought"
        )

    def lsh(self, storage: dict[str, Any] | None = None, *, pool: int = 0) -> Any:
        """The documents that are signed alike as `datasketch.MinHashLSH`, keyed by id.

        storage: datasketch's storage_config ({"type": "redis", "redis": {"host": …}}); None: memory.
        Bands and rows are the run's, so it proposes what the run itself compared. Raises InputError
        where the run has no signatures, and where a Redis storage is asked for without the extra.
        """
        if not self.pools:
            raise InputError(f"{self.run}: has no signatures; near copies were not looked for")
        if storage is not None and storage.get("type") == "redis" and find_spec("redis") is None:
            raise InputError(f"storage: {missing_extra('redis', 'redis')}")
        from datasketch import MinHashLSH

        chosen = self.pools[pool]
        signing = chosen.signing
        settings: dict[str, Any] = {} if storage is None else {"storage_config": storage}
        lsh = MinHashLSH(
            num_perm=signing.permutations, params=(signing.bands, signing.rows), **settings
        )
        names = self.ids.take(pa.array(chosen.members)).to_pylist()
        with lsh.insertion_session() as session:
            for at, name in enumerate(names):
                session.insert(name, _lean(chosen, at), check_duplication=False)
        return lsh


def _lean(pool: Signed, at: int) -> Any:
    from datasketch import LeanMinHash

    return LeanMinHash(seed=1, hashvalues=np.array(pool.signatures[at]), scheme="affine32")


_AGAIN = "move {run}/dedup away and run its data stage again"


def index_folder(run: Path) -> Path:
    return run / "dedup" / "index"


def manifest_path(run: Path) -> Path:
    """The file whose presence says that a run's index is whole."""
    return index_folder(run) / "manifest.json"


def read_manifest(run: Path) -> dict[str, Any]:
    """Raises InputError where the run has no index."""
    path = manifest_path(run)
    if not path.is_file():
        if (run / "dedup" / "report.json").is_file():
            raise InputError(
                f"{run}: has no index (it is of an older version, or somebody took {path.parent} "
                f"away); {_AGAIN.format(run=run)}"
            )
        raise InputError(
            f"{run}: holds no finished data stage; give a run folder such as runs/quickstart, or "
            "finish it with `malmoi dedup`"
        )
    manifest: dict[str, Any] = read_json(path)
    return manifest


def read_rows(path: Path, rows: NDArray[np.int64], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some rows (ascending) of a Parquet file; only the row groups that hold one are read."""
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            inside = rows[(rows >= begin) & (rows < end)] - begin
            begin = end
            if len(inside):
                table = file.read_row_group(group, columns=list(columns))
                found += table.take(pa.array(inside)).to_pylist()
    return found


def _mapped(path: Path) -> NDArray[Any]:
    """A .npy file as it lies on the disk; an empty one cannot be mapped."""
    try:
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    except ValueError:
        return np.load(path)  # type: ignore[no-any-return]


@njit(nogil=True, cache=True)
def _find_digests(digests, rows, wanted, found):  # type: ignore[no-untyped-def]
    for i in range(len(wanted)):
        first, second = wanted[i, 0], wanted[i, 1]
        low, high = 0, len(digests)
        while low < high:
            middle = (low + high) // 2
            one = digests[middle, 0]
            if one < first or (one == first and digests[middle, 1] < second):
                low = middle + 1
            else:
                high = middle
        if low < len(digests) and digests[low, 0] == first and digests[low, 1] == second:
            found[i] = rows[low]
