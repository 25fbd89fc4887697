"""The last pass: what a run keeps → dedup/index/, described in index.py.

In: work files and outcomes, task by task. Out: the index folder, by one rename, whole or not at all.

The decision: what is signed is copied by as many processes as there are workers, each into its own
stretch of files whose sizes are known before; then each band is sorted, in threads. So the bytes do
not depend on the workers, and the memory is a band's keys per thread (with `on_disk`, of two at most)
and a word of eight bytes per document for the order of the digests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.files import sync, write_json
from configs.schema import Dedup
from dedup.clean import read_work
from dedup.copies.bands import band_keys
from dedup.copies.corpus import one_array, pieces, words
from dedup.copies.index import FORMAT, Signing, packing, probe
from dedup.copies.order import digests_in_order
from dedup.copies.room import Room
from dedup.copies.set_file import write_at
from dedup.executor import Cluster, Tell, run_tasks
from dedup.read import Task
from dedup.text.filters import near_for

Say = Callable[[str, float, float], None]

_ON_DISK = 2
"""Bands sorted at a time where memory is dear."""


def write_index(
    tasks: Sequence[Task],
    dedup: Dedup,
    work: Path,
    target: Path,
    against: dict[str, str],
    *,
    workers: int,
    say: Say,
    cluster: Cluster | None = None,
) -> None:
    """Write the index of what the outcomes keep; nothing where `target` has one already.

    against: label and folder of the earlier runs that the audit trail names.
    """
    if (target / "manifest.json").exists():
        return
    folder = work / "index"
    for place in (folder, target):
        shutil.rmtree(place, ignore_errors=True)
    folder.mkdir()
    kept = _Kept(tasks, dedup, work, folder)
    pools = []
    for number, (signing, threshold) in enumerate(_signings(dedup).items()):
        place = folder / f"near-{number}"
        place.mkdir()
        members = _write_near(signing, kept, place, work, workers, say, cluster)
        pools.append(
            {
                **asdict(signing),
                "threshold": threshold,
                "documents": members,
                "probe": probe(signing),
            }
        )
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "documents": kept.documents,
        "content": kept.content,
        "digest_probe": probe(None),
        "near": pools,
        "against": against,
        "files": kept.files,
        "sizes": {str(path.relative_to(folder)): path.stat().st_size for path in written},
    }
    write_json(folder / "manifest.json", manifest)
    for path in [*written, *{path.parent for path in written}]:
        sync(path)
    folder.rename(target)
    sync(target.parent)


def _signings(dedup: Dedup) -> dict[Signing, float]:
    """How the sources sign, and the lowest threshold of each way; also where none was signed."""
    found: dict[Signing, float] = {}
    for source in dedup.sources:
        near = near_for(source, dedup)
        if near is not None:
            signing = Signing.of(near)
            found[signing] = min(near.threshold, found.get(signing, 1.0))
    return found


@dataclass(frozen=True)
class _Signed:
    """A task's signed, kept documents: how many, and the row of the index of its first kept one."""

    task: int
    count: int
    first: int


class _Kept:
    """The kept documents; writes ids and digests, and remembers how many of them are signed how."""

    def __init__(self, tasks: Sequence[Task], dedup: Dedup, work: Path, folder: Path) -> None:
        self.documents = 0
        self.files: list[dict[str, Any]] = []
        self.signed: dict[Signing, list[_Signed]] = {signing: [] for signing in _signings(dedup)}
        content = hashlib.sha256()
        most = sum(pq.read_metadata(work / f"{task.index:05}.parquet").num_rows for task in tasks)
        self.room = Room.of(dedup, most, work)
        digests = self.room.empty((most, 2), np.uint64)
        schema = pa.schema([pa.field("id", pa.large_string(), nullable=False)])
        with (
            pa.OSFile(str(folder / "ids.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, schema) as ids,
        ):
            for task in tasks:
                name = f"{task.index:05}"
                rows, outcome = _kept_rows(work, task.index, ["id"])
                if not len(rows):
                    continue
                names = one_array(outcome["id"]).take(pa.array(rows)).cast(pa.large_string())
                ids.write_batch(pa.record_batch([names], schema=schema))
                table = pq.read_table(
                    work / f"{name}.parquet", columns=["digest", "shingles"], use_threads=False
                )
                mine = digests[self.documents : self.documents + len(rows)]
                mine[:] = words(one_array(table["digest"]), 2, "<u8")[rows]
                content.update("\0".join(names.to_pylist()).encode("utf-8", "surrogatepass"))
                content.update(mine.tobytes())
                self.files.append({"file": f"{name}.parquet", "documents": len(rows)})
                signed = np.count_nonzero(one_array(table["shingles"]).to_numpy()[rows] > 0)
                near = near_for(dedup.sources[task.source], dedup)
                if near is not None and signed:
                    part = _Signed(task.index, int(signed), self.documents)
                    self.signed[Signing.of(near)].append(part)
                self.documents += len(rows)
        self.content = content.hexdigest()
        _write_digests(digests[: self.documents], folder)


def _kept_rows(work: Path, task: int, columns: list[str]) -> tuple[NDArray[np.int64], pa.Table]:
    """The rows of a task's work file that are kept, and columns of its outcome."""
    outcome = pq.read_table(
        work / f"{task:05}.outcome.parquet", columns=[*columns, "step"], use_threads=False
    )
    return np.flatnonzero(one_array(outcome["step"]).is_null().to_numpy(False)), outcome


def _write_digests(digests: NDArray[np.uint64], folder: Path) -> None:
    order = digests_in_order(digests)
    count = len(digests)
    targets = (folder / "digests.npy", folder / "digest_rows.npy")
    starts = (_header(targets[0], "<u8", (count, 2)), _header(targets[1], "<u4", (count,)))
    with _open(targets[0]) as sorted_digests, _open(targets[1]) as rows:
        for begin, end in pieces(count):
            part = order[begin:end]
            write_at(sorted_digests, digests[part], starts[0] + 16 * begin)
            write_at(rows, part.astype(np.uint32), starts[1] + 4 * begin)


# ── the signatures ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Copying:
    """What the index has of a task's signed documents, from member number `first` of `members` on."""

    signed: _Signed
    first: int
    members: int
    signing: Signing
    work: Path
    place: Path
    headers: tuple[int, int, int, int]

    def __str__(self) -> str:
        return str(self.work / f"{self.signed.task:05}.parquet")


def _write_near(
    signing: Signing,
    kept: _Kept,
    place: Path,
    work: Path,
    workers: int,
    say: Say,
    cluster: Cluster | None,
) -> int:
    """Returns how many documents are signed like this."""
    parts = kept.signed[signing]
    members = sum(part.count for part in parts)
    headers = (
        _header(place / "members.npy", "<u4", (members,)),
        _header(place / "shingles.npy", "<u4", (members,)),
        _header(place / "signatures.npy", "<u4", (members, signing.permutations)),
        _header(place / "bands.npy", "<u8", (signing.bands, members)),
    )
    items = []
    first = 0
    for part in parts:
        items.append(_Copying(part, first, members, signing, work, place, headers))
        first += part.count
    finished = 0

    def note(item: _Copying, result: None) -> None:
        nonlocal finished
        finished += 1
        say("index", finished, len(items))

    run_tasks(_copy_signed, items, workers, cluster=cluster, on_done=note)

    def sort(band: int) -> None:
        offset = headers[3] + 8 * band * members
        keys = np.fromfile(place / "bands.npy", np.uint64, count=members, offset=offset)
        keys.sort()
        with _open(place / "bands.npy") as handle:
            write_at(handle, keys, offset)

    with ThreadPoolExecutor(min(workers, _ON_DISK) if kept.room.mapped else workers) as threads:
        for _ in threads.map(sort, range(signing.bands)):
            pass
    return members


def _header(path: Path, kind: str, shape: tuple[int, ...]) -> int:
    """Start a .npy file of that shape; returns where its values begin."""
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(
            handle, {"descr": kind, "fortran_order": False, "shape": shape}
        )
        return handle.tell()


@contextmanager
def _open(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_WRONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _copy_signed(item: _Copying, tell: Tell) -> None:
    signing, members, task = item.signing, item.members, item.signed.task
    _, mask = packing(members)
    kept, _ = _kept_rows(item.work, task, [])
    at, row = item.first, 0
    documents, shingles = (np.empty(item.signed.count, np.uint32) for _ in range(2))
    with (
        _open(item.place / "signatures.npy") as signatures,
        _open(item.place / "bands.npy") as bands,
    ):
        for batch in read_work(item.work, task, ["signature", "shingles"]):
            low, high = np.searchsorted(kept, [row, row + batch.num_rows])
            inside = kept[low:high] - row
            row += batch.num_rows
            counts = batch["shingles"].to_numpy()[inside].astype(np.uint32)
            signed = np.flatnonzero(counts)
            if not len(signed):
                continue
            inside = inside[signed]
            part = slice(at - item.first, at - item.first + len(inside))
            documents[part] = item.signed.first + low + signed
            shingles[part] = counts[signed]
            values = words(batch["signature"], signing.permutations, "<u4")[inside]
            write_at(signatures, values, item.headers[2] + 4 * signing.permutations * at)
            numbers = np.arange(at, at + len(inside), dtype=np.uint64)
            keys = (band_keys(values, signing.bands, signing.rows) & ~mask) | numbers
            for band in range(signing.bands):
                write_at(bands, keys[band], item.headers[3] + 8 * (band * members + at))
            at += len(inside)
    for number, values in enumerate((documents, shingles)):
        with _open(item.place / ("members.npy", "shingles.npy")[number]) as handle:
            write_at(handle, values, item.headers[number] + 4 * item.first)
