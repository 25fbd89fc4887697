"""What is in a model: data, tokenizer, phases, code, machines and hours, from the run's own files.

In: a run folder. Out: `facts`, a JSON value. Nothing is computed that the run did not write down:
lineage.json has the digests, the reports the counts, `config.yaml` the licences, the logs' names the
machines. `malmoi lineage` prints it, the model card shows it, and `model/provenance.json` holds what was
known when the model was written, for the day on which the model is found without its run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.files import read_json
from configs.load import load
from configs.schema import Config
from pretrain.weights.duties import base_licence, duties

Entry = dict[str, Any]
FILE = "provenance.json"
"""Name of the facts in a model's folder."""

_LOG = re.compile(r"^pretrain-(?P<host>.+)-\d+\.log$")


def facts(run: Path, config: Config | None = None, report: Entry | None = None) -> Entry:
    """What is known of the model in `run`. config and report: in place of what stands on the disk.

    Raises InputError where the folder has no config of a run.
    """
    config = config or load(str(run / "config.yaml"))
    stages = _json(run / "lineage.json").get("stages", {})
    cleaned = _json(run / "dedup" / "report.json")
    extended = _json(run / "tokenizer" / "report.json")
    trained = report if report is not None else _json(run / "pretrain" / "report.json")
    found: Entry = {
        "name": config.name,
        "seed": config.seed,
        "identity": trained.get("identity"),
        "base": _base(config),
        "parameters": trained.get("parameters"),
        "vocab_size": trained.get("vocab_size") or extended.get("vocab_size"),
        "data": _data(run, config, stages, trained),
        "cleaning": _cleaning(cleaned),
        "tokenizer": _tokenizer(config, stages, extended),
        "phases": _phases(config, trained),
        "tokens": trained.get("tokens"),
        "training": {
            name: trained.get(name) for name in ("world_size", "zero_stage", "dtype", "resumed")
        },
        "bits_per_byte": trained.get("bits_per_byte", {}),
        "code": {name: stage.get("code") for name, stage in stages.items()},
        "machines": _machines(run, stages),
        "hours": _hours(stages),
        "digests": {name: stage.get("digest") for name, stage in stages.items()},
    }
    if trained.get("seconds") is not None:
        found["training"]["hours"] = round(float(trained["seconds"]) / 3600, 4)
    return found


def _json(path: Path) -> Entry:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _base(config: Config) -> Entry | None:
    if config.pretrain is None:
        return None
    base = config.pretrain.base
    if isinstance(base, dict):
        return {"name": None, "from": "random weights", "config": base, "licence": None}
    licence = base_licence(base)
    asked = duties(licence, base)
    return {
        "name": base,
        "from": "a folder" if Path(base).exists() else "the hub",
        "licence": licence,
        "duties": None if asked is None else {
            "licence": asked.title,
            "section": asked.section,
            "name_begins": asked.name_begins,
            "name": asked.name(config.name),
            "built_with": asked.built_with,
            "notice": asked.notice,
        },
    }  # fmt: skip


# ── data ────────────────────────────────────────────────────────────────────────────────────────


def corpora(run: Path, config: Config) -> list[Path]:
    """The run folders whose documents were trained on: this one, or those that the config names."""
    if config.pretrain is None:
        return [run]
    named = [*config.pretrain.documents, *config.pretrain.replay]
    found = [] if config.pretrain.documents else [run]
    for path in map(Path, named):
        for parent in (path, *path.parents):
            if parent.name == "dedup" and (parent / "report.json").is_file():
                if parent.parent not in found:
                    found.append(parent.parent)
                break
    return found


def _data(run: Path, config: Config, stages: Entry, trained: Entry) -> list[Entry]:
    """An entry for every source that was read or trained on."""
    rows: dict[str, Entry] = {}
    for folder in corpora(run, config):
        own = folder == run
        try:
            other = config if own else load(str(folder / "config.yaml"))
        except InputError:
            continue
        lineage = stages if own else _json(folder / "lineage.json").get("stages", {})
        report = _json(folder / "dedup" / "report.json").get("by_source", {})
        files = lineage.get("dedup", {}).get("inputs", {}).get("files", [])
        for source in other.dedup.sources if other.dedup else []:
            row = rows.setdefault(source.name, {"source": source.name})
            mine = [item for item in files if _owner(item["path"], other) == source.name]
            counted = report.get(source.name, {})
            row |= {
                "licence": source.licence or None,
                "language": source.language,
                "files": sum(item.get("files", 1) for item in mine),
                "bytes": sum(item["bytes"] for item in mine),
                "sha256": _together(mine),
                "documents_in": counted.get("documents_in"),
                "documents_kept": counted.get("documents_out"),
                "heldout": counted.get("heldout"),
                "removed": _share(counted.get("documents_in"), counted.get("documents_out")),
            }
            if not own:
                row["run"] = str(folder)
    passes: Counter[str] = Counter()
    for phase in trained.get("phases", []):
        passes.update(phase.get("epochs", {}))
    for name, described in _trained_on(run).items():
        row = rows.setdefault(name, {"source": name, "licence": None})
        row |= described
    for name in passes:
        rows.setdefault(name, {"source": name, "licence": None})
    for name, row in rows.items():
        row["passes"] = round(passes[name], 4) if name in passes else None
    return [rows[name] for name in sorted(rows)]


def _trained_on(run: Path) -> dict[str, Entry]:
    """Kind, documents and tokens of each source in the token shards."""
    found: dict[str, Entry] = {}
    for shard in _json(run / "pretrain" / "tokens" / "manifest.json").get("shards", []):
        for part in shard.get("sets", []):
            if part["split"] == "train":
                row = found.setdefault(
                    part["source"], {"kind": part["kind"], "documents": 0, "tokens": 0}
                )
                row["documents"] += part["documents"]
                row["tokens"] += part["tokens"]
    pairs = _json(run / "pretrain" / "preference" / "choices.json").get("sources", {})
    for name, counted in pairs.items():
        found[name] = {"kind": "preference", "documents": counted["train"], "tokens": None}
    return found


def _owner(path: str, config: Config) -> str | None:
    """The source a file belongs to: whose pattern says most about its path."""
    best: tuple[int, str] | None = None
    for source in config.dedup.sources if config.dedup else []:
        for pattern in source.paths:
            literal = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
            inside = literal == pattern and path.startswith(pattern.rstrip("/") + "/")
            if path == pattern or inside or fnmatchcase(path, pattern):
                found = (len(literal), source.name)
                best = found if best is None or found[0] > best[0] else best
    return best[1] if best else None


def _together(files: Sequence[Mapping[str, Any]]) -> str | None:
    """One digest for the digests of all files of a source; of a single one its own."""
    digests = sorted(str(item["sha256"]) for item in files)
    if len(digests) < 2:
        return digests[0] if digests else None
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _share(before: int | None, after: int | None) -> float | None:
    return round(1 - after / before, 4) if before and after is not None else None


def _cleaning(report: Entry) -> Entry | None:
    if not report:
        return None
    read, kept = report.get("documents_in"), report.get("documents_out")
    names = ("documents_in", "documents_out", "bytes_in", "bytes_out", "heldout", "removed")
    return {name: report.get(name) for name in names} | {"removed_share": _share(read, kept)}


# ── the rest ────────────────────────────────────────────────────────────────────────────────────


def _tokenizer(config: Config, stages: Entry, report: Entry) -> Entry | None:
    own = config.pretrain.tokenizer if config.pretrain is not None else None
    if own is not None:
        return {"name": own}
    if not report:
        return None
    names = (
        "base",
        "base_vocab_size",
        "new_tokens",
        "vocab_size",
        "tokens_saved",
        "tokenizer_sha256",
    )
    return {name: report.get(name) for name in names} | {
        "digest": stages.get("tokenizer", {}).get("digest")
    }


def _phases(config: Config, report: Entry) -> list[Entry]:
    if config.pretrain is None:
        return []
    found = []
    done: list[Entry] = report.get("phases", [])
    for number, phase in enumerate(config.pretrain.phases):
        entry: Entry = {
            "name": phase.name,
            "objective": phase.objective,
            "train": phase.train,
            "lr": phase.lr,
            "mixture": phase.mixture,
        }
        if number < len(done):
            names = ("steps", "tokens", "loss_first", "loss_last", "epochs")
            entry |= {name: done[number].get(name) for name in names}
        found.append(entry)
    tuned: list[Entry] = report.get("preference", [])
    for entry, one in zip(found[len(found) - len(tuned) :], tuned, strict=True):
        entry |= {name: one.get(name) for name in ("pairs", "too_long", "beta", "before", "after")}
        entry |= {"trl": one.get("trl"), "choices": one.get("choices")}
    return found


def _machines(run: Path, stages: Entry) -> dict[str, list[Entry]]:
    """Where each stage ran: the machines of its attempts, and of a training those of its ranks."""
    found: dict[str, list[Entry]] = {}
    for name, stage in stages.items():
        machines: dict[str, Entry] = {}
        for attempt in [*stage.get("attempts", []), stage]:
            machine = attempt.get("machine") or {}
            if machine:
                machines[str(machine.get("host"))] = machine
        if name == "pretrain":
            for path in (run / "logs").glob("pretrain-*.log"):
                if match := _LOG.match(path.name):
                    machines.setdefault(match["host"], {"host": match["host"]})
        found[name] = [machines[host] for host in sorted(machines)]
    return found


def _hours(stages: Entry) -> dict[str, float]:
    """Wall hours of each stage, all attempts together, and of all."""
    hours = {name: float(stage.get("seconds") or 0.0) / 3600 for name, stage in stages.items()}
    return {name: round(value, 4) for name, value in {**hours, "all": sum(hours.values())}.items()}
