"""The model that training starts from.

In: `pretrain.base` (a folder, a hub id, or a mapping of Hugging Face config fields), the tokenizer.
Out: `pretrain/base/`, a Hugging Face folder whose vocabulary is the tokenizer's.

The decision: the start is written to disk once, by one process, and every rank of every phase then
loads an ordinary checkpoint. So random weights are the same on all ranks, no rank ever holds old and
new matrices together (a stored base grows file by file, `shards.py`), and ZeRO-3 always goes through `from_pretrained`,
the only way in which it neither skips the initialisation of weights nor holds the whole model on each
rank. The cost is one model's worth of disk.
"""

from __future__ import annotations

import difflib
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from configs.errors import InputError
from configs.files import read_json, sync, write_json
from configs.hub import cannot_be_had, is_hub_id
from configs.schema import NewRows
from pretrain.weights.embeddings import (
    Given,
    Rows,
    Side,
    grow,
    grown_rows,
    is_tied,
    read_new_tokens,
)
from pretrain.weights.shards import open_checkpoint, write_grown
from pretrain.weights.vectors import open_vectors, token_names
from tokenizer.load import load_tokenizer

ROWS_FILE = "malmoi_rows.json"  # beside the weights: which rows are old, new, padding


def _random_model(fields: dict[str, Any], vocabulary: int, multiple: int, seed: int) -> Any:
    """A model with weights drawn from `seed`, from Hugging Face config fields."""
    fields = dict(fields)
    kind = fields.pop("model_type", None)
    if not isinstance(kind, str):
        raise InputError("pretrain.base.model_type: is missing; add one, for example llama")
    try:
        known = AutoConfig.for_model(kind)
    except ValueError:
        raise InputError(
            f"pretrain.base.model_type: transformers has no {kind}; write llama, qwen3, mistral, …"
        ) from None
    names = set(known.to_dict()) | {"rope_theta", "rope_scaling", "vocab_size"}
    mistakes = []
    for name in sorted(set(fields) - names):
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"see the config of {kind} in transformers"
        mistakes.append(f"pretrain.base.{name}: {kind} has no such field; {hint}")
    if mistakes:
        raise InputError(mistakes)
    wanted = fields.pop("vocab_size", None)
    if wanted is not None and wanted < vocabulary:
        raise InputError(
            f"pretrain.base.vocab_size: {wanted} is less than the tokenizer's {vocabulary}; "
            "leave it out, it follows the tokenizer"
        )
    rows = Rows.of(vocabulary, vocabulary, multiple, wanted or 0)
    try:
        config = AutoConfig.for_model(kind, **fields, vocab_size=rows.total)
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as problem:  # transformers validates with exceptions of many kinds
        reason = str(problem).strip().splitlines()[-1].strip()
        raise InputError(
            f"pretrain.base: transformers cannot build it ({reason}); check sizes and types"
        ) from None


def _load_base(base: str) -> Any:
    """A model from a folder or hub id, in the type it was stored in."""
    if Path(base).is_dir() and not (Path(base) / "config.json").is_file():
        raise InputError(
            f"pretrain.base: {base} is no model (it has no config.json); "
            "name a Hugging Face model folder or hub id"
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as problem:
        if is_hub_id(base):
            raise InputError(cannot_be_had("pretrain.base", base, problem)) from None
        reason = str(problem).strip().splitlines()[0]
        raise InputError(
            f"pretrain.base: {base} cannot be loaded as a causal language model ({reason}); "
            "name a Hugging Face model folder or hub id"
        ) from None
    if report["missing_keys"]:
        raise InputError(
            f"pretrain.base: {base} lacks weights, {sorted(report['missing_keys'])[0]} first; "
            "copy the model again"
        )
    return model


def _check_fit(base: str, present: int, tokenizer: PreTrainedTokenizerFast, old_rows: int) -> None:
    """Raise InputError where the tokenizer was not made from this base's, whose rows are `present`."""
    if present < old_rows:
        raise InputError(
            f"pretrain.base: {base} has rows for {present} tokens, the tokenizer extends a vocabulary "
            f"of {old_rows}; set tokenizer.base to this model's tokenizer"
        )
    if not (Path(base) / "tokenizer.json").is_file() and Path(base).is_dir():
        return
    try:
        own: dict[str, int] = load_tokenizer(base).get_vocab()
    except InputError:
        return  # a base without a tokenizer can only be judged by its size
    ours = {index: token for token, index in tokenizer.get_vocab().items()}
    for token, index in sorted(own.items(), key=lambda item: item[1]):
        if index < old_rows and ours.get(index) != token:
            raise InputError(
                f"pretrain.base: token {index} is {token!r} in {base} and {ours.get(index)!r} in the "
                "tokenizer; set tokenizer.base to this model's tokenizer"
            )


def write_base(
    base: str | dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_folder: Path,
    new_rows: NewRows,
    seed: int,
    folder: Path,
) -> Rows:
    """Write the start of training to `folder` (which appears whole or not at all).

    Raises InputError where the base is no model, its fields are wrong, or the tokenizer is not an
    extension of its own.
    """
    if (folder / ROWS_FILE).is_file():
        return read_rows(folder)
    new = read_new_tokens(tokenizer_folder / "new_tokens.tsv")
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    old_rows = min(new, default=vocabulary)
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(base, dict):
        model = _random_model(base, vocabulary, new_rows.multiple, seed)
        rows = Rows(old_rows, vocabulary, model.get_input_embeddings().weight.shape[0])
        model.save_pretrained(partial)
    else:
        rows = _write_grown(
            base,
            tokenizer,
            tokenizer_folder,
            Rows(old_rows, vocabulary, 0),
            new_rows,
            seed,
            partial,
        )
    write_json(
        partial / ROWS_FILE, {"base": rows.base, "vocabulary": rows.vocabulary, "total": rows.total}
    )
    for path in partial.iterdir():
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync(folder.parent)
    return rows


def _write_grown(
    base: str,
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_folder: Path,
    sizes: Rows,
    new_rows: NewRows,
    seed: int,
    folder: Path,
) -> Rows:
    """Write `base` with a row for every token to `folder`; loaded only where it must be."""
    new = read_new_tokens(tokenizer_folder / "new_tokens.tsv")
    checkpoint = open_checkpoint(base)
    model: Any = _load_base(base) if checkpoint is None else None
    if checkpoint is not None:
        present, hidden = checkpoint.tensors[checkpoint.embed[0]].shape
        tied = checkpoint.head is None
    else:
        present, hidden = model.get_input_embeddings().weight.shape
        tied = is_tied(model)
    _check_fit(base, present, tokenizer, sizes.base)
    rows = Rows.of(sizes.base, sizes.vocabulary, new_rows.multiple, present)
    if new_rows.output == "given" and tied:
        raise InputError(
            f"pretrain.new_rows.output: given, but the head of {base} is its embedding; set input and "
            "input_vectors instead"
        )
    given = _given(new_rows, tokenizer_folder / "new_tokens.tsv", hidden, rows)
    if checkpoint is None:
        grow(model, rows, new, new_rows, seed, given)
        model.save_pretrained(folder)
        return rows
    sides: dict[str, Side] = dict.fromkeys(checkpoint.embed, "input")
    if checkpoint.head is not None:
        sides[checkpoint.head] = "output"
    blocks = {
        name: grown_rows(
            checkpoint.tensors[name].take(), rows, new, new_rows, side, seed, given.get(side)
        )
        for name, side in sides.items()
    }
    write_grown(checkpoint, rows, blocks, folder)
    return rows


def _given(new_rows: NewRows, table: Path, hidden: int, rows: Rows) -> dict[Side, Given]:
    """The vectors that the config names, by side."""
    files: dict[Side, str | None] = {
        "input": new_rows.input_vectors,
        "output": new_rows.output_vectors,
    }
    if rows.vocabulary == rows.base or not any(files.values()):
        return {}
    names = token_names(table)
    return {
        side: open_vectors(f"pretrain.new_rows.{side}_vectors", Path(path), names, hidden)
        for side, path in files.items()
        if path is not None
    }


def read_rows(folder: Path) -> Rows:
    return Rows(**read_json(folder / ROWS_FILE))


def count_stored_parameters(folder: Path) -> int:
    """Parameters in a folder's safetensors files, tied ones once."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                total += math.prod(tensors.get_slice(name).get_shape())
    return total
