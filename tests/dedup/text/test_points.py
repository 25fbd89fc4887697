"""Texts as code points: decoded in pieces that never change what is counted."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.text import points
from dedup.text.measures import measure
from dedup.utf8 import decode_all, is_utf8

FLAGS = np.zeros(1 << 16, np.uint16)
FLAGS[[ord(space) for space in " \t\n\u3000\u00a0"]] = points.WHITE
FLAGS[ord("x")], FLAGS[ord("금")], FLAGS[0x2026] = 1, 2, 4


@given(st.lists(st.text(st.sampled_from("가금x a\n…\u3000😀é\u00a0"), max_size=30), max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_piece_has_the_characters_and_lines_of_its_rows(texts: list[str]) -> None:
    rows = 0
    for piece in points.decoded(pa.array(texts, pa.large_string()), FLAGS):
        for row in range(piece.rows):
            text = texts[piece.first + row]
            assert piece.text(row) == text
            assert piece.text(row, 3) == text[:3]
            assert piece.spaces[row] == sum(c in " \t\n\u3000\u00a0" for c in text)
            own = slice(piece.lines[row], piece.lines[row + 1])
            lines = text.split("\n")
            assert np.diff(piece.line_ends[own], prepend=-1).tolist() == [len(x) + 1 for x in lines]
            assert (piece.line_flags[own] & ~np.uint16(points.WHITE)).tolist() == [
                ("x" in x) + 2 * ("금" in x) + 4 * ("…" in x) for x in lines
            ]
            rows += 1
    assert rows == len(texts)


@given(
    st.lists(
        st.text(st.sampled_from("a 가힣é\u07ff\u0800\uffff😀\U0010ffff"), max_size=9), max_size=9
    ),
    st.integers(0, 1100),
)
@settings(max_examples=300, deadline=None)
def test_any_stretch_of_utf8_is_decoded_as_python_does(texts: list[str], before: int) -> None:
    pieces = [b"\xea\xb0\x80" * before, *(text.encode() for text in texts)]  # across blocks of 512
    data = np.frombuffer(b"".join(pieces), np.uint8)
    start = len(pieces[0]) if before % 2 else 0
    text = data[start:].tobytes().decode()
    points_of = np.empty(len(text) + 1, np.uint32)
    assert decode_all(data, start, len(data), points_of) == len(text)
    assert points_of[: len(text)].tolist() == [ord(character) for character in text]
    if texts:  # the end of a text is not the end of the data
        end = len(data) - len(pieces[-1])
        text = data[start:end].tobytes().decode()
        assert decode_all(data, start, end, points_of) == len(text)
        assert points_of[: len(text)].tolist() == [ord(character) for character in text]


def test_the_counts_do_not_depend_on_how_a_column_is_cut_into_pieces() -> None:
    draw = random.Random(5)
    words = ["금지", "가나다", "x=1;", "```", "12", "★", "漢字", "\n", "\n\n", "`a`", "http://a.b"]
    texts = [" ".join(draw.choices(words, k=draw.randrange(400))) for _ in range(400)]
    texts[200] = "긴 글이다. " * 60_000  # larger than a piece
    whole = measure(pa.array(texts, pa.large_string()), prose=True)
    for row in (0, 199, 200, 201, 399):
        alone = measure(pa.array([texts[row]], pa.large_string()), prose=True)
        assert [column[row] for column in whole] == [column[0] for column in alone]


@given(
    st.lists(
        st.sampled_from(
            [
                *b"\x00a\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xef\xf0\xf1\xf4\xf5\xff"
            ]
        ),
        max_size=8,
    ).map(bytes)
)
@settings(max_examples=2000, deadline=None)
def test_bytes_are_utf8_where_python_decodes_them(data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        assert not is_utf8(np.frombuffer(data, np.uint8))
    else:
        assert is_utf8(np.frombuffer(data, np.uint8))


def test_what_is_not_utf8_is_found_where_blocks_meet() -> None:
    for before in range((1 << 14) - 4, (1 << 14) + 8):
        head = b"a" * before
        for tail in (b"\xea\xb0\x80b", b"\xf0\x9f\x98\x80", b"\xc3\xa9"):
            assert is_utf8(np.frombuffer(head + tail, np.uint8))
        for tail in (b"\xea\xb0", b"\xf0\x9f\x98b", b"\x80", b"\xed\xa0\x80", b"\xc0\x80b"):
            assert not is_utf8(np.frombuffer(head + tail, np.uint8))
