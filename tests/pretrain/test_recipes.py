"""The recipes: short, planned as they stand, and the very same YAML run with a tiny base and few tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preference_pairs import write_pairs
from tiny_run import BASE, ENGLISH, WORDS, document, make_documents, sentence
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import InputError
from configs.load import load, recipes
from configs.schema import Lora
from dedup.documents import SCHEMA
from launch.cluster_size import Cluster
from launch.plan import plan
from pretrain.shape import read_shape
from pretrain.stage import run

CLUSTERS = {
    "llama3-8b-open-ko": "8x80GB",
    "llama3-8b-bllossom": "8x80GB",
    "llama3-8b-eeve": "8x80GB",
    "llama3.2-1b-lora": "1x24GB",
    "llama3.2-3b-lora": "1x24GB",
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_recipe_is_under_forty_lines_and_fits_the_cards_it_is_for(name: str) -> None:
    assert len(recipes()[name].read_text(encoding="utf-8").splitlines()) < 40
    text, refused = plan(load(name), Cluster.of(CLUSTERS[name]))
    assert refused == []
    assert "the first that fits" in text


def test_what_learns_is_counted_down_to_adapters_layers_and_rows() -> None:
    shape = read_shape("meta-llama/Llama-3.2-1B", 128_256 + 16_000, 64, Lora(rank=64))
    adapters = 16 * 64 * (2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192))
    assert shape.learning(["lora"]) == adapters
    assert shape.learning(["lora", "embed.new_rows"]) == adapters + 16_000 * 2048
    assert shape.learning(["layers.first-8"]) == shape.parameters["layers"] // 2
    assert shape.learning("all") == shape.total
    with pytest.raises(InputError, match=r"16 layers, 0 to 15; did you mean layers\.12-15\?"):
        shape.learning(["layers.12-16"])


def test_every_recipe_is_tested() -> None:
    assert {*CLUSTERS, "quickstart"} == set(recipes())


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The small corpus, with pairs."""
    folder, chance = make_documents(tmp_path / "documents"), random.Random(4)
    rows = []
    for number in range(40):
        sides = {"ko": sentence(chance, WORDS, 12), "en": sentence(chance, ENGLISH, 12)}
        segments = [{"role": role, "text": text} for role, text in sides.items()]
        text = "\n".join(sides.values())
        rows.append(document(number, "ko_en", text, kind="parallel", segments=segments))
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "00002.parquet")
    write_pairs(folder / "00003.parquet", words=3)
    return folder


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("name", CLUSTERS)
def test_a_recipe_runs_with_another_base_and_other_token_counts_alone(
    name: str, pairs: Path, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for path in tiny_tokenizer.iterdir():
        (tokenizer / path.name).symlink_to(path)
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_tokenizer))
    extends = load(name).tokenizer
    assert extends is not None
    new = range(vocabulary - 60 if extends.new_tokens else vocabulary, vocabulary)
    lines = "".join(f"{index}\tx\tx\t1\t\n" for index in new)
    (tokenizer / "new_tokens.tsv").write_text("id\ttoken\ttext\tcount\tbase_ids\n" + lines)
    base = {**BASE, "tie_word_embeddings": "3.2" in name}
    changes = [
        f"dir={tmp_path}",
        f"pretrain.base={json.dumps(base)}",
        f"pretrain.documents=['{pairs}/*.parquet']",
        f"pretrain.tokenizer={tokenizer}",
        "pretrain.sequence_length=64",
        "pretrain.threads=1",  # two that wait for each other on busy cores take ten times as long
        "pretrain.global_batch_tokens=512",
    ]
    for number, phase in enumerate(load(name).pretrain.phases):  # type: ignore[union-attr]
        if phase.tokens is not None:
            changes.append(f"pretrain.phases.{number}.tokens=1024")
        if phase.global_batch_tokens is not None:
            changes.append(f"pretrain.phases.{number}.global_batch_tokens=512")
    config = load(name, changes)
    report = run(config, tmp_path / "run")
    assert [phase.name for phase in report.phases] == [p.name for p in config.pretrain.phases]  # type: ignore[union-attr]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert report.parameters == sum(value.numel() for value in model.parameters())
