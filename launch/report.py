"""report.html: one page that shows what a run did, from the files of its run folder.

Comes in: config.yaml, lineage.json, the stages' report.json, tokenizer/new_tokens.tsv,
pretrain/metrics.jsonl (and those of preference phases), evaluations.json and replies.json, each of which may be missing (a section that has not run
says so) or cut off in mid-write (the page names the file and goes on). Goes out: a page that asks
nothing of the network or of a script, so it can be mailed, archived and opened years later. The
price is that charts do not zoom; metrics.jsonl and MLflow hold every step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from configs.errors import InputError
from configs.files import write_text
from launch.charts import share_bar
from launch.console import amount, duration
from launch.figures import entries, entry, number
from launch.section_dialogues import dialogues
from launch.section_documents import documents
from launch.section_lineage import headline, lineage
from launch.section_preference import preference
from launch.section_scores import scores
from launch.section_tokenizer import tokenizer
from launch.section_training import training

STAGES = ("dedup", "tokenizer", "pretrain")


@dataclass
class RunFiles:
    """What a run folder holds, as read; `problems` names files that are there but not whole."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    lineage: dict[str, Any] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    new_tokens: list[dict[str, str]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    preference: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    replies: list[dict[str, Any]] = field(default_factory=list)
    evaluations: Any = None
    problems: list[str] = field(default_factory=list)


def write(folder: Path) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    Raises InputError where `folder` is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a run folder; `malmoi run CONFIG` makes one")
    path = folder / "report.html"
    page = render(read(folder))
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))  # lone surrogates in texts
    return path


def read(folder: Path) -> RunFiles:
    """Read every file the page shows; a missing one leaves its part empty."""
    files = RunFiles(folder)
    files.config_text = _text(files, "config.yaml") or ""
    try:
        files.config = entry(yaml.safe_load(files.config_text))
    except yaml.YAMLError:
        files.problems.append("config.yaml is not YAML")
    files.lineage = entry(_json(files, "lineage.json"))
    for stage in STAGES:
        report = entry(_json(files, f"{stage}/report.json"))
        if report:
            files.reports[stage] = report
    files.new_tokens = _table(_text(files, "tokenizer/new_tokens.tsv") or "")
    files.metrics = _lines(files, "pretrain/metrics.jsonl")
    for path in sorted((folder / "pretrain" / "preference").glob("[0-9]*/metrics.jsonl")):
        if path.parent.name.isdigit():
            name = f"pretrain/preference/{path.parent.name}/metrics.jsonl"
            files.preference[path.parent.name] = _lines(files, name)
    files.replies = entries(_json(files, "replies.json"))
    files.evaluations = _json(files, "evaluations.json")
    return files


def render(files: RunFiles) -> str:
    """The page as HTML. Everything read from the run is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"amount": _amount, "count": _count, "percent": _percent, "time": _time}
    pages.globals["share_bar"] = share_bar
    reports = files.reports
    return pages.get_template("report.html").render(
        head=headline(files.config, files.folder.name, files.lineage, reports),
        documents=documents(reports.get("dedup")),
        tokenizer=tokenizer(reports.get("tokenizer"), files.new_tokens),
        training=training(reports.get("pretrain"), files.metrics, files.config),
        preference=preference(reports.get("pretrain"), files.preference),
        scores=scores(files.evaluations, reports.get("pretrain")),
        dialogues=dialogues(files.evaluations, reports.get("pretrain")),
        replies=[
            {"prompt": str(turn.get("prompt") or ""), "reply": str(turn.get("reply") or "")}
            for turn in files.replies
        ],
        lineage=lineage(files.lineage, reports.get("dedup")),
        state={stage: _state(stage, files) for stage in STAGES},
        config_text=files.config_text,
        problems=files.problems,
    )


def _state(stage: str, files: RunFiles) -> str:
    """What to say where a stage has no report: "" if it has one."""
    if stage in files.reports:
        return ""
    known = entry(entry(files.lineage.get("stages")).get(stage))
    if known.get("status") == "running":
        return "was started and has not finished; the same command goes on where it stopped"
    if files.config and files.config.get(stage) is None:
        return "is not part of this config"
    return "has not run yet"


# ── files ───────────────────────────────────────────────────────────────────────────────────────


def _text(files: RunFiles, name: str) -> str | None:
    path = files.folder / name
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        files.problems.append(f"{name} cannot be read: {error.strerror}")
        return None


def _json(files: RunFiles, name: str) -> Any:
    text = _text(files, name)
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        files.problems.append(f"{name} is not whole JSON (line {error.lineno})")
        return None


def _lines(files: RunFiles, name: str) -> list[dict[str, Any]]:
    """Records of a JSONL file. A last line without its newline is still being written."""
    text = _text(files, name) or ""
    found, broken = [], 0
    for line in text[: text.rfind("\n") + 1].splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            broken += 1
            continue
        if isinstance(record, dict) and number(record.get("step")) is not None:
            found.append(record)
    if broken:
        files.problems.append(f"{name}: {broken:,} lines are not JSON and are left out")
    return found


def _table(text: str) -> list[dict[str, str]]:
    """Rows of a TSV with a header; csv is not used because quotes mean themselves here."""
    lines = text.split("\n")
    header = lines[0].split("\t")
    rows = (line.split("\t") for line in lines[1:] if line)
    return [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]


# ── figures as words ────────────────────────────────────────────────────────────────────────────


def _amount(value: Any) -> str:
    figure = number(value)
    return "–" if figure is None else amount(figure)


def _count(value: Any) -> str:
    figure = number(value)
    return "–" if figure is None else f"{figure:,.0f}"


def _percent(value: Any, digits: int = 1) -> str:
    figure = number(value)
    return "–" if figure is None else f"{100 * figure:.{digits}f} %"


def _time(value: Any) -> str:
    figure = number(value)
    return "–" if figure is None else duration(figure)
