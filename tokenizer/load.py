"""A tokenizer folder → a tokenizer that is ready to use."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from configs.errors import InputError
from configs.hub import cannot_be_had, is_hub_id


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a run (`runs/x/tokenizer`), of a model folder, or of a hub id.

    Raises InputError, naming the folder, where there is none or its files are damaged.
    """
    path = Path(folder)
    if path.is_dir() and not (path / "tokenizer.json").is_file():
        raise InputError(
            f"{path}: no tokenizer there (no tokenizer.json); give a tokenizer's folder"
        )
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # tokenizers and the hub client raise whatever they like
        if is_hub_id(str(folder)):
            raise InputError(cannot_be_had("tokenizer", str(folder), error)) from error
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder}: its tokenizer cannot be loaded ({why})") from error
