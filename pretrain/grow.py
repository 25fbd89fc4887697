"""A grown checkpoint for any trainer: base model + extended tokenizer → a Hugging Face folder.

    python -m pretrain.grow BASE TOKENIZER OUT [--input HOW] [--output HOW] [--multiple 64] [--seed 17]

In: a model folder or hub id, and a tokenizer that extends its own (`malmoi tokenizer` writes one, with
new_tokens.tsv). Out: weights with a row for every token, config, generation config and tokenizer, so
that transformers, Axolotl, LLaMA-Factory or TRL go on from there. `malmoi pretrain` needs none of this:
its first step is the same growth, into pretrain/base.

The decision: the folder appears whole or not at all, and an existing one is never touched. Memory stays
below a gigabyte for a model of any size (see shards.py).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from configs.errors import InputError
from configs.files import read_json, sync, write_json
from configs.schema import NewRows
from pretrain.weights.embeddings import Rows
from pretrain.weights.export import TOKENIZER_FILES, generation_config
from pretrain.weights.model import write_base
from tokenizer.load import load_tokenizer

_STARTS = ("subtokens", "first", "mean", "random")


def grow_model(
    base: str, tokenizer_folder: Path, out: Path, new_rows: NewRows, seed: int = 17
) -> Rows:
    """Write `out`; returns which rows are old, new and padding.

    Raises InputError where `out` exists, the base is no model, or the tokenizer does not extend its own.
    """
    if out.exists():
        raise InputError(f"{out}: exists; name a folder that does not")
    tokenizer = load_tokenizer(tokenizer_folder)
    partial = out.with_name(f"{out.name}.growing.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        rows = write_base(base, tokenizer, tokenizer_folder, new_rows, seed, partial)
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                (partial / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(tokenizer_folder / name, partial / name)
                sync(partial / name)
        path = partial / "generation_config.json"
        own = read_json(path) if path.is_file() else {}
        ours = generation_config(tokenizer, rows).to_diff_dict()
        suppressed = {"suppress_tokens": list(range(rows.vocabulary, rows.total)) or None}
        write_json(path, {**ours, **own, **suppressed})  # the base's own ends of a reply stay
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(partial.with_name(partial.name + ".tmp"), ignore_errors=True)
    sync(out.parent)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status, 2 for a mistake of the person at the keyboard."""
    default = NewRows()
    parser = argparse.ArgumentParser(prog="python -m pretrain.grow", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--input", choices=_STARTS, default=default.input)
    parser.add_argument("--output", choices=_STARTS, default=default.output)
    parser.add_argument(
        "--input-vectors", help=".npy or .safetensors (see pretrain/weights/vectors.py)"
    )
    parser.add_argument("--output-vectors")
    parser.add_argument("--multiple", type=int, default=default.multiple)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args(arguments)
    try:
        new_rows = NewRows(
            input="given" if options.input_vectors else options.input,
            output="given" if options.output_vectors else options.output,
            input_vectors=options.input_vectors,
            output_vectors=options.output_vectors,
            multiple=max(1, options.multiple),
        )
        rows = grow_model(options.base, options.tokenizer, options.out, new_rows, options.seed)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(
        f"{options.out}: {rows.base:,} old rows as they were, {rows.vocabulary - rows.base:,} new, "
        f"{rows.total - rows.vocabulary} of padding. Next: train on it with any trainer of transformers."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
