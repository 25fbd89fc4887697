"""The data stage: raw web text → clean, unique documents.

In: `config.dedup` and the run folder. Out: dedup/documents/*.parquet, dedup/removed/*.parquet,
dedup/failed/*.jsonl, dedup/index/ and, last of all, dedup/report.json.

Four passes, each over whole tasks (some files of one source):
  1. clean.py         read → normalise → filter → PII → decontaminate → sign, task by task
  2. duplicates.py    exact copies, then near copies, over all documents at once
  3. publish.py       what stays, what went and why, task by task
  4. index_writer.py  the index of what stays: for `find`, and for later runs to go against

The decision: between the passes everything is in files (dedup/.work), each with a mark that it is
whole. So a run that was killed goes on at its last finished task and ends with the same bytes, with
any number of workers. The cost: the texts are written twice (as they are, then as zstd) and read twice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import InputError, is_no_space
from configs.files import read_json, remove_leftovers, write_json
from configs.machine import cores
from configs.progress import Log, Progress, silent
from configs.schema import Config, Dedup, Section
from dedup.clean import Cleaned, Cleaning, clean_task, mark_of
from dedup.copies.against import Earlier
from dedup.copies.duplicates import find_duplicates
from dedup.copies.index_writer import write_index
from dedup.executor import Cluster, run_tasks
from dedup.funnel import Tally
from dedup.publish import Published, Publishing, publish_task, published_mark
from dedup.ray_engine import cluster_of, need_shared_folder
from dedup.read import Task, plan
from dedup.report import Report, summarise
from dedup.text.custom import code_digest

_FORMAT = 5
"""Of the work files. A change makes unfinished runs start again."""

_LIMIT_OF = {
    "too_short": "min_characters",
    "too_long": "max_characters",
    "mojibake": "max_broken",
    "wrong_language": "min_language",
    "little_hangul": "min_hangul",
    "symbols": "max_symbols",
    "digits": "max_digits",
    "word_length": "mean_word",
    "duplicate_lines": "max_duplicate_lines",
    "repeated_words": "max_repeated_words",
    "spam": "max_spam",
}


def run(config: Config, folder: Path, *, log: Log | None = None) -> Report:
    """Run the data stage in the run folder; on a finished one of the same config, read its report.

    Goes on where an earlier call with the same config and input was stopped. Raises InputError for
    sources that match nothing, for custom filters that are not there, for earlier runs without a
    fitting index, for a corpus of which nothing is left, for a full disk, and for a folder that holds
    the finished output of another config.
    """
    if config.dedup is None:
        raise InputError("dedup: is missing in the config; give it sources")
    begin = time.monotonic()
    dedup = config.dedup
    say = log or silent
    out = folder / "dedup"
    work = out / ".work"
    digest = _digest(dedup)
    if (out / "report.json").exists():
        report = Report.read(out / "report.json")
        if report.digest != digest:
            raise InputError(
                f"{out}: holds the finished output of another config"
                f"{' or of an earlier custom filter' if dedup.custom_filters else ''}; move it away, "
                "or set another dir"
            )
        shutil.rmtree(work, ignore_errors=True)
        return report
    cluster = cluster_of(dedup)
    tasks = plan(dedup)
    earlier = Earlier.open(dedup, folder)
    workers = _workers(dedup)
    planned = {"format": _FORMAT, "config": digest, "input": _input_digest(tasks)}
    if earlier.indexes:
        planned["against"] = earlier.digest()
    with _room(out):
        _begin(out, work, planned)
        if cluster is not None:
            need_shared_folder(cluster, work)
        _clean(tasks, dedup, work, workers, cluster, say)
        something_left(tasks, work)
        _duplicates(tasks, dedup, work, earlier, workers, cluster, say)
        published = _publish(tasks, dedup, work, out, workers, cluster, say)
        indexed = _index(tasks, dedup, work, out, earlier, workers, cluster, say)
        report = summarise(tasks, dedup, work, out / "documents")
        report.digest = digest
        report.seconds |= {"publish": round(published, 3), "index": round(indexed, 3)}
        report.wall_seconds = round(time.monotonic() - begin, 3)
        _sweep(out, work)
        report.write(out / "report.json")
    shutil.rmtree(work, ignore_errors=True)
    return report


# ── the four passes ─────────────────────────────────────────────────────────────────────────────


def _clean(
    tasks: list[Task], dedup: Dedup, work: Path, workers: int, cluster: Cluster | None, log: Log
) -> None:
    left = [task for task in tasks if not mark_of(work, task.index).exists()]
    total = sum(task.bytes for task in tasks)
    done = total - sum(task.bytes for task in left)
    tally = Tally([task for task in tasks if mark_of(work, task.index).exists()], work)

    def tell() -> None:
        log(Progress("dedup", "clean", done, total, "B", funnel=tally.funnel(done)))

    def progress(amount: float) -> None:
        tally.told(amount)
        tell()

    def finished(item: Cleaning, result: Cleaned) -> None:
        nonlocal done
        done += item.task.bytes
        tally.cleaned(result)
        tell()

    tell()
    items = [Cleaning(task, dedup, work) for task in left]
    run_tasks(
        clean_task,
        items,
        workers,
        cluster=cluster,
        on_done=finished,
        on_progress=progress,
        on_tick=tell,
    )


def _duplicates(
    tasks: list[Task],
    dedup: Dedup,
    work: Path,
    earlier: Earlier,
    workers: int,
    cluster: Cluster | None,
    log: Log,
) -> None:
    if (work / "duplicates.json").exists():
        return

    def say(step: str, done: float, total: float) -> None:
        log(Progress("dedup", step, done, total, "documents" if step == "near" else "tasks"))

    find_duplicates(tasks, dedup, work, earlier, workers=workers, say=say, cluster=cluster)


def _publish(
    tasks: list[Task],
    dedup: Dedup,
    work: Path,
    out: Path,
    workers: int,
    cluster: Cluster | None,
    log: Log,
) -> float:
    """Returns the seconds it took."""
    begin = time.monotonic()
    left = [task for task in tasks if not published_mark(work, task.index).exists()]
    done = len(tasks) - len(left)
    total = sum(task.bytes for task in tasks)
    tally = Tally(tasks, work)
    for task in tasks:
        if (mark := published_mark(work, task.index)).exists():
            tally.published(Published(**read_json(mark)))

    def finished(item: Publishing, result: Published) -> None:
        nonlocal done
        done += 1
        tally.published(result)
        tell()

    def tell() -> None:
        funnel = tally.funnel(total)
        log(Progress("dedup", "publish", done, len(tasks), "files", funnel=funnel))

    tell()
    items = [Publishing(task, dedup, work, out) for task in left]
    run_tasks(publish_task, items, workers, cluster=cluster, on_done=finished, on_tick=tell)
    return time.monotonic() - begin


def _index(
    tasks: list[Task],
    dedup: Dedup,
    work: Path,
    out: Path,
    earlier: Earlier,
    workers: int,
    cluster: Cluster | None,
    log: Log,
) -> float:
    """Returns the seconds it took."""
    begin = time.monotonic()

    def say(step: str, done: float, total: float) -> None:
        log(Progress("dedup", step, done, total, "tasks"))

    say("index", 0, len(tasks))
    target = out / "index"
    write_index(
        tasks, dedup, work, target, earlier.folders(), workers=workers, say=say, cluster=cluster
    )
    return time.monotonic() - begin


# ── before, between and around them ─────────────────────────────────────────────────────────────


def _begin(out: Path, work: Path, planned: dict[str, Any]) -> None:
    """Go on in a work folder of the same plan, or start with an empty one."""
    mark = work / "plan.json"
    if not mark.exists() or read_json(mark) != planned:
        for name in (".work", "documents", "removed", "failed", "index"):
            shutil.rmtree(out / name, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(mark, planned)
    _sweep(out, work)


def _sweep(out: Path, work: Path) -> None:
    """Delete what killed writers left: at the start, and at the end, when a worker that outlived its
    killed caller by a moment is surely gone."""
    for place in (out, work, out / "documents", out / "removed", out / "failed"):
        remove_leftovers(place)


def _digest(dedup: Dedup) -> str:
    """Of every key that affects the output, and of the code of custom filters."""
    affecting = _affecting(dedup)
    if dedup.custom_filters:
        affecting["custom_filters_code"] = code_digest(dedup.custom_filters)
    text = json.dumps(affecting, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _affecting(section: Section) -> dict[str, Any]:
    values: dict[str, Any] = section.model_dump(mode="json")
    for name, item in type(section).model_fields.items():
        extra = item.json_schema_extra
        if isinstance(extra, dict) and extra.get("affects_output") is False:
            del values[name]
    return values


def _input_digest(tasks: list[Task]) -> str:
    """Of the plan: which files, how large, changed when."""
    digest = hashlib.sha256()
    for task in tasks:
        for line in task.fingerprint():
            digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _workers(dedup: Dedup) -> int:
    return cores() if dedup.workers == "auto" else dedup.workers


def something_left(tasks: list[Task], work: Path) -> None:
    """Raise InputError where the filters left nothing: what took how many, and what to loosen."""
    marks = [Cleaned(**read_json(mark_of(work, task.index))) for task in tasks]
    if any(mark.documents for mark in marks):
        return
    reasons: Counter[str] = Counter()
    for mark in marks:
        reasons.update(mark.removed)
    failed = sum(mark.documents_failed for mark in marks)
    read = sum(mark.documents_in for mark in marks)
    lines = [f"dedup: no document is left of {read:,}"]
    for key, count in reasons.most_common():
        step, reason = key.split("/", 1)
        lines.append(f"dedup: {count:,} went by {step}: {reason}; {_loosen(step, reason)}")
    if failed:
        first = next(mark.failed[0] for mark in marks if mark.failed)
        lines.append(
            f"dedup: {failed:,} could not be read, the first in {first['path']}: {first['error']}"
        )
    if not read:
        lines = ["dedup: the sources hold no document at all; look at dedup.sources"]
    raise InputError(lines)


def _loosen(step: str, reason: str) -> str:
    if step == "filter":
        return f"loosen dedup.filters.{_LIMIT_OF.get(reason, reason)}, or set the source's filters"
    if step == "pii":
        return "set dedup.pii to mask"
    if step == "decontaminate":
        return "look at what dedup.decontaminate names"
    return "the texts are empty"


@contextmanager
def _room(out: Path) -> Iterator[None]:
    """Turn a full disk into words."""
    try:
        yield
    except OSError as error:
        place = out if out.exists() else out.parent
        if not is_no_space(error, place):
            raise
        free = shutil.disk_usage(place).free
        raise InputError(
            f"{out}: the disk is full ({free:,} bytes are free); make room, or set dir to another "
            "disk. What is finished is kept: the same command goes on from there"
        ) from error
