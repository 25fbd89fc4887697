"""`malmoi find RUN TEXT`: what corpora have of a text, an id or an address, and what was trained on it.

In: a run folder, or a folder of runs (`runs/`), and what to look for. Out, for a reader or as JSON: the
documents that are it or like it, and the models and checkpoints that read them, by the way from a
document to its steps (trained_on.py), also where a run trained on another one's documents or went on
from another one's model. A removal request needs both: the corpus to clean, and what to train again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import InputError
from configs.load import load
from configs.schema import Config
from launch.ingredients import run_of
from launch.status import check_run, is_run
from launch.trained_on import Trained, trained_on

if TYPE_CHECKING:
    from dedup.copies.find import Found

STEPS_SHOWN = 5


def answer(
    folder: Path,
    text: str | None,
    *,
    file: Path | None,
    id: str | None,
    url: str | None,
    at_least: float | None,
    most: int,
    as_json: bool,
) -> bool:
    """Print what was found; returns whether anything was. `text` "-" reads standard input.

    Raises InputError unless exactly one of text, file, id and url is given, where the folder holds no
    run, and where none of its runs can be searched.
    """
    given = [value for value in (text, file, id, url) if value is not None]
    if len(given) != 1:
        raise InputError("find: give one of TEXT, - (standard input), --file, --id or --url")
    from dedup.copies.find import find_id, find_text, find_url

    look: Callable[[Path], Found]
    if id is not None:
        look = lambda run: find_id(run, id)  # noqa: E731
    elif url is not None:
        look = lambda run: find_url(run, url)  # noqa: E731
    else:
        words = _read(text, file)
        look = lambda run: find_text(run, words, at_least=at_least, most=most)  # noqa: E731
    runs = runs_in(folder)
    found, skipped = _search(runs, look, alone=is_run(folder))
    trained = _trained(runs, found)
    if as_json:
        print(
            json.dumps(_as_json(found, trained, skipped, alone=is_run(folder)), ensure_ascii=False)
        )
        return any(each.answers for each in found.values())
    for corpus, each in found.items():
        if len(found) > 1 and each.answers:
            print(f"── {corpus}\n")
        _say_answers(each)
    for line in _said(trained):
        print(line)
    for each in found.values():
        print(_searched(each, of_text=text is not None or file is not None))
    for line in skipped:
        print(f"not searched: {line}", file=sys.stderr)
    return any(each.answers for each in found.values())


def runs_in(folder: Path) -> list[Path]:
    """The run itself, or the runs directly in a folder, by name. Raises InputError where there is none."""
    if is_run(folder):
        return [folder]
    inside = sorted(path for path in folder.glob("*") if is_run(path)) if folder.is_dir() else []
    if not inside:
        check_run(folder)
    return inside


# ── corpora ─────────────────────────────────────────────────────────────────────────────────────


def _search(
    runs: list[Path], look: Callable[[Path], Found], *, alone: bool
) -> tuple[dict[Path, Found], list[str]]:
    """What each corpus of these runs has, and which could not be asked.

    A run asked for alone whose corpus cannot be searched is an error and not an empty answer.
    """
    from pretrain.weights.provenance import corpora

    folders: dict[Path, Path] = {}
    for run in runs:
        config = _config(run)
        for folder in [run] if config is None else corpora(run, config):
            folders.setdefault(folder.resolve(), folder)
    found: dict[Path, Found] = {}
    skipped: list[str] = []
    mistakes: list[str] = []
    for folder in folders.values():
        try:
            found[folder] = look(folder)
        except InputError as error:
            mistakes += error.lines
            skipped += error.lines
    if not found and mistakes:
        raise InputError(mistakes if alone else list(dict.fromkeys(mistakes)))
    return found, skipped


def _config(run: Path) -> Config | None:
    try:
        return load(str(run / "config.yaml"))
    except InputError:
        return None


# ── what was trained on them ────────────────────────────────────────────────────────────────────


def _trained(runs: list[Path], found: dict[Path, Found]) -> list[Trained]:
    """Every run's part in the documents that were found, then those that went on from its model."""
    from pretrain.weights.provenance import corpora

    by_run: dict[Path, list[Trained]] = {}
    for run in runs:
        config = _config(run)
        if config is None or config.pretrain is None:
            continue
        read = {folder.resolve() for folder in corpora(run, config)}
        wanted = {
            (one.source, one.id)
            for corpus, each in found.items()
            if corpus.resolve() in read
            for one in each.answers
            if not one.step
        }
        by_run[run] = trained_on(run, wanted) if wanted else []
    known = {run.resolve(): [one for one in told if one.model] for run, told in by_run.items()}
    for _ in runs:  # a chain of models is at most as long as there are runs
        for run, told in by_run.items():
            base = _base_run(run)
            for parent in known.get(base, []) if base is not None else []:
                if not any((one.source, one.id) == (parent.source, parent.id) for one in told):
                    entry = _through(run, parent)
                    told.append(entry)
                    known[run.resolve()] += [entry] if entry.model else []
    return [one for told in by_run.values() for one in told]


def _base_run(run: Path) -> Path | None:
    """The run whose model this one goes on from, if its base is one."""
    config = _config(run)
    if config is None or config.pretrain is None or not isinstance(config.pretrain.base, str):
        return None
    base = Path(config.pretrain.base)
    found = run_of(base) if base.is_dir() else None
    return found.resolve() if found is not None else None


def _through(run: Path, parent: Trained) -> Trained:
    """A run that read the document only through its base."""
    from pretrain.checkpoints.checkpoint import found

    model = run / "model"
    return Trained(
        run=str(run),
        id=parent.id,
        source=parent.source,
        checkpoints=[str(path) for path in reversed(found(run / "pretrain" / "checkpoints"))],
        model=str(model) if (model / "config.json").is_file() else None,
        certain=parent.certain,
        why=f"through its base, {parent.model}",
    )


# ── for a reader ────────────────────────────────────────────────────────────────────────────────


def _say_answers(found: Found) -> None:
    for each in found.answers:
        alike = f"{each.similarity:.4f} alike" if each.similarity is not None else ""
        what = {"same text": "the same text", "near": alike}.get(each.how, f"by {each.how}")
        print(f"{each.id}  {what}  of source {each.source}" + (f"  {each.url}" if each.url else ""))
        if each.step:
            because = f", because of {each.kept_id} ({alike})" if each.kept_id else ""
            print(f"  not in the corpus: went at step {each.step}: {each.reason}{because}")
        print(f"  {' '.join(each.excerpt.split())}\n")


def _said(trained: list[Trained]) -> list[str]:
    lines = []
    for one in trained:
        lines.append(f"{one.id}  in {one.run}")
        if one.steps:
            shown = ", ".join(f"{step:,}" for step in one.steps[:STEPS_SHOWN])
            more = (
                f" and {len(one.steps) - STEPS_SHOWN:,} more"
                if len(one.steps) > STEPS_SHOWN
                else ""
            )
            lines.append(f"  trained on {one.times:,} times, at step {shown}{more}")
        if one.why:
            lines.append(f"  {one.why}")
        verb = "contains it" if one.certain else "may contain it"
        if one.model:
            lines.append(f"  model {one.model} {verb}")
        if one.checkpoints:
            lines.append(f"  {verb}: {', '.join(one.checkpoints)}")
        if one.tokenizer:
            lines.append("  its tokenizer was made with it")
        lines.append("")
    return lines


def _searched(found: Found, *, of_text: bool) -> str:
    nothing = "" if found.answers else "not found\n"
    searched = f"{nothing}searched {found.searched:,} documents in {found.seconds:.2f} s"
    if of_text:
        searched += f", from a similarity of {found.threshold:g}"
        if found.compared < found.candidates:
            searched += (
                f"; of {found.candidates:,} candidates the {found.compared:,} likeliest were "
                "compared (--most)"
            )
    return searched


def _as_json(
    found: dict[Path, Found], trained: list[Trained], skipped: list[str], *, alone: bool
) -> dict[str, Any]:
    """One run: its answers, and `trained`; several: a list of corpora, and `trained`."""
    told = [asdict(one) | {"anywhere": one.anywhere} for one in trained]
    if alone and len(found) == 1:
        (only,) = found.values()
        return {**asdict(only), "trained": told}
    corpora = [{"run": str(folder), **asdict(each)} for folder, each in found.items()]
    return {"corpora": corpora, "trained": told, "not_searched": skipped}


def _read(text: str | None, file: Path | None) -> str:
    if text == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    if text is not None:
        return text
    assert file is not None
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a text file in UTF-8")
    return file.read_bytes().decode("utf-8", "replace")
