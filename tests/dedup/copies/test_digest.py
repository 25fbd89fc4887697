"""Digests: the same for texts that differ in white space alone."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.copies.digest import dialogue_digests, digest, digests

SPACES = "".join(chr(code) for code in range(0x10000) if chr(code).isspace())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from(SPACES + "가나é漢‐🙂a. ")) | st.text(), max_size=5))
def test_a_column_has_the_digests_of_its_texts(texts: list[str]) -> None:
    column = pa.array(["앞", *texts], pa.large_string()).slice(1)
    assert digests(column).to_pylist() == [digest(text) for text in texts]


def test_layout_makes_no_difference_and_letters_do() -> None:
    assert digest(" 가 나\n\n다\u3000") == digest("가\t나 다")
    assert digest("가나 다") != digest("가 나다")


def test_a_dialogue_differs_by_who_speaks() -> None:
    def one(*turns: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "text": text} for role, text in turns]

    talks = pa.array(
        [
            one(("user", "안녕"), ("assistant", "네")),
            one(("user", " 안녕 "), ("assistant", "네")),
            one(("assistant", "안녕"), ("user", "네")),
        ]
    )
    first, second, third = dialogue_digests(talks).to_pylist()
    assert first == second != third
