"""Figures, segments and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import InputError
from configs.schema import Config
from tokenizer import stage
from tokenizer.base import Base
from tokenizer.load import load_tokenizer
from tokenizer.report import compare, measure, segments
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
    figures = measure(small_base.tokenizer, after, PreTokens(small_base.pattern), texts)
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
