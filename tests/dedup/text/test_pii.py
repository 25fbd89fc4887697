"""Personal data: starred out in its form; numbers that only look like it stay."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from dedup.text.pii import mask, mask_text
from dedup.text.pii_rules import star_out

LABELLED = [
    json.loads(line)
    for line in (Path(__file__).parent / "pii_labelled.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("주민번호는 900101-1234567이다", "주민번호는 ******-*******이다", "resident_number"),
        ("021105-3456785", "******-*******", "resident_number"),
        ("외국인등록번호 9001015234567", "외국인등록번호 *************", "foreigner_number"),
        ("연락처 010-0123-4567", "연락처 010-****-****", "phone"),
        ("010 0456 7890", "010 **** ****", "phone"),
        ("01009876543으로", "010********으로", "phone"),
        ("TEL010.0123.4567", "TEL010.****.****", "phone"),
        ("+82-10-0234-5678", "+82-10-****-****", "phone"),
        ("(02) 0123-4567", "(02) ****-****", "phone"),
        ("02)123-4567", "02)***-****", "phone"),
        ("031-012-3456", "031-***-****", "phone"),
        ("070-0123-4567", "070-****-****", "phone"),
        ("고객센터 1588-1670", "고객센터 1588-****", "phone"),
        ("minji.lee@example.com로", "*****.***@*******.***로", "email"),
        ("4111-1111-1111-1111", "****-****-****-****", "card"),
        ("국민은행 000-0123-4567-89", "국민은행 ***-****-****-**", "account"),
        ("계좌: 0000-02-345678 예금주 홍길동", "계좌: ****-**-****** 예금주 홍길동", "account"),
        ("사업자등록번호 012-00-00003", "사업자등록번호 ***-**-*****", "business_number"),
        ("012-00-00003", "***-**-*****", "business_number"),
        ("여권번호 M12345678", "여권번호 *********", "passport"),
        ("여권 M123A4567", "여권 *********", "passport"),
        ("면허번호 11-22-345678-90", "면허번호 **-**-******-**", "driver_licence"),
        ("접속 IP 121.134.177.205", "접속 IP ***.***.***.***", "ip"),
    ],
)
def test_personal_data_are_starred_out_in_their_form(text: str, expected: str, kind: str) -> None:
    kinds: Counter[str] = Counter()
    masked = mask_text(f"알림. {text}", kinds)
    assert masked == f"알림. {expected}"
    assert kinds == {kind: 1}
    assert mask_text(masked, kinds) == masked
    assert kinds.total() == 1


@pytest.mark.parametrize(
    "text",
    [
        "버전 10.0.19041.1288에서 고쳤다",
        "주문번호 20250419-003, 송장 231105-1234567",
        "ISBN 978-89-01234-56-7 (2019)",
        "바코드 8801012345678",
        "좌표 37.566535, 126.977969",
        "2024-01-15 10:30:00, 2019.03.01",
        "임진왜란(1592-1598)과 1588-1599년",
        "가격은 1,234,567원이다",
        "123-45-67890",
        "4111-1111-1111-1112",
        "991301-1234567",
        "99 9901-1234567-22",
        "sha 5037cf01012345678d5a8",
        "아이콘 icon@2x.png, git@github.com:org/repo.git, npm install a@18.2.0",
        "1600-3000개 사이",
        "3.141592653589793",
    ],
)
def test_numbers_that_are_not_personal_stay(text: str) -> None:
    assert mask_text(text) == text


def test_a_column_comes_back_with_counts_per_text_and_per_kind() -> None:
    texts = pa.array(["아무것도 없다", "010-0000-1111, a@b.kr", "둘: 010-0000-1111 010-0000-2222"])
    masked = mask(texts)
    assert masked.counts == [0, 2, 2]
    assert masked.kinds == {"phone": 3, "email": 1}
    assert masked.texts[0].as_py() == texts[0].as_py()
    assert mask(masked.texts).counts == [0, 0, 0]


def test_numbers_far_apart_in_one_long_line_are_all_found() -> None:
    text = ("긴 글이 한 줄로 이어진다. " * 20 + "010-0123-4567 ") * 5
    assert mask(pa.array([text])).counts == [5]


def covered(text: str, start: int, end: int) -> frozenset[int]:
    """Places of the letters and digits of a span: brackets and spaces at its ends do not count."""
    return frozenset(i for i in range(start, end) if text[i].isascii() and text[i].isalnum())


@pytest.mark.parametrize("held_out", [False, True], ids=["tuned on", "held out"])
def test_precision_and_recall_on_the_labelled_lines_are_98_percent(held_out: bool) -> None:
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for line in (line for line in LABELLED if line["held_out"] == held_out):
        text = line["text"]
        want = {(s["kind"], covered(text, s["start"], s["end"])) for s in line["spans"]}
        got = {(f.kind, covered(text, f.start, f.end)) for f in star_out(text)[1]}
        right.update(kind for kind, _ in want & got)
        wrong.update(kind for kind, _ in got - want)
        missed.update(kind for kind, _ in want - got)
    for kind in sorted(right | wrong | missed):
        print(f"{kind:18} right {right[kind]:4} wrong {wrong[kind]:3} missed {missed[kind]:3}")
    precision = right.total() / (right + wrong).total()
    recall = right.total() / (right + missed).total()
    print(f"precision {precision:.4f}, recall {recall:.4f}")
    assert precision >= 0.98
    assert recall >= 0.98


def test_the_labelled_set_has_600_positives_and_many_look_alikes() -> None:
    assert sum(len(line["spans"]) for line in LABELLED) >= 600
    assert sum(not line["spans"] for line in LABELLED) >= 400
