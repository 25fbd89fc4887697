"""`malmoi plan`: what a training would take, before anything is paid for."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from configs.load import load
from launch.cluster_size import Cluster
from launch.plan import plan
from pretrain.memory import memory
from pretrain.shape import read_shape

TINY = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 1024,
}  # fmt: skip


@pytest.mark.parametrize("recipe", ["llama3-8b-open-ko", "llama3-8b-bllossom", "quickstart"])
def test_a_recipe_is_planned_as_it_stands(recipe: str) -> None:
    text, refused = plan(load(recipe, []), Cluster.of("8x80GB"))
    assert refused == []
    assert "8 GPUs of 80 GB" in text and "the first that fits" in text
    settings = json.loads(text[text.index("DeepSpeed\n") + 10 :])
    assert settings["zero_optimization"]["overlap_comm"] is True
    assert settings["train_batch_size"] >= settings["train_micro_batch_size_per_gpu"] * 8


def test_the_batch_of_the_8b_recipe_is_divided_among_8_64_and_512_gpus() -> None:
    config = load("llama3-8b-open-ko", [])
    turns = {
        gpus: re.search(r"(\d+) ranks × 1 × (\d+) turns", plan(config, Cluster.of(gpus))[0])
        for gpus in ("8x80GB", "8x8x80GB", "64x8x80GB")
    }
    assert [found and found.groups() for found in turns.values()] == [
        ("8", "64"),
        ("64", "8"),
        ("512", "1"),
    ]


def test_an_8b_model_has_the_published_number_of_parameters() -> None:
    shape = read_shape("meta-llama/Meta-Llama-3-8B", None, 64)
    assert shape.total == 8_030_261_248
    assert read_shape("meta-llama/Llama-3.2-1B", None, 64).total == 1_235_814_400
    assert read_shape("meta-llama/Llama-3.2-3B", None, 64).total == 3_212_749_824


def test_the_optimizer_takes_twelve_bytes_a_parameter_and_four_in_its_step_shared_by_ranks() -> (
    None
):
    pretrain = load("llama3-8b-open-ko", []).pretrain
    assert pretrain is not None
    shape = read_shape(pretrain.base, None, 64)
    for ranks in (1, 8, 64):
        need = memory(shape, pretrain, pretrain.phases[0], zero_stage=1, ranks=ranks, width=2)
        step = max(
            0, 4 * shape.total // ranks - need.activations - need.logits
        )  # those are gone then
        assert need.optimizer == 12 * shape.total // ranks + step
        assert need.weights == 2 * shape.total


def test_a_stage_that_does_not_fit_is_refused_with_the_nearest_that_does() -> None:
    config = load("llama3-8b-open-ko", ["pretrain.zero_stage=0"])
    _, refused = plan(config, Cluster.of("8x80GB"))
    assert len(refused) == 1 and refused[0].startswith("pretrain.zero_stage: 0 needs ")
    assert refused[0].endswith("the nearest that fits is pretrain.zero_stage=1")
    _, alone = plan(config, Cluster.of("1x24GB"))
    assert re.search(r"it takes \d+ such GPUs", alone[0])


def test_a_sequence_longer_than_the_models_positions_is_refused() -> None:
    config = load(
        "quickstart", ["pretrain.sequence_length=4096", f"pretrain.base={json.dumps(TINY)}"]
    )
    _, refused = plan(config, Cluster.of("1x24GB"))
    assert "more than the model's 1024 positions" in refused[0]


@pytest.mark.thorough
def test_the_command_prints_the_plan_and_ends_with_2_where_it_cannot_be() -> None:
    def malmoi(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch.cli", "plan", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    fine = malmoi("quickstart", "1x24GB", "pretrain.micro_batch=2", "--tflops", "50")
    assert fine.returncode == 0, fine.stderr
    assert "1 GPU of 24 GB" in fine.stdout and "50 TFLOP/s a GPU: as given" in fine.stdout
    wrong = malmoi("llama3-8b-bllossom", "1x24GB")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: pretrain.zero_stage: 3 needs ")
    assert "Traceback" not in wrong.stderr
