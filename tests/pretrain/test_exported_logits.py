"""The exported model computes what the training engine computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import BASE, make_config
from transformers import AutoModelForCausalLM, pipeline

from pretrain.data.tokens import open_tokens
from pretrain.engine import engine, save_weights
from pretrain.phases import make_work
from pretrain.sequence_parallel import SequenceParallel
from pretrain.stage import prepare
from pretrain.weights.export import export_model
from pretrain.weights.model import read_rows
from pretrain.zero import process_group
from tokenizer.load import load_tokenizer

pytestmark = pytest.mark.slow
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize(
    ("stage", "tied", "dtype"),
    [
        (2, True, "bf16"),
        (3, False, "fp32"),
        pytest.param(2, False, "fp32", marks=pytest.mark.thorough),
        pytest.param(3, True, "bf16", marks=pytest.mark.thorough),
    ],
)
def test_the_exported_models_logits_are_those_of_the_training_engine(
    stage: int, tied: bool, dtype: str, run_folder: Path
) -> None:
    base = {**BASE, "tie_word_embeddings": tied}
    config = make_config(base=base, zero_stage=stage, dtype=dtype)
    prepare(config, run_folder)
    folder = run_folder / "pretrain"
    tokens, rows = open_tokens(folder / "tokens"), read_rows(folder / "base")
    assert config.pretrain is not None
    with process_group() as ranks:
        work = make_work(config, tokens, 0, 1)
        batch = work.sequences.batch([0, 1])
        ids, positions, targets = batch.input_ids, batch.position_ids, batch.targets
        alone = SequenceParallel(config.pretrain, ranks)
        made = engine(folder / "base", config.pretrain, work, rows, ranks, alone, TYPES[dtype])
        with made as trained:
            for _ in range(work.share_of(0).accumulation * 3):
                trained.backward(trained(ids, positions, targets) / batch.target_count)
                trained.step()
            trained.eval()
            with torch.no_grad():
                model = trained.module.model
                expected = model(input_ids=ids, position_ids=positions, use_cache=False).logits
            save_weights(trained, folder / "phases" / "1", rows, ranks, {})
    start = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=TYPES[dtype])
    tokenizer_folder = run_folder / "tokenizer"
    tokenizer = load_tokenizer(tokenizer_folder)
    weights, target = folder / "phases" / "1", run_folder / "model"
    export_model(weights, tokenizer, tokenizer_folder, rows, "card", target)
    loaded = AutoModelForCausalLM.from_pretrained(target, dtype="auto").eval()
    assert loaded.dtype == TYPES[dtype]
    with torch.no_grad():
        given = {"input_ids": ids, "position_ids": positions, "use_cache": False}
        got, before = loaded(**given).logits, start.eval()(**given).logits
    rounding = 2**-7 if dtype == "bf16" else 1e-5
    assert torch.allclose(got.float(), expected.float(), rtol=rounding, atol=rounding)
    assert not torch.allclose(got.float(), before.float(), rtol=rounding, atol=rounding)

    say = pipeline("text-generation", model=str(target))
    said = say("봄 바람이", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert said.startswith("봄 바람이")
