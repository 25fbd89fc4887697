"""A base, its tuned sister and a model that went on from the base: three of a few thousand weights each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_run import BASE, CONTROL, make_tokenizer
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

KOREAN = ["말모이", "한국어를", "봄바람"]
TOUCHED = CONTROL[0]


def save(
    folder: Path, weights: dict[str, Tensor], rows: int, *, tied: bool, **fields: Any
) -> LlamaForCausalLM:
    settings = {name: value for name, value in BASE.items() if name != "model_type"}
    settings |= {"tie_word_embeddings": tied, "vocab_size": rows} | fields
    model = LlamaForCausalLM(LlamaConfig(**settings))
    if weights:
        model.load_state_dict(weights, strict=False)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="40KB")
    return model


def make_three(place: Path, *, tied: bool) -> dict[str, Path]:
    """base; instruct, whose control tokens have other numbers; continued, with Korean rows and padding."""
    torch.manual_seed(5)
    folders = {name: place / name for name in ("base", "instruct", "continued")}
    for folder in folders.values():
        make_tokenizer(folder)
    base_tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    size = len(base_tokenizer)
    base = save(folders["base"], {}, size, tied=tied)
    old = {name: value.detach().clone().float() for name, value in base.state_dict().items()}

    def near(share: float) -> dict[str, Tensor]:
        return {name: value + share * torch.randn_like(value) for name, value in old.items()}

    # instruct: the two last control tokens change places, and rows with them
    told = json.loads((folders["instruct"] / "tokenizer.json").read_text())
    last, before = (
        next(t for t in told["added_tokens"] if t["content"] == c) for c in CONTROL[:-3:-1]
    )
    last["id"], before["id"] = before["id"], last["id"]
    told["added_tokens"].sort(key=lambda token: token["id"])
    (folders["instruct"] / "tokenizer.json").write_text(json.dumps(told))
    settings = json.loads((folders["instruct"] / "tokenizer_config.json").read_text())
    settings.pop("added_tokens_decoder", None)
    settings["eos_token"] = "<|eot_id|>"
    (folders["instruct"] / "tokenizer_config.json").write_text(json.dumps(settings))
    template = folders["instruct"] / "chat_template.jinja"
    template.write_text(template.read_text() + "{# tuned #}")
    stops = PreTrainedTokenizerFast.from_pretrained(folders["instruct"])
    ends = [stops.convert_tokens_to_ids(token) for token in (CONTROL[1], "<|eot_id|>")]
    tuned = save(folders["instruct"], near(0.02), size, tied=tied)
    tuned.generation_config.eos_token_id = ends
    tuned.generation_config.save_pretrained(folders["instruct"])

    grown = PreTrainedTokenizerFast.from_pretrained(folders["continued"])
    grown.add_tokens(KOREAN)
    grown.save_pretrained(folders["continued"])
    rows = 64 * -(-len(grown) // 64)
    weights = near(0.01)
    for name in [name for name in weights if "embed_tokens" in name or "lm_head" in name]:
        for token in CONTROL[1:]:  # training has touched the first one alone
            place = base_tokenizer.convert_tokens_to_ids(token)
            weights[name][place] = old[name][place]
        weights[name] = torch.cat([weights[name], torch.randn(rows - size, BASE["hidden_size"])])
    save(folders["continued"], weights, rows, tied=tied)
    return folders
