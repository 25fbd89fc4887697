"""Lines that belong to a site and not to a text, cut before the text is judged.

Only whole lines go, and only short ones that match from end to end: a sentence *about* 무단전재 stays.
The text keeps all its other lines as they are.

Nearly no line of a text is boilerplate, so a compiled walk looks at the first characters of each and
only what could match is handed to the regular expression.
"""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from dedup.text.measures import Starts, pair_place
from dedup.utf8 import buffers, decode

_LONGEST = 120

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
_INSIDE_WORDS = ("무단", "배포", "기자", "자바스크립트", "ights ", "IGHTS ")
_BULLETS = " \t-–—·•▶▷►■□◆◇○●★☆※*>|<[【〈《:"


def without_boilerplate(texts: pa.Array) -> pa.Array:
    """A column of normalised texts without their boilerplate lines."""
    offsets, data = buffers(texts)
    rows, starts, ends = _candidates(offsets, data, _LONGEST, *_TABLES)
    cut = np.zeros(len(texts), np.bool_)
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        if not cut[row]:
            line = data[start:end].tobytes().decode()
            cut[row] = _is_boilerplate(line, inside=True)
    if not cut.any():
        return texts
    renewed = [cut_boilerplate(text) for text in texts.filter(pa.array(cut)).to_pylist()]
    return pc.replace_with_mask(texts, pa.array(cut), pa.array(renewed, texts.type))


def cut_boilerplate(text: str) -> str:
    """One text without its boilerplate lines."""
    inside = any(word in text for word in _INSIDE_WORDS)
    lines = text.split("\n")
    kept = [line for line in lines if not _is_boilerplate(line, inside)]
    if len(kept) == len(lines):
        return text
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept)).strip()


def _is_boilerplate(line: str, inside: bool) -> bool:
    if not line or len(line) > _LONGEST:
        return False
    start = line[:12].lstrip(_BULLETS)[:3].lower().replace(" ", "")
    opens = start[:2] in _OPENINGS or start[:1] in ("ⓒ", "©")
    if not opens and not (inside and any(word in line for word in _INSIDE_WORDS)):
        return False
    return _LINE.fullmatch(line) is not None


# ── which lines could match, compiled ───────────────────────────────────────────────────────────

_INSIDE = Starts(("무단", "배포", "기자", "자바스", "hts", "HTS"))  # one of each of _INSIDE_WORDS
_OPENING = Starts(
    spelled
    for word in _OPENING_WORDS.split(" ")
    if len(word) > 1
    for start in [word[:3] if word.isascii() else word[:2]]
    for spelled in {"".join(cased) for cased in product(*((c, c.upper()) for c in start))}
)
_BULLET = np.zeros(1 << 16, np.bool_)
_BULLET[[ord(mark) for mark in _BULLETS]] = True
_TABLES = (_OPENING.pairs, _OPENING.triples, _INSIDE.pairs, _INSIDE.triples, _BULLET)


@njit(nogil=True, cache=True)
def _candidates(  # type: ignore[no-untyped-def]
    offsets, data, most, opening, opening_triples, inside, inside_triples, bullets
):
    """Rows, starts and ends (bytes) of the lines of at most `most` characters that may match."""
    room = 1024
    rows, starts, ends = (
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
    )
    found = 0
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        while at < stop:
            start = at
            length = 0
            before = np.int64(0)
            pair = head = np.int64(0)  # the last two characters, the first two behind the bullets
            hit = False
            opened = 0  # characters after the bullets, as far as they matter
            while at < stop and data[at] != 10:
                code, size = decode(data, at)
                at += size
                length += 1
                if length > most:
                    while at < stop and data[at] != 10:
                        at += 1
                    break
                if opened == 0:
                    if not (code < 0x10000 and bullets[code]):
                        head, opened = code, 1
                        hit = code == 0x24D2 or code == 0xA9  # ⓒ and ©, whatever follows
                elif opened == 1 and code != 32:
                    head = pair_place(head, code)
                    hit |= opening[head]
                    opened = 2
                elif opened == 2:
                    hit |= opening_triples[pair_place(head, code)]
                    opened = 3
                hit |= inside_triples[pair_place(pair, code)]
                pair = pair_place(before, code)
                hit |= inside[pair]
                before = code
            if hit and length <= most:
                if found == room:
                    room *= 2
                    rows = np.concatenate((rows, np.empty(found, np.int64)))
                    starts = np.concatenate((starts, np.empty(found, np.int64)))
                    ends = np.concatenate((ends, np.empty(found, np.int64)))
                rows[found], starts[found], ends[found] = row, start, at
                found += 1
            at += 1
    return rows[:found], starts[:found], ends[:found]
