"""`malmoi evaluate MODEL [CONFIG]`: bits per byte of a model on held-out documents.

The documents are those a run kept back: of the run the model lies in, or of a config's run; where
the run had none of its own, the held-out ones of its `pretrain.documents`. Bytes, not tokens, so two
models with different tokenizers can be compared on the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import InputError
from configs.load import load, run_folder
from launch.console import Console, duration, table
from launch.model_folder import check


def evaluate(model: Path, source: str | None, overrides: Sequence[str]) -> None:
    """Measure and print. Raises InputError where there is no model or nothing held out."""
    check(model)
    documents = _heldout(model, source, overrides)
    from time import monotonic

    from pretrain.evaluate import evaluate_model

    started = monotonic()
    with Console() as console:
        bits = evaluate_model(model, documents, log=console.log)
    more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
    print(f"{model} on the held-out documents of {documents[0]}{more}")
    print(
        table(["source or language", "bits per byte"], [[k, f"{v:.4f}"] for k, v in bits.items()])
    )
    print(f"in {duration(monotonic() - started)}; next: malmoi chat {model}")


def _heldout(model: Path, source: str | None, overrides: Sequence[str]) -> list[Path]:
    """The documents of a run: of the one that CONFIG names, or that the model lies in."""
    if source is None:
        own = model.resolve().parent / "config.yaml"
        if not own.is_file():
            raise InputError(
                f"{model}: lies in no run folder; name the config whose held-out documents to use: "
                f"malmoi evaluate {model} CONFIG"
            )
        config = load(str(own), overrides)
        elsewhere = any(override.startswith("dir=") for override in overrides)
        folder = run_folder(config) if elsewhere else own.parent
    else:
        config = load(source, overrides)
        folder = run_folder(config)
    if config.pretrain is not None and config.pretrain.documents:
        from dedup.documents import document_files

        return document_files(config.pretrain.documents)
    documents = folder / "dedup" / "documents"
    if documents.is_dir():
        return [documents]
    if config.dedup is None:
        raise InputError(
            f"{source or model}: names no documents; give a config with dedup, or with "
            "pretrain.documents: pretrain.documents='[\"data/*.jsonl\"]'"
        )
    raise InputError(
        f"{documents}: is not there; run `malmoi dedup {source or folder / 'config.yaml'}` first"
    )
