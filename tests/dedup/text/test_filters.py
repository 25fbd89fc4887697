"""Filters: noise goes with its reason, and technical, informal and old writing stays."""

from __future__ import annotations

import io
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from configs.schema import Dedup, Filters, Near, Source
from dedup.documents import read_documents
from dedup.text.boilerplate import cut_boilerplate
from dedup.text.filters import REASONS, judge, limits_for, near_for, pii_for, preset
from dedup.text.measures import measure
from dedup.text.normalize import normalize, normalize_text

PARAGRAPH = (
    "새벽 시장은 아직 어두울 때 문을 연다. 생선을 실은 수레가 골목으로 들어오고, 상인들은 얼음을 깨며 "
    "서로 안부를 묻는다. 해가 뜨면 첫 손님이 오고 값을 깎는 소리가 난다. 오래 다닌 이는 눈인사로 족하다. "
)
CODE = "```python\n" + "for row in table:\n    print(row[0] == {'a': 1}, row[1:])\n" * 30 + "```\n"
ENGLISH = (
    "The market opens before dawn, and the first carts roll in while the street is still dark. "
)


def reason(text: str, language: str = "ko", limits: Filters | None = None) -> str | None:
    return judge(pa.array([text]), limits or Filters(), language).reasons[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ㅋㅋ 굿", "too_short"),
        (PARAGRAPH, None),
        (PARAGRAPH.encode("cp949").decode("latin-1").replace("\xad", ""), "mojibake"),
        (PARAGRAPH.encode().decode("cp949", "replace"), "mojibake"),
        (PARAGRAPH.encode().decode("cp1252", "ignore"), "mojibake"),
        (PARAGRAPH[:60] + "占쏙옙 占쏙옙占쏙옙 占쏙옙", "mojibake"),
        (PARAGRAPH[:40] + "\ufffd" * 12, "mojibake"),
        (ENGLISH * 6, "wrong_language"),
        (PARAGRAPH[:60] + "\n" + "★▶■◆♥" * 40, "symbols"),
        (PARAGRAPH[:60] + "\n" + "02 14 1930 88 7 " * 40, "digits"),
        ("가나다라마바사아자차카타파하" * 30, "word_length"),
        ("\n".join([PARAGRAPH] * 4), "duplicate_lines"),
        ("오늘도 좋은 하루 보내세요 " * 20, "repeated_words"),
        (
            "온라인 카지노 먹튀검증 완료, 첫충전 보너스와 꽁머니 지급, 바카라 슬롯사이트 가입코드 안내드립니다. "
            "텔레그램 문의 환영합니다.",
            "spam",
        ),
    ],
)
def test_noise_goes_with_its_reason(text: str, expected: str | None) -> None:
    assert reason(text) == expected
    assert expected is None or expected in REASONS


@pytest.mark.parametrize(
    "text",
    [
        PARAGRAPH[:70] + "\n" + CODE + PARAGRAPH[70:],
        PARAGRAPH + "\n| 이름 | 값 |\n|---|---|\n" + "| size_t | 0x00 |\n" * 40,
        "---\ntitle: Market guide for the reader\nms.author: nobody\n---\n" + PARAGRAPH,
        "경찰은 바다이야기 게임장을 단속했다. " + PARAGRAPH * 2,
        "도박 예방 강연에서 강사는 카지노와 바카라, 온라인 슬롯머신의 위험을 설명했다. "
        + PARAGRAPH * 3,
        "재미있게봤어요배우들연기가다좋았고음악도좋았습니다 또보고싶네요ㅎㅎ 친구들에게도 권했어요",
        "大韓民國은 民主共和國이다. 主權은 國民에게 있고 모든 權力은 國民으로부터 나온다. 그 뜻을 새긴다.",
        "그ᆢ게ᆢ 참 어렵네요ᆢ 저도 몇 번을 해 봤는데 안 되더라고요ᆢ 다른 방법이 있을까요ᆢ?",
        "Café René à l'été — " + PARAGRAPH,
    ],
)
def test_honest_text_stays(text: str) -> None:
    assert reason(text) is None


def test_english_is_judged_by_english_limits() -> None:
    assert reason(ENGLISH * 4, "en", preset("english_web")) is None
    assert reason(PARAGRAPH, "en", preset("english_web")) == "wrong_language"
    assert reason(ENGLISH * 4 + PARAGRAPH, "any") == None  # noqa: E711 (repeats stay below the limit)


def test_boilerplate_lines_are_cut_and_sentences_about_them_are_not() -> None:
    lines = [
        "새벽 시장이 문을 열었다",
        "가람신문 = 홍길동 기자",
        PARAGRAPH.strip(),
        "무단전재 및 재배포 금지를 어긴 사람은 처벌을 받을 수 있다고 법원은 여러 차례에 걸쳐 밝혔다.",
        "ⓒ 가람신문, 무단전재 및 재배포 금지",
        "▶ 관련기사 더보기",
        "공유하기",
        "댓글 3개",
        "이전글: 겨울 시장",
        "저작권자 © 가람신문 All rights reserved.",
    ]
    judged = judge(pa.array(["\n".join(lines)]), Filters(), "ko")
    assert judged.texts[0].as_py() == "\n".join([lines[0], lines[2], lines[3]])
    kept = judge(pa.array(["\n".join(lines)]), Filters(boilerplate=False), "ko")
    assert kept.texts[0].as_py() == "\n".join(lines)


def test_quality_is_repeatable_bounded_and_prefers_fuller_cleaner_text() -> None:
    texts = pa.array([PARAGRAPH * 1, PARAGRAPH[:50], "★" * 30 + PARAGRAPH, PARAGRAPH[:45] * 5])
    first = judge(texts, Filters(), "ko").quality
    assert first.dtype == np.float32
    assert np.array_equal(first, judge(texts, Filters(), "ko").quality)
    assert ((first >= 0) & (first <= 1)).all()
    assert first[0] > first[1:].max()


def test_the_kernel_counts_what_plain_python_counts() -> None:
    texts = [PARAGRAPH, CODE, "", "가 나\n\n가 나\n漢字 é 12 ★\ufffd", "🎉 끝 ㅋㅋ ᆢ"]
    counted = measure(pa.array(["앞", *texts], pa.large_string()).slice(1))
    for row, text in enumerate(texts):
        lines = [" ".join(line.split()) for line in text.split("\n") if line.strip()]
        seen: set[str] = set()
        repeated = 0
        for line in lines:
            repeated += len(line.replace(" ", "")) if line in seen else 0
            seen.add(line)
        assert counted.characters[row] == len("".join(text.split()))
        assert counted.hangul[row] == sum("가" <= c <= "힣" for c in text)
        assert counted.digits[row] == sum(c.isdigit() for c in text)
        assert counted.words[row] == len(text.split())
        assert counted.lines[row] == len(lines)
        assert counted.duplicate_lines[row] == repeated
        assert counted.replaced[row] == text.count("\ufffd")


def test_the_defaults_of_a_source_follow_its_kind_and_language() -> None:
    korean, english, chat, pair, own = (
        Source(name="k", paths=["x"]),
        Source(name="e", paths=["x"], language="en"),
        Source(name="c", paths=["x"], format="chat"),
        Source(name="p", paths=["x"], format="parallel"),
        Source(name="o", paths=["x"], filters="none", pii="keep", near="none"),
    )
    dedup = Dedup(sources=[korean, english, chat, pair, own])
    assert limits_for(korean, dedup) == preset("korean_web")
    assert limits_for(english, dedup) == preset("english_web")
    assert limits_for(chat, dedup) is limits_for(pair, dedup) is limits_for(own, dedup) is None
    assert limits_for(korean, dedup, "chat") is None
    assert (pii_for(korean, dedup), pii_for(own, dedup)) == ("mask", "keep")
    assert near_for(korean, dedup) == near_for(pair, dedup) == Near()
    assert near_for(chat, dedup) is near_for(own, dedup) is None


@pytest.mark.parametrize(
    ("name", "most"),
    [("ms_docs_ko", 0.05), ("petitions", 0.02), ("movie_review_pages", 0.06)],
)
def test_real_documentation_petitions_and_reviews_survive(
    shared_data: Path, name: str, most: float
) -> None:
    path = shared_data / "ko_web" / f"{name}.jsonl.zst"
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        lines = io.TextIOWrapper(stream, encoding="utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(600), strict=False)]
    judged = judge(normalize(pa.array(texts)), Filters(), "ko")
    assert sum(found is not None for found in judged.reasons) <= most * len(texts)


def test_the_compiled_look_at_lines_misses_no_boilerplate(shared_data: Path) -> None:
    texts = [
        normalize_text(text)
        for name in ("news_comments", "oss_docs_ko", "movie_review_pages", "petitions")
        for batch in islice(read_documents(shared_data / "ko_web" / f"{name}.jsonl.zst"), 1)
        for text in batch["text"].to_pylist()
    ]
    lines = [
        "무단 전재 및 재배포 금지", "▶ 공유하기", "TOP", "Copyright 2024", "ALL RIGHTS RESERVED", "ⓒ연합",
        "Advertisement", "ad", "URL 복사", "홍길동 기자 a@b.kr", "이 기사 공유하기", "(c) 누구", "sponsored",
    ]  # fmt: skip
    texts += [f"앞 글이다.\n{line}\n뒤 글이다." for line in lines]
    column = pa.array(texts, pa.large_string())
    limits = Filters(max_broken=1)
    assert judge(column, limits, "ko").texts.to_pylist() == [
        cut_boilerplate(text) for text in texts
    ]
    assert judge(column[-len(lines) :], limits, "ko").texts.to_pylist() == [
        "앞 글이다.\n뒤 글이다."
    ] * len(lines)
