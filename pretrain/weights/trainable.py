"""Which parameters learn in a phase, from whole groups down to rows.

In: a model and a phase's `train`: `all`, or a list of embed, head, norms, layers, single layers
(layers.7, layers.0-7, layers.first-8, layers.last-8), the rows of new tokens (embed.new_rows,
head.new_rows), lora. Out: everything else frozen, and the parameters that learn.

A matrix that is embedding and head at once (`tie_word_embeddings`) is one group under two names:
naming either trains it. `layers` is all that is no embedding, head or norm; a learned table of
positions (GPT-2) belongs to `layers` but to no single layer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import InputError
from configs.schema import Lora, Pretrain, TrainGroup
from pretrain.weights.embeddings import Rows
from pretrain.weights.lora import add_adapters, check_installed, lora_targets
from pretrain.weights.row_block import NAME, split_embedding, split_head

_LAYERS = re.compile(r"layers\.(?:(first|last)-)?(\d+)(?:-(\d+))?")


def parameter_group(name: str, parameter: Any, model: Any) -> str:
    """embed, head, norms or layers: the group a parameter belongs to (a tied matrix is embed)."""
    if parameter is model.get_input_embeddings().weight:
        return "embed"
    head = model.get_output_embeddings()
    if head is not None and any(parameter is own for own in head.parameters()):
        return "head"
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return (
        "norms" if len(shape) == 1 and "norm" in name.lower().replace("ln_", "norm") else "layers"
    )


def layer_numbers(group: str, count: int) -> range:
    """The layers that `layers…` names in a model of `count` layers.

    Raises InputError where the model has no such layer.
    """
    if group == "layers":
        return range(count)
    match = _LAYERS.fullmatch(group)
    assert match is not None, group  # the schema lets nothing else through
    side, number, to = match[1], int(match[2]), match[3]
    if side == "first":
        found = range(number)
    elif side == "last":
        found = range(count - number, count)
    else:
        found = range(number, (number if to is None else int(to)) + 1)
    if not found or found.start < 0 or found.stop > count:
        raise InputError(
            f"train: {group}: the model has {count} layers, 0 to {count - 1}; "
            f"did you mean {_nearest(side, found, count)}?"
        )
    return found


def _nearest(side: str | None, found: range, count: int) -> str:
    if side:
        return f"layers.{side}-{count}"
    if not found:  # 7-0
        low, high = sorted((found.start, found.stop - 1))
        found = range(low, high + 1)
    start = min(found.start, count - 1)
    last = min(found.stop, count) - 1
    return f"layers.{start}" if last <= start else f"layers.{start}-{last}"


def layer_of(model: Any) -> dict[str, int]:
    """Prefix of each layer's parameters ("model.layers.3.") → its number."""
    wanted = int(model.config.get_text_config().num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return {f"{name}.{number}.": number for number in range(wanted)}
    return {}


def check_train(pretrain: Pretrain, base: Path) -> None:
    """Raise InputError with every phase that names layers or matrices which the model in `base` lacks.

    The model is built without weights.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(base)))
    count = len(layer_of(model))
    mistakes: list[str] = []
    for number, phase in enumerate(pretrain.phases):
        for group in phase.train if isinstance(phase.train, list) else []:
            try:
                if group.startswith("layers"):
                    layer_numbers(group, count)
                elif group == "lora":
                    check_installed()
                    lora_targets(model, pretrain.lora)
            except InputError as problem:
                here = f"pretrain.phases.{number}."
                lines = [
                    f"{here}{line}" if line.startswith("train:") else line for line in problem.lines
                ]
                mistakes += [line for line in lines if line not in mistakes]
    if mistakes:
        raise InputError(mistakes)


def choose_trainable(
    model: Any,
    train: str | list[TrainGroup],
    rows: Rows,
    lora: Lora | None = None,
    seed: int = 0,
) -> list[Any]:
    """Freeze what a phase does not name; returns the parameters that learn, in the model's order.

    New rows become a block of their own (row_block.py), so all others move exactly 0.0. seed: of the
    adapters' random start. Raises InputError where a phase would train nothing, or names layers that
    the model has not.
    """
    groups = {"embed", "head", "layers", "norms"} if train == "all" else set(train)
    tied = model.config.get_text_config().tie_word_embeddings
    if tied and "head" in groups:
        groups.add("embed")  # one matrix serves as both
    if tied and groups & {"embed.new_rows", "head.new_rows"}:
        groups |= {"embed.new_rows", "head.new_rows"}
    chosen: set[int] = set()
    if "lora" in groups:
        chosen |= {id(adapter) for adapter in add_adapters(model, lora or Lora(), seed)}
    prefixes = layer_of(model)
    learning = {
        number
        for group in groups
        if group.startswith("layers.")
        for number in layer_numbers(group, len(prefixes))
    }
    for name, parameter in model.named_parameters():
        group = parameter_group(name, parameter, model)
        if group in groups and ".lora_" not in name:
            chosen.add(id(parameter))
        elif group == "layers" and learning:
            at = next((n for prefix, n in prefixes.items() if name.startswith(prefix)), None)
            if at in learning:
                chosen.add(id(parameter))
    blocks = _split_off(model, groups, rows, tied=tied)
    chosen |= {id(block) for block in blocks}
    learned = []
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
        if id(parameter) in chosen:
            learned.append(parameter)
    if not learned:
        raise InputError(f"train: {train} names no parameter of this model; write all")
    return learned


def _split_off(model: Any, groups: set[str], rows: Rows, *, tied: bool) -> list[nn.Parameter]:
    """Blocks for the new rows that learn while the rest of their matrix does not."""
    blocks: list[nn.Parameter] = []
    shared = None
    if rows.vocabulary == rows.base:
        return blocks
    if "embed.new_rows" in groups and "embed" not in groups:
        shared = split_embedding(model.get_input_embeddings(), rows)
        blocks.append(shared)
    if "head.new_rows" in groups and "head" not in groups and not (tied and shared is None):
        blocks.append(split_head(model.get_output_embeddings(), rows, shared if tied else None))
    return blocks


def is_table(name: str, parameter: Any, model: Any) -> bool:
    """Whether a parameter is an embedding, a head, or a block of their rows."""
    return name.endswith(f".{NAME}") or parameter_group(name, parameter, model) in ("embed", "head")
