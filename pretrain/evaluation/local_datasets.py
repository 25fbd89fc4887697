"""lm-eval's tasks on local copies of their datasets.

In: task names, lm-eval's index of tasks, a folder of copies. Out: every task that the names stand for
has in the index a YAML file of its own that includes lm-eval's and says where the rows lie
(`dataset_path`, `data_files`); nothing else of a task changes, so its score is the hub's.

A copy is a folder `<owner>/<name>` or `<name>` in any of the layouts that the hub gives: files named
by the dataset card's `configs`, `<config>/<split>/0000.parquet` (the parquet branch every dataset
has), `<config>/<split>-00000-of-00001.parquet`, `<config>-<split>.csv`, or `<config>/<split>.jsonl`
written by hand. The cost: which file holds which split is decided by its name here, not by the
hub's code, which needs the network or the dataset's own script.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from configs.errors import InputError

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
OTHER_NAMES = {
    "validation": ("dev", "valid", "val"),
    "dev": ("validation",),
    "train": ("training",),
}
PARTS = r"(?:[/_.-]\d+(?:-of-\d+)?)*"  # 0000 of a branch, -00000-of-00001 of a shard


def download_command(dataset: str, folder: Path) -> str:
    """The command that makes a local copy of a hub dataset."""
    return (
        f"hf download {dataset} --repo-type dataset --revision refs/convert/parquet "
        f"--local-dir {folder / dataset}"
    )


def redirect(
    names: Iterable[str],
    index: Mapping[str, Any],
    data: Path,
    target: Path,
    *,
    few_shot: bool | None,
) -> None:
    """Point the tasks behind `names` at the copies in `data`; their YAML files go into `target`.

    index: lm-eval's `TaskManager.task_index`, changed in place. few_shot: whether examples are shown
    (None: as each task says). Raises InputError with a line for each dataset, config or split that
    is not there, and the command that fetches it.
    """
    mistakes: dict[str, None] = {}
    for name in dict.fromkeys(leaf for asked in names for leaf in leaves(asked, index)):
        entry = index[name]
        if entry.yaml_path is None:
            continue
        settings = _settings(entry.yaml_path)
        if not settings.get("dataset_path") or settings.get("custom_dataset"):
            continue
        shown = bool(settings.get("num_fewshot")) if few_shot is None else few_shot
        try:
            changed = _changed(settings, data, shown)
        except InputError as error:
            mistakes |= dict.fromkeys(error.lines)
            continue
        path = target / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump({"include": str(entry.yaml_path), "task": name, **changed}), "utf-8"
        )
        entry.yaml_path = path
    if mistakes:
        raise InputError(list(mistakes))


def leaves(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """The tasks that a task, group or tag stands for."""
    entry = index.get(name)
    if entry is None:
        return
    kind = entry.kind.name
    if kind == "TAG":
        yield from sorted(entry.tags)
    elif kind != "GROUP":
        yield name
    else:
        settings = entry.cfg or {}
        for child in settings.get("task") or []:
            below = child if isinstance(child, str) else child.get("task") or child.get("group")
            if isinstance(below, str):
                yield from leaves(below, index)


def _settings(path: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(path, resolve_func=False))


def _changed(settings: dict[str, Any], data: Path, shown: bool) -> dict[str, Any]:
    """The keys of a task that say where its rows lie."""
    dataset, config = str(settings["dataset_path"]), settings.get("dataset_name")
    folder = _folder(dataset, data)
    judged = settings.get("test_split") or settings.get("validation_split")
    learned = settings.get("fewshot_split") or settings.get("training_split") or judged
    files: dict[str, list[str]] = {}
    changed: dict[str, Any] = {}
    for key in ("test_split", "validation_split", "training_split", "fewshot_split"):
        split = settings.get(key)
        if not split or split in files:
            continue
        found = find(folder, config, str(split))
        if found:
            files[split] = [str(path) for path in found]
        elif split == judged or (split == learned and shown):
            below = f" of {config}" if config else ""
            raise InputError(
                f"{folder}: no file of the split {split}{below}; expected such as "
                f"{Path(config or '', f'{split}.jsonl')}, or fetch it: "
                f"{download_command(dataset, data)}"
            )
        else:
            changed[key] = None  # not needed, and lm-eval would look for it
    formats = {FORMATS[Path(path).suffix] for paths in files.values() for path in paths}
    if len(formats) > 1:
        raise InputError(f"{folder}: {' and '.join(sorted(formats))} files; keep those of one kind")
    kwargs: dict[str, Any] = {"data_files": files}
    if any(path.endswith(".tsv") for paths in files.values() for path in paths):
        kwargs["sep"] = "\t"
    return {
        "dataset_path": formats.pop(),
        "dataset_name": None,
        "dataset_kwargs": kwargs,
        **changed,
    }


def _folder(dataset: str, data: Path) -> Path:
    name = dataset.rpartition("/")[2]
    for folder in (data / dataset, data / name):
        if folder.is_dir():
            return folder.resolve()
    raise InputError(
        f"{data}: holds no copy of {dataset}; fetch it: {download_command(dataset, data)}"
    )


def find(folder: Path, config: str | None, split: str) -> list[Path]:
    """The data files of a config's split, by the dataset card or by their names, sorted."""
    said = _by_card(folder, config, split)
    if said:
        return said
    files = {
        path: path.relative_to(folder).with_suffix("").as_posix()
        for path in sorted(folder.rglob("*"))
        if path.suffix in FORMATS and path.is_file() and not path.name.startswith(".")
    }
    names = [re.escape(config)] if config else []
    if config in (None, "main", "default"):  # a dataset of one config may leave its name out
        names.append("")
    for spelling in (split, *OTHER_NAMES.get(split, ())):
        for name in names:
            begins = rf"(?:.*/)?{name}[/_.-]" if name else r"(?:data/)?"
            pattern = re.compile(f"{begins}{re.escape(spelling)}{PARTS}")
            found = [path for path, place in files.items() if pattern.fullmatch(place)]
            if found:
                return found
    return []


def _by_card(folder: Path, config: str | None, split: str) -> list[Path]:
    """The files that the `configs` of the README's front matter name."""
    readme = folder / "README.md"
    if not readme.is_file():
        return []
    front = re.match(r"---\n(.*?)\n---", readme.read_text("utf-8", "replace"), re.DOTALL)
    try:
        card = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return []
    for one in (card.get("configs") or []) if isinstance(card, dict) else []:
        if one.get("config_name") != (config or "default"):
            continue
        for part in one.get("data_files") or []:
            if isinstance(part, dict) and part.get("split") == split:
                patterns = part.get("path") or []
                patterns = [patterns] if isinstance(patterns, str) else patterns
                found = {path for pattern in patterns for path in folder.glob(pattern)}
                return sorted(path for path in found if path.suffix in FORMATS)
    return []
