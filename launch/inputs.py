"""What a stage reads: what can be refused before anything runs, and digests to tell what changed.

In: the config and lineage.json. Out: `refuse` says no to a base or tokenizer that cannot be one
(from file names alone, before hours of deduplication); `inputs_of` gives a JSON value that is equal
exactly while a stage would read the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.schema import Config
from launch.lineage import Entry, Lineage, digest, file_digests

_OF_A_FILE = {".json", ".model", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".yaml"}
"""Suffixes that no hub id ends in ("Llama-3.1-8B" has a dot too)."""
_OF_A_TOKENIZER = ("tokenizer.json", "tokenizer.model", "original/tokenizer.model")


def refuse(config: Config, stages: Sequence[str]) -> None:
    """Raise InputError, a line each, for bases and tokenizers of `stages` that are none."""
    named: list[tuple[str, object, tuple[str, ...], str]] = []
    if "tokenizer" in stages and config.tokenizer is not None:
        named.append(("tokenizer.base", config.tokenizer.base, _OF_A_TOKENIZER, "a tokenizer"))
    if "pretrain" in stages and config.pretrain is not None:
        named.append(("pretrain.base", config.pretrain.base, ("config.json",), "a model"))
        own = config.pretrain.tokenizer
        named.append(("pretrain.tokenizer", own, ("tokenizer.json",), "a tokenizer"))
    mistakes = []
    for key, value, wanted, what in named:
        if isinstance(value, str) and (mistake := _mistake(value, wanted, what)):
            mistakes.append(f"{key}: {mistake}")
    if mistakes:
        raise InputError(mistakes)


def _mistake(value: str, wanted: tuple[str, ...], what: str) -> str | None:
    """What is wrong with a folder or name, as far as file names tell."""
    path = Path(value).expanduser()
    if path.is_dir():
        if any((path / name).is_file() for name in wanted):
            return None
        return f"{value} is no {what.split()[1]} (it has no {wanted[0]}); give the folder of {what}"
    if path.is_file():
        if wanted == _OF_A_TOKENIZER:  # the base of the extension may be one file
            return None
        return f"{value} is a file; give the folder of {what}, or a hub id"
    if value.startswith(("/", "./", "../", "~")) or value.endswith("/") or value.count("/") > 1:
        return f"{value}: no such folder; give the folder of {what}, or a hub id"
    if path.suffix.lower() in _OF_A_FILE:
        return f"{value}: no such file; give the folder of {what}, or a hub id"
    return None


def inputs_of(config: Config, lineage: Lineage, stage: str, earlier: Entry | None) -> Entry:
    """Digests of what a stage reads; `earlier` is its entry in lineage.json, to hash less.

    Raises InputError where an earlier stage has to run first, or a path matches nothing.
    """
    before = (earlier or {}).get("inputs", {})
    if stage == "dedup":
        return {"files": file_digests(_data_files(config), before)}
    section: Any = getattr(config, stage)
    inputs: Entry = {}
    files = [*section.documents, *(section.replay if stage == "pretrain" else [])]
    if files:
        from dedup.documents import document_files

        inputs["files"] = file_digests(document_files(files), before)
    elsewhere = stage == "tokenizer" and section.counts and config.dedup is None
    if not section.documents and not elsewhere:
        inputs["dedup"] = _finished(config, lineage, "dedup", stage)
    if stage == "tokenizer" and section.counts:
        from dedup.documents import document_files

        inputs["counts"] = [_folder_digest(str(path)) for path in document_files(section.counts)]
    if stage == "pretrain":
        if section.tokenizer:
            inputs["tokenizer"] = _folder_digest(section.tokenizer)
        else:
            inputs["tokenizer"] = _finished(config, lineage, "tokenizer", stage)
    if isinstance(section.base, str):
        inputs["base"] = _folder_digest(section.base)
    return inputs


def _data_files(config: Config) -> list[Path]:
    """Every file that deduplication reads, the mistakes of all its paths told at once."""
    assert config.dedup is not None
    from dedup.copies.against import manifests
    from dedup.read import plan
    from dedup.text.custom import filter_files
    from dedup.text.evaluation_files import evaluation_files

    mistakes: list[str] = []
    paths: list[str] = []
    try:
        paths += sorted({path for task in plan(config.dedup) for path in task.files})
    except InputError as error:
        mistakes += error.lines
    try:
        paths += evaluation_files(config.dedup.decontaminate)
    except InputError as error:
        mistakes += error.lines
    try:
        paths += map(str, manifests(config.dedup))
    except InputError as error:
        mistakes += error.lines
    try:
        paths += map(str, filter_files(config.dedup.custom_filters))
    except InputError as error:
        mistakes += error.lines
    if mistakes:
        raise InputError(mistakes)
    return [Path(path) for path in paths]


def _finished(config: Config, lineage: Lineage, needed: str, stage: str) -> str:
    entry = lineage.stage(needed)
    if entry is None or entry["status"] != "done":
        if getattr(config, needed) is None:
            own = "documents" if needed == "dedup" else "tokenizer"
            raise InputError(
                f"{stage}: the config has no {needed} section; add one, or name {stage}.{own}"
            )
        raise InputError(
            f"{stage}: {needed} has not finished in {lineage.folder}; run `malmoi {needed}` or "
            "`malmoi run` with the same config first"
        )
    return str(entry["digest"])


def _folder_digest(base: str) -> str:
    """Size and time of a local folder's files; a name (llama3, a hub id) stands for itself."""
    path = Path(base)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
    elif path.is_file():
        files = [path]
    else:
        return base
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return digest(stats)


def changes(before: Entry, now: Entry) -> list[str]:
    """What differs between two results of `inputs_of`, a line each."""
    reasons = []
    old = {item["path"]: item["sha256"] for item in before.get("files", [])}
    new = {item["path"]: item["sha256"] for item in now.get("files", [])}
    for said, paths in (
        ("new input", [path for path in new if path not in old]),
        ("input gone", [path for path in old if path not in new]),
        ("input changed", [path for path in new if path in old and new[path] != old[path]]),
    ):
        if paths:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            reasons.append(f"{said}: {paths[0]}{more}")
    reasons += [
        f"{said} changed"
        for key, said in (
            ("dedup", "the documents of dedup"),
            ("tokenizer", "the tokenizer"),
            ("base", "the base"),
        )
        if key in now and before.get(key) != now[key]
    ]
    return reasons
