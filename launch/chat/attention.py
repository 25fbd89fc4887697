"""Attention of a batch that many requests share, on a CPU: each request over its own keys.

In: queries of all requests in a row, shape (1, heads, queries, width), and the paged cache. Out: the
same rows attended, shape (1, queries, heads, width).

The decision: transformers' batching loop with its own `sdpa` multiplies every query with every
request's keys and masks the rest: the work grows with the square of the requests, and a prompt of
4,000 tokens is paid for by each stream beside it. Here a request is one product of its own. Cost: a
few microseconds a request and layer. A reply is then also computed the same way whoever runs beside
it. On a GPU the masked product is the faster one, and stays.

A model that is called in any other way (`generate`, a plain forward) gets transformers' `sdpa`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "malmoi_by_request"


def by_request(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers' `AttentionInterface`.

    With a paged `cache`, `kwargs` has `cu_seq_lens_q` and `cu_seq_lens_k`: where each request's
    queries and keys begin and end.
    """
    if cache is None:
        kwargs |= {"dropout": dropout, "scaling": scaling}
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return found, None
    key, value = cache.update(
        key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs
    )
    lengths = kwargs["cu_seq_lens_q"].diff().tolist()
    _, heads, queries, width = query.shape
    groups = key.shape[1]
    group = heads // groups
    keys = key.split(kwargs["cu_seq_lens_k"].diff().tolist(), dim=2)
    values = value.split([each.shape[2] for each in keys], dim=2)
    # The heads of a group become queries of one row: no copy of the keys for each head.
    rows = query[0].transpose(0, 1).reshape(queries, groups, group, width)
    parts, first = [], 0
    for length, mine, seen in zip(lengths, keys, values, strict=True):
        row = rows[first : first + length]
        if length == 1:
            parts.append(scaled_dot_product_attention(row, mine, seen, scale=scaling))
        elif length:
            whole = mine.shape[2] == length
            some = scaled_dot_product_attention(
                query[:, :, first : first + length],
                repeat_kv(mine, group),
                repeat_kv(seen, group),
                attn_mask=None if whole else _causal(length, mine.shape[2]),
                is_causal=whole,
                scale=scaling,
            )
            parts.append(some[0].transpose(0, 1).reshape(row.shape))
        first += length
    return torch.cat(parts).reshape(1, queries, heads, width), None


@lru_cache(maxsize=2)  # all layers of a step ask for the same one
def _causal(queries: int, keys: int) -> torch.Tensor:
    """True where a query may look: the last `queries` of `keys` positions, each up to itself."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


AttentionInterface.register(NAME, by_request)
AttentionMaskInterface.register(NAME, sdpa_mask)


def suits(model: Any) -> bool:
    """Whether a model's batches are attended this way: on a CPU, and no layer has a window."""
    windowed = getattr(model.config, "sliding_window", None) is not None
    return model.device.type == "cpu" and not windowed
