"""A random Llama of a few thousand weights, saved with its tokenizer: what the evaluation's tests judge."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_run import BASE, make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def make_model(folder: Path, *, adds_bos: bool = True, positions: int = 64, seed: int = 3) -> Path:
    """adds_bos: whether the tokenizer puts BOS before a text itself, as Llama-3's does."""
    make_tokenizer(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if adds_bos:
        bos = tokenizer.bos_token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
        tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    fields = {name: value for name, value in BASE.items() if name != "model_type"}
    config = LlamaConfig(
        **fields | {"max_position_embeddings": positions, "initializer_range": 0.3},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
