"""Text comes out of tokens exactly, and stops exactly."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from configs.errors import InputError
from launch.chat.decoding import TextStream, token_bytes


class Text:
    """Encoding, and streaming what was encoded."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pieces = token_bytes(tokenizer)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def one_by_one(self, text: str) -> list[int]:
        """The ids of a tokenizer without merges: one a byte."""
        single = {p: i for i, p in enumerate(self.pieces) if p and len(p) == 1}
        return [single[bytes([byte])] for byte in text.encode()]

    def stream(self, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
        text = TextStream(self.pieces, stop)
        parts = [text.push(i) for i in ids]
        return [*parts, text.flush()], text.stopped


@pytest.fixture(scope="module")
def text(chat_tokenizer: PreTrainedTokenizerFast) -> Text:
    return Text(chat_tokenizer)


@pytest.mark.parametrize("kind", ["korean", "rare", "cut", "random"])
def test_pieces_concatenate_to_what_decoding_everything_at_once_gives(
    text: Text, kind: str
) -> None:
    rng = random.Random(kind)
    ordinary = [i for i, piece in enumerate(text.pieces) if piece is not None]
    for _ in range(100):
        if kind == "korean":
            ids = text.encode("".join(rng.choices("말모이는 우리말을 모은 사전이다. ", k=40)))
        elif kind == "random":
            ids = rng.choices(ordinary, k=150)
        else:
            ids = text.encode(
                "".join(chr(rng.randint(0xAC00, 0xD7A3)) for _ in range(30)) + "😀👨‍👩‍👧é"
            )
            ids = ids[: -rng.randint(1, 2)] if kind == "cut" else ids
        parts, _ = text.stream(ids)
        assert "".join(parts) == text.tokenizer.decode(ids, skip_special_tokens=True)


def test_half_a_syllable_is_never_shown(text: Text) -> None:
    ids = text.encode("뷁")
    assert len(ids) == 3
    parts, _ = text.stream(ids)
    assert parts == ["", "", "뷁", ""]


def test_control_tokens_and_ids_beyond_the_vocabulary_are_silent(text: Text) -> None:
    special = text.tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|reserved_special_token_0|>"])
    parts, _ = text.stream([*special, len(text.tokenizer) + 3, *text.encode("말")])
    assert "".join(parts) == "말"


@pytest.mark.parametrize(
    ("said", "stop", "expected"),
    [
        ("가나다라마", ("다라",), "가나"),
        ("가나다라마", ("마바", "라마"), "가나다"),
        ("가나다라마", ("바", "마바"), "가나다라마"),  # an undecided end is given back
        ("aaab", ("aab",), "a"),
        ("the\n\nfox", ("\n\n",), "the"),
        ("가나", ("가",), ""),
        ("가나다라", ("나다", "가나다라"), "가"),
        ("끝😀end", ("😀",), "끝"),
    ],
)
def test_a_stop_string_ends_the_text_before_it_however_tokens_cut_it(
    text: Text, said: str, stop: tuple[str, ...], expected: str
) -> None:
    for ids in (text.encode(said), text.one_by_one(said)):
        parts, stopped = text.stream(ids, stop)
        assert "".join(parts) == expected
        assert stopped == (expected != said)


def test_a_vocabulary_that_is_not_byte_level_is_refused() -> None:
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"말모이": 0})))
    with pytest.raises(InputError, match="not byte-level"):
        token_bytes(words)
