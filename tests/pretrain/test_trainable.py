"""What learns: groups, layers, rows of new tokens, adapters; and what must not move at all."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import BASE, make_config, twin
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from configs.errors import InputError, Stopped
from configs.load import dump, load
from configs.progress import Progress
from configs.schema import Lora, Pretrain
from launch.clusters.local import run_ranks
from pretrain.loss import SummedLoss
from pretrain.stage import prepare, run
from pretrain.weights.embeddings import Rows
from pretrain.weights.lora import add_adapters, lora_size, merged
from pretrain.weights.row_block import whole
from pretrain.weights.trainable import choose_trainable, layer_numbers

ROWS = Rows(400, 460, 512)
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA32 = {
    **BASE,
    "rope_parameters": {
        **ROPE, "rope_theta": 10_000.0, "original_max_position_embeddings": 64
    },
}  # fmt: skip


def small_model(**fields: Any) -> Any:
    torch.manual_seed(0)
    kind = {**BASE, "vocab_size": ROWS.total, **fields}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**kind))


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, ROWS.vocabulary, (2, 40), generator=torch.Generator().manual_seed(3))
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    return ids, torch.arange(40).repeat(2, 1), targets


# ── layers ──────────────────────────────────────────────────────────────────────────────────────


def test_layers_are_named_by_number_or_counted_from_either_end() -> None:
    names = ("layers", "layers.7", "layers.0-7", "layers.first-3", "layers.last-3")
    found = [list(layer_numbers(name, 8)) for name in names]
    assert found == [list(range(8)), [7], list(range(8)), [0, 1, 2], [5, 6, 7]]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("layers.8", "layers.7"), ("layers.4-40", "layers.4-7"), ("layers.5-2", "layers.2-5"),
     ("layers.last-9", "layers.last-8")],
)  # fmt: skip
def test_layers_that_the_model_has_not_are_refused_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"8 layers, 0 to 7; did you mean {meant}\?"):
        layer_numbers(name, 8)


def test_only_the_named_layers_learn() -> None:
    model = small_model(num_hidden_layers=4)
    choose_trainable(model, ["layers.last-2", "norms"], ROWS)
    learned = {name for name, value in model.named_parameters() if value.requires_grad}
    matrices = {name for name in learned if "norm" not in name}
    assert {name.split(".")[2] for name in matrices} == {"2", "3"}
    assert len(learned) - len(matrices) == 9


def test_a_wrong_group_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    phase = {"name": "a", "tokens": 1, "mixture": {"ko": 1.0}}
    for train, message in (
        (["layer"], r"'layer' is not embed, .*or layers by number.*did you mean layers\?"),
        (["lora", "layers.0-1"], "lora stands beside frozen layers, and layers.0-1 trains them"),
        ([], "is an empty list"),
    ):
        config = {"name": "x", "pretrain": {"base": BASE, "phases": [{**phase, "train": train}]}}
        path = tmp_path / "c.yaml"
        path.write_text(json.dumps(config))
        with pytest.raises(InputError, match=message):
            load(str(path))


# ── rows ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("way", ["logits", "chunked"])
def test_a_block_of_new_rows_has_the_loss_and_gradient_of_those_rows(tied: bool, way: str) -> None:
    found = []
    for train in (["embed", "head"], ["embed.new_rows", "head.new_rows"]):
        model = small_model(tie_word_embeddings=tied)
        learned = choose_trainable(model, train, ROWS)  # type: ignore[arg-type]
        assert len(learned) == 1 if tied else 2
        loss = SummedLoss(model, way)(*inputs())
        loss.backward()
        found.append((float(loss.detach()), [value.grad for value in learned]))
    (loss, full), (split, blocks) = found
    assert split == pytest.approx(loss, rel=1e-6)
    for matrix, block in zip(full, blocks, strict=True):
        torch.testing.assert_close(block, matrix[ROWS.base : ROWS.vocabulary], rtol=1e-4, atol=1e-4)


def test_a_head_with_a_bias_and_scaled_embeddings_keep_their_logits_when_split() -> None:
    gemma = {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 64}
    for fields in ({"model_type": "phi", "tie_word_embeddings": False}, gemma):
        model = small_model(**fields).eval()
        before = model(input_ids=inputs()[0], use_cache=False).logits
        choose_trainable(model, ["embed.new_rows", "head.new_rows"], ROWS)
        after = model(input_ids=inputs()[0], use_cache=False).logits
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_a_block_goes_back_into_its_matrix_and_the_models_own_is_left_alone() -> None:
    model = small_model(tie_word_embeddings=False)
    (block,) = choose_trainable(model, ["head.new_rows"], ROWS)
    with torch.no_grad():
        block.add_(1.0)
    old = model.lm_head.weight.detach().clone()
    state = whole(model.state_dict(), ROWS)
    assert not any("new_rows" in name for name in state)
    moved = state["lm_head.weight"] - old
    assert float(moved[: ROWS.base].abs().max()) == 0 == float(moved[ROWS.vocabulary :].abs().max())
    torch.testing.assert_close(moved[ROWS.base : ROWS.vocabulary], torch.ones(60, 32))
    assert torch.equal(model.lm_head.weight, old)


# ── adapters ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # gpt2 stores its matrices transposed
def test_merged_adapters_give_the_logits_of_the_model_that_has_them(kind: str) -> None:
    fields = {} if kind == "llama" else {"model_type": "gpt2"}
    model = small_model(**fields).eval()
    plain = small_model(**fields).eval()
    size = lora_size(model, Lora(rank=4))
    adapters = add_adapters(model, Lora(rank=4, alpha=8), seed=5)
    assert size == sum(adapter.numel() for adapter in adapters)
    ids = inputs()[0]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
        for adapter in adapters:
            adapter.normal_(0, 0.05)
        plain.load_state_dict(merged(model.state_dict(), model))
        torch.testing.assert_close(
            plain(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5
        )


def test_an_adapter_for_a_matrix_that_is_not_there_is_refused(run_folder: Path) -> None:
    phases = [{"name": "a", "tokens": 512, "train": ["lora"], "mixture": {"ko": 1.0}},
              {"name": "b", "tokens": 512, "train": ["layers.2-5"], "mixture": {"ko": 1.0}}]  # fmt: skip
    config = make_config(phases=phases, lora={"targets": ["q_prj"]})
    with pytest.raises(InputError) as caught:
        prepare(config, run_folder)
    assert "q_prj is no matrix of this model; did you mean q_proj?" in str(caught.value)
    assert "pretrain.phases.1.train: layers.2-5: the model has 2 layers" in str(caught.value)


# ── the stage ───────────────────────────────────────────────────────────────────────────────────


def with_new_tokens(run_folder: Path, count: int = 60) -> tuple[Path, range]:
    """A tokenizer folder that says of its last tokens, which do occur, that they are new."""
    vocabulary = len(AutoTokenizer.from_pretrained(run_folder / "tokenizer"))
    folder = run_folder / "own"
    folder.mkdir()
    for path in (run_folder / "tokenizer").iterdir():
        (folder / path.name).symlink_to(path)
    new = range(vocabulary - count, vocabulary)
    lines = "".join(f"{index}\tx\tx\t1\t\n" for index in new)
    (folder / "new_tokens.tsv").write_text("id\ttoken\ttext\tcount\tbase_ids\n" + lines)
    return folder, new


def steps(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    names = ("step", "sequence_digest", "loss", "loss_by_source", "grad_norm")
    return [{name: entry[name] for name in names} for entry in entries if "loss" in entry]


def moved(folder: Path) -> dict[str, torch.Tensor]:
    """By parameter: how far each of its values went from the start of the run to its end."""
    start = AutoModelForCausalLM.from_pretrained(folder / "pretrain" / "base").state_dict()
    end = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    assert set(start) == set(end)
    # from the start as training takes it: rounded to the weights' type
    pairs = {name: (value.to(end[name].dtype), end[name]) for name, value in start.items()}
    return {name: (after.float() - before.float()).abs() for name, (before, after) in pairs.items()}


def phase(**fields: Any) -> dict[str, Any]:
    return {"name": "p", "tokens": 3072, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}, **fields}


def check_only_new_rows(folder: Path, new: range) -> None:
    for name, distance in moved(folder).items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert float(distance[: new.start].max()) == 0 == float(distance[new.stop :].sum())
            assert float(distance[new.start : new.stop].max()) > 0
        else:
            assert float(distance.max()) == 0, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "tied"),
    [(1, False), pytest.param(2, True, marks=pytest.mark.thorough), (3, False)],
)
def test_rows_and_padding_that_do_not_learn_move_exactly_nothing(
    stage: int, tied: bool, run_folder: Path
) -> None:
    tokenizer, new = with_new_tokens(run_folder)
    base = {**BASE, "tie_word_embeddings": tied}
    phases = [phase(train=["embed.new_rows", "head.new_rows"], tokens=1024)]
    run(
        make_config(base=base, tokenizer=str(tokenizer), phases=phases, zero_stage=stage),
        run_folder,
    )
    check_only_new_rows(run_folder, new)


def interrupted(config: Any, folder: Path, at: int) -> None:
    def log(progress: Progress) -> None:
        if progress.unit == "steps" and progress.done == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        run(config, folder, log=log)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [pytest.param(1, marks=pytest.mark.thorough), pytest.param(2, marks=pytest.mark.thorough), 3],
)
def test_adapters_and_new_rows_train_resume_bit_for_bit_and_leave_an_ordinary_model(
    stage: int, run_folder: Path
) -> None:
    """Llama-3.2's shape: tied, RoPE scaled; the second phase starts from the merged weights."""
    tokenizer, new = with_new_tokens(run_folder)
    phases = [
        phase(name="adapters", train=["lora", "embed.new_rows"]),
        phase(name="again", train=["lora"], tokens=512),
    ]
    config = make_config(
        base=LLAMA32,
        tokenizer=str(tokenizer),
        phases=phases,
        zero_stage=stage,
        dtype="bf16" if stage == 1 else "fp32",
        lora={"rank": 4, "alpha": 8, "dropout": 0.1},
    )
    report = run(config, run_folder)
    assert report.phases[0].loss_last < report.phases[0].loss_first
    assert report.phases[1].loss_first < report.phases[0].loss_first
    distances = moved(run_folder)
    for name, distance in distances.items():
        assert (float(distance.max()) > 0) == ("proj" in name or "embed" in name or "head" in name)
    table = distances["model.embed_tokens.weight"]
    assert float(table[: new.start].max()) == 0 == float(table[new.stop :].sum())
    model = AutoModelForCausalLM.from_pretrained(run_folder / "model")
    assert model.config.rope_parameters["rope_type"] == "llama3"
    assert report.parameters == sum(value.numel() for value in model.parameters())

    other = twin(run_folder, "stopped")
    interrupted(config, other, 3)
    assert run(config, other).resumed == 1
    assert steps(other) == steps(run_folder)
    again = AutoModelForCausalLM.from_pretrained(other / "model").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_go_on_with_adapters_and_rows_that_one_rank_has_saved(
    stage: int, run_folder: Path
) -> None:
    tokenizer, new = with_new_tokens(run_folder)
    base = {**BASE, "tie_word_embeddings": False}
    phases = [phase(train=["lora", "embed.new_rows", "head.new_rows"], tokens=4096)]
    config = make_config(
        base=base, tokenizer=str(tokenizer), phases=phases, zero_stage=stage, processes=2
    )
    assert config.pretrain is not None
    whole_run = twin(run_folder, "whole")
    run(config, whole_run)
    interrupted(config, run_folder, 4)
    (run_folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    run_ranks(config.pretrain, run_folder, log=lambda progress: None)
    one, two = steps(whole_run), steps(run_folder)
    assert [step["sequence_digest"] for step in two] == [step["sequence_digest"] for step in one]
    losses = [[step["loss"] for step in found] for found in (one, two)]
    done = len(losses[0]) - 3
    assert losses[1][:done] == pytest.approx(losses[0][:done], abs=1e-5)
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
    for name, distance in moved(run_folder).items():
        if "embed" in name or "lm_head" in name:
            assert float(distance[: new.start].max()) == 0 == float(distance[new.stop :].sum())
            assert float(distance[new.start : new.stop].max()) > 0
        else:
            assert (float(distance.max()) > 0) == ("proj" in name)


@pytest.mark.slow
def test_activation_checkpointing_changes_no_bit_and_offload_next_to_nothing(
    run_folder: Path,
) -> None:
    """Offloaded gradients are clipped in another order of sums. Each source's loss is logged too."""
    phases = [phase(tokens=1024)]
    ways: list[dict[str, Any]] = [
        {"zero_stage": 3},
        {"zero_stage": 3, "activation_checkpointing": True},
        {"zero_stage": 3, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "all"},
    ]
    found = []
    for number, way in enumerate(ways):
        folder = twin(run_folder, str(number))
        run(make_config(phases=phases, **way), folder)
        found.append(steps(folder))
    assert found[1] == found[0]
    for offloaded in found[2:]:
        wanted = [step["loss"] for step in found[0]]
        assert [step["loss"] for step in offloaded] == pytest.approx(wanted, rel=1e-7)
    for step in found[0]:
        assert set(step["loss_by_source"]) <= {"ko", "en"}
        low, high = min(step["loss_by_source"].values()), max(step["loss_by_source"].values())
        assert low <= step["loss"] * (1 + 1e-9) and step["loss"] <= high * (1 + 1e-9)


def test_offload_is_refused_where_zero_does_not_shard_what_it_moves() -> None:
    settings = {"base": BASE, "phases": [phase()]}
    for offload, stage in (("optimizer", 0), ("all", 2)):
        with pytest.raises(ValueError, match=f"offload: {offload} needs zero_stage"):
            Pretrain.model_validate({**settings, "offload": offload, "zero_stage": stage})
