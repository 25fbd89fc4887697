"""Loss, schedule, vocabulary growth, the DeepSpeed configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_run import BASE, make_config, make_tokenizer
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from configs.errors import InputError
from configs.schema import NewRows, Schedule
from pretrain.loss import (
    SummedLoss,
    _ChunkedCrossEntropy,
    chunked_cross_entropy,
    plain_cross_entropy,
    supports_chunks,
)
from pretrain.schedule import learning_rate_factor
from pretrain.weights.model import read_rows, write_base
from pretrain.weights.trainable import choose_trainable
from pretrain.zero import deepspeed_config
from tokenizer.load import load_tokenizer


def small_model(**fields: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**BASE | {"vocab_size": 512} | fields)
    )


def test_the_chunked_loss_and_its_gradients_equal_cross_entropy() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(300, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1000, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 1000, (300,))
    expected = functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    wanted = torch.autograd.grad(expected * 3, (hidden, weight))
    for chunk in (7, 64, 1000):
        found, _ = _ChunkedCrossEntropy.apply(hidden, targets, chunk, 0.0, weight)
        grads = torch.autograd.grad(found * 3, (hidden, weight))
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        for one, other in zip(grads, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_z_loss_and_a_head_in_blocks_have_the_gradients_of_autograd(z_loss: float) -> None:
    torch.manual_seed(2)
    hidden = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    old, new, padding = (torch.randn(rows, 16, dtype=torch.float64) for rows in (600, 300, 100))
    new.requires_grad_()
    targets = torch.randint(0, 900, (50,))
    logits = hidden @ torch.cat([old, new, padding]).t()
    nats = functional.cross_entropy(logits, targets, reduction="none")
    expected = nats.sum() + z_loss * logits.logsumexp(1).square().sum()
    wanted = torch.autograd.grad(expected, (hidden, new))
    found, each = _ChunkedCrossEntropy.apply(hidden, targets, 7, z_loss, old, new, padding)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(each.double(), nats.detach(), rtol=1e-6, atol=1e-6)
    for one, other in zip(torch.autograd.grad(found, (hidden, new)), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    plain, plain_each = plain_cross_entropy(logits, targets, z_loss)
    assert plain.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not plain_each.requires_grad


def test_z_loss_is_trained_with_and_never_judged_by() -> None:
    ids = torch.randint(0, 512, (2, 40))
    positions, targets = torch.arange(40).repeat(2, 1), ids.roll(-1, 1)
    for way in ("logits", "chunked"):
        loss = SummedLoss(small_model(), way, z_loss=1e-2)
        trained, nats = loss(ids, positions, targets, True)
        assert nats.shape == ids.shape and float(nats.sum()) < float(trained.detach())
        judged = float(loss.eval()(ids, positions, targets))
        assert judged == pytest.approx(float(nats.sum()), rel=1e-5)


def test_no_target_means_no_loss_and_no_gradient() -> None:
    weight = torch.randn(50, 8, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss, nats = chunked_cross_entropy(torch.randn(0, 8), [weight], none)
    loss.backward()
    assert loss.item() == 0 and float(weight.grad.abs().sum()) == 0 and not len(nats)


def test_both_ways_to_the_loss_agree_on_a_model() -> None:
    ids = torch.randint(0, 512, (2, 40))
    positions = torch.arange(40).repeat(2, 1)
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    losses, gradients = [], []
    for way in ("logits", "chunked"):
        model = small_model()
        loss = SummedLoss(model, way)(ids, positions, targets)
        loss.backward()
        losses.append(float(loss))
        gradients.append(model.get_input_embeddings().weight.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_model_that_caps_its_logits_is_not_given_the_chunked_loss() -> None:
    model = small_model()
    assert supports_chunks(model)
    model.config.final_logit_softcapping = 30.0
    assert not SummedLoss(model, "auto").chunked


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_a_schedule_warms_up_reaches_its_lr_and_ends_where_it_says(kind: str) -> None:
    schedule = Schedule(kind=kind, warmup=0.1, decay=0.2, final=0.1)  # type: ignore[arg-type]
    factors = [learning_rate_factor(schedule, step, 200) for step in range(200)]
    assert factors[0] == pytest.approx(1 / 20) and max(factors) == factors[19] == 1.0
    assert factors[-1] == pytest.approx(1.0 if kind == "constant" else 0.1)
    assert all(0 < factor <= 1 for factor in factors)


def test_one_step_is_a_schedule_too() -> None:
    assert 0 < learning_rate_factor(Schedule(), 0, 1) <= 1


# ── growth ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_tokenizer(folder, 400)
    small_model(vocab_size=len(load_tokenizer(folder))).save_pretrained(folder)
    return folder


def grown_tokenizer(base: Path, folder: Path, new: list[str]) -> Path:
    """The base's tokenizer with more tokens behind it, and its new_tokens.tsv."""
    tokenizer = load_tokenizer(base)
    old = len(tokenizer)
    lines = ["id\ttoken\ttext\tcount\tbase_ids"]
    for number, text in enumerate(new):
        ids = tokenizer.encode(text, add_special_tokens=False)
        lines.append(f"{old + number}\tx\t{text}\t9\t{' '.join(map(str, ids))}")
    tokenizer.add_tokens(new)
    tokenizer.save_pretrained(str(folder))
    (folder / "new_tokens.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_start_from_their_subtokens_and_old_rows_stay_as_they_were(
    tied: bool, tmp_path: Path
) -> None:
    base = make_tokenizer(tmp_path / "base", 400)
    old = len(load_tokenizer(base))
    model = small_model(vocab_size=old, tie_word_embeddings=tied)
    model.save_pretrained(base)
    folder = grown_tokenizer(base, tmp_path / "grown", ["봄바람이", "강물소리"])
    tokenizer = load_tokenizer(folder)
    method = NewRows(input="subtokens", output="mean")
    made = write_base(str(base), tokenizer, folder, method, 7, tmp_path / "start")
    assert (made.base, made.vocabulary, made.total) == (old, old + 2, -(-(old + 2) // 64) * 64)
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    assert grown.config.vocab_size == made.total
    before = model.get_input_embeddings().weight.detach()
    after = grown.get_input_embeddings().weight.detach()
    assert torch.equal(after[:old], before)
    parts = load_tokenizer(base).encode("봄바람이", add_special_tokens=False)
    torch.testing.assert_close(after[old], before[parts].mean(0))
    head, old_head = grown.get_output_embeddings().weight, model.get_output_embeddings().weight
    torch.testing.assert_close(head[old], before[parts].mean(0) if tied else old_head.mean(0))
    torch.testing.assert_close(head[made.vocabulary], old_head.mean(0))


def test_a_tokenizer_of_another_base_is_refused_with_the_token_that_differs(
    base_folder: Path, tmp_path: Path
) -> None:
    other = make_tokenizer(tmp_path / "other", 380)
    with pytest.raises(InputError, match=r"token \d+ is .* set tokenizer.base"):
        write_base(str(base_folder), load_tokenizer(other), other, NewRows(), 7, tmp_path / "start")
    large = make_tokenizer(tmp_path / "large", 480)
    with pytest.raises(InputError, match=r"rows for \d+ tokens"):
        write_base(str(base_folder), load_tokenizer(large), large, NewRows(), 7, tmp_path / "start")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"hidden_size": 32}, "model_type: is missing"),
        ({"model_type": "lama"}, "transformers has no lama"),
        ({**BASE, "hiden_size": 3}, "did you mean hidden_size"),
        ({**BASE, "vocab_size": 10}, "less than the tokenizer's"),
        ({**BASE, "num_attention_heads": 3}, "cannot build it"),
    ],
)
def test_a_wrong_mapping_of_config_fields_is_named(
    base: dict[str, object], message: str, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    with pytest.raises(InputError, match=message):
        write_base(base, tokenizer, tiny_tokenizer, NewRows(), 7, tmp_path / "start")


def test_a_folder_that_is_no_model_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_tokenizer)
    with pytest.raises(InputError, match="is no model"):
        write_base(str(tmp_path), tokenizer, tiny_tokenizer, NewRows(), 7, tmp_path / "start")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="cannot be loaded"):
        write_base(str(tmp_path), tokenizer, tiny_tokenizer, NewRows(), 7, tmp_path / "start")


def test_only_the_named_groups_learn(base_folder: Path, tmp_path: Path) -> None:
    folder = grown_tokenizer(base_folder, tmp_path / "grown", ["봄바람이"])
    tokenizer = load_tokenizer(folder)
    write_base(str(base_folder), tokenizer, folder, NewRows(), 7, tmp_path / "start")
    made = read_rows(tmp_path / "start")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    assert len(choose_trainable(model, "all", made)) == len(list(model.parameters()))
    learned = choose_trainable(model, ["norms"], made)
    assert all(parameter.dim() == 1 for parameter in learned) and len(learned) == 5
    (block,) = choose_trainable(model, ["embed.new_rows"], made)
    assert block.shape == (1, BASE["hidden_size"])
    model(input_ids=torch.arange(10)[None], labels=torch.arange(10)[None]).loss.backward()
    assert float(block.grad.abs().max()) > 0
    assert model.get_input_embeddings().weight.grad is None


def test_the_deepspeed_configuration_is_complete_and_adds_up() -> None:
    pretrain = make_config(zero_stage=3).pretrain
    made = deepspeed_config(
        pretrain, micro_batch=2, accumulation=3, world_size=4, dtype=torch.bfloat16
    )
    assert made["train_batch_size"] == 24 and made["bf16"]["enabled"]
    assert made["zero_optimization"]["stage"] == 3
    assert "auto" not in json.dumps(made)
