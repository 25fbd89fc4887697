"""`malmoi dedup CONFIG --dry-run`: what the data stage would do, in words, and how sure that is."""

from __future__ import annotations

from dedup.preview import Estimate, Prediction
from launch.console import amount, duration, table

ORDER = ("failed", "normalise", "filter", "pii", "decontaminate", "exact", "near")
COPIES = ("exact", "near")
REASONS = 6  # of the filters and the other early steps, the commonest


def said(prediction: Prediction) -> str:
    """The prediction as lines for a person."""
    parts = [_sampled(prediction)]
    if prediction.sample_bytes:
        parts += [_documents(prediction), *_notes(prediction), _costs(prediction)]
    parts += [f"warning: {line}" for line in warnings(prediction)]
    return "\n".join(parts)


def _sampled(prediction: Prediction) -> str:
    read, total = (
        f"{size / 1e6:,.1f} MB" for size in (prediction.sample_bytes, prediction.total_bytes)
    )
    sources = len(prediction.sources)
    of = f"{sources} source{'s' if sources != 1 else ''}"
    seconds = duration(prediction.sampling_seconds)
    if prediction.whole:
        return f"  all {total} of {of} were read, in {seconds}: the counts are those of the run"
    share = f"{100 * prediction.share:.2g} %"
    places = f"{prediction.pieces} places" if prediction.pieces != 1 else "one place"
    return f"  a sample was read: {read} of {total} ({share}) in {places} of {of}, in {seconds}"


def _documents(prediction: Prediction) -> str:
    documents = prediction.documents
    total = documents["read"].value
    least = not prediction.whole
    rows = [["read", _figure(documents["read"]), "", ""]]
    for step in ORDER:
        if step == "failed" and not documents[step].value:
            continue
        if step == "near" and not prediction.near:
            continue
        gone = documents[step]
        copies = step in COPIES and least
        figure = f"at least {_round(gone.value)}" if copies else _figure(gone)
        rows.append(["unreadable" if step == "failed" else step, figure, _share(gone, total), ""])
    kept = documents["kept"]
    figure = f"at most {_figure(kept).removeprefix('about ')}" if least else _figure(kept)
    rows.append(["kept", figure, _share(kept, total), ""])
    out = amount(round(prediction.characters_out))
    characters = (
        f"{amount(round(prediction.characters_in.value))} → {'at most ' if least else ''}{out}"
    )
    lines = [table(["step", "documents", "of all"], [row[:3] for row in rows])]
    lines.append(f"\n  characters  {characters}")
    common = sorted(prediction.reasons.items(), key=lambda item: -item[1])[:REASONS]
    if common:
        told = ", ".join(f"{key} {_round(count)}" for key, count in common)
        lines.append(f"  commonest   {told}")
    return "\n" + "\n".join(lines)


def _notes(prediction: Prediction) -> list[str]:
    if prediction.whole:
        return []
    known = prediction.documents["read"].error is not None
    notes = [
        "  ± is the 95 % range that the sample gives; it says nothing about copies."
        if known
        else "  one place of a source cannot tell how far these may be off.",
        "  A copy is found only where both documents are in the sample: there will be more in the corpus",
    ]
    if prediction.from_start:
        notes.append(
            f"  {prediction.from_start} of the places are the beginnings of files that cannot be entered "
            "in the middle"
        )
    if prediction.left_out:
        notes.append(
            f"  left out, since no size is told beforehand: {', '.join(prediction.left_out)}"
        )
    return notes


def _costs(prediction: Prediction) -> str:
    disk = prediction.disk
    stays = sum(size for name, size in disk.items() if name != "work" and size)
    workers = f"{prediction.workers} worker{'s' if prediction.workers != 1 else ''}"
    memory = f"about {_size(prediction.memory)}"
    if prediction.memory_free is not None:
        memory += f"; {_size(prediction.memory_free)} are free"
    lines = [
        f"  time    about {duration(prediction.seconds)} with {workers} "
        f"({prediction.bytes_per_second / 1e6:,.1f} MB/s of the files), if the disk keeps up",
        f"  disk    about {_size(prediction.disk_needed)} while it runs, {_size(stays)} afterwards ("
        + ", ".join(
            f"{name} {_size(size)}" for name, size in disk.items() if name != "work" and size
        )
        + f"); {_size(prediction.disk_free)} are free",
        f"  memory  {memory}",
    ]
    return "\n" + "\n".join(lines)


def warnings(prediction: Prediction) -> list[str]:
    """What would go wrong."""
    found = []
    if prediction.nothing_left:
        found.append(
            "no document of the sample is left: "
            f"{', '.join(prediction.nothing_left)}; look at dedup.filters before the run"
        )
    if prediction.disk_needed > prediction.disk_free:
        found.append(
            f"the disk has {_size(prediction.disk_free)} free, the run needs about "
            f"{_size(prediction.disk_needed)}; make room, or set dir to another disk"
        )
    free = prediction.memory_free
    if free is not None and prediction.memory > free:
        found.append(
            f"{_size(free)} of memory are free, the run needs about {_size(prediction.memory)}; "
            "set fewer workers, or dedup.on_disk=true"
        )
    return found


def _figure(estimate: Estimate) -> str:
    figure = _round(estimate.value)
    if estimate.error is None:
        return f"about {figure}" if estimate.value else figure
    if estimate.error < 0.5 or not estimate.value:
        return figure
    error = 100 * estimate.error / estimate.value
    return f"{figure} ± {error:.0f} %" if error >= 1 else f"{figure} ± {error:.1f} %"


def _round(value: float) -> str:
    return f"{round(value):,}"


def _share(part: Estimate, total: float) -> str:
    return f"{100 * part.value / total:.1f} %" if total else "–"


def _size(size: float) -> str:
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size:,.0f} B"
