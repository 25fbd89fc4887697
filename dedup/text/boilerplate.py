"""Lines that belong to a site and not to a text, cut before the text is judged.

Only whole lines go, and only short ones that match from end to end: a sentence *about* 무단전재 stays.
The text keeps all its other lines as they are.

Nearly no line of a text is boilerplate, so a compiled walk (`candidates`) looks at the first characters of each and at a few words, and only what could
match is handed to the regular expression.
"""

from __future__ import annotations

import re
from itertools import product

import numpy as np
from numba import njit

from dedup.text.points import Points
from dedup.text.starts import Starts, pair_place

LONGEST = 120
"""Characters of the longest line that may be boilerplate."""

_LINE = re.compile(
    r"""(?ix)
    \W{0,4}(?:
      (?:(?:이\ ?기사|이\ ?글|게시물)[을를]?\ ?)?(?:공유하기|공유|스크랩|스크랩하기|인쇄하기|프린트|글자\ ?크기(?:\ ?(?:조절|변경|크게|작게))?|url\ ?복사|링크\ ?복사)
    | (?:페이스북|트위터|카카오톡|카카오스토리|네이버(?:\ ?밴드|\ ?블로그)?|라인|밴드|인스타그램|이메일|메일)(?:[\ ,·|/]+(?:페이스북|트위터|카카오톡|카카오스토리|네이버(?:\ ?밴드|\ ?블로그)?|라인|밴드|인스타그램|이메일|메일|으?로?\ ?공유하기|공유하기|url\ ?복사))*
    | (?:이전|다음)\ ?(?:글|기사|페이지|게시물)(?:\W.{0,80})?
    | (?:목록|목록으로|목록보기|글쓰기|답글|수정|삭제|위로|맨\ ?위로|top|더\ ?보기|접기|펼치기|닫기|로그인|회원\ ?가입|마이\ ?페이지|장바구니|사이트\ ?맵|전체\ ?메뉴|본문\ ?바로\ ?가기|메뉴\ ?바로\ ?가기)
    | (?:구독|구독하기|좋아요|싫어요|추천|비추천|공감|팔로우|알림\ ?설정|댓글|댓글\ ?(?:쓰기|달기|보기|작성|등록)|등록순|최신순|공감순|조회수?)(?:\W*\d[\d,]*\W*(?:개|건|명|회)?)?
    | (?:관련|추천|인기|주요|많이\ ?본|실시간)\ ?(?:기사|뉴스|글|게시물|검색어|콘텐츠)(?:\ ?(?:더\ ?보기|보기|목록))?
    | .{0,60}무단\ ?(?:전재|복제|배포)(?:\ ?[및·,와과-]?\ ?(?:재\ ?배포|복제|전재|ai\ ?학습.{0,10}))*\ ?(?:를|을)?\ ?금지.{0,30}
    | .{0,30}재\ ?배포\ ?금지.{0,20}
    | (?:저작권자|copyrights?|ⓒ|©|\(c\)).{0,100}
    | .{0,40}all\ rights\ reserved\W*
    | [가-힣]{2,4}\ ?(?:인턴)?기자\ ?[(=]?\ ?[\w.+*-]+@[\w.*-]+\W*
    | \[?[가-힣\w]{2,12}(?:일보|신문|뉴스|타임즈|저널|방송)?\ ?=?\ ?[가-힣]{2,4}\ (?:인턴\ ?|객원\ ?)?기자\]?
    | (?:기사\ ?)?(?:입력|수정|승인|등록|최종\ ?수정)\ ?(?:일시|일자|시간|일)?\ ?[:=]?\ ?\d{4}[.\-/년].{0,30}
    | (?:기사\ ?제보|제보\ ?하기|광고\ ?문의).{0,60}
    | (?:개인\ ?정보\ ?(?:처리|취급)\ ?방침|이용\ ?약관|청소년\ ?보호\ ?정책|이메일\ ?무단\ ?수집\ ?거부)(?:[\ |·/,]+.{0,80})?
    | (?:이|본)\ ?(?:사이트|홈페이지|웹사이트)는?\ ?쿠키를\ ?사용.{0,60}
    | (?:광고|advertisement|sponsored|ad)
    | .{0,20}자바스크립트를\ ?(?:활성화|사용).{0,40}
    )\W{0,4}
    """
)
# Every line above either opens with one of these pairs of characters, behind its bullet, or has one
# of these words in it. Nearly all lines of a text have neither and cost two look-ups.
_OPENING_WORDS = (
    "공유 이기 이글 게시 스크 인쇄 프린 글자 url 링크 페이 트위 카카 네이 라인 밴드 인스 이메 메일 이전 다음 목록 글쓰 답글 "
    "수정 삭제 위로 맨위 top 더보 접기 펼치 닫기 로그 회원 마이 장바 사이 전체 본문 메뉴 구독 좋아 싫어 추천 비추 공감 팔로 "
    "알림 댓글 등록 최신 조회 관련 인기 주요 많이 실시 저작 copy ⓒ © (c 기사 입력 승인 최종 제보 광고 개인 이용 청소 이사 "
    "이홈 이웹 본사 본홈 본웹 ad sponsored"
)
_OPENINGS = {word[:2] for word in _OPENING_WORDS.split(" ")}
_INSIDE_WORDS = ("금지", "기자", "자바스크립트", "ights ", "IGHTS ")
_BULLETS = " \t-–—·•▶▷►■□◆◇○●★☆※*>|<[【〈《:"


def cut_boilerplate(text: str) -> str:
    """One text without its boilerplate lines."""
    inside = any(word in text for word in _INSIDE_WORDS)
    return cut_lines(text, {line for line in text.split("\n") if _is_boilerplate(line, inside)})


def cut_lines(text: str, cut: set[str]) -> str:
    """One text without these lines; never more than two blank ones where they were."""
    if not cut:
        return text
    kept = "\n".join(line for line in text.split("\n") if line not in cut)
    return re.sub(r"\n{4,}", "\n\n\n", kept).strip()


def is_boilerplate(line: str) -> bool:
    """Whether a line that may be boilerplate (`candidates`) is."""
    return _LINE.fullmatch(line) is not None


def _is_boilerplate(line: str, inside: bool) -> bool:
    if not line or len(line) > LONGEST:
        return False
    start = line[:12].lstrip(_BULLETS)[:3].lower().replace(" ", "")
    opens = start[:2] in _OPENINGS or start[:1] in ("ⓒ", "©")
    if not opens and not (inside and any(word in line for word in _INSIDE_WORDS)):
        return False
    return is_boilerplate(line)


# ── which lines could match, compiled ───────────────────────────────────────────────────────────

_OPENING = Starts(
    spelled
    for word in _OPENING_WORDS.split(" ")
    if len(word) > 1
    for start in [word[:3] if word.isascii() else word[:2]]
    for spelled in {"".join(cased) for cased in product(*((c, c.upper()) for c in start))}
)
# Bits of characters, above those of prose.TRIGGERS: such of _INSIDE_WORDS as few lines have.
_GEUM, _GI, _JA, _RIP, _H, _V = 64, 128, 256, 512, 1024, 2048
MARKS = np.zeros(1 << 16, np.uint16)
for _characters, _bit in (
    ("금", _GEUM), ("기", _GI), ("자", _JA), ("립", _RIP), ("hH", _H), ("vV", _V),
):  # fmt: skip
    MARKS[[ord(character) for character in _characters]] |= _bit
_BULLET = np.zeros(1 << 16, np.bool_)
_BULLET[[ord(mark) for mark in _BULLETS]] = True


def candidates(piece: Points) -> list[tuple[int, str]]:
    """(row of the column, line) for each line of a piece that may be boilerplate.

    The piece is decoded with MARKS among its flags, and nothing is cut of it yet.
    """
    found = _candidates(
        piece.rows, piece.points, piece.starts, piece.lines, piece.line_ends, piece.line_flags,
        _BULLET, _OPENING.firsts, _OPENING.pairs, _OPENING.triples,
    )  # fmt: skip
    points = piece.points
    return [
        (piece.first + row, points[start:end].tobytes().decode("utf-32-le", "surrogatepass"))
        for row, start, end in found.tolist()
    ]


@njit(nogil=True, cache=True)
def _candidates(  # type: ignore[no-untyped-def]
    rows, points, starts, lines, line_ends, line_flags, bullets, firsts, pairs, triples
):
    """Row, start and end of each line that may match, [lines, 3]."""
    found = np.empty((lines[rows], 3), np.int64)
    count = 0
    for row in range(rows):
        base = start = starts[row]
        for line in range(lines[row], lines[row + 1]):
            end = base + line_ends[line]
            if start < end <= start + LONGEST and (
                _opens(points, start, end, bullets, firsts, pairs, triples)
                or (_has_marks(line_flags[line]) and _inside(points, start, end))
            ):
                found[count, 0], found[count, 1], found[count, 2] = row, start, end
                count += 1
            start = end + 1
    return found[:count]


@njit(nogil=True, cache=True)
def _has_marks(flags):  # type: ignore[no-untyped-def]
    reporter = flags & (_GI | _JA) == _GI | _JA
    rights = flags & (_H | _V) == _H | _V  # all rights reserved
    return flags & (_GEUM | _RIP) != 0 or reporter or rights


@njit(nogil=True, cache=True)
def _inside(points, start, end):  # type: ignore[no-untyped-def]
    """Whether a line holds one of `_INSIDE_WORDS`: 자바 stands for 자바스크립트, hts␣ for ights␣."""
    for i in range(start, end - 1):
        code, after = points[i], points[i + 1]
        if code == 0xAE08 and after == 0xC9C0:  # 금지
            return True
        if code == 0xAE30 and after == 0xC790:  # 기자
            return True
        if code == 0xC790 and after == 0xBC14:  # 자바
            return True
        rights = code | 32 == 104 and after | 32 == 116 and i + 3 < end
        if rights and points[i + 2] | 32 == 115 and points[i + 3] == 32:
            return True
    return False


@njit(nogil=True, cache=True)
def _opens(points, at, end, bullets, firsts, pairs, triples):  # type: ignore[no-untyped-def]
    """Whether a line begins, behind its bullets, as boilerplate may."""
    while at < end and points[at] < 0x10000 and bullets[points[at]]:
        at += 1
    if at == end:
        return False
    head = np.int64(points[at])
    if head == 0x24D2 or head == 0xA9:  # ⓒ and ©, whatever follows
        return True
    if head >= 0x10000 or not firsts[head]:
        return False
    at += 1
    while at < end and points[at] == 32:
        at += 1
    if at == end:
        return False
    head = pair_place(head, points[at])
    return pairs[head] or (at + 1 < end and triples[pair_place(head, points[at + 1])])
