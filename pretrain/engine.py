"""A DeepSpeed engine around a model that was saved to disk, for the length of one phase.

In: a folder of weights, a phase, the ranks. Out: an engine whose forward is the summed loss, and at the
end the weights as a Hugging Face folder again.

Every engine starts with `from_pretrained`. Under ZeRO-3 that is done inside `HfDeepSpeedConfig`, which
shards each weight as it is read; `zero.Init` around a model's constructor would silently skip the
initialisation of its weights.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.import_utils import is_flash_attn_2_available

from configs.files import sync, write_json
from configs.schema import Pretrain
from pretrain.loss import SummedLoss
from pretrain.phases import Work
from pretrain.sequence_parallel import SequenceParallel
from pretrain.weights.embeddings import Rows
from pretrain.weights.isolation import check_isolation
from pretrain.weights.lora import merged
from pretrain.weights.row_block import whole
from pretrain.weights.trainable import choose_trainable
from pretrain.zero import Ranks, adamw, deepspeed_config


def attention(device: torch.device) -> str:
    """FlashAttention where it is installed, for it never forms the mask; else sdpa."""
    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


@contextmanager
def engine(
    weights: Path,
    pretrain: Pretrain,
    work: Work,
    rows: Rows,
    ranks: Ranks,
    parallel: SequenceParallel,
    dtype: torch.dtype,
    *,
    universal: bool = False,
    seed: int = 0,
) -> Iterator[Any]:
    """An engine that trains what the phase names.

    universal: it will load a converted checkpoint. seed: of the run; adapters start from it. Raises
    InputError where the phase would train nothing, or the model does not keep documents apart.
    """
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    settings = deepspeed_config(
        pretrain,
        micro_batch=work.share.micro_batch,
        accumulation=work.share.accumulation,
        world_size=ranks.world_size,
        dtype=dtype,
        universal=universal,
    )
    sharding = HfDeepSpeedConfig(settings) if pretrain.zero_stage == 3 else None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(weights), dtype=dtype, attn_implementation=attention(ranks.device)
        )
    finally:
        if sharding is not None:
            unset_hf_deepspeed_config()
    model.config.use_cache = False
    if pretrain.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    learned = choose_trainable(model, work.phase.train, rows, pretrain.lora, seed + work.index)
    optimizer = adamw(learned, model, pretrain.optimizer, work.phase.lr)
    started, *_ = deepspeed.initialize(
        model=SummedLoss(model, pretrain.loss, pretrain.z_loss),
        optimizer=optimizer,
        config=settings,
    )
    started.train()
    try:
        flat = attention(ranks.device) == "flash_attention_2"
        with parallel.attention(model):
            check_isolation(started, model, ranks.device, flat=flat)
            yield started
    finally:
        started.destroy()
        del started, model, optimizer, learned
        gc.collect()


def save_weights(
    engine: Any, folder: Path, rows: Rows, ranks: Ranks, notes: dict[str, Any]
) -> None:
    """Write the engine's weights, in the type they are trained in; every rank calls it.

    Adapters are merged and blocks of new rows put back: what is written is an ordinary model.

    notes: JSON files to put beside them. `folder` appears whole or not at all.
    """
    model = engine.module.model
    if engine.zero_optimization_partition_weights():
        state = engine._zero3_consolidated_16bit_state_dict()
        prefix = "model."
        state = {name.removeprefix(prefix): value for name, value in (state or {}).items()}
    else:
        state = model.state_dict()
    if ranks.first:
        partial = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        state = {name: value.detach().cpu() for name, value in state.items()}
        state = whole(merged(state, model), rows)
        state = {name: value.contiguous() for name, value in state.items()}
        if model.config.get_text_config().tie_word_embeddings:
            state.pop("lm_head.weight", None)
        model.save_pretrained(partial, state_dict=state)
        for name, value in notes.items():
            write_json(partial / name, value)
        for path in partial.iterdir():
            path.chmod(0o644)  # safetensors writes for its owner alone
            sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(folder.parent)
    ranks.barrier()
