"""How many pairs of answers make an optimizer step, and how ranks divide them; arithmetic alone.

In: the phase's settings and the number of ranks. Out: pairs. A pair is two sequences, so a step of
`global_batch_tokens` holds half as many pairs as another phase's holds sequences.
"""

from __future__ import annotations

from configs.schema import Phase, Pretrain


def pairs_of_step(pretrain: Pretrain, phase: Phase) -> int:
    """Pairs of an optimizer step, as `global_batch_tokens` asks: at least one."""
    batch = phase.global_batch_tokens or pretrain.global_batch_tokens
    tokens = batch if isinstance(batch, int) else batch.end
    return max(1, tokens // (2 * (phase.sequence_length or pretrain.sequence_length)))


def turns(micro_batch: int, pairs: int, world_size: int) -> tuple[int, int]:
    """Pairs of a turn and turns of a step, on each rank, for about `pairs` a step."""
    each = max(1, pairs // world_size)
    micro = min(micro_batch, each)
    return micro, max(1, each // micro)
