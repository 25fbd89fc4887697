"""Which preference phases were trained on a pair of answers: the part of `trained_on.py` that TRL trains.

In: a run folder and the ids of documents. Out: a `Trained` for each that is a pair of a preference phase.
The way back is short here: `choices.arrow` holds the ids, and the pair of each place is a pure function of
the seed. How many pairs made a step is in the phase's report; without one it cannot be told which steps read
a pair, and everything after the phase's start may hold it.
"""

from __future__ import annotations

import json
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
    first: dict[int, int] = {}  # row → the first phase that read it
    unknown: list[int] = []
    for number in chosen:
        try:
            report = read_json(folder / str(number) / "report.json")
            each = report["pairs"] // report["steps"]
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            unknown.append(number)
            continue
        order = places(config, choices, number, report["pairs"])
        for row, found in steps.items():
            read = [before + int(at) // each + 1 for at in np.flatnonzero(order == row)]
            found += read
            if read:
                first.setdefault(row, number)
        before += report["steps"]

    def weights(begin: int, what: str) -> list[str]:
        """What phases wrote from `begin` on."""
        later = [number for number in chosen if number >= begin]
        return [str(path) for n in later for path in sorted((folder / str(n)).glob(what))]

    answers = []
    for (source, id), (row, split) in sorted(rows.items()):
        known = Trained(str(run), id, source)
        if split != "train":
            why = "it is held out: evaluated on, never trained on"
        elif steps[row]:
            at = sorted(steps[row])
            holding = weights(first[row], WEIGHTS)
            answers.append(
                Trained(str(run), id, source, list(dict.fromkeys(at)), len(at), holding, made)
            )
            continue
        elif unknown:
            why = "its preference phase has no report yet, so it cannot be told which steps read it"
            may = [*weights(unknown[0], WEIGHTS), *weights(unknown[0], "checkpoint-*")]
            answers.append(Trained(str(run), id, source, checkpoints=may, certain=False, why=why))
            continue
        else:
            why = (
                "no step read it: it is longer than the phase's sequences, or beyond its last step"
            )
        answers.append(Trained(**{**vars(known), "why": why}))
    return answers


def _steps_before(run: Path, number: int) -> int:
    """Optimizer steps of the phases before; of a stage that is not done, those in metrics.jsonl."""
    try:
        phases = read_json(run / "pretrain" / "report.json")["phases"]
        return sum(int(phase["steps"]) for phase in phases[:number])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        lines = (run / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return max((int(json.loads(line)["step"]) for line in lines), default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0
