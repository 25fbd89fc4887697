"""Which preference phases were trained on a pair of answers: the part of `trained_on.py` that TRL trains.

In: a run folder and the ids of documents. Out: a `Trained` for each that is a pair of a preference phase.
The way back is short here: `choices.arrow` holds the ids, and the pair of each place is a pure function of
the seed. How many pairs made a step is in the phase's report; without one it cannot be told which steps read
a pair, and everything after the phase's start may hold it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from configs.errors import InputError
from configs.files import read_json
from configs.schema import Config
from launch.trained_on import Trained


def trained_on_pairs(
    run: Path, config: Config, wanted: Collection[tuple[str, str]]
) -> list[Trained]:
    """What the preference phases did with documents, given by (source, id); others are left out."""
    from pretrain.preference.choices import Choices, places
    from pretrain.preference.phases import numbers
    from pretrain.preference.tune import FOLDER, WEIGHTS

    folder = run / "pretrain" / FOLDER
    names = {source for source, _ in wanted}
    chosen = numbers(config)
    if not chosen or not (folder / "choices.json").is_file():
        return []
    if not names & set(read_json(folder / "choices.json").get("sources", {})):
        return []
    try:
        choices = Choices.open(folder)
    except InputError:
        return []
    keys = zip(
        choices.table["source"].to_pylist(),
        choices.table["id"].to_pylist(),
        choices.table["split"].to_pylist(),
        strict=True,
    )
    rows = {
        (source, id): (row, split)
        for row, (source, id, split) in enumerate(keys)
        if (source, id) in wanted
    }
    before = _steps_before(run, chosen[0])
    model = run / "model"
    made = str(model) if (model / "config.json").is_file() else None
    steps: dict[int, list[int]] = {row: [] for row, _ in rows.values()}
    unknown = False
    for number in chosen:
        try:
            report = read_json(folder / str(number) / "report.json")
            each = report["pairs"] // report["steps"]
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            unknown = True
            continue
        order = places(config, choices, number, report["pairs"])
        for row, found in steps.items():
            found += [before + int(at) // each + 1 for at in np.flatnonzero(order == row)]
        before += report["steps"]
    weights = [str(path) for path in sorted(folder.glob(f"[0-9]*/{WEIGHTS}"))]
    answers = []
    for (source, id), (row, split) in sorted(rows.items()):
        known = Trained(str(run), id, source)
        if split != "train":
            why = "it is held out: evaluated on, never trained on"
        elif steps[row]:
            at = sorted(steps[row])
            answers.append(
                Trained(str(run), id, source, list(dict.fromkeys(at)), len(at), weights, made)
            )
            continue
        elif unknown:
            why = "its preference phase has no report yet, so it cannot be told which steps read it"
            answers.append(
                Trained(str(run), id, source, checkpoints=weights, certain=False, why=why)
            )
            continue
        else:
            why = (
                "no step read it: it is longer than the phase's sequences, or beyond its last step"
            )
        answers.append(Trained(**{**vars(known), "why": why}))
    return answers


def _steps_before(run: Path, number: int) -> int:
    """Optimizer steps of the phases before."""
    try:
        phases = read_json(run / "pretrain" / "report.json")["phases"]
        return sum(int(phase["steps"]) for phase in phases[:number])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
