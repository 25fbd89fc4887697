"""What the compiled walk hands to the rules is enough: the same bytes as the rules on whole texts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dedup.text.pii import mask, mask_text

LABELLED = Path(__file__).parent / "pii_labelled.jsonl"
WORDS = [
    "주민등록번호",
    "외국인등록번호",
    "여권",
    "passport",
    "면허",
    "전화",
    "문의",
    "연락처",
    "고객센터",
    "카드",
    "사업자",
    "계좌",
    "국민은행",
    "신한",
    "농협",
    "우체국",
    "예금주",
    "IP",
    "접속",
    "버전",
    "v",
    "주문번호",
    "송장",
    "서울",
    "부산",
    "ISBN",
    "원",
    "년",
    "개",
    "가",
    "나다라",
    "hello",
    "TEL",
    "HP",
    "fax",
    "sha",
    "M",
    "PM",
    "a",
    "b",
    "골뱅이",
    "at",
    "com",
    "kr",
    "py",
    "example.com",
    "minji.lee",
    "😀",
    "é",
]
WHOLE = [
    "010-0123-4567",
    "(02)0123-4567",
    "+82-10-0234-5678",
    "(+82)",
    "1588-1234",
    "900101-1234567",
    "9001015234567",
    "M12345678",
    "M123A4567",
    "11-22-345678-90",
    "4111-1111-1111-1111",
    "012-00-00003",
    "110-234-567890",
    "121.134.177.205",
    "16.0.28625.61",
    "2001:2d8:e0f:1a2b::1",
    "x@y.kr",
    "2019-03-01",
    "0.5314",
    "1592-1598",
    "010.0123.4567",
    "02.123.4567",
    "1234567890",
    "82",
    "010",
    "02",
    "031",
    "15",
    "1588",
    "0101",
    "20260101",
]
PIECES = st.one_of(
    st.text("0123456789", min_size=1, max_size=8),
    st.sampled_from([*"  --..··/()[]@:+*~,–—\n%_=#", " - ", "  ", ") ", " (", "(at)", "[골뱅이]"]),
    st.sampled_from(WORDS),
    st.sampled_from(WHOLE),
    st.text("가나ab1 ", max_size=60),
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)


def agrees(texts: list[str]) -> bool:
    kinds: Counter[str] = Counter()
    plain = []
    counts = []
    for text in texts:
        before = kinds.total()
        plain.append(mask_text(text, kinds))
        counts.append(kinds.total() - before)
    masked = mask(pa.array(texts, pa.large_string()))
    assert masked.texts.to_pylist() == plain
    return masked.counts == counts and masked.kinds == kinds


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(TEXTS, max_size=4))
@example(["+82.10-0234-5678", "x" * 200 + "010-0123-4567" + "9" * 200])
@example(["전화 (010) - 0123 - 4567", "가" * 100 + "여권 M123A4567" + "가" * 100])
def test_the_walk_over_bytes_finds_what_the_rules_find_in_whole_texts(texts: list[str]) -> None:
    assert agrees(texts)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXTS)
def test_what_is_masked_is_not_recognised_again(text: str) -> None:
    once = mask_text(text)
    assert len(once) == len(text)
    kinds: Counter[str] = Counter()
    assert mask_text(once, kinds) == once
    assert not kinds


def test_the_labelled_lines_come_out_alike_in_one_text_and_apart() -> None:
    lines = [json.loads(line)["text"] for line in LABELLED.read_text("utf-8").splitlines()]
    assert agrees(lines)
    assert agrees(["\n".join(lines), " ".join(lines)])


def test_a_column_without_personal_data_is_returned_as_it_came() -> None:
    texts = pa.array(["아무것도 없다", "", "2024-01-15에 1,234원"], pa.large_string())
    assert mask(texts).texts is texts


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_and_nulls_come_back_in_their_places(kind: pa.DataType) -> None:
    texts = pa.array(["앞", "가 010-0123-4567", None, "나 a@b.kr", "뒤 010-0000-1111"], kind)[1:4]
    masked = mask(texts)
    assert masked.texts.to_pylist() == ["가 010-****-****", None, "나 *@*.**"]
    assert masked.counts == [1, 0, 1]
    assert masked.texts.type == pa.large_string()
    masked.texts.validate(full=True)


@pytest.mark.parametrize("text", ["1" * 300_000, "1 " * 150_000, "a1" * 150_000, "1@a." * 75_000, "0.123 " * 50_000])  # fmt: skip
def test_long_lines_of_digits_and_signs_take_time_in_proportion(text: str) -> None:
    assert mask(pa.array([text])).counts == [mask_text(text).count("*") and 1]


def test_a_number_is_found_wherever_the_walk_cuts_the_text() -> None:
    for before in range(320, 350):  # the walk looks at 1,024 bytes at a time
        text = "가" * before + " 연락처 010-1234-5678, a.b@c.com 입니다 1588-1234"
        masked = mask(pa.array([text], pa.large_string()))
        assert masked.texts.to_pylist() == [mask_text(text)]
        assert masked.counts[0] >= 2
