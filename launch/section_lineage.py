"""Head and foot of report.html: the figures a reader came for, and where everything came from."""

from __future__ import annotations

from typing import Any

from launch.charts import Part, Row, bar_chart
from launch.console import duration
from launch.figures import Entry, counts, entries, entry, number, share


def headline(config: Entry, folder: str, lineage: Entry, reports: dict[str, Entry]) -> Entry:
    """Name, date, base and the four figures a reader came for."""
    stages = entry(lineage.get("stages"))
    dates = [str(stage.get("ended") or stage.get("started") or "") for stage in stages.values()]
    dedup, words, trained = (reports.get(stage, {}) for stage in ("dedup", "tokenizer", "pretrain"))
    tiles = []
    total, kept = number(dedup.get("documents_in")), number(dedup.get("documents_out"))
    tiles.append(
        _tile("Documents kept", f"{kept:,.0f}", f"{share(kept, total)} of {total:,.0f} read")
        if total is not None and kept is not None
        else _tile("Documents kept")
    )
    saved = number(words.get("tokens_saved"))
    before, after = number(words.get("fertility_before")), number(words.get("fertility_after"))
    tiles.append(
        _tile(
            "Tokens saved on Korean",
            f"{100 * saved:.1f} %",
            f"{before:.2f} → {after:.2f} tokens per eojeol" if before and after else "",
        )
        if saved is not None
        else _tile("Tokens saved on Korean")
    )
    bits = entry(trained.get("bits_per_byte"))
    start, end = counts(bits.get("before")), counts(bits.get("after"))
    tiles.append(
        _tile(
            "Bits per byte, Korean",
            f"{start['ko']:.2f} → {end['ko']:.2f}",
            f"English {start['en']:.2f} → {end['en']:.2f}" if "en" in start and "en" in end else "",
        )
        if "ko" in start and "ko" in end
        else _tile("Bits per byte, Korean")
    )
    times = {name: number(entry(stage).get("seconds")) or 0.0 for name, stage in stages.items()}
    tiles.append(
        _tile(
            "Wall time",
            duration(sum(times.values())),
            ", ".join(f"{name} {duration(spent)}" for name, spent in times.items()),
        )
        if times
        else _tile("Wall time")
    )
    base = entry(config.get("pretrain")).get("base") or entry(config.get("tokenizer")).get("base")
    return {
        "name": str(config.get("name") or folder),
        "date": max(dates, default="")[:16].replace("T", " "),
        "base": _base(base),
        "tokenizer_base": str(words.get("base") or ""),
        "parameters": number(trained.get("parameters")),
        "version": str(lineage.get("malmoi") or ""),
        "tiles": tiles,
    }


def _tile(label: str, value: str = "", note: str = "") -> Entry:
    return {"label": label, "value": value, "note": note or ("" if value else "not measured yet")}


def _base(base: Any) -> str:
    """A path, a hub id, or what a mapping of config fields describes."""
    if isinstance(base, dict):
        size = f"{base.get('num_hidden_layers', '?')} layers × {base.get('hidden_size', '?')}"
        return f"{base.get('model_type', 'model')} from random weights, {size}"
    return str(base or "")


def lineage(content: Entry, dedup: Entry | None) -> Entry | None:
    """Where everything came from: inputs by digest, code, machine and time of each stage."""
    stages = entry(content.get("stages"))
    if not stages:
        return None
    rows = [
        _time(name, number(entry(stage).get("seconds")) or 0.0) for name, stage in stages.items()
    ]
    shown = [_stage(name, entry(stage)) for name, stage in stages.items()]
    steps = [_time(name, seconds) for name, seconds in counts((dedup or {}).get("seconds")).items()]
    return {
        "time": bar_chart(rows, x_label="seconds of wall time"),
        "steps": bar_chart(steps, x_label="seconds of processor time"),
        "stages": shown,
    }


def _time(name: str, seconds: float) -> Row:
    return Row(name, [Part(seconds, "after", f"{name}: {duration(seconds)}")], duration(seconds))


def _stage(name: str, stage: Entry) -> Entry:
    code, machine = entry(stage.get("code")), entry(stage.get("machine"))
    inputs = entry(stage.get("inputs"))
    said = {"python": "Python {}", "cores": "{} cores"}
    return {
        "name": name,
        "status": str(stage.get("status") or ""),
        "digest": str(stage.get("digest") or "")[:12],
        "started": str(stage.get("started") or "")[:16].replace("T", " "),
        "code": f"{code.get('version') or ''} {_commit(code.get('commit'))}".strip(),
        "machine": ", ".join(
            said.get(key, "{}").format(value) for key, value in machine.items() if value
        ),
        "files": [
            {
                "path": str(item.get("path") or ""),
                "bytes": number(item.get("bytes")),
                "sha256": str(item.get("sha256") or "")[:12],
            }
            for item in entries(inputs.get("files"))
        ],
        "others": [
            (key, str(value)[:12] if _is_digest(value) else str(value))
            for key, value in inputs.items()
            if key != "files"
        ],
    }


def _commit(commit: Any) -> str:
    text = str(commit or "")
    return text[:10] + ("-dirty" if text.endswith("-dirty") else "") if text else ""


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
