"""Do packed documents stay apart on this device, with the attention that training uses here?

In: nothing. Out: JSON on stdout: the attention, the type, and the largest difference between a document's
logits alone and behind another one in the same sequence, relative to the logits' size. A program of its
own (`python -m launch.doctor.isolation`), for it takes a GPU's memory while it runs.
"""

from __future__ import annotations

import json

FIRST, SECOND = 200, 120
LIMIT = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest difference that is rounding: kernels differ with the length of what they are given."""


def measure() -> dict[str, object]:
    """attention, dtype, difference (relative, of the second document), leak (that of a sequence whose
    positions do not restart: what it would be if they saw each other), apart (whether all is well)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pretrain.engine import attention
    from pretrain.zero import choose_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype("auto", device)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    config._attn_implementation = attention(device)
    model = LlamaForCausalLM(config).to(device=device, dtype=dtype).eval()
    ids = torch.randint(0, 1000, (1, FIRST + SECOND), device=device)
    restart = torch.cat([torch.arange(FIRST), torch.arange(SECOND)]).to(device)[None]
    straight = torch.arange(FIRST + SECOND, device=device)[None]
    alone = torch.arange(SECOND, device=device)[None]
    with torch.no_grad():
        packed = model(ids, position_ids=restart, use_cache=False).logits[0, FIRST:].float()
        mixed = model(ids, position_ids=straight, use_cache=False).logits[0, FIRST:].float()
        single = model(ids[:, FIRST:], position_ids=alone, use_cache=False).logits[0].float()
    size = float(single.abs().max())
    difference = float((packed - single).abs().max()) / size
    leak = float((mixed - single).abs().max()) / size
    name = str(dtype).removeprefix("torch.")
    return {
        "attention": config._attn_implementation,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "dtype": name,
        "difference": difference,
        "leak": leak,
        "apart": difference < LIMIT[name] and leak > 3 * difference,
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
