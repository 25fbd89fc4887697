"""Vectors of one's own for the rows of new tokens.

In: a .npy or .safetensors file, in one of three forms. Out: a lookup, place among the new tokens → its
vector. Rows made by another method (an aligned word2vec, a hypernetwork, WECHSEL, FOCUS) enter the
model here.

- .npy, [new tokens, hidden]: row i is the i-th new token's, in the order of new_tokens.tsv.
- .safetensors with `rows` [n, hidden] and `ids` [n], integers: row i is that of token ids[i].
- .safetensors with one tensor [hidden] per token, under its id ("128300") or its text as
  new_tokens.tsv writes it in the columns token (byte-level: "ĠìķĪ") or text (" 안").

Of the last two a file may name only some tokens; the others start as the mean of their subtokens. No
vector is read before it is asked for, so a file may be larger than memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.errors import InputError
from pretrain.weights.embeddings import Given


def token_names(path: Path) -> list[tuple[str, str, str]]:
    """new_tokens.tsv → (id, token, text) of each new token, in order."""
    lines = path.read_text(encoding="utf-8").split("\n")[1:]
    found = [line.rstrip("\r").split("\t")[:3] for line in lines if line]
    return [(one[0], one[1], one[2]) for one in sorted(found, key=lambda one: int(one[0]))]


def open_vectors(key: str, path: Path, names: list[tuple[str, str, str]], hidden: int) -> Given:
    """Open a file of vectors [hidden] for the tokens `names`; `key` is the config's, for errors.

    Raises InputError where it is no such file, of another width, has a value that is no number, or
    names none of the new tokens.
    """
    try:
        if path.suffix == ".npy":
            return _from_array(key, path, len(names), hidden)
        return _from_safetensors(key, path, names, hidden)
    except (OSError, ValueError, SafetensorError) as problem:
        reason = str(problem).strip().splitlines()[0] if str(problem).strip() else "unreadable"
        raise InputError(
            f"{key}: {path} cannot be read ({reason}); give a .npy or .safetensors file"
        ) from None


def _from_array(key: str, path: Path, count: int, hidden: int) -> Given:
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.shape != (count, hidden) or rows.dtype.kind != "f":
        raise InputError(
            f"{key}: {path} holds {rows.dtype} {list(rows.shape)}; it must be floats [{count}, {hidden}], "
            "a row for each new token in the order of new_tokens.tsv"
        )

    def find(place: int) -> Tensor:
        return _sound(
            key, path, place, torch.from_numpy(np.asarray(rows[place], np.float32).copy())
        )

    return find


def _from_safetensors(
    key: str, path: Path, names: list[tuple[str, str, str]], hidden: int
) -> Given:
    tensors = safe_open(str(path), framework="pt")
    keys = set(tensors.keys())
    if {"rows", "ids"} <= keys:
        table = tensors.get_slice("rows")
        ids = tensors.get_tensor("ids").tolist()
        if table.get_shape() != [len(ids), hidden]:
            raise InputError(
                f"{key}: {path}: rows is {table.get_shape()}; it must be [{len(ids)}, {hidden}], "
                "a row for each of ids"
            )
        row_of = {str(index): row for row, index in enumerate(ids)}
        of_place = [row_of.get(index) for index, _, _ in names]

        def find(place: int) -> Tensor | None:
            row = of_place[place]
            return None if row is None else _sound(key, path, place, table[row : row + 1][0])
    else:
        chosen = [next((form for form in forms if form in keys), None) for forms in names]
        of_place = [None if name is None else 0 for name in chosen]

        def find(place: int) -> Tensor | None:
            name = chosen[place]
            if name is None:
                return None
            vector = tensors.get_tensor(name)
            if list(vector.shape) != [hidden]:
                raise InputError(
                    f"{key}: {path}: {name!r} is {list(vector.shape)}; it must be [{hidden}]"
                )
            return _sound(key, path, place, vector)

    if all(one is None for one in of_place):
        raise InputError(
            f"{key}: {path} names none of the {len(names):,} new tokens; its keys must be their ids, or "
            "the columns token or text of new_tokens.tsv"
        )
    return find


def _sound(key: str, path: Path, place: int, vector: Tensor) -> Tensor:
    if not bool(torch.isfinite(vector).all()):
        raise InputError(
            f"{key}: {path}: the vector of new token {place} holds a value that is no number; "
            "make the file again"
        )
    return vector.float()
