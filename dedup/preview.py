"""What a run would do, before it does it: counts, time, disk and memory, from a sample.

In: the config. Out: a `Prediction`. The very steps of the run (`clean_task`, `find_duplicates`,
`publish_task`, `write_index`) go over pieces of the corpus in a temporary folder, which is gone
afterwards; the run folder is not touched.

Counts are ratio estimates: what a source's pieces gave, times the bytes of the source over the bytes
of the pieces; their 95 % range comes from how the pieces differ (Cochran, Sampling Techniques, 6.4).

The decision: copies are told as what they are, a lower bound. A sample of share f meets both documents
of a pair with the chance f² where they lie apart, so it finds about the share f of such copies;
nothing in it tells how many more there are.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from configs.machine import cores
from configs.schema import Config, Dedup
from dedup.clean import Cleaned, Cleaning, clean_task
from dedup.copies.against import Earlier
from dedup.copies.duplicates import find_duplicates
from dedup.copies.index_writer import write_index
from dedup.copies.room import MANY
from dedup.funnel import FIRST, LAST
from dedup.publish import Published, Publishing, publish_task
from dedup.read import Task
from dedup.sample import SAMPLE, Piece, Sample, bytes_read, draw
from dedup.stage import something_left
from dedup.text.filters import near_for

PATIENCE = 12.0  # seconds after which no further piece is read; what follows takes about as long
_START = 5.0  # seconds until the workers of all passes are there


@dataclass(frozen=True)
class Estimate:
    """A figure of the whole corpus, and how far it may be off, as far as the sample tells (95 %)."""

    value: float = 0.0
    error: float | None = 0.0  # None: there was one piece of a source, which tells nothing about it


@dataclass
class Prediction:
    """What a run would do. Sizes are bytes, seconds those of a clock, memory that of all processes.

    documents: by "read", "failed", each step, and "kept". left_out: sources whose size is not known
    beforehand. from_start: sampled files that cannot be entered in the middle. disk: documents,
    removed, failed, index, and work, which is gone in the end. nothing_left: what took how many, where
    the filters leave nothing of the sample.
    """

    sample_bytes: float = 0.0
    total_bytes: int = 0
    pieces: int = 0
    sampling_seconds: float = 0.0
    sources: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    from_start: int = 0
    documents: dict[str, Estimate] = field(default_factory=dict)
    reasons: dict[str, float] = field(default_factory=dict)
    characters_in: Estimate = field(default_factory=Estimate)
    characters_out: float = 0.0
    near: bool = True
    workers: int = 1
    bytes_per_second: float = 0.0
    seconds: float = 0.0
    disk: dict[str, float] = field(default_factory=dict)
    disk_free: int = 0
    memory: float = 0.0
    memory_free: int | None = None
    nothing_left: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the corpus that was read."""
        return min(1.0, self.sample_bytes / self.total_bytes) if self.total_bytes else 1.0

    @property
    def whole(self) -> bool:
        """Whether the sample is the corpus: then the counts are those of the run."""
        return self.share > 0.9999 and not self.left_out

    @property
    def disk_needed(self) -> float:
        """Bytes on disk while it runs, at the most."""
        return sum(self.disk.values())


def predict(
    config: Config, folder: Path, *, size: int = SAMPLE, patience: float = PATIENCE
) -> Prediction:
    """Read a sample of what the config names and say what its data stage would do in `folder`.

    Raises InputError as the run would: for sources that match nothing, earlier runs without a fitting
    index, and where the filters leave nothing of a corpus that was read whole.
    """
    begin = time.monotonic()
    dedup = config.dedup
    assert dedup is not None
    sample = draw(dedup, size=size)
    earlier = Earlier.open(dedup, folder)
    said = Prediction(total_bytes=sample.total, left_out=sample.unknown)
    said.sources = [source.name for source in dedup.sources]
    with tempfile.TemporaryDirectory(prefix="malmoi-") as place:
        work = Path(place)
        tasks, cleaned = _read(sample.pieces, dedup, work, patience)
        worker = _most_memory()
        read = [
            bytes_read(piece, one.documents_in, one.bytes_in)
            for piece, one in zip(sample.pieces, cleaned, strict=False)
        ]
        said.pieces, said.sample_bytes = len(tasks), sum(read)
        said.from_start = sum(piece.most is not None for piece in sample.pieces[: len(tasks)])
        if tasks and not any(one.documents for one in cleaned):
            if said.whole:
                something_left(tasks, work)
            gone = Counter({"could not be read": sum(one.documents_failed for one in cleaned)})
            for one in cleaned:
                gone.update(one.removed)
            said.nothing_left = [f"{key}: {count:,}" for key, count in gone.most_common() if count]
        later = None
        if any(one.documents for one in cleaned):
            later = _Later(dedup, work, earlier)
            later.run(tasks, read)
    _counts(said, dedup, sample.bytes, tasks, cleaned, read, later)
    _costs(said, dedup, sample, tasks, cleaned, read, later, worker)
    said.disk_free = shutil.disk_usage(_existing(folder)).free
    said.memory_free = _memory_free()
    said.sampling_seconds = time.monotonic() - begin
    return said


def _read(
    pieces: list[Piece], dedup: Dedup, work: Path, patience: float
) -> tuple[list[Task], list[Cleaned]]:
    """The first pass over the pieces, one at least of each source, until time is up."""
    tasks: list[Task] = []
    cleaned: list[Cleaned] = []
    seen: set[int] = set()
    begin = time.monotonic()
    for piece in pieces:
        if time.monotonic() - begin > patience and piece.source in seen:
            break
        seen.add(piece.source)
        files = tuple(dict.fromkeys(part.path for part in piece.parts))
        task = Task(len(tasks), piece.source, files, piece.bytes, piece.parts)
        item = Cleaning(task, dedup, work, piece.most)
        if not tasks:  # compiled code is loaded, lists of words are read: not part of the speed
            clean_task(replace(item, most=1), _nothing)
            begin = time.monotonic()
        tasks.append(task)
        cleaned.append(clean_task(item, _nothing))
    return tasks, cleaned


def _nothing(amount: float) -> None:
    """Nobody follows the progress."""


class _Later:
    """The passes after the first, over the sample: what they remove, cost and write."""

    def __init__(self, dedup: Dedup, work: Path, earlier: Earlier) -> None:
        self.dedup = dedup
        self.work = work
        self.earlier = earlier
        self.published: list[Published] = []
        self.fixed = 0.0  # seconds of processor time, whatever there is to do
        self.seconds = 0.0  # and with the sample
        self.bytes: dict[str, float] = {}

    def run(self, tasks: list[Task], read: list[float]) -> None:
        few = max(1, len(tasks) // 8)
        self._once(tasks[:few])  # to load compiled code
        begin = time.process_time()
        self._once(tasks[:few])
        least = time.process_time() - begin
        begin = time.process_time()
        self._once(tasks)
        self.seconds = time.process_time() - begin
        if few < len(tasks) and sum(read) > sum(read[:few]):
            each = max(0.0, self.seconds - least) / (sum(read) - sum(read[:few]))
            self.fixed = max(0.0, self.seconds - each * sum(read))

    def _once(self, tasks: list[Task]) -> None:
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        for name in ("documents", "removed", "failed"):
            (out / name).mkdir(parents=True)
        work, dedup = self.work, self.dedup
        find_duplicates(tasks, dedup, work, self.earlier, workers=1, say=_unsaid)
        self.published = [
            publish_task(Publishing(task, dedup, work, out), _nothing) for task in tasks
        ]
        write_index(
            tasks, dedup, work, out / "index", self.earlier.folders(), workers=1, say=_unsaid
        )
        outputs = ("documents", "removed", "failed", "index")
        self.bytes = {name: _size(out / name) for name in outputs}
        self.bytes["work"] = sum(
            _bytes_of(path) for kind in ("*.parquet", "*.jsonl") for path in work.glob(kind)
        )


def _unsaid(step: str, done: float, total: float) -> None:
    """Nobody follows the progress."""


def _size(folder: Path) -> float:
    return sum(_bytes_of(path) for path in folder.rglob("*") if path.is_file())


def _bytes_of(path: Path) -> int:
    """Of a Parquet file without its footer, which in one of a small piece is most of it."""
    footer = pq.read_metadata(path).serialized_size if path.suffix == ".parquet" else 0
    return path.stat().st_size - footer


# ── from the sample to the corpus ───────────────────────────────────────────────────────────────


def _counts(
    said: Prediction,
    dedup: Dedup,
    sizes: list[int],
    tasks: list[Task],
    cleaned: list[Cleaned],
    read: list[float],
    later: _Later | None,
) -> None:
    published = later.published if later is not None else [Published() for _ in tasks]

    def total(values: list[float]) -> Estimate:
        return _ratio(values, read, [task.source for task in tasks], sizes)

    def step(name: str, parts: list[Cleaned] | list[Published]) -> list[float]:
        return [
            float(sum(n for key, n in part.removed.items() if key.split("/", 1)[0] == name))
            for part in parts
        ]

    said.documents["read"] = total([float(one.documents_in) for one in cleaned])
    said.documents["failed"] = total([float(one.documents_failed) for one in cleaned])
    for name in FIRST:
        said.documents[name] = total(step(name, cleaned))
    for name in LAST:
        said.documents[name] = total(step(name, published))
    said.documents["kept"] = total([float(one.documents) for one in published])
    said.characters_in = total([float(one.characters_in) for one in cleaned])
    said.characters_out = total([float(one.characters_out) for one in published]).value
    said.reasons = {
        key: total([float(one.removed.get(key, 0)) for one in cleaned]).value
        for key in sorted({key for one in cleaned for key in one.removed})
    }
    said.near = any(near_for(source, dedup) is not None for source in dedup.sources)


def _ratio(
    values: list[float], read: list[float], source_of: list[int], sizes: list[int]
) -> Estimate:
    """Σ over sources of (values / bytes read) × bytes, and 1.96 standard errors of it."""
    value = variance = 0.0
    known = True
    for source, size in enumerate(sizes):
        mine = [at for at, number in enumerate(source_of) if number == source and read[at]]
        bytes_of = sum(read[at] for at in mine)
        if not bytes_of:
            continue
        ratio = sum(values[at] for at in mine) / bytes_of
        value += ratio * size
        share = min(1.0, bytes_of / size) if size else 1.0
        if len(mine) > 1 and share < 0.9999:
            spread = sum((values[at] - ratio * read[at]) ** 2 for at in mine)
            scale = (size / bytes_of) ** 2 * len(mine) / (len(mine) - 1)
            variance += scale * spread * (1 - share)
        elif share < 0.9999:
            known = False
    return Estimate(value, 1.96 * variance**0.5 if known else None)


def _costs(
    said: Prediction,
    dedup: Dedup,
    sample: Sample,
    tasks: list[Task],
    cleaned: list[Cleaned],
    read: list[float],
    later: _Later | None,
    worker: float,
) -> None:
    """Time, disk and memory. Seconds are of processor time, shared by the workers; `worker`: bytes
    of memory that the first pass took."""
    sources = [task.source for task in tasks]
    said.workers = cores() if dedup.workers == "auto" else dedup.workers
    at_once = min(said.workers, cores())
    spent = [sum(one.seconds.values()) for one in cleaned]
    first = _ratio(spent, read, sources, sample.bytes).value
    longest = max(
        _ratio(
            spent, read, sources, [size * (number == at) for at, size in enumerate(sample.alone)]
        ).value
        for number in range(len(sample.alone))
    )
    grown = said.total_bytes / said.sample_bytes if said.sample_bytes else 0.0
    after = later.fixed + (later.seconds - later.fixed) * grown if later is not None else 0.0
    said.seconds = _START + max(first / at_once, longest) + after / at_once
    said.bytes_per_second = said.total_bytes / said.seconds if said.seconds else 0.0
    if later is not None:
        said.disk = {name: size * grown for name, size in later.bytes.items()}
    left = _ratio([float(one.documents) for one in cleaned], read, sources, sample.bytes).value
    said.memory = max(said.workers * worker, _most_memory() + left * _held(dedup, left))


def _held(dedup: Dedup, documents: float) -> float:
    """Bytes held per document while copies are sought (duplicates.py): 350 with 25 bands."""
    on_disk = documents >= MANY if dedup.on_disk == "auto" else dedup.on_disk
    bands = [near.banding[0] for source in dedup.sources if (near := near_for(source, dedup))]
    return 32.0 if on_disk else 150.0 + 8 * max(bands, default=0)


def _most_memory() -> float:
    """Bytes that this process has held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)


def _memory_free() -> int | None:
    """Bytes of memory that are free to use, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(found.split()[1]) * 1024 if found else None


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
