"""`malmoi why RUN ID`: the audit trail of one document, for a reader."""

from __future__ import annotations

import difflib
from pathlib import Path

from configs.errors import InputError

SHOWN = 1200  # characters of a text that has nothing to be compared with
LINES = 60  # lines of a difference
AROUND = 6  # equal words shown before and after a difference
MOST_WORDS = 5_000  # of a passage that is compared word by word


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
        where = f"stays in the earlier run {found.kept_run}" if found.kept_run else "stays"
        lines.append(
            f"  because of {found.kept_id}, which {where}; exact similarity {found.similarity:.4f}"
        )
    if found.text is None:
        lines.append("  (its text was not stored: dedup.keep_removed_text is false)")
    elif found.kept_text is not None and found.text != found.kept_text:
        lines += ["", "  − removed   + kept", *_difference(found.text, found.kept_text)]
    else:
        lines += ["", found.text[:SHOWN]]
    return "\n".join(lines)


def _difference(removed: str, kept: str) -> list[str]:
    """What differs, word by word within the lines that differ; equal text is shortened, all bounded."""
    old, new = removed.splitlines(), kept.splitlines()
    shown: list[str] = []
    lines = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, i, j, k, m in lines.get_opcodes():
        if kind == "equal":
            shown.append(f"    ({j - i} equal {'line' if j - i == 1 else 'lines'})")
        elif kind == "replace":
            shown += _words(" ⏎ ".join(old[i:j]).split(), " ⏎ ".join(new[k:m]).split())
        else:
            mark, side = ("−", old[i:j]) if kind == "delete" else ("+", new[k:m])
            shown += [f"  {mark} {_short(line.split())}" for line in side]
        if len(shown) > LINES:
            return [*shown[:LINES], "    …"]
    if not any(line.startswith("  ") and line[2] in "−+" for line in shown):
        shown.append("    (they differ in white space alone)")
    return shown


def _words(old: list[str], new: list[str]) -> list[str]:
    """Two versions of a passage, as the stretches that differ between a few equal words."""
    shown: list[str] = []
    if max(len(old), len(new)) > MOST_WORDS:  # the comparison grows with the square
        return [f"  − {_short(old)}", f"  + {_short(new)}"]
    words = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, i, j, k, m in words.get_opcodes():
        if kind == "equal":
            few = (
                old[i:j]
                if j - i <= 2 * AROUND + 2
                else [*old[i : i + AROUND], "…", *old[j - AROUND : j]]
            )
            shown.append(f"    {' '.join(few)}")
            continue
        if i < j:
            shown.append(f"  − {_short(old[i:j])}")
        if k < m:
            shown.append(f"  + {_short(new[k:m])}")
    return shown


def _short(words: list[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= 300 else text[:299] + "…"
