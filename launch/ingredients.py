"""`malmoi lineage MODEL`: what is in this model, for a reader or as JSON.

In: a model's folder, a run's, or a checkpoint's. Out: its data with digests and counts, what was removed,
its tokenizer, phases, code, machines, hours and licences, and what the licence of its base asks. The
facts are `pretrain/weights/provenance.py`'s; of a model that was moved away from its run they are those
of its own `provenance.json`, and that is said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json
from launch.console import amount, duration, quantity, table
from launch.lineage import Lineage
from launch.status import check_run, is_run

Entry = dict[str, Any]


def answer(path: Path, *, as_json: bool) -> None:
    """Print what is in a model. Raises InputError where `path` is neither a model's nor a run's."""
    found = ingredients(path)
    print(json.dumps(found, ensure_ascii=False, indent=2) if as_json else said(found))


def ingredients(path: Path) -> Entry:
    """The facts of the model at `path`: of its run where it lies in one, else of its own record."""
    from pretrain.weights.provenance import FILE, facts

    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a model's folder or a run's")
    run = run_of(path)
    if run is not None and (run / "config.yaml").is_file():
        Lineage(run)  # a lineage.json that is no JSON is told, not taken for an empty one
        found = facts(run)
        return {"run": str(run), **found, "checkpoint": _checkpoint(path)}
    record = path / FILE
    if record.is_file():
        try:
            return {"run": None, "from": str(record), **read_json(record)}
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{record}: is not JSON ({error}); ask for it where the model is from"
            ) from None
    if (path / "config.json").is_file():
        raise InputError(
            f"{path}: is a model, but lies in no run and brings no {FILE}; Malmoi did not make it, or "
            "the file was lost: look in the run that made it"
        )
    check_run(path)
    raise InputError(f"{path}: has no config.yaml yet; its run was killed before it began")


def run_of(path: Path) -> Path | None:
    """The run folder that a model, a checkpoint or the folder itself belongs to."""
    here = path.resolve()
    if is_run(here):
        return path
    if here.name == "model" and is_run(here.parent):
        return here.parent
    if here.parent.name == "checkpoints" and is_run(here.parents[2]):
        return here.parents[2]
    return None


def _checkpoint(path: Path) -> Entry | None:
    """How far a checkpoint is, where `path` is one."""
    try:
        state = read_json(path / "state.json")
        return {name: state[name] for name in ("step", "phase", "tokens")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ── for a reader ────────────────────────────────────────────────────────────────────────────────


def said(found: Entry) -> str:
    """The facts as a person reads them."""
    lines = [f"{found['name']}  (run {found.get('run') or 'not here: ' + str(found.get('from'))})"]
    if found.get("parameters"):
        lines.append(
            f"  {amount(found['parameters'])} parameters, vocabulary {found['vocab_size']:,}, "
            f"{amount(found['tokens'])} tokens trained, seed {found['seed']}"
        )
    if found.get("checkpoint"):
        lines.append(f"  checkpoint at step {found['checkpoint']['step']:,}")
    lines += ["", *_base(found.get("base")), "", "data"]
    lines.append(_data(found["data"]) if found["data"] else "  none is known yet")
    cleaning = found.get("cleaning")
    if cleaning and cleaning["documents_in"]:
        gone = ", ".join(f"{step} {n:,}" for step, n in cleaning["removed"].items() if n) or "none"
        lines.append(
            f"  of {cleaning['documents_in']:,} documents {cleaning['removed_share']:.1%} removed "
            f"({gone}), {cleaning['heldout'] or 0:,} held out"
        )
    lines += ["", *_tokenizer(found.get("tokenizer")), "", "phases"]
    lines.append(_phases(found["phases"]) if found["phases"] else "  none")
    lines += ["", *_made(found)]
    return "\n".join(lines)


def _base(base: Entry | None) -> list[str]:
    if base is None:
        return ["base   none: nothing is trained"]
    if base.get("name") is None:
        return [f"base   random weights ({base['config'].get('model_type', 'model')})"]
    lines = [
        f"base   {base['name']} (from {base['from']}), licence {base['licence'] or 'not stated'}"
    ]
    if asked := base.get("duties"):
        lines += [
            f"       {asked['licence']}, {asked['section']}, for whoever hands this model on:",
            f'       name it {asked["name"]} (begins with "{asked["name_begins"]}"), show '
            f'"{asked["built_with"]}", give a copy of the licence,',
            f"       and keep in a file called Notice: {asked['notice']}",
        ]
    return lines


def _data(rows: list[Entry]) -> str:
    cells = []
    for row in rows:
        files = row.get("files")
        cells.append(
            [
                row["source"],
                f"{files:,}" if files else "–",
                quantity(row["bytes"], "B") if row.get("bytes") else "–",
                _count(row.get("documents_in")),
                _share(row.get("removed")),
                _count(row.get("documents")),
                amount(row["tokens"]) if row.get("tokens") else "–",
                f"{row['passes']:.2f}" if row.get("passes") is not None else "–",
                row.get("licence") or "not stated",
                (row.get("sha256") or "–")[:12],
            ]
        )
    header = ["source", "files", "size", "read", "removed", "trained", "tokens", "passes"]
    return table([*header, "licence", "sha256"], cells)


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _tokenizer(words: Entry | None) -> list[str]:
    if words is None:
        return ["tokenizer   not made yet"]
    if "name" in words:
        return [f"tokenizer   {words['name']}"]
    return [
        f"tokenizer   {words['base']} + {words['new_tokens']:,} new tokens = {words['vocab_size']:,}, "
        f"sha256 {str(words['tokenizer_sha256'])[:12]}"
    ]


def _phases(phases: list[Entry]) -> str:
    cells = []
    for phase in phases:
        train = phase["train"] if isinstance(phase["train"], str) else ", ".join(phase["train"])
        mixture = ", ".join(f"{name} {share:g}" for name, share in phase["mixture"].items())
        cells.append(
            [
                phase["name"],
                train,
                amount(phase["tokens"]) if phase.get("tokens") else "–",
                f"{phase['lr']:g}",
                f"{phase['loss_first']:.3f} → {phase['loss_last']:.3f}"
                if phase.get("loss_last") is not None
                else "not trained yet",
                mixture,
            ]
        )
    return table(["phase", "learns", "tokens", "lr", "loss", "mixture"], cells)


def _made(found: Entry) -> list[str]:
    lines = []
    for stage, machines in found["machines"].items():
        code = found["code"].get(stage) or {}
        names = ", ".join(str(machine.get("host")) for machine in machines) or "unknown"
        hours = found["hours"].get(stage, 0.0)
        digest = str(found["digests"].get(stage) or "not finished")[:12]
        commit = str(code.get("commit") or "")[:10]
        version = f"malmoi {code.get('version')} {commit}".rstrip()
        lines.append([stage, names, duration(3600 * hours), version, digest])
    if not lines:
        return ["nothing has run yet"]
    total = found["hours"].get("all", 0.0)
    return [
        table(["stage", "machines", "time", "code", "sha256 of its output"], lines),
        f"  {duration(3600 * total)} in all",
    ]
