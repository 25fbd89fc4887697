"""What `malmoi tokenizer CONFIG` tells at its end, from tokenizer/report.json.

Tokens per eojeol by source, sentences cut both ways, the new tokens, and the size curve with the
best size. Parts that a report does not have (one of an older version, or without text to measure on)
are left out.
"""

from __future__ import annotations

from pathlib import Path

from configs.errors import InputError
from configs.files import read_json
from launch.console import amount, table
from launch.figures import Entry, counts, entries, entry, number
from launch.segments import colours_wanted, line

COMMONEST = 12


def summary(folder: Path, *, colour: bool | None = None) -> str:
    """The stage's figures for a terminal, "" where it has left none. folder: the run's."""
    path = folder / "tokenizer" / "report.json"
    try:
        report = entry(read_json(path))
    except (OSError, ValueError, InputError):
        return ""
    drawn = colours_wanted() if colour is None else colour
    parts = (
        _fertility(report),
        _sentences(report, colour=drawn),
        _new_tokens(report, path.parent / "new_tokens.tsv"),
        _sizes(report),
    )
    return "\n\n".join(part for part in parts if part)


def _fertility(report: Entry) -> str:
    rows = []
    for name, figures in sorted(entry(report.get("heldout")).items()):
        own = counts(figures)
        before, after = own.get("fertility_before"), own.get("fertility_after")
        korean = entry(figures).get("korean") is not False
        if korean and before and after:
            rows.append([name, f"{before:.2f}", f"{after:.2f}", _percent(own.get("saved"))])
        elif "all_tokens_before" in own and "all_tokens_after" in own:
            same = own["all_tokens_before"] == own["all_tokens_after"]
            rows.append([name, "–", "–", "not Korean, unchanged" if same else "not Korean"])
    if not rows:
        return ""
    on = "held-out text" if report.get("measured_on") == "heldout" else "text it was trained on"
    header = [f"tokens per eojeol, {on}", "before", "after", "tokens saved on Korean words"]
    return table(header, rows)


def _sentences(report: Entry, *, colour: bool) -> str:
    lines = []
    for one in entries(report.get("sentences")):
        for name in ("before", "after"):
            pieces = one.get(name)
            if isinstance(pieces, list):
                cut = line([str(piece) for piece in pieces], colour=colour)
                lines.append(f"  {name:<6} {len(pieces):>3}  {cut}")
    return "\n".join(lines)


def _new_tokens(report: Entry, path: Path) -> str:
    usage, kinds = entry(report.get("usage")), counts(report.get("tokens"))
    facts = []
    never = number(usage.get("never_used"))
    if never is not None:
        facts.append(f"{100 * never:.1f} % never used on this text")
    if "partial_characters" in kinds:
        facts.append(f"{kinds['partial_characters']:,.0f} cut inside a character")
    if "mixed_scripts" in kinds:
        facts.append(f"{kinds['mixed_scripts']:,.0f} of Hangul with another script")
    if not facts or not report.get("new_tokens"):
        return ""
    told = [f"  {report['new_tokens']:,} new tokens: {', '.join(facts)}"]
    pairs = usage.get("commonest")
    texts = _texts(path)
    common = [
        f"{texts[str(pair[0])].replace(' ', '␣')} {amount(pair[1])}"
        for pair in (pairs[:COMMONEST] if isinstance(pairs, list) else [])
        if str(pair[0]) in texts
    ]
    return "\n".join([*told, *([f"  used most: {', '.join(common)}"] if common else [])])


def _texts(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[1:]
    except OSError:
        return {}
    rows = (row.split("\t") for row in lines)
    return {row[0]: row[2] for row in rows if len(row) > 2}


def _sizes(report: Entry) -> str:
    compared = entry(report.get("sizes_compared"))
    best, taken = number(compared.get("best")), number(report.get("new_tokens"))
    rows = []
    for one in entries(compared.get("curve")):
        own = counts(one)
        size = own.get("new_tokens")
        if size is None:
            continue
        marks = [word for word, at in (("best", best), ("this one", taken)) if at == size]
        rows.append(
            [
                f"{size:,.0f}",
                _percent(own.get("saved")),
                f"{amount(own.get('parameters', 0))}",
                f"{amount(own.get('bytes', 0))}B",
                f"{amount(own.get('training_flops', 0))}",
                f"{amount(own.get('inference_flops', 0))}",
                f"{own.get('seen', 0):,.0f}×" if size else "",
                ", ".join(marks),
            ]
        )
    if len(rows) < 2 or best is None:
        return ""
    header = ["new tokens", "tokens saved", "new weights", "bytes", "training FLOPs a character",
              "inference", "last token is seen", ""]  # fmt: skip
    said = f"  best size {best:,.0f}: {compared.get('reason') or ''} (tokenizer.new_tokens=auto)"
    return "\n".join([table(header, rows), "", said])


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
