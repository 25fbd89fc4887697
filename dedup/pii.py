"""Personal data → the same text with the data starred out.

In: texts. Out: texts whose resident numbers, telephone numbers, e-mail addresses, card, account and
business numbers read `900101-*******`-like stars, with what they were and how many. The form stays
(separators, and the public prefix of a telephone number), so that a model still learns where such
things stand; the digits go.

Resident numbers issued since October 2020 have random tails: a checksum must not be asked for. A
valid date and gender digit around a hyphen are enough; without the hyphen a word such as
주민등록번호 has to stand before it. Everything else needs what makes it that and nothing else: a real
prefix, Luhn's digit, a bank's name near it, the business number's own check digit (weights 1, 3, 7,
1, 3, 7, 1, 3, 5). So versions, orders, ISBNs, coordinates, dates and spans of years stay.
"""

from __future__ import annotations

import calendar
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

# No part of a longer number or of a hash; but TEL010-… and HP010-… are written so.
_BEFORE = r"(?:(?<![0-9A-Za-z])|(?<=[Tt][Ee][Ll])|(?<=[HhCc][Pp]))(?<![0-9][-.])"
_AFTER = r"(?![0-9A-Za-z])(?![-.][0-9])"
_ROUND = 48  # characters looked at on both sides of a number; more than any rule reaches
_NEAR = 20  # characters before a number in which a word counts as its context


@dataclass(frozen=True)
class Masked:
    """texts: with the data starred out. counts: how many in each text. kinds: how many of each."""

    texts: pa.Array
    counts: list[int]
    kinds: Counter[str]


def mask(texts: pa.Array) -> Masked:
    """Star out personal data. Idempotent: what it writes is no longer recognised."""
    kinds: Counter[str] = Counter()
    counts: list[int] = []
    masked: list[str] = []
    changed = False
    for text in texts.to_pylist():
        before = kinds.total()
        result = mask_text(text, kinds)
        counts.append(kinds.total() - before)
        changed = changed or counts[-1] > 0
        masked.append(result)
    return Masked(pa.array(masked, pa.large_string()) if changed else texts, counts, kinds)


def mask_text(text: str, kinds: Counter[str] | None = None) -> str:
    """One text; what was found is added to `kinds`."""
    found: Counter[str] = Counter() if kinds is None else kinds
    if "@" in text:
        text = _apply(text, "email", _EMAIL, _email, found)
    parts: list[str] = []
    at = 0
    for start, end in _regions(text):
        part = text[start:end]
        for kind, pattern, replace in _RULES:
            part = _apply(part, kind, pattern, replace, found)
        parts += [text[at:start], part]
        at = end
    return "".join([*parts, text[at:]]) if parts else text


def _regions(text: str) -> list[tuple[int, int]]:
    """Where numbers of seven digits and more stand, with what is round them as their context.

    Seven rules that each walk the whole text take ten times as long as one that finds these.
    """
    regions: list[tuple[int, int]] = []
    for match in _NUMBER.finditer(text):
        start, end = max(0, match.start() - _ROUND), match.end() + _ROUND
        if regions and start <= regions[-1][1]:
            regions[-1] = (regions[-1][0], end)
        else:
            regions.append((start, end))
    return regions


_Replace = Callable[[re.Match[str]], str | None]


def _apply(
    text: str, kind: str, pattern: re.Pattern[str], replace: _Replace, found: Counter[str]
) -> str:
    def one(match: re.Match[str]) -> str:
        new = replace(match)
        if new is None:
            return match[0]
        found[kind] += 1
        return new

    return pattern.sub(one, text)


def _stars(text: str) -> str:
    return re.sub("[0-9]", "*", text)


def _digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)


def _context(match: re.Match[str], words: re.Pattern[str], *, after: int = 0) -> bool:
    text, start, end = match.string, match.start(), match.end()
    if words.search(text[max(0, start - _NEAR) : start].rpartition("\n")[2]):
        return True
    return bool(after and words.search(text[end : end + after].partition("\n")[0]))


# ── e-mail ──────────────────────────────────────────────────────────────────────────────────────

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+*-])[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}@"
    r"((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,24}))(?![A-Za-z0-9-]|:[\w~/])"
)
_FILE_SUFFIXES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json", "md", "py"}


def _email(match: re.Match[str]) -> str | None:
    if match[2].lower() in _FILE_SUFFIXES:  # icon@2x.png
        return None
    return "****@" + re.sub("[A-Za-z0-9-]+", "****", match[1])


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────

# Seven digits or more with at most one separator between two: without it none of the rules fits.
_NUMBER = re.compile(r"[0-9](?:[-.·/) ]{0,2}[0-9]){6}")

_RESIDENT = re.compile(
    _BEFORE + r"([0-9]{2})([0-9]{2})([0-9]{2})( ?[-–] ?|)([0-9])([0-9]{6})" + _AFTER
)
_RESIDENT_WORDS = re.compile("주민|외국인 ?등록|등록 ?번호|생년월일")
_OTHER_NUMBER_WORDS = re.compile(
    "주문|송장|운송장|접수|예약|문서|제품|모델|버전|관리 ?번호|사건|일련|바코드|ISBN|order|serial",
    re.IGNORECASE,
)


def _resident(match: re.Match[str]) -> str | None:
    year, month, day, separator, gender = (match[i] for i in range(1, 6))
    if _context(match, _RESIDENT_WORDS):
        return _stars(match[0])
    if not separator or gender in "09" or _context(match, _OTHER_NUMBER_WORDS):
        return None
    full = (1900 if gender in "1256" else 2000) + int(year)
    if not 1 <= int(month) <= 12 or not 1 <= int(day) <= calendar.monthrange(full, int(month))[1]:
        return None
    return _stars(match[0])


_GAP = r"[-–. ·/]"
_MOBILE = re.compile(
    _BEFORE
    + r"((?:\+?82[-. ]?(?:\(0\))?)?0?1[016789])("
    + _GAP
    + r"{0,2}[0-9]{3,4}"
    + _GAP
    + r"{0,2}[0-9]{4})"
    + _AFTER
)
_LANDLINE = re.compile(
    _BEFORE
    + r"((?:\+82[-. ]?|\(?0)(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|50[2-9]?|80|60)\)?)("
    + _GAP + r"{0,2}[0-9]{3,4}" + _GAP + r"{0,2}[0-9]{4})" + _AFTER
)  # fmt: skip
_SERVICE = re.compile(
    _BEFORE
    + r"(15(?:22|33|44|66|77|88|99)|16(?:00|11|22|33|44|55|61|66|68|70|77|88|99)|18(?:00|11|22|33|44|55|66|77|99))"
    + r"([-– .]?)([0-9]{4})" + _AFTER
)  # fmt: skip
_PHONE_WORDS = re.compile(
    "전화|연락|문의|번호|휴대|핸드폰|폰|팩스|상담|고객|센터|대표|예약|콜|☎|☏|📞|📱|(?i:tel|fax|phone|call|mobile|h\\.?p|fax)"
)


def _mobile(match: re.Match[str]) -> str | None:
    prefix, rest = match[1], match[2]
    if not prefix.startswith(("0", "+")) and not prefix.startswith("82"):
        return None  # "16 123 4567"
    if prefix[0] != "0" and len(_digits(prefix)) < 4:
        return None
    if "." in rest and "-" not in rest and rest.count(".") == 1:
        return None  # 010123.4567
    return prefix + _stars(rest)


def _landline(match: re.Match[str]) -> str | None:
    prefix, rest = match[1], match[2]
    separated = re.match(_GAP + "|", rest[:1]) and not rest[0].isdigit()
    split = re.fullmatch(_GAP + r"{0,2}[0-9]{3,4}" + _GAP + r"{1,2}[0-9]{4}", rest) is not None
    if not ((separated or prefix.endswith(")")) and split) and not _context(match, _PHONE_WORDS):
        return None
    if _context(match, _OTHER_NUMBER_WORDS) and not _context(match, _PHONE_WORDS):
        return None
    return prefix + _stars(rest)


def _service(match: re.Match[str]) -> str | None:
    first, separator, second = match[1], match[2], match[3]
    if _context(match, _PHONE_WORDS, after=10):
        return first + separator + "****"
    a_range = int(first) <= int(second)  # 1592-1598, or 1600-3000 of something
    if separator not in ("-", "–") or a_range or _context(match, _OTHER_NUMBER_WORDS):
        return None
    return first + separator + "****"


_CARD = re.compile(_BEFORE + r"[3-69][0-9]{3}([- ]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}" + _AFTER)
_AMEX = re.compile(_BEFORE + r"3[47][0-9]{2}([- ]?)[0-9]{6}\1[0-9]{5}" + _AFTER)
_CARD_WORDS = re.compile("카드|결제|(?i:card|visa|master)")


def _card(match: re.Match[str]) -> str | None:
    digits = _digits(match[0])
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    if total % 10 or not (match[1] or _context(match, _CARD_WORDS)):
        return None
    return _stars(match[0])


_ACCOUNT = re.compile(_BEFORE + r"(?:[0-9]{2,7}(?:[- ][0-9]{1,8}){1,4}|[0-9]{10,14})" + _AFTER)
_BANKS = re.compile(
    "은행|뱅크|농협|수협|신협|새마을금고|우체국|신한|하나|우리|국민|기업|산업|제일|씨티|대구|부산|경남|광주|전북|제주|KB|NH|IBK|SC|KDB|계좌|예금주|입금|송금"
)
_STRONG_BANK = re.compile(
    "은행|뱅크|농협|수협|신협|새마을금고|우체국|계좌|예금주|입금|송금|KB|NH|IBK|신한"
)


def _account(match: re.Match[str]) -> str | None:
    if not 10 <= len(_digits(match[0])) <= 14:
        return None
    if _context(match, _STRONG_BANK, after=12) or re.search(
        f"(?:{_BANKS.pattern})[ :)]{{0,3}}$",
        match.string[max(0, match.start() - 12) : match.start()],
    ):
        return _stars(match[0])
    return None


_BUSINESS = re.compile(_BEFORE + r"[0-9]{3}([- ]?)[0-9]{2}\1[0-9]{5}" + _AFTER)
_BUSINESS_WORDS = re.compile("사업자")
_WEIGHTS = (1, 3, 7, 1, 3, 7, 1, 3, 5)


def _business(match: re.Match[str]) -> str | None:
    named = _context(match, _BUSINESS_WORDS)
    digits = [int(digit) for digit in _digits(match[0])]
    total = sum(digit * weight for digit, weight in zip(digits, _WEIGHTS, strict=False))
    total += digits[8] * 5 // 10
    if named or (match[1] == "-" and (10 - total % 10) % 10 == digits[9]):
        return _stars(match[0])
    return None


_RULES: tuple[tuple[str, re.Pattern[str], _Replace], ...] = (
    ("resident_number", _RESIDENT, _resident),
    ("phone", _MOBILE, _mobile),
    ("phone", _LANDLINE, _landline),
    ("phone", _SERVICE, _service),
    ("card", _CARD, _card),
    ("card", _AMEX, _card),
    ("business_number", _BUSINESS, _business),
    ("account", _ACCOUNT, _account),
)
