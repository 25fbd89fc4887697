"""Is this folder a model? Answered from its file names, before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from configs.errors import InputError


def check(folder: Path) -> None:
    """Raise InputError, one line per thing missing, unless `folder` holds a model and tokenizer."""
    found = sorted(Path("runs").glob("*/model/config.json"))
    hint = (
        f"give the folder of a model, such as {found[0].parent if found else 'runs/<name>/model'}"
    )
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; {hint}")
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; {hint}")
    if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
        raise InputError(f"{folder}: is a run, not a model; did you mean {folder / 'model'}?")
    missing = []
    if not (folder / "config.json").exists():
        missing.append(f"{folder}: no config.json, so no model; {hint}")
    elif not [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]:
        missing.append(f"{folder}: no weights (*.safetensors); {hint}")
    if not (folder / "tokenizer.json").exists():
        missing.append(
            f"{folder}: no tokenizer.json; {hint}, or copy tokenizer.json and "
            "tokenizer_config.json from the tokenizer the model was trained with"
        )
    if missing:
        raise InputError(missing)
