"""A Hugging Face checkpoint with a larger vocabulary, written without loading the model.

In: a folder or hub id whose weights are safetensors, in one file or many. Out: the same files with
more rows in the embedding and, where it is a matrix of its own, the head.

The decision: tensors are moved as bytes of files, never as a model. A shard without a vocabulary matrix
is hard-linked (copied where the disk does not link); in the one or two others every tensor is streamed
as it stands, and behind the old rows of a vocabulary matrix come the new ones. So old rows are bit for
bit the base's by construction, and memory is a few blocks of rows whatever the model's size: an 8B
shape needs 0.4 GB, nearly all of it imports, where loading takes 16. Its cost is that it takes
only what it fully understands: `open_checkpoint` gives None for weights that are not safetensors, names
or shapes that are not the architecture's own, a head with a bias, other tensors of the vocabulary's
size. Those models are loaded (`embeddings.grow`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import cached_file

from configs.errors import InputError
from configs.files import read_json, write_json
from pretrain.weights.embeddings import Rows, Take

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_CHUNK = 1 << 24  # bytes copied at a time
_KEPT = ("generation_config.json",)  # of the base, beside weights and config.json


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file. begin, end: bytes of the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def row_bytes(self) -> int:
        return (self.end - self.begin) // self.shape[0]

    def take(self) -> Take:
        """Rows of a matrix, read from the file when they are asked for."""
        dtype, width = DTYPES[self.dtype], self.row_bytes

        def rows(ids: Tensor) -> Tensor:
            wanted = ids.tolist()
            if not wanted:
                return torch.empty(0, self.shape[1])
            data = bytearray(len(wanted) * width)
            at = 0
            with self.file.open("rb", buffering=0) as handle:
                for first, last in _runs(wanted):
                    handle.seek(self.begin + first * width)
                    part = memoryview(data)[at : at + (last + 1 - first) * width]
                    _read_into(handle, part, self.file)
                    at += len(part)
            return torch.frombuffer(data, dtype=dtype).reshape(len(wanted), -1).float()

        return rows


@dataclass(frozen=True)
class Checkpoint:
    """Weights as they are stored. tensors: by name; files: by the name they had beside the index.

    embed: names of the input matrix (and of the head, where a tied one is stored as well); head: name
    of the output matrix, or None where it is tied.
    """

    config: dict[str, Any]
    index: dict[str, Any] | None
    files: dict[str, Path]
    tensors: dict[str, Stored]
    embed: tuple[str, ...]
    head: str | None
    generation: dict[str, Path]

    @property
    def present(self) -> int:
        """Rows of the vocabulary matrices."""
        return self.tensors[self.embed[0]].shape[0]


def _runs(ids: list[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of stretches of consecutive ids."""
    start = 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or ids[place] != ids[place - 1] + 1:
            yield ids[start], ids[place - 1]
            start = place


def _read_into(handle: Any, part: memoryview, file: Path) -> None:
    while part:
        count = handle.readinto(part)
        if not count:
            raise InputError(f"{file}: is cut short; copy the model again")
        part = part[count:]


def read_header(path: Path) -> tuple[dict[str, str], list[Stored]]:
    """(metadata, tensors in the order of their bytes) of a safetensors file.

    Raises InputError where it is none, or shorter or longer than its header says.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > min(size - 8, 100_000_000):
                raise ValueError("its header is longer than the file")
            header = json.loads(handle.read(length))
        metadata = header.pop("__metadata__", {})
        start = 8 + length
        found = [
            Stored(
                path,
                name,
                str(entry["dtype"]),
                tuple(entry["shape"]),
                start + entry["data_offsets"][0],
                start + entry["data_offsets"][1],
            )
            for name, entry in header.items()
        ]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        raise InputError(
            f"{path}: is no safetensors file ({problem}); copy the model again"
        ) from None
    found.sort(key=lambda one: (one.begin, one.name))
    end = max((one.end for one in found), default=start)
    if end != size:
        raise InputError(
            f"{path}: holds {size:,} bytes where its header names {end:,}; copy the model again"
        )
    return metadata, found


def _file(base: str, name: str) -> Path | None:
    """A file of a folder or of a hub id (fetched where it is not in the cache)."""
    if Path(base).is_dir():
        path = Path(base) / name
        return path if path.is_file() else None
    try:
        found = cached_file(
            base,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def open_checkpoint(base: str) -> Checkpoint | None:
    """What `base` holds, or None where it must be loaded to be grown (see above).

    Raises InputError where a weight file is damaged or missing.
    """
    config_file = _file(base, "config.json")
    index_file = _file(base, INDEX)
    single = None if index_file else _file(base, WEIGHTS)
    if config_file is None or (index_file is None and single is None):
        return None
    index: dict[str, Any] | None = None
    files: dict[str, Path] = {}
    if index_file is not None:
        try:
            index = read_json(index_file)
            names = sorted(set(index["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise InputError(
                f"{index_file}: is damaged ({problem}); copy the model again"
            ) from None
        for name in names:
            path = _file(base, name)
            if path is None:
                raise InputError(
                    f"{base}: {name} is missing, which {INDEX} names; copy the model again"
                )
            files[name] = path
    elif single is not None:
        files[WEIGHTS] = single
    tensors = {one.name: one for path in files.values() for one in read_header(path)[1]}
    names_of = _vocabulary_matrices(config_file.parent, tensors)
    if names_of is None:
        return None
    kept = {name: path for name in _KEPT if (path := _file(base, name)) is not None}
    return Checkpoint(read_json(config_file), index, files, tensors, *names_of, kept)


def _vocabulary_matrices(
    folder: Path, tensors: dict[str, Stored]
) -> tuple[tuple[str, ...], str | None] | None:
    """Names of the input matrix and of the head, or None where this is not plainly stored."""
    try:
        config = AutoConfig.from_pretrained(str(folder))
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
            model.tie_weights()
    except Exception:  # transformers raises whatever it likes; loading will say what is wrong
        return None
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embed is None or (head is not None and getattr(head, "bias", None) is not None):
        return None
    tied = head is None or head.weight is embed.weight
    prefix = f"{model.base_model_prefix}."
    named: dict[str, list[str]] = {"embed": [], "head": []}
    for name, value in model.state_dict(keep_vars=True).items():
        stored = name if name in tensors else name.removeprefix(prefix)
        part = "embed" if value is embed.weight else None
        if part is None and head is not None and value is head.weight:
            part = "head"
        if stored not in tensors:
            if part == "embed" and tied:
                continue  # the other name of a tied matrix
            return None
        if tensors[stored].shape != tuple(value.shape):
            return None
        if part is not None:
            named[part].append(stored)
        elif value.dim() and value.shape[0] == embed.weight.shape[0]:
            return None
    if not named["embed"] or len(named["head"]) != (0 if tied else 1):
        return None
    if any(tensors[name].dtype not in DTYPES for name in [*named["embed"], *named["head"]]):
        return None
    return tuple(named["embed"]), None if tied else named["head"][0]


def write_grown(
    checkpoint: Checkpoint, rows: Rows, blocks: dict[str, Iterator[Tensor]], folder: Path
) -> None:
    """Write the checkpoint to the new folder `folder`, its vocabulary matrices with `rows.total` rows.

    blocks: of each matrix, by name, its rows [base, total) in order, float32 [n, hidden] at a time;
    they are written in the matrix's own type. Old rows and all other tensors keep their bytes.
    """
    folder.mkdir(parents=True)
    total_bytes = parameters = 0
    for name, source in checkpoint.files.items():
        if not any(checkpoint.tensors[matrix].file == source for matrix in blocks):
            link(source, folder / name)
            _, stored = read_header(source)
        else:
            _rewrite(source, folder / name, rows, blocks)
            _, stored = read_header(folder / name)
        total_bytes += sum(one.end - one.begin for one in stored)
        parameters += sum(math.prod(one.shape) for one in stored)
    config = dict(checkpoint.config)
    inner = config.get("text_config")
    if isinstance(inner, dict) and "vocab_size" in inner:
        config["text_config"] = {**inner, "vocab_size": rows.total}
    if "vocab_size" in config or not isinstance(inner, dict):
        config["vocab_size"] = rows.total
    write_json(folder / "config.json", config)
    if checkpoint.index is not None:
        metadata = {**checkpoint.index.get("metadata", {}), "total_size": total_bytes}
        if "total_parameters" in metadata:
            metadata["total_parameters"] = parameters
        write_json(folder / INDEX, {**checkpoint.index, "metadata": metadata})
    for name, path in checkpoint.generation.items():
        shutil.copyfile(path, folder / name)


def _rewrite(source: Path, target: Path, rows: Rows, blocks: dict[str, Iterator[Tensor]]) -> None:
    """Stream one file, its vocabulary matrices with new rows behind the old ones."""
    metadata, tensors = read_header(source)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for one in tensors:
        grown = one.name in blocks
        size = rows.total * one.row_bytes if grown else one.end - one.begin
        shape = [rows.total, *one.shape[1:]] if grown else list(one.shape)
        header[one.name] = {"dtype": one.dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of eight bytes, as the format wants
    with source.open("rb") as reader, target.open("xb") as writer:
        writer.write(struct.pack("<Q", len(text)) + text)
        for one in tensors:
            if one.name not in blocks:
                _copy(reader, writer, one.begin, one.end, source)
                continue
            _copy(reader, writer, one.begin, one.begin + rows.base * one.row_bytes, source)
            written = rows.base
            for block in blocks[one.name]:
                writer.write(
                    block.to(DTYPES[one.dtype]).contiguous().view(torch.uint8).numpy().data
                )
                written += len(block)
            assert written == rows.total, (one.name, written, rows.total)


def _copy(reader: BinaryIO, writer: BinaryIO, begin: int, end: int, source: Path) -> None:
    reader.seek(begin)
    left = end - begin
    while left:
        data = reader.read(min(_CHUNK, left))
        if not data:
            raise InputError(f"{source}: is cut short; copy the model again")
        writer.write(data)
        left -= len(data)


def link(source: Path, target: Path) -> None:
    """A hard link to the file itself (a hub cache holds symbolic ones), or a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
