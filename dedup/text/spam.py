"""Phrases of Korean spam, by trade, and how much of a text they fill.

No phrase condemns a text: 바다이야기 stands in court reports and 카지노 in travel guides. What makes
spam is that several *different* phrases come together and fill a good part of the text, which is what
`spam` measures; the limits are in the config.

The phrases are of our own collection, written without spaces; a space may stand between any two
syllables of a text's phrase, as spammers do.
"""

from __future__ import annotations

import re

from dedup.text.starts import Starts

PHRASES: dict[str, tuple[str, ...]] = {
    "gambling": (
        "카지노", "바카라", "토토사이트", "스포츠토토", "사설토토", "안전놀이터", "메이저놀이터", "먹튀검증",
        "먹튀없는", "슬롯머신", "슬롯사이트", "온라인슬롯", "릴게임", "바다이야기", "파워볼", "사다리게임",
        "홀덤", "룰렛", "블랙잭", "배팅사이트", "베팅사이트", "첫충전", "첫충", "매충", "꽁머니", "가입머니",
        "가입쿠폰", "충전보너스", "환전보장", "당일환전", "신규가입보너스", "입금보너스", "롤링", "총판모집",
        "추천인코드", "가입코드", "페이백", "고배당", "단폴", "잭팟",
    ),
    "adult": (
        "출장안마", "출장마사지", "출장샵", "조건만남", "애인대행", "오피스걸", "유흥업소", "룸살롱",
        "풀싸롱", "건마", "성인용품", "성인사이트", "야동", "야설", "무료성인", "19금영상", "원나잇",
        "즉석만남", "콜걸", "비아그라", "시알리스", "발기부전치료제", "정력제", "조루치료제",
    ),
    "loans": (
        "당일대출", "무직자대출", "신용불량자대출", "소액대출", "급전대출", "비대면대출", "무서류대출",
        "무방문대출", "개인돈대출", "개인돈", "사채", "일수대출", "연체자대출", "대출상담", "대출가능",
        "즉시송금", "당일입금", "당일송금", "누구나가능", "신용조회없이", "무담보", "저금리대환", "한도조회",
        "휴대폰소액결제현금화", "소액결제현금화", "카드깡", "상품권현금화", "작업대출",
    ),
    "invest": (
        "고수익보장", "수익보장", "원금보장", "월수익", "일수익", "무료리딩", "리딩방", "급등주추천",
        "종목추천", "재택알바", "재택부업", "하루1시간", "고액알바", "단기고수익", "투자금회수", "코인리딩",
        "무료체험방",
    ),
    "advert": (
        "최저가보장", "최저가", "파격할인", "초특가", "특가할인", "한정수량", "선착순", "지금바로", "지금신청",
        "클릭하세요", "바로가기클릭", "무료상담", "상담문의", "카톡상담", "카카오톡상담", "카톡문의",
        "텔레그램문의", "텔레그램", "24시간상담", "24시상담", "연중무휴", "무료배송", "당일배송", "할인쿠폰",
        "이벤트진행중", "주소창에", "주소복사", "링크클릭", "홈페이지바로가기", "구매문의", "정품보장",
        "비밀보장", "비밀배송", "후불제", "전국출장", "홍보문의", "광고문의", "레플리카", "짝퉁", "미러급",
        "백링크", "상위노출", "블로그체험단",
    ),
}  # fmt: skip

# The first character selects at once; longer phrases first, so that the longest one is counted.
_PATTERN = re.compile(
    "|".join(
        " ?".join(map(re.escape, phrase))
        for phrase in sorted({p for group in PHRASES.values() for p in group}, key=len)[::-1]
    )
)


STARTS = Starts(phrase for group in PHRASES.values() for phrase in group)
"""A text with fewer places where a phrase may begin than the limit needs is not searched."""


def spam(text: str) -> tuple[int, int]:
    """(how many different phrases, how many characters they fill, spaces not counted)."""
    found: dict[str, int] = {}
    for match in _PATTERN.finditer(text):
        phrase = match[0].replace(" ", "")
        found[phrase] = found.get(phrase, 0) + len(phrase)
    return len(found), sum(found.values())
