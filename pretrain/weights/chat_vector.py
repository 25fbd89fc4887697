"""The chat vector: what instruction tuning added to a base, added to a model that goes on from that base.

In: three checkpoints, continued, instruct and base, and a ratio r. Out: a checkpoint with the continued
model's vocabulary and continued + r · (instruct − base) in every weight (Huang et al. 2024, "Chat
Vector", ACL), instruct's chat template and stop tokens.

Rows of the vocabulary matrices are matched by what a token says, never by its number. A token that all
three know moves like any weight; one that training added stays as it is; a control token whose row
training never touched is instruct's row, unscaled, for a part of a row that means nothing means nothing.

The decision: weights are moved as bytes of files, a few megabytes at a time, into files of the same
names; no model is ever loaded, so memory does not depend on its size. What cannot be understood that
way is refused: two models whose tensors or whose positions (RoPE), norms or shapes differ do not lie in
one space, and a sum of them would still talk, only worse.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast

from configs.errors import InputError
from configs.files import read_json, sync, write_json, write_text
from configs.progress import Log, Progress, silent
from pretrain.weights.duties import base_licence, duties, licence_files
from pretrain.weights.export import TOKENIZER_FILES
from pretrain.weights.shards import (
    DTYPES,
    INDEX,
    Checkpoint,
    Stored,
    link,
    open_checkpoint,
    read_header,
)
from tokenizer.load import load_tokenizer

BLOCK = 1 << 21
"""Weights in memory at a time: 8 MB in float32 for each of the three models, and once more for the sum."""

SAME = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "layer_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)
"""Keys of config.json by which a weight means the same in all three."""


@dataclass(frozen=True)
class Model:
    """A checkpoint with its tokenizer. name: as the person gave it."""

    name: str
    stored: Checkpoint
    tokenizer: PreTrainedTokenizerFast

    @property
    def ids(self) -> dict[str, int]:
        found: dict[str, int] = self.tokenizer.get_vocab()
        return found

    @property
    def controls(self) -> set[str]:
        """Tokens that are no text: begin, end, headers."""
        known = self.tokenizer.added_tokens_decoder.values()
        return {token.content for token in known if token.special}


@dataclass(frozen=True)
class RowMap:
    """Which rows of the others belong to a row of the continued model; −1 for none. int64 [rows].

    control: bool [rows], control tokens.
    """

    instruct: Tensor
    base: Tensor
    control: Tensor


@dataclass(frozen=True)
class Added:
    """What was done. rows: of the vocabulary, by what happened to them."""

    ratio: float
    tensors: int
    rows: dict[str, int]


def open_model(name: str) -> Model:
    """Raises InputError where weights or tokenizer cannot be read as they must be here."""
    stored = open_checkpoint(name)
    if stored is None:
        raise InputError(
            f"{name}: is no folder or hub id with safetensors weights in the architecture's own names; "
            "give a checkpoint as save_pretrained writes it"
        )
    return Model(name, stored, load_tokenizer(name))


def check(continued: Model, instruct: Model, base: Model) -> None:
    """Raise InputError with every key and tensor by which the three do not fit together."""
    mistakes = []
    for other in (instruct, base):
        for key in SAME:
            ours, theirs = _key(continued.stored, key), _key(other.stored, key)
            if ours != theirs:
                mistakes.append(
                    f"{other.name}: {key} is {theirs}, and {ours} in {continued.name}; a chat vector needs "
                    "models of one family"
                )
        tables = {*continued.stored.embed, continued.stored.head}
        for name, tensor in continued.stored.tensors.items():
            if name in tables:
                continue
            found = other.stored.tensors.get(name)
            if found is None:
                mistakes.append(f"{other.name}: has no tensor {name}, which {continued.name} has")
            elif found.shape != tensor.shape:
                mistakes.append(
                    f"{other.name}: {name} is {list(found.shape)}, and {list(tensor.shape)} in {continued.name}"
                )
            elif found.dtype not in DTYPES or tensor.dtype not in DTYPES:
                mistakes.append(
                    f"{other.name}: {name} is {found.dtype}, which is no type to add in; give unquantised weights"
                )
        mistakes += [
            f"{other.name}: has a tensor {name}, and {continued.name} has none"
            for name in other.stored.tensors
            if name not in continued.stored.tensors
            and name not in (*other.stored.embed, other.stored.head)
        ]
    ids, template = continued.ids, instruct.tokenizer.chat_template
    if not template:
        mistakes.append(f"{instruct.name}: has no chat template; give the instruct model")
    needed = [token for token in sorted(instruct.controls) if token in str(template)]
    mistakes += [
        f"{continued.name}: its tokenizer lacks {token}, which {instruct.name} talks with"
        for token in dict.fromkeys([*needed, *_stops(instruct)])
        if token not in ids
    ]
    if len(mistakes) > 12:
        mistakes = [*mistakes[:12], f"and {len(mistakes) - 12} more differences of this kind"]
    if mistakes:
        raise InputError(mistakes)


def _key(stored: Checkpoint, key: str) -> Any:
    inner = stored.config.get("text_config")
    found = (inner if isinstance(inner, dict) else {}).get(key, stored.config.get(key))
    if key == "head_dim" and found is None:
        hidden, heads = (_key(stored, name) for name in ("hidden_size", "num_attention_heads"))
        return hidden // heads if hidden and heads else None
    if key in ("rope_theta", "rope_scaling", "rope_parameters"):
        return _positions(stored.config, key)
    return found


def _positions(config: Mapping[str, Any], key: str) -> Any:
    """RoPE's settings, which transformers 5 keeps in one mapping and earlier ones in two keys."""
    together = config.get("rope_parameters") or {}
    theta = together.get("rope_theta", config.get("rope_theta"))
    scaling = {k: v for k, v in together.items() if k not in ("rope_theta", "type")}
    if not scaling:
        scaling = {k: v for k, v in (config.get("rope_scaling") or {}).items() if k != "type"}
    plain = scaling.get("rope_type", "default") == "default"
    return {"rope_theta": theta, "rope_scaling": None if plain else scaling}.get(key)


def _stops(instruct: Model) -> list[str]:
    """Tokens at which the instruct model ends a reply: those its files name, and the turn's end."""
    settings: dict[str, Any] = {}
    if "generation_config.json" in instruct.stored.generation:
        settings = read_json(instruct.stored.generation["generation_config.json"])
    ids = settings.get("eos_token_id", instruct.stored.config.get("eos_token_id"))
    numbers = ids if isinstance(ids, list) else [ids] if ids is not None else []
    names = [instruct.tokenizer.convert_ids_to_tokens(number) for number in numbers]
    names += [str(instruct.tokenizer.eos_token)] if instruct.tokenizer.eos_token else []
    names += [token for token in ("<|eot_id|>",) if token in instruct.ids]
    return [name for name in dict.fromkeys(names) if name is not None]


def match_rows(continued: Model, instruct: Model, base: Model) -> RowMap:
    """Rows of the same token in all three."""
    rows = continued.stored.present
    in_tuned, in_base, control = [-1] * rows, [-1] * rows, [False] * rows
    tuned, old, controls = instruct.ids, base.ids, instruct.controls
    for token, place in continued.ids.items():
        if place < rows:
            in_tuned[place] = _within(tuned.get(token), instruct)
            in_base[place] = _within(old.get(token), base)
            control[place] = token in controls
    return RowMap(torch.tensor(in_tuned), torch.tensor(in_base), torch.tensor(control))


def _within(place: int | None, model: Model) -> int:
    return place if place is not None and place < model.stored.present else -1


def add_chat_vector(
    continued: str, instruct: str, base: str, ratio: float, folder: Path, *, log: Log | None = None
) -> Added:
    """Write continued + ratio · (instruct − base) to `folder`, which appears whole or not at all.

    With ratio 0 the weights are the continued model's, byte for byte. Raises InputError where the
    three do not fit, a file is damaged, or `folder` is there already.
    """
    log = log or silent
    if folder.exists():
        raise InputError(f"{folder}: is there already; name another folder, or move it away")
    if not math.isfinite(ratio):
        raise InputError(f"--ratio {ratio}: is no number to scale with; 0.5 to 1 is usual")
    models = [open_model(name) for name in (continued, instruct, base)]
    check(*models)
    goes_on, tuned, _ = models
    rows = match_rows(*models)
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tables = {*goes_on.stored.embed, goes_on.stored.head} - {None}
    counts: dict[str, int] = {}
    total = sum(path.stat().st_size for path in goes_on.stored.files.values())
    done = 0
    for name, source in goes_on.stored.files.items():
        log(Progress("chat-vector", "add", done, total, "B"))
        if ratio == 0:
            link(source, partial / name)
        else:
            _write_file(source, partial / name, models, rows, ratio, tables, counts)
        done += source.stat().st_size
    log(Progress("chat-vector", "add", total, total, "B"))
    if goes_on.stored.index is not None:
        write_json(partial / INDEX, goes_on.stored.index)
    _write_settings(goes_on, tuned, partial)
    made = Added(ratio, len(goes_on.stored.tensors), counts)
    _write_card(models, made, partial)
    for path in partial.rglob("*"):
        sync(path)
    partial.rename(folder)
    sync(folder.parent)
    return made


# ── weights ─────────────────────────────────────────────────────────────────────────────────────


def _write_file(
    source: Path,
    target: Path,
    models: Sequence[Model],
    rows: RowMap,
    ratio: float,
    tables: set[Any],
    counts: dict[str, int],
) -> None:
    """One file of the continued model, its header as it is, every tensor moved."""
    continued, instruct, base = models
    _, tensors = read_header(source)
    first = min((one.begin for one in tensors), default=source.stat().st_size)
    with source.open("rb") as reader, target.open("xb") as writer:
        writer.write(reader.read(first))
        for one in tensors:
            writer.seek(one.begin)
            if one.name in tables:
                tuned = _table(instruct.stored, one.name, continued.stored)
                old = _table(base.stored, one.name, continued.stored)
                blocks = _move_rows(one, tuned, old, rows, ratio, counts)
            else:
                tuned, old = instruct.stored.tensors[one.name], base.stored.tensors[one.name]
                blocks = _move(one, tuned, old, ratio)
            for block in blocks:
                writer.write(_as_bytes(block, one.dtype))
            assert writer.tell() == one.end, (one.name, writer.tell(), one.end)


def _table(stored: Checkpoint, name: str, continued: Checkpoint) -> Stored:
    """The vocabulary matrix of another model that stands where `name` does in the continued one."""
    own = stored.embed[0] if name in continued.embed or stored.head is None else stored.head
    return stored.tensors[own]


def _move(one: Stored, instruct: Stored, base: Stored, ratio: float) -> Iterator[Tensor]:
    """Blocks of continued + ratio · (instruct − base), float32, in the order of the file."""
    size = math.prod(one.shape)
    with one.file.open("rb") as a, instruct.file.open("rb") as b, base.file.open("rb") as c:
        for start in range(0, size, BLOCK):
            count = min(BLOCK, size - start)
            ours, tuned, old = (
                _read(handle, tensor, start, count)
                for handle, tensor in ((a, one), (b, instruct), (c, base))
            )
            yield ours.add_(tuned.sub_(old), alpha=ratio)


def _move_rows(
    one: Stored,
    instruct: Stored,
    base: Stored,
    rows: RowMap,
    ratio: float,
    counts: dict[str, int],
) -> Iterator[Tensor]:
    """The same for a vocabulary matrix, row by row."""
    take_own, take_tuned, take_old = one.take(), instruct.take(), base.take()
    total, width = one.shape
    step = max(1, BLOCK // width)
    for start in range(0, total, step):
        part = slice(start, min(total, start + step))
        in_tuned, in_base, control = rows.instruct[part], rows.base[part], rows.control[part]
        ours = take_own(torch.arange(part.start, part.stop))
        here = ((in_tuned >= 0) & (in_base >= 0)).nonzero().squeeze(1)
        tuned, old = take_tuned(in_tuned[here]), take_old(in_base[here])
        untouched = {
            place: tuned[place].clone()
            for place in control[here].nonzero().squeeze(1).tolist()
            if torch.equal(ours[here[place]], old[place])
        }
        change = tuned.sub_(old)
        if len(here) == len(ours):
            ours.add_(change, alpha=ratio)
        else:
            ours[here] = ours[here].add_(change, alpha=ratio)
        for place, row in untouched.items():
            ours[here[place]] = row
        only = control & (in_tuned >= 0) & (in_base < 0)  # a control token that only tuning knows
        if bool(only.any()):
            ours[only] = take_tuned(in_tuned[only])
        for what, number in (
            ("moved", len(here) - len(untouched)),
            ("from instruct", len(untouched) + int(only.sum())),
            ("unchanged", len(ours) - len(here) - int(only.sum())),
        ):
            counts[what] = counts.get(what, 0) + number
        yield ours


def _read(handle: BinaryIO, tensor: Stored, start: int, count: int) -> Tensor:
    """Elements [start, start + count) of a tensor, float32."""
    dtype = DTYPES[tensor.dtype]
    handle.seek(tensor.begin + start * dtype.itemsize)
    data = bytearray(handle.read(count * dtype.itemsize))
    if len(data) != count * dtype.itemsize:
        raise InputError(f"{tensor.file}: is cut short; copy the model again")
    return torch.frombuffer(data, dtype=dtype).to(torch.float32, copy=True)


def _as_bytes(block: Tensor, dtype: str) -> memoryview:
    plain = block.to(DTYPES[dtype]).contiguous().view(torch.uint8)
    return memoryview(plain.numpy().data)


# ── what stands beside the weights ──────────────────────────────────────────────────────────────


def _write_settings(continued: Model, instruct: Model, folder: Path) -> None:
    """config.json, generation_config.json and the tokenizer: the continued model's, that stops as
    instruct does and has its template."""
    ids = continued.ids
    stops = [ids[token] for token in _stops(instruct)]
    write_json(folder / "config.json", {**continued.stored.config, "eos_token_id": stops})
    settings: dict[str, Any] = {}
    for model in (
        instruct,
        continued,
    ):  # what generation may not produce is the continued model's own
        if "generation_config.json" in model.stored.generation:
            settings |= read_json(model.stored.generation["generation_config.json"])
    settings |= {"eos_token_id": stops}
    GenerationConfig(**settings).save_pretrained(folder)
    own = continued.tokenizer
    own.save_pretrained(folder)
    place = Path(continued.name)
    for name in TOKENIZER_FILES:  # the very bytes that were checked
        if (place / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(place / name, folder / name)
    template = instruct.tokenizer.chat_template
    (folder / "chat_template.jinja").write_text(str(template), encoding="utf-8")
    about = folder / "tokenizer_config.json"
    said = read_json(about)
    said.pop("chat_template", None)
    said["eos_token"] = str(instruct.tokenizer.eos_token)
    write_json(about, said)


def _write_card(models: Sequence[Model], made: Added, folder: Path) -> None:
    continued, instruct, base = (model.name for model in models)
    owed = duties(base_licence(base), base)
    lines = [
        f"# {folder.name.removesuffix('.tmp')}",
        "",
        f"{continued} + {made.ratio:g} × ({instruct} − {base}), made by `malmoi chat-vector` "
        '(Huang et al. 2024, "Chat Vector").',
        "",
        f"Rows of the vocabulary: {', '.join(f'{n:,} {what}' for what, n in made.rows.items()) or 'unchanged'}.",
    ]
    if owed is not None:
        lines += ["", f"{owed.built_with}. {owed.notice}"]
        write_text(folder / "Notice", owed.notice + "\n")
        for name, path in licence_files(base).items():
            shutil.copyfile(path, folder / name)
    write_text(folder / "README.md", "\n".join([*lines, ""]))
    write_json(
        folder / "chat_vector.json",
        {
            "continued": continued,
            "instruct": instruct,
            "base": base,
            "ratio": made.ratio,
            "rows": made.rows,
        },
    )
