"""Any Hugging Face causal language model trains: one tiny random checkpoint of each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import BASE, make_config
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import InputError
from pretrain.loss import SummedLoss
from pretrain.stage import run
from pretrain.weights.isolation import block_mask, check_isolation

COMMON = {key: value for key, value in BASE.items() if key != "model_type"}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 48},
    "gemma": {"head_dim": 16},
    "gpt2": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 1, "alibi": False},
}
ALIBI = {"alibi": True, "new_decoder_architecture": False, "multi_query": True}
NAMES = {
    "gpt2": {"hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
             "num_attention_heads": "n_head", "max_position_embeddings": "n_positions",
             "num_key_value_heads": None},
    "falcon": {"num_key_value_heads": None, "intermediate_size": "ffn_hidden_size"},
}  # fmt: skip


def fields_of(kind: str) -> dict[str, Any]:
    """The tiny shape in the words of an architecture's own config."""
    renamed = {NAMES.get(kind, {}).get(key, key): value for key, value in COMMON.items()}
    renamed.pop(None, None)
    return {"model_type": kind, **renamed, **SHAPES.get(kind, {})}


def model_of(fields: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**fields, "vocab_size": 512, "initializer_range": 0.2})
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", SHAPES)
def test_the_packed_loss_equals_that_of_the_documents_by_themselves(kind: str) -> None:
    model = model_of(fields_of(kind))
    loss = SummedLoss(model, "auto")
    lengths, ids = (7, 30, 11, 16), torch.randint(0, 512, (1, 64))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    targets = ids.roll(-1, 1)
    ends = torch.tensor(lengths).cumsum(0) - 1
    targets[:, ends] = -100
    with torch.no_grad():
        packed = float(loss(ids, positions, targets))
        alone = 0.0
        for end, length in zip(ends.tolist(), lengths, strict=True):
            part = slice(end - length + 1, end + 1)
            inputs = (ids[:, part], torch.arange(length)[None], targets[:, part])
            alone += float(loss(*inputs))
            plain = model(input_ids=ids[:, part], use_cache=False).logits[0, :-1].log_softmax(-1)
            wanted = -float(plain.gather(1, ids[0, part][1:, None]).sum())
            assert float(loss(*inputs)) == pytest.approx(wanted, rel=1e-5)
    assert packed == pytest.approx(alone, rel=1e-5)
    check_isolation(loss, model, torch.device("cpu"), flat=False)


@pytest.mark.parametrize(
    "fields",
    [{**fields_of("falcon"), **ALIBI}, {"model_type": "bloom", "hidden_size": 32, "n_head": 2}],
)
def test_a_model_whose_documents_see_each_other_is_refused(fields: dict[str, Any]) -> None:
    model = model_of(fields)
    with pytest.raises(InputError, match=f"{fields['model_type']} lets the documents of a packed"):
        check_isolation(SummedLoss(model, "auto"), model, torch.device("cpu"), flat=False)


def test_the_mask_shows_a_token_its_own_document_up_to_itself() -> None:
    mask = block_mask(torch.tensor([[0, 1, 0, 1, 2]]), torch.float32)
    seen = (mask == 0)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("gpt2", "falcon") else pytest.param(kind, marks=pytest.mark.thorough)
        for kind in SHAPES
    ],
)
def test_every_family_trains_through_the_stage(kind: str, run_folder: Path) -> None:
    stage = {"gpt2": 3, "falcon": 3}.get(kind, 2)
    phases = [
        {"name": "layer", "train": ["layers.0", "norms"], "tokens": 512, "lr": 1e-2, "mixture": {"ko": 1.0}},
        {"name": "all", "tokens": 1536, "lr": 1e-2, "mixture": {"ko": 0.5, "en": 0.5}},
    ]  # fmt: skip
    config = make_config(base=fields_of(kind), phases=phases, zero_stage=stage)
    report = run(config, run_folder)
    assert report.phases[1].loss_last < report.phases[1].loss_first
    model = AutoModelForCausalLM.from_pretrained(run_folder / "model")
    assert model.config.model_type == kind
    assert report.parameters == sum(value.numel() for value in model.parameters())
