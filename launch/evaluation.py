"""`malmoi evaluate MODEL [CONFIG]`: bits per byte on held-out documents, and lm-eval's tasks by name.

The documents are those a run kept back: of the run the model lies in, or of a config's run; where
the run had none of its own, the held-out ones of its `pretrain.documents`. Bytes, not tokens, so two
models with different tokenizers can be compared on the same lines (`against`).

What is found of a run's own model on its own documents is noted in the run: evaluations.json, the
model card, report.html and MLflow. A person who names other documents gets the table alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from configs.errors import InputError, missing_extra
from configs.load import load, run_folder
from launch.console import Console, duration, table
from launch.model_folder import check

if TYPE_CHECKING:
    from pretrain.evaluation.harness import TaskScore
    from pretrain.evaluation.measure import Measured


@dataclass(frozen=True)
class Wanted:
    """What to measure, and how.

    tasks: lm-eval's names, separated by commas. data: folder of local dataset copies. kilobytes: of
    each source, 0 for all. window: tokens of context. against: another model, folder or hub id.
    """

    tasks: str | None = None
    data: Path | None = None
    shots: int | None = None
    limit: int | None = None
    batch_size: int | None = None
    against: str | None = None
    kilobytes: int = 300
    window: int | None = None
    as_json: bool = False

    @property
    def names(self) -> list[str]:
        return [name for name in (self.tasks or "").replace(" ", "").split(",") if name]


def evaluate(model: Path, source: str | None, overrides: Sequence[str], wanted: Wanted) -> None:
    """Measure, print, and note in the run. With tasks, text is judged only where a config is named.

    Raises InputError where there is no model, nothing held out, no such task or no copy of its data.
    """
    check(model)
    if wanted.against is not None and Path(wanted.against).exists():
        check(Path(wanted.against))
    if wanted.tasks is not None:
        _check_tasks(wanted)
    documents = _heldout(model, source, overrides) if wanted.tasks is None or source else []
    models = [str(model), *([wanted.against] if wanted.against else [])]
    _quiet(offline=wanted.data is not None and all(Path(name).is_dir() for name in models))
    measured: list[list[Measured]] = []
    tasks: list[list[TaskScore]] = []
    window = wanted.window
    # libraries print as they are loaded: stdout holds what was asked for
    with redirect_stdout(sys.stderr), Console() as console:
        if documents:
            from pretrain.evaluation.measure import choose, measure, window_of

            started = monotonic()
            window = min(window_of(name, wanted.window) for name in models)
            chosen = choose(documents, most=wanted.kilobytes * 1000 or None)
            measured = [
                measure(
                    name,
                    chosen,
                    sequence_length=window,
                    micro_batch=wanted.batch_size,
                    log=console.log,
                )
                for name in models
            ]
            cost = _cost(measured, monotonic() - started)
        if wanted.names:
            from pretrain.evaluation.harness import run_tasks

            tasks = [
                run_tasks(
                    name,
                    wanted.names,
                    data=wanted.data,
                    shots=wanted.shots,
                    limit=wanted.limit,
                    batch_size=wanted.batch_size,
                )
                for name in models
            ]
    if wanted.as_json:
        print(json.dumps(_as_json(models, measured, tasks, window), ensure_ascii=False, indent=2))
    else:
        if measured:
            more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
            print(f"{model} on the held-out documents of {documents[0]}{more}")
            print(_text_table(measured, wanted.against))
            print(cost)
        if tasks:
            print(f"{model} on {', '.join(wanted.names)}")
            print(_task_table(tasks, wanted.against))
    noted = _note(model, source, overrides, measured, tasks, window, wanted)
    if not wanted.as_json:
        print(f"{f'noted in {noted}; ' if noted else ''}next: malmoi chat {model}")


def _check_tasks(wanted: Wanted) -> None:
    """What can be known before anything heavy is imported."""
    if not wanted.names:
        raise InputError("--tasks: names no task; such as --tasks kobest,klue")
    if find_spec("lm_eval") is None:
        raise missing_extra("lm_eval", "eval")
    if wanted.data is not None and not wanted.data.is_dir():
        raise InputError(
            f"{wanted.data}: no such folder; make one of local copies, such as: hf download "
            f"klue/klue --repo-type dataset --revision refs/convert/parquet --local-dir "
            f"{wanted.data / 'klue/klue'}"
        )


def _quiet(*, offline: bool) -> None:
    """Keep libraries from the network, and from drawing bars where there is no terminal."""
    if offline:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
            os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _called(model: str) -> str:
    """A short name: of runs/mine/model, "mine"."""
    path = Path(model)
    return path.resolve().parent.name if path.is_dir() and path.name == "model" else path.name


def _cost(measured: Sequence[Sequence[Measured]], seconds: float) -> str:
    sources = [one for one in measured[0] if one.source]
    size = sum(one.bytes for one in sources)
    tokens = sum(one.tokens for found in measured for one in found if one.source)
    noun = "source" if len(sources) == 1 else "sources"
    return (
        f"{len(sources)} {noun}, {size / 1000:,.0f} KB, {tokens:,} tokens judged in "
        f"{duration(seconds)} ({tokens / max(seconds, 1e-9):,.0f} tokens/s)"
    )


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


def _text_table(measured: Sequence[Sequence[Measured]], against: str | None) -> str:
    """Languages with their sources; with another model, its bits per byte and the change."""
    from pretrain.evaluation.scores import in_order, label

    others = {(one.source, one.language): one for one in measured[1]} if against else {}
    header = ["held-out text", "documents", "KB", "tokens/KB", "bits per byte"]
    if against:
        header += [_called(against), "change"]
    rows = []
    for one in in_order([asdict(found) for found in measured[0]]):
        inside = "  " if one["source"] and one["language"] else ""
        kilobytes = one["bytes"] / 1000
        cells = [inside + label(one), f"{one['documents']:,}", f"{kilobytes:,.1f}"]
        cells += [f"{one['tokens'] / kilobytes:.0f}", f"{one['bits_per_byte']:.4f}"]
        if against:
            other = others.get((one["source"], one["language"]))
            cells += ["–", "–"] if other is None else [
                f"{other.bits_per_byte:.4f}",
                f"{100 * (one['bits_per_byte'] / other.bits_per_byte - 1):+.1f} %",
            ]  # fmt: skip
        rows.append(cells)
    return table(header, rows)


def _task_table(tasks: Sequence[Sequence[TaskScore]], against: str | None) -> str:
    from pretrain.evaluation.scores import task_cells

    others = {(one.task, one.metric, one.filter): one for one in tasks[1]} if against else {}
    header = ["task", "metric", "shots", "rows", "score", "±"]
    if against:
        header += [_called(against), "change"]
    rows = []
    for one in tasks[0]:
        cells = task_cells(asdict(one))
        if one.group:
            cells[0] = f"  {cells[0]}"
        if against:
            other = others[one.task, one.metric, one.filter]
            cells += [f"{other.value:.4f}", f"{one.value - other.value:+.4f}"]
        rows.append(cells)
    return table(header, rows)


def _as_json(
    models: Sequence[str],
    measured: Sequence[Sequence[Measured]],
    tasks: Sequence[Sequence[TaskScore]],
    window: int | None,
) -> list[dict[str, Any]]:
    """One object per model, the one asked for first."""
    return [
        {
            "model": name,
            **({"window": window} if measured else {}),
            "bits_per_byte": [asdict(one) for one in measured[at]] if measured else [],
            "tasks": [asdict(one) for one in tasks[at]] if tasks else [],
        }
        for at, name in enumerate(models)
    ]


# ── the run ─────────────────────────────────────────────────────────────────────────────────────


def _note(
    model: Path,
    source: str | None,
    overrides: Sequence[str],
    measured: Sequence[Sequence[Measured]],
    tasks: Sequence[Sequence[TaskScore]],
    window: int | None,
    wanted: Wanted,
) -> Path | None:
    """Write the scores into the run whose model this is, if the documents were its own."""
    from pretrain.evaluation.scores import note_scores, run_of

    run = run_of(model)
    if run is None:
        return None
    other_text = source is not None and run_folder(load(source, overrides)).resolve() != run
    other_text = other_text or bool(overrides)
    if other_text and not tasks:
        return None
    from launch.holder import lock
    from launch.lineage import Lineage
    from launch.report import write
    from launch.tracking import mirror_scores

    against = None
    if wanted.against is not None and len(measured) > 1:
        against = (_called(wanted.against), measured[1])
    own = measured[0] if measured and not other_text else []
    try:
        with lock(run):
            note_scores(
                run,
                measured=own,
                window=window,
                against=against,
                tasks=tasks[0] if tasks else (),
            )
            Lineage(run).output_changed("pretrain", run / "model" / "README.md")
            write(run)
    except InputError as error:  # the figures are on the screen: they must not be lost with it
        print(f"not noted in the run: {error}", file=sys.stderr)
        return None
    figures = {f"evaluate/{one.name}": one.bits_per_byte for one in own}
    for found in tasks[:1]:
        for one in found:
            way = "" if one.filter == "none" else f"/{one.filter}"
            figures[f"evaluate/{one.task}/{one.metric}{way}"] = one.value
    if (problem := mirror_scores(load(str(run / "config.yaml")), run, figures)) is not None:
        print(problem, file=sys.stderr)
    return run


def _heldout(model: Path, source: str | None, overrides: Sequence[str]) -> list[Path]:
    """The documents of a run: of the one that CONFIG names, or that the model lies in."""
    if source is None:
        beside = model.resolve().parent / "config.yaml"
        if not beside.is_file():
            raise InputError(
                f"{model}: lies in no run folder; name the config whose held-out documents to use: "
                f"malmoi evaluate {model} CONFIG"
            )
        config = load(str(beside), overrides)
        elsewhere = any(override.startswith("dir=") for override in overrides)
        folder = run_folder(config) if elsewhere else beside.parent
    else:
        config = load(source, overrides)
        folder = run_folder(config)
    own = config.pretrain.documents if config.pretrain is not None else []
    replay = config.pretrain.replay if config.pretrain is not None else []
    documents = folder / "dedup" / "documents"
    if own or documents.is_dir():
        from dedup.documents import document_files

        return [*([] if own else [documents]), *document_files([*own, *replay])]
    if config.dedup is None:
        raise InputError(
            f"{source or model}: names no documents; give a config with dedup, or with "
            "pretrain.documents: pretrain.documents='[\"data/*.jsonl\"]'"
        )
    raise InputError(
        f"{documents}: is not there; run `malmoi dedup {source or folder / 'config.yaml'}` first"
    )
