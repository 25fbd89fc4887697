"""Low-rank adapters beside the layers' frozen matrices, put there and merged by PEFT's rules.

In: a model and `pretrain.lora`. Out: adapters that learn (Hu et al. 2021: W + alpha / rank · B·A, A
random, B zero, so the model starts as it was); and at the end of a phase a state without adapters, in
which they are added to their matrices.

So a phase's weights are an ordinary checkpoint: the next phase starts from it, with other parameters
or with fresh adapters, and the exported model needs no PEFT. The cost is one rounding of the sum to
the weights' type. During the phase the adapters are parameters like any others, and a resume
continues them bit for bit.
"""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from configs.errors import InputError
from configs.schema import Lora

ADAPTER = "default"  # PEFT's own name for the only adapter


def lora_targets(model: Any, lora: Lora) -> list[str]:
    """Names of the matrices of the layers that get an adapter, in the model's order.

    Raises InputError where a target in the config is the name of none.
    """
    head = model.get_output_embeddings()
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    if lora.targets == "auto":
        return found
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in found))
    mistakes = []
    for target in lora.targets:
        if target not in known:
            near = difflib.get_close_matches(target, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            mistakes.append(f"pretrain.lora.targets: {target} is no matrix of this model; {hint}")
    if mistakes:
        raise InputError(mistakes)
    return [name for name in found if name.rpartition(".")[2] in lora.targets]


def check_installed() -> None:
    """Raise InputError where PEFT is missing."""
    if find_spec("peft") is None:
        raise InputError("train: lora: needs peft; pip install 'malmoi[lora]'")


def lora_size(model: Any, lora: Lora) -> int:
    """Parameters that the adapters of a model have; nothing is built."""
    modules = dict(model.named_modules())
    return sum(lora.rank * sum(_shape(modules[name])) for name in lora_targets(model, lora))


def _shape(module: Any) -> tuple[int, int]:
    shape = getattr(module.weight, "ds_shape", module.weight.shape)
    return int(shape[0]), int(shape[1])


def add_adapters(model: Any, lora: Lora, seed: int) -> list[nn.Parameter]:
    """Freeze the model and give it adapters drawn from `seed`; returns them, in the model's order."""
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    targets = lora_targets(model, lora)
    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in targets)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=transposed,
        bias="none",
    )
    torch.manual_seed(seed)
    inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    adapters = [value for name, value in model.named_parameters() if ".lora_" in name]
    for adapter in adapters:
        adapter.requires_grad_(True)
    return adapters


@torch.no_grad()
def merged(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The state of a model with adapters as that of a model without: products added, names restored.

    The sum is formed in float32.
    """
    made = {name: value for name, value in state.items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or ADAPTER not in module.lora_A:
            continue
        up = state[f"{name}.lora_B.{ADAPTER}.weight"].float()
        down = state[f"{name}.lora_A.{ADAPTER}.weight"].float()
        product = (up @ down) * module.scaling[ADAPTER]
        if module.fan_in_fan_out:
            product = product.t()
        base = state[f"{name}.base_layer.weight"]
        made[f"{name}.base_layer.weight"] = (base.float() + product.to(base.device)).to(base.dtype)
    return {name.replace(".base_layer.", "."): value for name, value in made.items()}
