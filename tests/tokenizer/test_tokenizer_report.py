"""Figures, segments and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from configs.errors import InputError
from configs.schema import Config
from tokenizer import stage
from tokenizer.base import Base
from tokenizer.compare import compare
from tokenizer.load import load_tokenizer
from tokenizer.report import choose_sentences, measure, prepare, segments, usage
from tokenizer.words import PreTokens


def test_means_are_over_korean_sources_and_not_over_their_sizes(
    run_folder: Path, config: Callable[..., Config], small_base: Base
) -> None:
    stage.run(config(), run_folder)
    after = load_tokenizer(run_folder / "tokenizer").backend_tokenizer
    texts = {
        "large": ["도서관에서 친구를 기다렸다. "] * 50,
        "small": ["쀍쀍쀍 쀎쀎쀎"],
        "english": ["the bus was late " * 50 + "버스"],
    }
    prepared = prepare(small_base.tokenizer, PreTokens(small_base.pattern), texts)
    figures = measure(after, prepared, small_base.vocab_size)
    assert prepared["large"].syllables == 12 * 50 and prepared["english"].syllables == 2
    assert len(figures.uses) == 120 and sum(figures.uses) >= 50
    assert not figures.heldout["english"]["korean"]
    assert figures.heldout["small"]["saved"] == 0
    assert figures.tokens_saved == pytest.approx(figures.heldout["large"]["saved"] / 2, abs=1e-4)
    large = figures.heldout["large"]
    assert large["eojeols"] == 150 and large["words"] == 150
    assert large["fertility_before"] > large["fertility_after"] >= 1


def test_segments_show_text_and_the_bytes_of_cut_characters(small_base: Base) -> None:
    shown = segments(small_base.tokenizer, "cat 쀍")
    assert "".join(shown[:-1]).startswith("cat")
    assert any(part.startswith("⟨") for part in shown)


def test_two_tokenizers_are_compared_on_any_text(
    run_folder: Path, config: Callable[..., Config], small_folder: Path
) -> None:
    stage.run(config(), run_folder)
    compared = compare(
        str(small_folder),
        str(run_folder / "tokenizer"),
        ["도서관에서 선생님하고 기다렸다.", "broken \udcec text"],
    )
    assert compared.vocab_size_b == compared.vocab_size_a + 120
    assert compared.tokens_b < compared.tokens_a
    assert compared.saved is not None and compared.saved > 0
    assert compared.texts[0].text == "도서관에서 선생님하고 기다렸다."
    assert compared.texts[1].a == compared.texts[1].b


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer there"):
        compare(str(tmp_path), str(tmp_path), ["가"])


def test_usage_tells_the_share_never_used_by_tenths_of_the_rank() -> None:
    found = usage([9, 0, 3, 0, 0, 0, 0, 0, 0, 4], 100)
    assert found == {
        "never_used": 0.7,
        "never_used_by_tenth": [0, 1, 0, 1, 1, 1, 1, 1, 1, 0],
        "commonest": [[100, 9], [109, 4], [102, 3]],
    }
    assert usage([], 100) is None
    few = usage([1, 0], 5)
    assert few is not None and few["never_used_by_tenth"] == [0, 1]


def test_sources_take_turns_with_their_typical_sentences(small_base: Base) -> None:
    sentence = "도서관에서 친구를 {} 오래 기다렸다 그리고 갔다."
    texts = {
        name: [sentence.format(f"{word}{n}에") for word in words for n in ("", "요", "다")]
        for name, words in {"a": ["가", "나"], "b": ["바다"], "c": ["none here " * 9]}.items()
    }
    tokenizer = small_base.tokenizer
    found = choose_sentences(tokenizer, tokenizer, texts, {"a": 0.0, "b": 0.0, "c": 0.0}, 4)
    assert [one["source"] for one in found] == ["a", "b", "a", "b"]
    assert choose_sentences(tokenizer, tokenizer, texts, {}, 4) == []


def test_any_tokenizer_can_be_compared(tmp_path: Path, small_folder: Path) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "버스가": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_truncation(2)  # what a model's maker set for its inputs must not cut the text
    words.enable_padding(length=50)
    words.save(str(tmp_path / "words.json"))
    compared = compare(str(small_folder), str(tmp_path / "words.json"), ["버스가 왔다 버스가 갔다"])
    assert compared.texts[0].b == ["버스가", "[UNK]", "버스가", "[UNK]"]
    pieces = Tokenizer(models.BPE({"<0xEC>": 0, "▁": 1, "é": 2, "▁é": 3}, [("▁", "é")]))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.save(str(tmp_path / "pieces.json"))
    compared = compare(str(tmp_path / "words.json"), str(tmp_path / "pieces.json"), ["é é"])
    assert compared.texts[0].b == [" é", " é"]


@pytest.mark.parametrize("content", ["{}", "not json", '{"model": {"type": "BPE"}}'])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer.json: no tokenizer can be read"):
        compare(str(path), str(path), ["가"])
