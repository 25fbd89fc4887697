"""Every gate stops the tokenizer it is there to stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenizer import checks
from tokenizer.base import Base
from tokenizer.bpe import Learned, learn
from tokenizer.bpe import encode_words as encode
from tokenizer.checks import Candidate, GateFailed, pass_gates
from tokenizer.load import load_tokenizer
from tokenizer.words import PreTokens
from tokenizer.write import write_folder

TEXTS = [
    "도서관에서 친구를 기다렸다. 버스가 지나갔다!\nThe bus was late.\n",
    "시장까지 자전거를 타고 갔다.",
] * 3


@pytest.fixture(scope="module")
def learned(small_base: Base) -> Learned:
    import numpy as np

    counts = PreTokens(small_base.pattern).count(TEXTS)
    words = sorted(counts)
    ids, ends = encode(small_base, words)
    weights = np.array([counts[word] for word in words], np.int64)
    return learn(ids, ends, weights, small_base.tokens(), 12)


@pytest.fixture
def candidate(small_base: Base, learned: Learned, tmp_path: Path) -> Callable[..., Candidate]:
    """A candidate whose tokenizer.json was changed between writing and loading."""

    def make(change: Callable[[dict[str, Any]], None] | None = None) -> Candidate:
        write_folder(tmp_path, small_base, learned)
        if change is not None:
            path = tmp_path / "tokenizer.json"
            definition = json.loads(path.read_text())
            change(definition)
            path.write_text(json.dumps(definition))
        return Candidate(small_base, load_tokenizer(tmp_path), learned, 12, TEXTS)

    return make


def test_a_good_tokenizer_passes_all_eleven(candidate: Callable[..., Candidate]) -> None:
    gates, figures = pass_gates(candidate())
    assert len(gates) == 11 and set(gates.values()) == {"passed"}
    assert figures["characters_without_hangul"] > 10_000


def specials_only_in_added_tokens(definition: dict[str, Any]) -> None:
    for token in definition["added_tokens"]:
        del definition["model"]["vocab"][token["content"]]


def other_decoder(definition: dict[str, Any]) -> None:
    definition["decoder"] = {"type": "BPEDecoder", "suffix": "</w>"}


def last_merge_lost(definition: dict[str, Any]) -> None:
    definition["model"]["merges"].pop()


def english_merge_added(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"]["qz"] = len(definition["model"]["vocab"])
    definition["model"]["merges"].append(["q", "z"])


def new_merges_first(definition: dict[str, Any]) -> None:
    merges = definition["model"]["merges"]
    definition["model"]["merges"] = merges[-5:] + merges[:-5]


def subword_as_added_token(definition: dict[str, Any]) -> None:
    token = {**definition["added_tokens"][0], "content": "버스"}
    definition["added_tokens"].append({**token, "id": len(definition["model"]["vocab"])})


def other_regex(definition: dict[str, Any]) -> None:
    definition["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\s+|\S+"}


@pytest.mark.parametrize(
    ("gate", "change"),
    [
        ("special_ids", specials_only_in_added_tokens),
        ("round_trip", other_decoder),
        ("reachable", last_merge_lost),
        ("other_scripts", english_merge_added),
        ("base_kept", new_merges_first),
        ("no_added_subwords", subword_as_added_token),
        ("vocabulary_size", english_merge_added),
        ("pre_tokenizer_kept", other_regex),
    ],
)
def test_a_gate_stops_a_tokenizer_that_breaks_its_promise(
    candidate: Callable[..., Candidate], gate: str, change: Callable[[dict[str, Any]], None]
) -> None:
    broken = candidate(change)
    if gate == "other_scripts":
        broken = replace(broken, texts=["qz and jazz qz"])
    with pytest.raises(GateFailed) as failure:
        getattr(checks, gate)(broken)
    assert failure.value.gate == gate
    assert failure.value.example


def test_a_token_without_hangul_is_stopped(candidate: Callable[..., Candidate]) -> None:
    whole = candidate()
    tokens = [*whole.learned.tokens[:-1], b"abc"]
    with pytest.raises(GateFailed, match="holds no Hangul"):
        checks.hangul_only(replace(whole, learned=replace(whole.learned, tokens=tokens)))


def test_fewer_tokens_than_asked_are_stopped_unless_pairs_ran_out(
    candidate: Callable[..., Candidate],
) -> None:
    short = replace(candidate(), asked=13)
    with pytest.raises(GateFailed, match="12 tokens of 13"):
        checks.clean_stop(short)
    checks.clean_stop(replace(short, learned=replace(short.learned, exhausted=True)))


def test_a_chat_format_that_moved_is_stopped(candidate: Callable[..., Candidate]) -> None:
    moved = candidate()
    moved.saved.chat_template = moved.saved.chat_template.replace(r"\n\n", r"\n")
    with pytest.raises(GateFailed, match="chat_format"):
        checks.chat_format(moved)
