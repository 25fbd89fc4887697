"""What holds of an extended tokenizer for every text and every sequence of ids, as hypothesis sees it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenizer.base import Base
from tokenizer.bpe import Learned, encode_words, has_hangul_lead, learn
from tokenizer.load import load_tokenizer
from tokenizer.words import PreTokens
from tokenizer.write import write_folder

Extended = tuple[Tokenizer, list[bytes]]

tried = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,  # the same examples in every run
    suppress_health_check=[HealthCheck.too_slow],
)

SYLLABLES = st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3)
JAMO = st.one_of(
    st.characters(min_codepoint=0x1100, max_codepoint=0x11FF),
    st.characters(min_codepoint=0x3131, max_codepoint=0x318E),
    st.characters(min_codepoint=0xA960, max_codepoint=0xA97C),
    st.characters(min_codepoint=0xD7B0, max_codepoint=0xD7FB),
    st.characters(min_codepoint=0xFFA0, max_codepoint=0xFFDC),
)
ANY = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(st.one_of(SYLLABLES, st.sampled_from("도서관에서 친구를"), JAMO, ANY), max_size=60)
WITHOUT_HANGUL = st.text(
    st.one_of(JAMO, ANY, st.sampled_from(" \n'.1aZ\t\u200d")), max_size=60
).filter(lambda text: not has_hangul_lead(text.encode()))


@pytest.fixture(scope="module")
def extended(small_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    """A tokenizer with 200 new tokens from random words, whole syllables and cut ones; their bytes."""
    draw = random.Random(8)
    letters = [chr(draw.randrange(0xAC00, 0xD7A4)) for _ in range(60)]
    texts = [" ".join("".join(draw.choices(letters, k=3)) for _ in range(400))]
    texts.append("도서관에서 친구를 기다렸다. " * 50)
    counts = PreTokens(small_base.pattern).count(texts)
    words = sorted(counts)
    ids, ends = encode_words(small_base, words)
    weights = np.array([counts[word] for word in words])
    learned: Learned = learn(ids, ends, weights, small_base.tokens(), 200)
    assert len(learned.tokens) == 200
    folder: Path = tmp_path_factory.mktemp("extended")
    write_folder(folder, small_base, learned)
    return load_tokenizer(folder).backend_tokenizer, [*small_base.tokens(), *learned.tokens]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@given(text=TEXTS)
@example(text="")
@example(text="가<|eot_id|>나")
@example(text="\ufffd도\x00서\u200d관 ")
@tried
def test_every_text_comes_back(extended: Extended, text: str) -> None:
    tokenizer, _ = extended
    assert tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=False) == text


@given(text=WITHOUT_HANGUL)
@example(text="<|eot_id|>ㅋㅋ ᄒᆞᆫ글 ﾡ")
@tried
def test_every_text_without_hangul_has_the_ids_it_had(
    small_base: Base, extended: Extended, text: str
) -> None:
    assert ids_of(extended[0], text) == ids_of(small_base.tokenizer, text)


@given(data=st.data())
@tried
def test_every_sequence_of_ids_is_the_text_of_its_bytes(
    extended: Extended, data: st.DataObject
) -> None:
    tokenizer, content = extended
    known = [index for index, own in enumerate(content) if own]
    ids = data.draw(st.lists(st.sampled_from(known), max_size=20))
    expected = b"".join(content[index] for index in ids).decode("utf-8", "replace")
    assert tokenizer.decode(ids, skip_special_tokens=False) == expected


@given(text=TEXTS)
@tried
def test_no_text_takes_more_tokens_than_before(
    small_base: Base, extended: Extended, text: str
) -> None:
    assert len(ids_of(extended[0], text)) <= len(ids_of(small_base.tokenizer, text))
