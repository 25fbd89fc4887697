"""A model folder → model and tokenizer, or exactly what the folder lacks.

In: a Hugging Face folder on this machine (`runs/<name>/model`). Out: a model in eval mode and its
tokenizer. Nothing is fetched. The decision: transformers fills weights that are missing with random
ones and only warns; here that is an error, since such a model answers, and answers nonsense.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from configs.errors import InputError


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder alone. Raises InputError where it cannot be read."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"{folder}: its tokenizer cannot be loaded: {first}") from error
    tokenizer.name_or_path = str(folder)
    return tokenizer


def load(folder: Path) -> tuple[Any, Any]:
    """Model (eval mode, on the GPU where there is one) and tokenizer, from local files only.

    On a CPU the weights become float32 where that fits half of the free memory (bfloat16 products
    are several times slower on most CPUs); otherwise the type they are stored in. Raises
    InputError where a file is damaged, weights are missing, or the tokenizer does not fit.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        weights = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        roomy = 2 * weights < psutil.virtual_memory().available / 2
        gpu = torch.cuda.is_available()
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            dtype=torch.float32 if roomy and not gpu else "auto",
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except Exception as error:  # json, safetensors, torch and transformers each raise their own
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"{folder}: cannot be loaded: {first}") from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    absent = sorted(info["missing_keys"])
    if absent:
        raise InputError(
            f"{folder}: weights are missing, {len(absent)} tensors, the first {absent[0]}; "
            "export the model again"
        )
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model "
            f"{config.vocab_size}; they do not belong together"
        )
    tokenizer.name_or_path = str(folder)
    if gpu:
        model = model.to("cuda")
    return model.eval(), tokenizer
