"""Every gate stops the tokenizer it is there to stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import regex

from tokenizer import checks, samples
from tokenizer.base import Base
from tokenizer.bpe import Learned, has_hangul_lead, learn
from tokenizer.bpe import encode_words as encode
from tokenizer.checks import Candidate, GateFailed, pass_gates
from tokenizer.load import load_tokenizer
from tokenizer.scripts import SCRIPTS
from tokenizer.words import PreTokens
from tokenizer.write import write_folder

EVERY = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
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


def special_as_a_whole_word_only(definition: dict[str, Any]) -> None:
    for token in definition["added_tokens"]:
        token["single_word"] = True


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


def new_merges_in_another_order(definition: dict[str, Any]) -> None:
    merges = definition["model"]["merges"]
    merges[-2:] = merges[:-3:-1]


def subword_as_added_token(definition: dict[str, Any]) -> None:
    token = {**definition["added_tokens"][0], "content": "버스"}
    definition["added_tokens"].append({**token, "id": len(definition["model"]["vocab"])})


def other_regex(definition: dict[str, Any]) -> None:
    definition["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\s+|\S+"}


@pytest.mark.parametrize(
    ("gate", "change"),
    [
        ("special_ids", specials_only_in_added_tokens),
        ("special_ids", special_as_a_whole_word_only),
        ("round_trip", other_decoder),
        ("reachable", last_merge_lost),
        ("other_scripts", english_merge_added),
        ("base_kept", new_merges_first),
        ("base_kept", new_merges_in_another_order),
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


def test_ids_that_break_characters_have_to_decode_to_their_bytes(
    candidate: Callable[..., Candidate],
) -> None:
    def marks_broken_bytes(definition: dict[str, Any]) -> None:
        mark = {"type": "Replace", "pattern": {"String": "\ufffd"}, "content": "?"}
        definition["decoder"] = {"type": "Sequence", "decoders": [definition["decoder"], mark]}

    broken = replace(candidate(marks_broken_bytes), texts=[])
    with pytest.MonkeyPatch.context() as patch:  # no text holds U+FFFD: only broken ids show it
        patch.setattr(checks.samples, "without_hangul", lambda: ["a"])
        patch.setattr(checks.samples, "with_hangul", lambda: ["가"])
        with pytest.raises(GateFailed, match=r"ids \[.*\] are .*decoded to .*\?"):
            checks.round_trip(broken)


def test_an_example_is_named_and_what_to_do(candidate: Callable[..., Candidate]) -> None:
    with pytest.raises(GateFailed) as failure:
        pass_gates(candidate(last_merge_lost))
    assert "reachable" in str(failure.value) and "nothing was written" in str(failure.value)
    assert f"token {600 + 6 + 11}" in str(failure.value) or "is cut into" in str(failure.value)


# ── the texts ───────────────────────────────────────────────────────────────────────────────────


def test_the_texts_hold_letters_of_every_script_of_unicode() -> None:
    table = getattr(regex, "_regex_core").PROPERTIES["SCRIPT"][1]  # noqa: B009 - not public
    names = {number: name for name, number in table.items() if len(name) > 4}
    known = {name.replace("_", "").upper() for name in SCRIPTS}
    lacking = {name for name in names.values() if name.replace("_", "") not in known}
    assert lacking <= {
        "HANGUL", "COMMON", "INHERITED", "UNKNOWN", "KATAKANAORHIRAGANA",
    } | {name for name in lacking if not regex.search(rf"\p{{Script={name}}}", EVERY)}  # fmt: skip
    text = "".join(samples.without_hangul())
    for name, (first, last) in SCRIPTS.items():
        letter = regex.compile(rf"\p{{Script={name}}}")
        assert letter.match(chr(first)) and letter.match(chr(last)), name
        assert len(letter.findall(text)) >= 24, name
    assert regex.search(r"\p{Script=Hangul}", "".join(samples.with_hangul()))


def test_the_texts_hold_every_syllable_and_every_jamo() -> None:
    without, hangul = "".join(samples.without_hangul()), "".join(samples.with_hangul())
    assert {chr(code) for code in range(0xAC00, 0xD7A4)} <= set(hangul)
    jamo = [
        (0x1100, 0x11FF),
        (0x3131, 0x318E),
        (0xA960, 0xA97C),
        (0xD7CB, 0xD7FB),
        (0xFFA0, 0xFFDC),
    ]
    for first, last in jamo:
        assert {chr(code) for code in range(first, last + 1)} <= set(without)
    assert {chr(code) for code in range(0xD7B0, 0xD7C7)} <= set(hangul)  # old vowels
    assert "\u200d" in without and "\U000e007f" in without and "\u20e3" in without
    assert {chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)]} <= set(without)
    assert "\ufffd" in without and "\ufffd" in hangul


def test_the_texts_without_hangul_hold_none_and_are_the_same_in_every_run() -> None:
    texts = samples.without_hangul()
    assert not any(has_hangul_lead(text.encode()) for text in texts)
    assert texts == samples.without_hangul() and samples.with_hangul() == samples.with_hangul()


def test_most_broken_ids_are_no_utf_8(small_base: Base, learned: Learned) -> None:
    content = [*small_base.tokens(), *learned.tokens]
    sequences = samples.broken_ids(content, small_base.vocab_size)
    decoded = [b"".join(content[index] for index in ids) for ids in sequences]
    broken = sum("\ufffd" in data.decode("utf-8", "replace") for data in decoded)
    assert broken > len(sequences) / 2
    assert any(index >= small_base.vocab_size for ids in sequences for index in ids)


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
