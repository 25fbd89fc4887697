"""The shape of a model, from its config alone: what `malmoi plan` reckons with before anything is paid.

In: `pretrain.base` and the size of the vocabulary to come. Out: `Shape`, counted on the meta device,
where transformers builds any architecture without taking memory, so no formula of ours has to know
how many weights a Gemma layer has.

A hub id is asked for its config.json, but for the models that the recipes continue from: the hub wants
a login for those, so their published configs are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import InputError
from configs.schema import Lora, TrainGroup
from pretrain.weights.lora import lora_size
from pretrain.weights.trainable import layer_numbers, parameter_group

_LLAMA3 = {
    "model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8, "rope_theta": 500_000.0,
}  # fmt: skip
_PUBLISHED: dict[str, dict[str, Any]] = {
    "Meta-Llama-3-8B": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 8192,
    },
    "Llama-3.1-8B": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 131_072,
    },
    "Llama-3.2-1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "max_position_embeddings": 131_072, "tie_word_embeddings": True,
    },
    "Llama-3.2-3B": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "head_dim": 128, "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """parameters: by group (embed, head, layers, norms), a tied matrix once. new_rows: rows of tokens
    that the base has not. adapters: parameters of a phase that trains lora. positions: the longest
    sequence it knows, None for no limit."""

    name: str
    parameters: dict[str, int]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    positions: int | None
    new_rows: int = 0
    adapters: int = 0

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return -(-(self.parameters["layers"] + self.parameters["norms"]) // max(1, self.layers))

    def learning(self, train: str | list[TrainGroup]) -> int:
        """Parameters that have a gradient and an optimizer state in a phase that trains this.

        Raises InputError where it names layers that the model has not.
        """
        groups = set(self.parameters) if train == "all" else set(train)
        if self.tied and "head" in groups:
            groups.add("embed")
        if self.tied and "head.new_rows" in groups:
            groups.add("embed.new_rows")
        total = sum(size for group, size in self.parameters.items() if group in groups)
        for side in ("embed", "head") if not self.tied else ("embed",):
            if f"{side}.new_rows" in groups and side not in groups:
                total += self.new_rows * self.hidden
        if "layers" not in groups:
            ranges = (layer_numbers(g, self.layers) for g in groups if g.startswith("layers."))
            named = {number for found in ranges for number in found}
            total += len(named) * self.parameters["layers"] // max(1, self.layers)
        return total + (self.adapters if "lora" in groups else 0)

    def flops(self, length: int, train: str | list[TrainGroup] = "all") -> float:
        """FLOPs of one token in training, forward and backward, without recomputation.

        4 for every weight it passes and 2 more for each that learns (the embedding is looked up), and
        12 · layers · heads · head size · length / 2 for causal attention (Kaplan et al. 2020 §2.1;
        Chowdhery et al. 2022, appendix B).
        """
        looked_up = 0 if self.tied else self.parameters["embed"]
        attention = 6 * self.layers * self.heads * self.head_size * length
        passed = self.total - looked_up
        return 4 * passed + 2 * min(passed, self.learning(train)) + attention


def read_shape(
    base: str | dict[str, Any], vocabulary: int | None, multiple: int, lora: Lora | None = None
) -> Shape:
    """The shape of `base` with rows for `vocabulary` tokens (None: its own), padded to a multiple.

    lora: the adapters to count. Raises InputError where the base is no causal language model, or its config cannot be had.
    """
    fields, name = _fields(base)
    kind = fields.pop("model_type", None)
    try:
        config = AutoConfig.for_model(kind, **fields) if kind else None
    except Exception as problem:  # transformers validates with exceptions of many kinds
        raise InputError(f"pretrain.base: {name}: {_first_line(problem)}") from None
    if config is None:
        raise InputError(f"pretrain.base: {name} has no model_type; add one, for example llama")
    text = config.get_text_config()
    present = text.vocab_size
    rows = max(vocabulary or 0, 0 if isinstance(base, dict) else text.vocab_size) or text.vocab_size
    text.vocab_size = -(-rows // multiple) * multiple
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except Exception as problem:
        raise InputError(
            f"pretrain.base: {name} is no causal language model that transformers builds "
            f"({_first_line(problem)}); name one"
        ) from None
    sizes = dict.fromkeys(("embed", "head", "layers", "norms"), 0)
    for label, parameter in model.named_parameters():  # a tied matrix comes once
        sizes[parameter_group(label, parameter, model)] += parameter.numel()
    heads = int(getattr(text, "num_attention_heads", 1))
    return Shape(
        name=name,
        parameters=sizes,
        layers=int(getattr(text, "num_hidden_layers", 1)),
        hidden=int(text.hidden_size),
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        heads=heads,
        key_value_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_size=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        vocabulary=int(text.vocab_size),
        tied=bool(text.tie_word_embeddings),
        positions=getattr(text, "max_position_embeddings", None),
        new_rows=max(0, (vocabulary or 0) - present),
        adapters=0 if lora is None else lora_size(model, lora),
    )


def _fields(base: str | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Config fields, and what to call the model."""
    if isinstance(base, dict):
        return dict(base), "random weights"
    known = next(
        (own for name, own in _PUBLISHED.items() if base.split("/")[-1].startswith(name)), None
    )
    if known is not None and not Path(base).exists():
        return {**_LLAMA3, **known}, base
    try:
        config = AutoConfig.from_pretrained(base)
    except Exception as problem:
        raise InputError(
            f"pretrain.base: the config of {base} cannot be read ({_first_line(problem)}); give a "
            "folder with config.json, check the name and the network, or log in with `hf auth login`"
        ) from None
    return config.to_dict(), base


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0].strip() if lines else type(problem).__name__
