"""The size curve: every size from one learning run, what it costs, and the best of them."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config, Pretrain
from tests.tokenizer.conftest import korean
from tokenizer.base import Base, byte_level
from tokenizer.bpe import Learned, encode_words, learn
from tokenizer.curve import first_tokens, tokens_by_size
from tokenizer.load import load_tokenizer
from tokenizer.shape import LLAMA3_8B, Shape, model_shape
from tokenizer.size import SEEN, HeldOut, Sizes, planned_tokens, size_curve
from tokenizer.words import PreTokens
from tokenizer.write import write_folder

PHASE = {"name": "full", "train": "all", "tokens": 1_000_000, "mixture": {"a": 1.0}}


def learned_from(base: Base, texts: list[str], asked: int) -> Learned:
    counts = PreTokens(base.pattern).count(texts)
    words = sorted(counts)
    ids, ends = encode_words(base, words)
    return learn(ids, ends, np.array([counts[word] for word in words]), base.tokens(), asked)


@pytest.fixture(scope="module")
def learned(small_base: Base) -> Learned:
    draw = random.Random(3)
    return learned_from(small_base, [korean(draw, 40) for _ in range(5)], 300)


def test_every_size_costs_what_a_tokenizer_of_that_size_spends(
    small_base: Base, learned: Learned, tmp_path: Path
) -> None:
    draw = random.Random(4)
    text = korean(draw, 60) + " 쀍쀍쀍 가가가가가 새로운낱말이없는긴어절"
    counts = PreTokens(small_base.pattern).count([text])
    words = sorted(counts)
    ids, ends = encode_words(small_base, words)
    table = np.array([[counts[word], 2 * counts[word]] for word in words], np.int64)
    tokens = tokens_by_size(small_base, learned, ids, ends, table)
    assert tokens.shape == (len(learned.tokens) + 1, 2)
    for size in (0, 1, 2, 17, 100, len(learned.tokens)):
        write_folder(tmp_path / str(size), small_base, first_tokens(learned, size))
        backend = load_tokenizer(tmp_path / str(size)).backend_tokenizer
        spent = sum(
            counts[word] * len(backend.encode(word, add_special_tokens=False)) for word in words
        )
        assert tokens[size].tolist() == [spent, 2 * spent]


def test_a_merge_to_a_token_that_exists_counts_for_the_next_size(small_base: Base) -> None:
    vocab = small_base.definition["model"]["vocab"]
    a, b, c = (vocab[letter] for letter in byte_level("쀍".encode()))
    first = small_base.vocab_size
    learned = Learned(
        first,
        merges=[(a, b, first), (b, c, vocab["a"]), (first, c, first + 1)],  # the second makes none
        tokens=["쀍".encode()[:2], "쀍".encode()],
        weights=[2, 2],
        exhausted=True,
    )
    assert first_tokens(learned, 1).merges == learned.merges[:1]
    assert first_tokens(learned, 2) is learned
    assert first_tokens(learned, 0).merges == []
    ids, ends = np.array([a, b, c, b, c], np.int32), np.array([3, 5])
    tokens = tokens_by_size(small_base, learned, ids, ends, np.array([[1], [10]]))
    assert tokens[:, 0].tolist() == [23, 22, 11]


def test_the_first_tokens_are_what_a_run_that_asked_for_them_learns(small_base: Base) -> None:
    draw = random.Random(3)
    texts = [korean(draw, 40) for _ in range(5)]
    whole = learned_from(small_base, texts, 200)
    assert first_tokens(whole, 70) == learned_from(small_base, texts, 70)


def test_a_word_of_a_million_syllables_takes_no_time(small_base: Base, learned: Learned) -> None:
    ids, ends = encode_words(small_base, ["도서관에서" * 200_000])
    started = time.monotonic()
    tokens = tokens_by_size(small_base, learned, ids, ends, np.ones((1, 1), np.int64))
    assert time.monotonic() - started < 30
    assert tokens[-1, 0] < tokens[0, 0] / 2


# ── the best size ───────────────────────────────────────────────────────────────────────────────


def curve(shape: Shape, planned: float, sizes: int = 2000) -> Sizes:
    """A corpus in which the k-th token saves 1/k: 10,000 tokens become about 1,800."""
    trained = (1e7 - 1e6 * np.log1p(np.arange(sizes + 1.0))).astype(np.int64)
    tokens = trained // 1000
    heldout = [HeldOut("a", 5000, 8000, 12_000, True)]
    return size_curve(
        shape, 1000, heldout, tokens[:, None], trained, np.full(sizes + 1, planned),
        asked=700, from_config=True,
    )  # fmt: skip


def test_the_best_size_costs_the_fewest_flops_per_character() -> None:
    found = curve(Shape("small", layers=0, hidden=64, tied=True), planned=1e12)
    assert found.bound == "flops" and 0 < found.best < 1900 and found.best % 128 == 0
    flops = {row["new_tokens"]: row["training_flops"] for row in found.curve}
    assert flops[found.best] == min(flops.values())
    assert 700 in flops and 2000 in flops
    row = next(row for row in found.curve if row["new_tokens"] == 700)
    assert row["parameters"] == 700 * 64 and row["bytes"] == 2 * row["parameters"]
    character = row["tokens_per_character"]
    assert row["training_flops"] == pytest.approx(6 * 64 * 1700 * character, rel=1e-3)
    assert row["inference_flops"] == pytest.approx(row["training_flops"] / 3, rel=1e-3)
    assert row["other_text"] == pytest.approx(0.7, abs=1e-3)
    assert "fewest FLOPs" in found.reason


def test_no_token_is_taken_that_the_training_would_hardly_show() -> None:
    # the k-th token is 1000/k of some 5,500 tokens: the 90th is seen 1,000 times in half a million
    found = curve(LLAMA3_8B, planned=5e5)
    assert found.bound == "seen" and 80 < found.best < 128
    assert curve(LLAMA3_8B, planned=2.5e6).best == 5 * 128
    seen = {row["new_tokens"]: row["seen"] for row in found.curve}
    assert seen[found.best] >= SEEN
    assert "less than 1,000 times" in found.reason


def test_a_training_too_short_for_any_token_takes_none() -> None:
    found = curve(LLAMA3_8B, planned=100)
    assert found.best == 0 and "more training tokens" in found.reason


def test_a_large_model_takes_all_that_a_small_corpus_gives() -> None:
    found = curve(LLAMA3_8B, planned=1e15)
    assert found.bound == "pairs" and found.best == 15 * 128


# ── the planned training ────────────────────────────────────────────────────────────────────────


def pretrain(**keys: object) -> Pretrain:
    base = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1}
    return Pretrain.model_validate({"base": base, "phases": [PHASE], **keys})


def test_planned_tokens_are_those_of_phases_that_train_the_new_rows() -> None:
    heldout = [HeldOut("a", 100, 200, 400, True), HeldOut("b", 10, 20, 1000, False)]
    tokens = np.array([[300, 30], [200, 20]])
    sizes = {"a": 1000, "b": 50}
    # three quarters of a's tokens stand on words with Hangul; with the first new token, two thirds
    plan = planned_tokens(pretrain(), heldout, tokens, sizes)
    assert plan.tolist() == pytest.approx([750_000, 2 / 3 * 1_000_000])
    phases = [
        {**PHASE, "name": "rows", "train": ["embed.new_rows"], "mixture": {"a": 0.5, "b": 0.5}},
        {**PHASE, "name": "layers", "train": ["layers"]},
        {**PHASE, "name": "own", "tokens": None, "epochs": 2},
    ]
    plan = planned_tokens(pretrain(phases=phases), heldout, tokens, sizes)
    assert plan[0] == pytest.approx(500_000 * 0.75 + 500_000 * 0.03 + 2 * 1000 * 3)
    once = planned_tokens(None, heldout, tokens, sizes)
    assert once[0] == pytest.approx(1000 * 3 + 50 * 3)


def test_a_source_without_held_out_text_counts_like_the_korean_ones() -> None:
    heldout = [HeldOut("a", 100, 200, 400, True), HeldOut("b", 10, 20, 1000, False)]
    plan = pretrain(phases=[{**PHASE, "mixture": {"unknown": 1.0}}])
    assert planned_tokens(plan, heldout, np.array([[300, 30]]), {})[0] == pytest.approx(750_000)


# ── the model ───────────────────────────────────────────────────────────────────────────────────

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip


def test_the_shape_comes_from_the_config_or_the_folder_of_the_base(tmp_path: Path) -> None:
    assert model_shape(None) == LLAMA3_8B
    own = model_shape(pretrain(base=LLAMA))
    assert (own.layers, own.hidden, own.tied) == (LLAMA3_8B.layers, 4096, False)
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "tie_word_embeddings": True}))
    found = model_shape(pretrain(base=str(tmp_path)))
    assert found.tied and found.row == 4096 and found.layers == own.layers
    assert found.name == str(tmp_path)


@pytest.mark.parametrize("content", ["{not json", "[]", "{}", '{"hidden_size": "wide"}'])
def test_a_shape_that_is_not_known_is_assumed_and_said_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    found = model_shape(pretrain(base=str(tmp_path)))
    assert "assumed" in found.name and found.layers == LLAMA3_8B.layers


@pytest.mark.parametrize(
    ("value", "taken"), [("auto", "auto"), (0, 0), ("32K", 32_000), (1_000_000, 1_000_000)]
)
def test_new_tokens_are_a_number_or_auto(value: object, taken: object) -> None:
    config = Config.model_validate({"name": "a", "tokenizer": {"new_tokens": value}})
    assert config.tokenizer is not None and config.tokenizer.new_tokens == taken


@pytest.mark.parametrize("value", [-1, 1_000_001, 1.5, True, "many", None])
def test_new_tokens_that_are_neither_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="new_tokens"):
        Config.model_validate({"name": "a", "tokenizer": {"new_tokens": value}})
