"""`malmoi evaluate MODEL [CONFIG]`: bits per byte of a model on held-out documents.

The documents are those a run kept back: of the run the model lies in, or of a config's run. Bytes,
not tokens, so two models with different tokenizers can be compared on the same lines.
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
    print(f"{model} on the held-out documents of {documents}")
    print(
        table(["source or language", "bits per byte"], [[k, f"{v:.4f}"] for k, v in bits.items()])
    )
    print(f"in {duration(monotonic() - started)}; next: malmoi chat {model}")


def _heldout(model: Path, source: str | None, overrides: Sequence[str]) -> Path:
    if source is None:
        documents = model.resolve().parent / "dedup" / "documents"
        if not documents.is_dir():
            raise InputError(
                f"{model}: lies in no run folder with documents; name the config whose held-out "
                f"documents to use: malmoi evaluate {model} CONFIG"
            )
        return documents
    documents = run_folder(load(source, overrides)) / "dedup" / "documents"
    if not documents.is_dir():
        raise InputError(f"{documents}: is not there; run `malmoi dedup {source}` first")
    return documents
