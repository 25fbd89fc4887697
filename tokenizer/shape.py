"""What of the model decides the cost of a token: weights of the layers, hidden size, tied or not.

In: `pretrain.base`, a mapping of config fields, a folder or a hub id. Out: a `Shape`; Llama-3-8B's,
and said so, where the base is not known: training will tell of a wrong name, a curve may assume.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from huggingface_hub import get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from configs.schema import Pretrain

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """What of a model decides the cost of a token. layers: weights a token passes, without head."""

    name: str
    layers: int
    hidden: int
    tied: bool

    def flops(self, vocab_size: Reals) -> Reals:
        """FLOPs of one token in a forward pass, for every size of the vocabulary."""
        return 2 * (self.layers + self.hidden * vocab_size)

    @property
    def row(self) -> int:
        """Weights a new token brings: its row of the embedding, and of the head where untied."""
        return self.hidden * (1 if self.tied else 2)


LLAMA3_8B = Shape("Llama-3-8B", 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336), 4096, False)  # fmt: skip


def model_shape(pretrain: Pretrain | None) -> Shape:
    """Shape of `pretrain.base`: a mapping, a folder or a hub id; Llama-3-8B's where it is not known."""
    if pretrain is None:
        return LLAMA3_8B
    if isinstance(pretrain.base, dict):
        found = _shape("pretrain.base", pretrain.base)
    else:
        found = _shape(pretrain.base, _model_config(pretrain.base))
    return found or Shape("Llama-3-8B (assumed)", *_figures(LLAMA3_8B))


def _figures(shape: Shape) -> tuple[int, int, bool]:
    return shape.layers, shape.hidden, shape.tied


def _model_config(base: str) -> dict[str, Any]:
    path = Path(base).expanduser() / "config.json"
    try:
        cached = path if path.is_file() else try_to_load_from_cache(base, "config.json")
        if isinstance(cached, str | Path):
            value = json.loads(Path(cached).read_text(encoding="utf-8"))
        else:  # one request: hf_hub_download tries six times, half a minute without a network
            url = hf_hub_url(base, "config.json")
            value = get_session().get(url, headers=build_hf_headers(), timeout=5).json()
    except (
        Exception
    ):  # no such model, no network, no JSON: training will say so, a curve may assume
        return {}
    return value if isinstance(value, dict) else {}


def _shape(name: str, fields: Mapping[str, Any]) -> Shape | None:
    """From the fields of a Hugging Face config; None where they do not tell."""
    fields = {**fields, **(fields.get("text_config") or {})}

    def whole(*names: str) -> int | None:
        values = (fields.get(one) for one in names)
        return next((int(v) for v in values if isinstance(v, int | float) and v > 0), None)

    hidden = whole("hidden_size", "n_embd", "d_model")
    layers = whole("num_hidden_layers", "n_layer", "num_layers")
    if hidden is None or layers is None:
        return None
    heads = whole("num_attention_heads", "n_head") or 1
    size = whole("head_dim") or max(1, hidden // heads)
    groups = whole("num_key_value_heads") or heads
    attention = 2 * hidden * size * (heads + groups)
    inner = whole("moe_intermediate_size", "intermediate_size", "n_inner") or 4 * hidden
    experts = whole("num_experts_per_tok") or 1  # what one token passes
    gated = fields.get("model_type") not in {"gpt2", "gpt_neox", "gptj", "opt", "bloom", "phi"}
    feed_forward = experts * (3 if gated else 2) * hidden * inner
    tied = bool(fields.get("tie_word_embeddings", fields.get("model_type") == "gpt2"))
    return Shape(name, layers * (attention + feed_forward), hidden, tied)
