"""Scores of a run's model: evaluations.json in the run folder, and the section of the model card.

In: what `measure` and `run_tasks` found of the model that a run made. Out: `evaluations.json`, to which
each evaluation adds (of one text, or one task with one number of examples and rows, the newest
counts), and in `model/README.md` the section "Scores". Neither holds a date, so the same scores give
the same bytes.

`identity` is that of the training that made the model (its report has it): scores of an earlier model
are dropped, not shown beside a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import InputError
from configs.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from pretrain.evaluation.harness import TaskScore
    from pretrain.evaluation.measure import Measured

FILE = "evaluations.json"
TITLE = "## Scores"
LANGUAGES = {"ko": "Korean", "en": "English"}
PARTS_SHOWN = 10  # tasks of a group that a card names one by one; MMLU's 57 are in evaluations.json

Entry = dict[str, Any]


def run_of(model: Path) -> Path | None:
    """The run folder whose finished model this is, or None."""
    run = model.resolve().parent
    finished = (run / "config.yaml").is_file() and (run / "pretrain" / "report.json").is_file()
    return run if finished and model.resolve().name == "model" else None


def read_scores(run: Path) -> Entry:
    """What is noted of the run's present model; an empty record where nothing is."""
    identity = read_json(run / "pretrain" / "report.json").get("identity")
    empty: Entry = {"identity": identity, "bits_per_byte": [], "against": None, "tasks": []}
    empty["chat"] = None
    path = run / FILE
    if not path.is_file():
        return empty
    try:
        found = read_json(path)
    except ValueError:
        raise InputError(f"{path}: is not JSON; move it away and evaluate again") from None
    same = isinstance(found, dict) and found.get("identity") == identity
    return empty | found if same else empty


def note_scores(
    run: Path,
    *,
    measured: Sequence[Measured] = (),
    window: int | None = None,
    against: tuple[str, Sequence[Measured]] | None = None,
    tasks: Sequence[TaskScore] = (),
) -> Entry:
    """Add to evaluations.json and write the card's section anew; what is noted now.

    window: tokens of context that `measured` was made with. against: the name of another model and
    what it needs on the same documents.
    """
    found = read_scores(run)
    if measured:
        found["bits_per_byte"] = [
            asdict(one) | {"name": one.name, "bits_per_byte": one.bits_per_byte} for one in measured
        ]
        found["window"] = window
        found["against"] = None
        if against is not None:
            name, theirs = against
            bits = {_key(asdict(one)): one.bits_per_byte for one in theirs}
            found["against"] = {"model": name, "bits_per_byte": bits}
    if tasks:
        added = {_same(asdict(one)): asdict(one) for one in tasks}
        kept = [one for one in found["tasks"] if _same(one) not in added]
        found["tasks"] = [*kept, *added.values()]
        found["lm_eval"] = _lm_eval()
    _write(run, found)
    return found


def note_dialogues(
    run: Path, way: Entry, figures: Entry, beside: Mapping[str, Entry] | None = None
) -> Entry:
    """Add what `malmoi evaluate --chat` found; what is noted now.

    way: of what, and how it was measured. beside: figures of other models by name; they join those that
    were noted before, where those were found in the same way.
    """
    found = read_scores(run)
    before = found["chat"] or {}
    others = dict(before.get("against") or {}) if before.get("way") == way else {}
    found["chat"] = {"way": way, "figures": figures, "against": {**others, **(beside or {})}}
    _write(run, found)
    return found


def _write(run: Path, found: Entry) -> None:
    write_json(run / FILE, found)
    card = run / "model" / "README.md"
    if card.is_file():
        write_text(card, with_scores(card.read_text(encoding="utf-8"), found))


def _key(one: Entry) -> str:
    """A text's name in `against`: a language may be called like a source."""
    return f"source {one['source']}" if one["source"] else f"language {one['language']}"


def _same(one: Entry) -> tuple[Any, ...]:
    return tuple(one[name] for name in ("task", "metric", "filter", "shots", "rows"))


def _lm_eval() -> str | None:
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return None


def label(one: Entry) -> str:
    """ "all Korean" for a language, a source's own name otherwise."""
    if one["source"]:
        return str(one["source"])
    return f"all {LANGUAGES.get(one['language'], one['language'])}"


def in_order(rows: Sequence[Entry]) -> list[Entry]:
    """Korean and its sources, English and its own, other languages, then what is not plain text."""

    def place(one: Entry) -> tuple[int, str, bool, str]:
        language = one["language"] or ""
        known = [*LANGUAGES, "other", ""]
        rank = known.index(language if language in known else "other")
        return rank, language, bool(one["source"]), one["source"] or ""

    return sorted(rows, key=place)


def compared(found: Entry) -> list[tuple[Entry, float | None, float | None]]:
    """Each text in order, the other model's bits per byte, and the change as a share of them."""
    theirs = (found.get("against") or {}).get("bits_per_byte") or {}
    rows = []
    for one in in_order(found["bits_per_byte"]):
        other = theirs.get(_key(one))
        rows.append((one, other, one["bits_per_byte"] / other - 1 if other else None))
    return rows


def shown_tasks(found: Entry) -> list[Entry]:
    """What was asked for by name, and the parts of groups that are not too many."""
    groups: dict[str, set[str]] = {}
    for one in found["tasks"]:
        if one["group"]:
            groups.setdefault(one["group"], set()).add(one["task"])
    return [
        one
        for one in found["tasks"]
        if not one["group"] or len(groups[one["group"]]) <= PARTS_SHOWN
    ]


def with_scores(card: str, found: Entry) -> str:
    """The card with the section "Scores" of these scores, before "Lineage" where that is there."""
    lines = card.split("\n")
    if TITLE in lines:
        start = lines.index(TITLE)
        end = next(
            (at for at in range(start + 1, len(lines)) if lines[at].startswith("## ")), len(lines)
        )
        del lines[start:end]
    section = _section(found)
    at = lines.index("## Lineage") if "## Lineage" in lines else len(lines)
    return "\n".join([*lines[:at], *section, *lines[at:]])


def _section(found: Entry) -> list[str]:
    chat = found.get("chat")
    if not found["bits_per_byte"] and not found["tasks"] and not chat:
        return []
    lines = [TITLE, ""]
    if found["bits_per_byte"]:
        other = (found.get("against") or {}).get("model")
        lines += [f"Held-out text, bits per byte, windows of {found['window']:,} tokens:", ""]
        lines += [f"| | KB | {f'{other} | this model | change' if other else 'this model'} |"]
        lines += [f"| --- | ---: | {'---: | ---: | ---:' if other else '---:'} |"]
        for one, theirs, change in compared(found):
            cells = [label(one), f"{one['bytes'] / 1000:,.0f}"]
            if other:
                cells.append("–" if theirs is None else f"{theirs:.4f}")
            cells.append(f"{one['bits_per_byte']:.4f}")
            if other:
                cells.append("–" if change is None else f"{100 * change:+.1f} %")
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if found["tasks"]:
        lines += [f"Tasks, by lm-eval {found.get('lm_eval') or ''}:".replace(" :", ":"), ""]
        lines += ["| task | metric | shots | rows | score | ± |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
        lines += [f"| {' | '.join(task_cells(one))} |" for one in shown_tasks(found)]
        lines.append("")
    return lines + (_dialogue_section(chat) if chat else [])


def _dialogue_section(chat: Entry) -> list[str]:
    """What the model makes of held-out dialogues, beside the others that were asked."""
    way, others = chat["way"], chat["against"]
    said = (
        f"Held-out dialogues: {way['dialogues']:,}, {way['bytes'] / 1000:,.0f} KB by the assistant"
    )
    if way["replies"]:
        said += f"; {way['replies']} greedy replies of at most {way['max_new_tokens']} tokens"
    lines = [f"{said}:", "", f"| | {' | '.join([*others, 'this model'])} |"]
    lines.append("| --- |" + " ---: |" * (len(others) + 1))
    for name, cells in dialogue_lines([*others.values(), chat["figures"]]):
        lines.append(f"| {' | '.join([name, *cells])} |")
    return [*lines, ""]


DIALOGUE_FIGURES = {
    "bits_per_byte": ("bits per byte of the assistant", "{:.4f}"),
    "distinct_1": ("distinct-1 (eojeol)", "{:.3f}"),
    "distinct_2": ("distinct-2", "{:.3f}"),
    "korean": ("letters that are Hangul", "{:.1%}"),
    "stopped": ("replies that end by themselves", "{:.1%}"),
    "length": ("median length, characters", "{:,.0f}"),
    "empty": ("replies without a word", "{:,.0f}"),
}


def dialogue_lines(models: Sequence[Entry]) -> list[tuple[str, list[str]]]:
    """(what it is, a cell a model) for each figure that one of them has."""
    lines = []
    for key, (label, form) in DIALOGUE_FIGURES.items():
        values = [one.get(key) for one in models]
        if any(value is not None for value in values):
            lines.append((label, ["–" if v is None else form.format(v) for v in values]))
    return lines


def task_cells(one: Entry) -> list[str]:
    """Task, metric, shots, rows, score and standard error, as words."""
    way = "" if one["filter"] == "none" else f" ({one['filter']})"
    rows = f"{one['rows']:,}" + (f" of {one['of']:,}" if one["rows"] != one["of"] else "")
    return [
        one["task"],
        one["metric"] + way,
        "–" if one["shots"] is None else str(one["shots"]),
        rows,
        f"{one['value']:.4f}",
        "–" if one["stderr"] is None else f"{one['stderr']:.4f}",
    ]
