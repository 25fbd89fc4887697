"""What personal data look like: one line of text → where they stand in it, and of what kind.

In: a text. Out: the text with the data starred out, character for character, and `Found` records.

Resident numbers issued since October 2020 have random tails: a checksum must not be asked for. A
valid date and a gender digit around a hyphen are enough; without the hyphen a word such as
주민등록번호 has to stand before it. Everything else needs what makes it that and nothing else: a real
prefix, Luhn's digit, the business number's own check digit (weights 1, 3, 7, 1, 3, 7, 1, 3, 5), or
a word beside it. Where two words disagree (주문번호 … 연락처 010-…), the nearer one decides. So
versions, orders, ISBNs, coordinates, dates and spans of years stay.

No rule looks further than its line and `ROUND` characters from the number, and the digits of a
number have at most `GAP` separators between two: `dedup.pii` finds its candidates by that.
"""

from __future__ import annotations

import calendar
import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

GAP = 4
"""Characters between two digits of one number, at most: "(010) - 1234".

And characters before or after a candidate that a rule may look at:"""
ROUND = 48
SEPARATORS = " -./()·‐‑‒–—―"
"""The characters that may stand there."""

_DASH = "[-‐-―]"
_JOINT = "(?: ?[-.·/‐-―] ?| {1,2}|)"  # between the parts of a telephone number
# No part of a longer number or of a hash; but TEL010-… and HP010-… are written so.
_APART = r"(?<![0-9*][-.‐-―])"
_BEFORE = r"(?<![0-9A-Za-z])" + _APART
_CALLED = r"(?:(?<![0-9A-Za-z])|(?<=[Tt][Ee][Ll])|(?<=[Ff][Aa][Xx])|(?<=[HhCc][Pp]))" + _APART
_AFTER = r"(?![0-9A-Za-z])(?![-.‐-―][0-9*])"
_NEAR = 20  # characters before a number in which a word counts as its context
_FAR = 40  # the same for words that say it is something else


class Found(NamedTuple):
    """Characters start to end are personal data of a kind; from `hidden` on they are starred."""

    kind: str
    start: int
    end: int
    hidden: int


class Rule(NamedTuple):
    """pattern: tried where a group of digits begins, in a run with `digits` digits or more.

    judge: from where a match is starred out; None: it is not personal data. first: what a match can
    begin with, which is asked before the pattern is.
    """

    kind: str
    pattern: re.Pattern[str]
    judge: Callable[[re.Match[str]], int | None]
    digits: int = 0
    first: str = "0123456789"


def star_out(text: str) -> tuple[str, list[Found]]:
    """One text or part of one. Idempotent, and every character stays where it was.

    Fifteen patterns walking the text would take ten times as long as one that finds the runs of
    digits, and the patterns tried where a group begins.
    """
    found: list[Found] = []
    if _MAYBE_EMAIL.search(text):
        for rule in EMAILS:
            for match in rule.pattern.finditer(text):
                text = _judge(rule, match, text, found)
    if text.count(":") >= 4:
        for match in IPV6.pattern.finditer(text):
            text = _judge(IPV6, match, text, found)
    for run in _RUN.finditer(text):
        first = run.start()
        if first and text[first - 1].isalpha():
            for start in range(max(0, first - 2), first):
                text = _try(PASSPORT, start, text, found)
        count = len(_digits(run[0]))
        if count < 4:
            continue
        starts = [group.start() for group in _GROUP.finditer(text, first, run.end())]
        for rule in NUMBERS:
            if count >= rule.digits:
                for start in starts:
                    if text[start] not in rule.first:
                        continue
                    text = _try(rule, start, text, found)
    return text, found


_RUN = re.compile(rf"[(+]{{0,2}}[0-9]+(?:[{re.escape(SEPARATORS)}]{{1,{GAP}}}[0-9]+)*")
_GROUP = re.compile(r"(?<![0-9(+])[(+]|(?<![0-9])[0-9]")
_HIDE = re.compile("[0-9A-Za-z]")
_NO_DIGITS = re.compile("[^0-9]+")


def _try(rule: Rule, start: int, text: str, found: list[Found]) -> str:
    match = rule.pattern.match(text, start)
    return text if match is None else _judge(rule, match, text, found)


def _judge(rule: Rule, match: re.Match[str], text: str, found: list[Found]) -> str:
    hidden = rule.judge(match)
    if hidden is None:
        return text
    end = match.end()
    found.append(Found(rule.kind, match.start(), end, hidden))
    return text[:hidden] + _HIDE.sub("*", text[hidden:end]) + text[end:]


# ── context ─────────────────────────────────────────────────────────────────────────────────────


def _before(match: re.Match[str], characters: int) -> str:
    start = match.start()
    return match.string[max(0, start - characters) : start].rpartition("\n")[2]


def _after(match: re.Match[str], characters: int) -> str:
    end = match.end()
    return match.string[end : end + characters].partition("\n")[0]


def _last(words: re.Pattern[str], text: str) -> int:
    """Where the last of these words ends; -1 where there is none."""
    end = -1
    for match in words.finditer(text):
        end = match.end()
    return end


def _says(
    match: re.Match[str], words: re.Pattern[str], *, near: int = _NEAR, after: int = 0
) -> bool:
    """One of the words is near, and no word for some other kind of number is nearer."""
    text = _before(match, near)
    end = _last(words, text)
    if end >= 0:
        return end > _last(_OTHER, text)
    return bool(after and words.search(_after(match, after)))


_TAKEN = re.compile("[0-9*]{4}")  # the word before it has its number already


def _other(match: re.Match[str], near: int = _FAR) -> bool:
    """A word for some other kind of number stands before it."""
    text = _before(match, near)
    return _OTHER.search(text, _last(_TAKEN, text) + 1) is not None


_OTHER = re.compile(
    r"(?:주문|송장|운송장|등기|택배|배송|접수|예약(?= ?번호)|승인|문서|제품|모델|품번|품목|상품|부품|부속|부품|자재|규격|"
    r"시리얼|쿠폰|기프트|제조|버전|관리 ?번호|사건|일련|공고|출원|특허|법인(?! ?카드)(?:등록)?|등록 ?번호 제|강좌|통계표|계정과목|코드|바코드|"
    r"ISBN|ISSN|order|serial|tracking|invoice|part|model|code|version|build|UUID|SKU)"
    r"(?: ?등록)?(?: ?번호| ?코드| ?내역| ?no\.?| ?id)?",
    re.IGNORECASE,
)


# ── e-mail ──────────────────────────────────────────────────────────────────────────────────────

_MAYBE_EMAIL = re.compile(r"@|[(\[](?:at|AT|골뱅이)[)\]]")
_LOCAL = r"(?<![A-Za-z0-9._%+*-])[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}"
_DOMAIN = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,24})"
_EMAIL = re.compile(_LOCAL + "@" + _DOMAIN + r"(?![A-Za-z0-9-]|\.[A-Za-z0-9]|:[\w~/])")
_SPELT = re.compile(
    _LOCAL + r"(?: @ | ?[(\[](?:at|AT|골뱅이)[)\]] ?)(?:[A-Za-z0-9-]{1,63}\.){1,4}"
    r"(com|net|org|kr|edu|info|io|me)(?![A-Za-z0-9(-]|\.[A-Za-z0-9])"
)
_FILES = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "bmp",
        "ico",
        "css",
        "scss",
        "js",
        "mjs",
        "ts",
        "tsx",
        "jsx",
        "json",
        "md",
        "mdx",
        "py",
        "ipynb",
        "html",
        "htm",
        "xml",
        "yml",
        "yaml",
        "toml",
        "txt",
        "zip",
        "gz",
        "local",
        "localhost",
        "internal",
        "lan",
    ]
)


def _email(match: re.Match[str]) -> int | None:
    if match[1].lower() in _FILES or match[0].startswith("git@"):  # icon@2x.png
        return None
    return match.start()


def _spelt(match: re.Match[str]) -> int | None:
    return match.start()


# ── resident, foreigner, passport, driver's licence ─────────────────────────────────────────────

_BIRTH = _BEFORE + r"([0-9]{2})([0-9]{2})([0-9]{2})( ?" + _DASH + r" ?| |)"
_RESIDENT = re.compile(_BIRTH + r"([0-49])[0-9]{6}" + _AFTER)
_FOREIGNER = re.compile(_BIRTH + r"([5-8])[0-9]{6}" + _AFTER)
_RESIDENT_WORDS = re.compile(
    "주민|외국인 ?(?:등록|번호)|거소 ?신고|재외국민|생년월일|(?<!사업자)(?<!법인)(?<!사업자 )등록 ?번호|resident",
    re.IGNORECASE,
)

_PERSON_WORDS = re.compile(
    "jumin|(?:신청|피고|원고|신고|고소|채무)인|세대주|성명|본인", re.IGNORECASE
)


def _resident(match: re.Match[str]) -> int | None:
    year, month, day, joint, gender = (match[i] for i in range(1, 6))
    full = (1900 if gender in "1256" else 1800 if gender in "09" else 2000) + int(year)
    dated = 1 <= int(month) <= 12 and 1 <= int(day) <= calendar.monthrange(full, int(month))[1]
    if _says(match, _RESIDENT_WORDS):
        return match.start() if dated or joint.strip() else None
    # Without a word for it: nobody is so old, or not yet born, that another year would be meant.
    alive = 1920 <= full < 2040
    if not dated or not alive or _other(match):
        return None
    if not joint.strip() and not (joint and _says(match, _PERSON_WORDS)):
        return None
    return match.start()


_PASSPORT = re.compile(
    r"(?<![0-9A-Za-z])(?:[A-Za-z]{1,2}[0-9]{7,8}|[A-Za-z][0-9]{3}[A-Za-z][0-9]{4})(?![0-9A-Za-z])"
)
_PASSPORT_WORDS = re.compile("여권|passport", re.IGNORECASE)


def _passport(match: re.Match[str]) -> int | None:
    return match.start() if _says(match, _PASSPORT_WORDS, near=24, after=10) else None


_LICENCE = re.compile(_BEFORE + r"(?:1[1-9]|2[0-68])([- ]|)[0-9]{2}\1[0-9]{6}\1[0-9]{2}" + _AFTER)
_REGIONS = "서울|부산|대구|인천|광주|대전|울산|경기|강원|충북|충남|전북|전남|경북|경남|제주"
_OLD_LICENCE = re.compile(
    f"(?:(?<={_REGIONS})|(?<={_REGIONS.replace('|', ' |')} ))"
    + r"[0-9]{2}-[0-9]{6}-[0-9]{2}" + _AFTER
)  # fmt: skip
_LICENCE_WORDS = re.compile("면허|licen[cs]e", re.IGNORECASE)


def _licence(match: re.Match[str]) -> int | None:
    if _says(match, _LICENCE_WORDS, after=12):
        return match.start()
    if match.re is _OLD_LICENCE or match[1] != "-" or _other(match) or _at_bank(match):
        return None
    return match.start()


# ── telephone ───────────────────────────────────────────────────────────────────────────────────

_ABROAD = r"\(?\+?82\)?[-. ]{0,2}(?:\(0\)[-. ]?)?"
_NUMBER = "(" + _JOINT + "[0-9]{3,4}" + _JOINT + "[0-9]{4})" + _AFTER
_MOBILE = re.compile(_CALLED + r"((?:" + _ABROAD + r"0?|\(?0)1[016789]\)?)" + _NUMBER)
_LANDLINE = re.compile(
    _CALLED
    + r"((?:" + _ABROAD + r"0?|\(?0)(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|50[2-8]?|60|80)\)?)"
    + _NUMBER
)  # fmt: skip
_SERVICE = re.compile(
    _CALLED
    + r"(15(?:22|33|44|66|77|88|99)|16(?:00|11|22|33|44|55|61|66|68|70|77|88|99)|18(?:00|11|22|33|44|55|66|77|99))"
    + r"( ?[-–] ?|[ .]|)([0-9]{4})" + _AFTER
)  # fmt: skip
_PHONE_WORDS = re.compile(
    "전화|연락|문의|번호|전번|휴대|핸드폰|핸폰|폰|팩스|상담|고객|센터|대표|예약|콜|문자|제보|민원|내선|받는|받으실|수령인|수취인|보내는|☎|☏|📞|📱|"
    r"(?:tel|fax|phone|call|mobile|h\.?p|contact)|(?<![A-Za-z])[TFM][.:)]",
    re.IGNORECASE,
)
_CALL_WORDS = re.compile(r"(?:번|(?:번?으)?로)? ?(?:전화|연락|문자)")  # behind a number
_UNITS = re.compile(
    r" ?(?:개|명|원|년|쪽|면|회|건|권|대|호|kcal|mm|m(?![a-z])|km|kg|g(?![a-z])|px|°|%|[A-Za-z]{2})"
)


def _mobile(match: re.Match[str]) -> int | None:
    prefix, rest = match[1], match[2]
    digits, joints = _digits(match[0]), re.sub("[0-9]", "", rest)
    if _other(match, 14) and not _says(match, _PHONE_WORDS):
        return None
    if joints == ".":  # 010123.4567
        return None
    international = prefix.startswith(("+", "(+"))
    strange = (
        (prefix.startswith(("82", "(82")) and prefix[-3] not in "-. )")
        or ("010" in prefix and len(_digits(rest)) == 7 and not joints)
        or (not prefix.endswith("10") and prefix[-1] != ")" and not joints.strip())
        or (not joints and not digits.strip("01"))
    )
    if strange and not international and not _says(match, _PHONE_WORDS):
        return None
    return match.start(2)


def _landline(match: re.Match[str]) -> int | None:
    prefix, rest = match[1], match[2]
    if re.sub("[0-9]", "", rest) == ".":  # 02.1234567
        return None
    if _says(match, _PHONE_WORDS):
        return match.start(2)
    if _other(match):
        return None
    marks = re.findall("[-.‐-―]", rest)
    split = len(marks) == 2 or (len(marks) == 1 and prefix.endswith(")") and marks[0] != ".")
    if split or ("+" in prefix and not rest[0].isdigit()):
        return match.start(2)
    return match.start(2) if _CALL_WORDS.match(_after(match, 8)) else None


def _service(match: re.Match[str]) -> int | None:
    if _says(match, _PHONE_WORDS, after=10):
        return match.start(3)
    first, second = int(match[1]), int(match[3])
    a_range = first <= second <= 2100  # 1592-1598; 1600-3000 of something has its unit behind it
    if match[2].strip() not in ("-", "–") or a_range or _UNITS.match(_after(match, 6)):
        return None
    return None if _other(match) else match.start(3)


# ── card, business number, account ──────────────────────────────────────────────────────────────

_CARD = re.compile(_BEFORE + r"[3-69][0-9]{3}([- ]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}" + _AFTER)
_AMEX = re.compile(_BEFORE + r"3[47][0-9]{2}([- ]?)[0-9]{6}\1[0-9]{5}" + _AFTER)
_CARD_WORDS = re.compile("카드|결제|아멕스|card|visa|master|amex", re.IGNORECASE)


def _card(match: re.Match[str]) -> int | None:
    total = 0
    for place, digit in enumerate(map(int, reversed(_digits(match[0])))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    if total % 10:
        return None
    if _says(match, _CARD_WORDS) or (match[1] and not _other(match)):
        return match.start()
    return None


_BUSINESS = re.compile(_BEFORE + r"[0-9]{3}( ?[-–] ?| |)[0-9]{2}\1[0-9]{5}" + _AFTER)
_BUSINESS_WORDS = re.compile("사업자|고유 ?번호|business|registration", re.IGNORECASE)
_WEIGHTS = (1, 3, 7, 1, 3, 7, 1, 3, 5)


def _business(match: re.Match[str]) -> int | None:
    if _says(match, _BUSINESS_WORDS):
        return match.start()
    digits = [int(digit) for digit in _digits(match[0])]
    total = sum(digit * weight for digit, weight in zip(digits, _WEIGHTS, strict=False))
    total += digits[8] * 5 // 10
    if match[1] != "-" or (10 - total % 10) % 10 != digits[9] or _other(match):
        return None
    return match.start()


_ACCOUNT = re.compile(
    _BEFORE + r"(?:[0-9]{2,7}(?:(?P<joint> ?- ?| |\.)[0-9]{1,8})(?:(?P=joint)[0-9]{1,8}){1,3}"
    r"|[0-9]{2,7}-[0-9]{4,8}|[0-9]{10,14})" + _AFTER
)
_LATIN_BANKS = r"(?<![0-9A-Za-z])(?:KB|NH|IBK|SC|KDB)(?![A-Za-z])"
_BANKS = re.compile(
    "(?:은행|뱅크|카뱅|농협|수협|신협|새마을금고|우체국|신한|하나|우리|국민|기업|산업|제일|씨티|대구|부산|경남|광주|전북|제주"
    f"|계좌(?:번호)?|예금주|입금|송금|{_LATIN_BANKS})[은는이가로의]?[ :)(,]{{0,3}}$"
)
_STRONG_BANKS = re.compile(
    "은행|뱅크|카뱅|농협|수협|신협|새마을금고|우체국|계좌|통장|예금주|입금|송금|신한|"
    + _LATIN_BANKS
)
_AMOUNT = re.compile(r" ?(?:[천백십]?[만억조]? ?(?:원|달러)|건|명|개|%)(?![가-힣]{2})")
_YEARS = re.compile(r"(?:(?:19|20)[0-9]{2}[^0-9]*)+")


def _at_bank(match: re.Match[str]) -> bool:
    return _BANKS.search(_before(match, 14)) is not None


def _account(match: re.Match[str]) -> int | None:
    groups = [len(group) for group in re.findall("[0-9]+", match[0])]
    if not 10 <= sum(groups) <= 14 or _YEARS.fullmatch(match[0]):
        return None
    if max(groups) < 5 and sum(size >= 3 for size in groups) < 2:  # 2004-08-14-16
        return None
    loose = (match["joint"] or "-") in " ."  # may be figures of a table
    if not _at_bank(match) and (loose or not _says(match, _STRONG_BANKS, after=12)):
        return None
    if _AMOUNT.match(_after(match, 4)) or _last(_OTHER, text := _before(match, _NEAR)) > _last(
        _STRONG_BANKS, text
    ):
        return None
    return match.start()


def _digits(text: str) -> str:
    return _NO_DIGITS.sub("", text)


# ── network addresses ───────────────────────────────────────────────────────────────────────────

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(
    rf"(?<![0-9A-Za-z.*])(?<![0-9]-){_OCTET}(?:\.{_OCTET}){{3}}(?![0-9A-Za-z*]|\.[0-9*]|/[0-9]{{1,2}}(?![0-9])|-[0-9])"
)
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{1,4}:){0,6}(?::?[0-9A-Fa-f]{1,4}){1,7}(?![0-9A-Za-z:])"
)
_IP_WORDS = re.compile(
    r"(?<![A-Za-z])IPs?(?:v[46])?(?![A-Za-z])|아이피|접속|차단|서버|로그에|client|from|host|remote",
    re.IGNORECASE,
)
# What stands behind an address: a verb of visitors, or the next fields of an access log.
_VISITS = re.compile(r" - \S+ \[|(?:이|가|은|는)? ?에서 ?(?:접속|로그인|공격|요청)")
_VERSION_WORDS = re.compile(
    r"버전|버젼|버[\s]?전|version|(?<![A-Za-z])v(?:er)?\.?$|릴리[스즈]|빌드|build|펌웨어|플레이어|player|패치|업데이트|"
    r"절|항|표|장|목차|크롬|chrome|SDK|NET|SSL|lib|OS|Windows",
    re.IGNORECASE,
)
_RESOLVERS = frozenset(("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "168.126.63.1", "168.126.63.2", "164.124.101.2"))  # fmt: skip


def _ipv4(match: re.Match[str]) -> int | None:
    address = ipaddress.IPv4Address(match[0])
    if not address.is_global or address.is_multicast or match[0] in _RESOLVERS:
        return None
    text = _before(match, _NEAR)
    word, version = _last(_IP_WORDS, text), _last(_VERSION_WORDS, text)
    if word >= 0 or version >= 0:
        return match.start() if word > version else None
    if _VISITS.match(_after(match, 16)):
        return match.start()
    octets = address.packed
    unmistakable = octets[0] >= 27 and sum(octet >= 100 for octet in octets) >= 2
    return match.start() if unmistakable else None


def _ipv6(match: re.Match[str]) -> int | None:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return None
    return match.start() if address.is_global and match[0].count(":") >= 4 else None


EMAILS = (Rule("email", _EMAIL, _email), Rule("email", _SPELT, _spelt))
PASSPORT = Rule("passport", _PASSPORT, _passport)
IPV6 = Rule("ip", _IPV6, _ipv6)
NUMBERS = (
    Rule("resident_number", _RESIDENT, _resident, 13),
    Rule("foreigner_number", _FOREIGNER, _resident, 13),
    Rule("driver_licence", _LICENCE, _licence, 12, "12"),
    Rule("driver_licence", _OLD_LICENCE, _licence, 10),
    Rule("phone", _MOBILE, _mobile, 10, "(+80"),
    Rule("phone", _LANDLINE, _landline, 9, "(+80"),
    Rule("phone", _SERVICE, _service, 8, "1"),
    Rule("card", _CARD, _card, 16, "34569"),
    Rule("card", _AMEX, _card, 15, "3"),
    Rule("business_number", _BUSINESS, _business, 10),
    Rule("account", _ACCOUNT, _account, 10),
    Rule("ip", _IPV4, _ipv4, 4),
)
