"""`malmoi why RUN ID`: the audit trail of one document, for a reader."""

from __future__ import annotations

import difflib
from pathlib import Path

from configs.errors import InputError

SHOWN = 1200  # characters of each text


def explain_removal(folder: Path, document: str) -> str:
    """What happened to a document: kept, or by which step and why it went, the kept one beside it."""
    if not (folder / "dedup" / "report.json").is_file():
        raise InputError(
            f"{folder}: holds no finished dedup; give a run folder such as runs/quickstart"
        )
    from dedup.why import why

    found = why(folder, document)
    if found.kept:
        return f"{document}\n  stayed: it is in {folder / 'dedup' / 'documents'}\n\n{(found.text or '')[:SHOWN]}"
    lines = [document, f"  of source {found.source}, went at step {found.step}: {found.reason}"]
    if found.kept_id:
        lines.append(
            f"  because of {found.kept_id}, which stays; exact similarity {found.similarity:.4f}"
        )
    if found.text is None:
        lines.append("  (its text was not stored: dedup.keep_removed_text is false)")
    elif found.kept_text is not None and found.text != found.kept_text:
        lines += ["", "  − removed   + kept", *_difference(found.text, found.kept_text)]
    else:
        lines += ["", found.text[:SHOWN]]
    return "\n".join(lines)


def _difference(removed: str, kept: str) -> list[str]:
    """Line difference, bounded; equal lines are shortened to a count."""
    shown: list[str] = []
    equal = 0
    for line in difflib.ndiff(removed.splitlines(), kept.splitlines()):
        if line.startswith("  "):
            equal += 1
            continue
        if line.startswith("? "):
            continue
        if equal:
            shown.append(f"    ({equal} equal lines)")
            equal = 0
        shown.append(f"  {'−' if line[0] == '-' else '+'} {line[2:][:300]}")
        if len(shown) > 60:
            return [*shown, "    …"]
    if equal:
        shown.append(f"    ({equal} equal lines)")
    return shown
