"""Templates, most written by hand → pii_labelled.jsonl: Korean lines with the personal data marked.

`python tests/dedup/text/make_pii_labelled.py` writes the file anew, the same bytes each time. It was
written from the specification (issue 3), before the detector was changed for it:

  resident_number   YYMMDD-GNNNNNN, valid date, G 1-4 (9, 0: born before 1900), any tail (random
                    since October 2020); with a space or without anything between only beside a
                    word such as 주민등록번호
  foreigner_number  the same with G 5-8
  passport          letter + 8 digits or M123A4567, beside 여권 or passport
  driver_licence    RR-YY-NNNNNN-CC or 서울 YY-NNNNNN-CC, and 12 digits beside 면허
  phone             mobile numbers in any spelling; others separated, or beside a word; 15XX-NNNN
  account           10 to 14 digits beside a bank or 계좌
  card              Luhn; separated, or beside 카드
  business_number   3-2-5 with its check digit, or any beside 사업자
  email, ip         ip: public ones; a quad that may be a version only beside a word such as IP

Nobody's data: mobile and other numbers begin their second part with 0 (never assigned), resident
numbers fail the checksum of their time, cards come from the test ranges, addresses from example.*.
One template in three, drawn by a seed, is held out: the detector was not tuned on it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
r = random.Random(20261121)


def digits(count: int) -> str:
    return "".join(r.choice("0123456789") for _ in range(count))


def pick(*choices: str) -> str:
    return r.choice(choices)


# ── personal data, by form ──────────────────────────────────────────────────────────────────────


def resident(genders: str = "1234") -> tuple[str, str]:
    gender = r.choice(genders)
    year = r.randint(40, 99) if gender in "1256" else r.randint(0, 24)
    first = f"{year:02}{r.randint(1, 12):02}{r.randint(1, 28):02}"
    while True:
        tail = gender + digits(6)
        total = sum(
            int(d) * w
            for d, w in zip(first + tail, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False)
        )
        if (11 - total % 11) % 10 != int(tail[-1]):
            return first, tail


def resident_form(form: str, genders: str) -> str:
    first, tail = resident(genders)
    joint = {"bare": "", "space": " ", "wide": " - ", "dash": "-", "en": "–"}
    if not form:
        form = r.choice(["dash"] * 6 + ["wide", "en"])
    if form == "context":
        form = r.choice(["dash", "dash", "bare", "bare", "space", "wide"])
    return first + joint[form] + tail


def passport(form: str) -> str:
    if form == "new" or (not form and r.random() < 0.4):
        return r.choice("MSRGD") + digits(3) + r.choice("ABCDEFGHJKLMNP") + digits(4)
    return r.choice("MMMSRGDP") + digits(8)


REGIONS = [
    "11",
    "12",
    "13",
    "14",
    "15",
    "16",
    "17",
    "18",
    "19",
    "20",
    "21",
    "22",
    "23",
    "24",
    "25",
    "26",
    "28",
]


def licence(form: str) -> str:
    if form == "bare":
        return r.choice(REGIONS) + f"{r.randint(75, 99)}" + digits(8)
    if form == "old" or (not form and r.random() < 0.25):
        city = pick("서울", "부산", "경기", "강원", "충북", "전남", "경북", "제주", "대구", "인천")
        return f"{city}{pick(' ', '')}{r.randint(75, 99)}-{digits(6)}-{digits(2)}"
    if form == "space":
        return f"{r.choice(REGIONS)} {digits(2)} {digits(6)} {digits(2)}"
    return f"{r.choice(REGIONS)}-{digits(2)}-{digits(6)}-{digits(2)}"


AREAS = [
    "02",
    "031",
    "032",
    "033",
    "041",
    "042",
    "043",
    "044",
    "051",
    "052",
    "053",
    "054",
    "055",
    "061",
    "062",
    "063",
    "064",
]
SERVICES = "1522 1544 1566 1577 1588 1599 1600 1644 1661 1666 1670 1688 1800 1833 1855 1877 1899"


def phone(form: str) -> str:
    if form == "context":
        form = r.choice([*PHONE_FORMS, "land_bare", "service_bare", "service_dot", "land_space"])
    if not form:
        form = r.choice(list(PHONE_FORMS))
    if form == "mobile":
        form = r.choice(["dash", "bare", "space", "dot", "plus", "closing"])
    if form == "land":
        form = r.choice(["land_dash", "land_closing", "land_paren", "voip"])
    middle, last = "0" + digits(3), digits(4)
    area = r.choice(AREAS)
    local = "0" + digits(r.choice([2, 3]))
    service = r.choice(SERVICES.split())
    forms = {
        "dash": f"010-{middle}-{last}",
        "bare": f"010{middle}{last}",
        "space": f"010 {middle} {last}",
        "wide": f"010 - {middle} - {last}",
        "dot": f"010.{middle}.{last}",
        "middle_dot": f"010·{middle}·{last}",
        "paren": f"(010){middle}-{last}",
        "paren_space": f"(010) {middle}-{last}",
        "closing": f"010){middle}-{last}",
        "half": f"010-{middle}{last}",
        "half2": f"010{middle}-{last}",
        "en": f"010–{middle}–{last}",
        "plus": f"+82-10-{middle}-{last}",
        "plus_space": f"+82 10 {middle} {last}",
        "plus_mixed": f"+82 10-{middle}-{last}",
        "plus_zero": f"+82 (0)10-{middle}-{last}",
        "plus_paren": f"(+82) 10-{middle}-{last}",
        "plus_bare": f"+8210{middle}{last}",
        "old": f"{pick('011', '016', '017', '018', '019')}-0{digits(2)}-{last}",
        "old4": f"{pick('011', '016', '017', '019')}-{middle}-{last}",
        "land_dash": f"{area}-{local}-{last}",
        "land_closing": f"{area}){local}-{last}",
        "land_paren": f"({area}){local}-{last}",
        "land_paren_space": f"({area}) {local}-{last}",
        "land_dot": f"{area}.{local}.{last}",
        "land_plus": f"+82-{area[1:]}-{local}-{last}",
        "land_plus_space": f"+82 {area[1:]} {local} {last}",
        "voip": f"070-{middle}-{last}",
        "free": f"080-0{digits(2)}-{last}",
        "safe": f"050{pick('2', '4', '5', '7', '8')}-{middle}-{last}",
        "service": f"{service}-{digits(4)}",
    }
    if form == "land_bare":
        return f"{area}{local}{last}"
    if form == "land_space":
        return f"{area} {local} {last}"
    if form == "service_bare":
        return service + digits(4)
    if form == "service_dot":
        return f"{service}.{digits(4)}"
    return forms[form]


PHONE_FORMS = ["dash", "dash", "dash", "bare", "bare", "space", "wide", "dot", "middle_dot", "paren", "paren_space", "closing", "half", "half2", "en", "plus", "plus_space", "plus_mixed", "plus_zero", "plus_paren", "plus_bare", "old", "old4", "land_dash", "land_dash", "land_closing", "land_paren", "land_paren_space", "land_dot", "land_plus", "land_plus_space", "voip", "voip", "free", "safe", "safe", "service"]  # fmt: skip


def account(form: str) -> str:
    shapes = {
        "kb": "NNNNNN-NN-NNNNNN", "shinhan": "110-NNN-NNNNNN", "woori": "1002-NNN-NNNNNN", "hana": "NNN-NNNNNN-NNNNN",
        "nh": "3NN-0NNN-NNNN-N1", "kakao": "3333-NN-NNNNNNN", "toss": "1000-NNNN-NNNN", "post": "NNNNNN-NN-NNNNNN",
        "sc": "NNN-20-NNNNNN", "mg": "9002-NNNN-NNNN-N", "old": "NNN-NN-NNNNN-N", "bare": "1NNNNNNNNNNN", "bare13": "3NNNNNNNNNNNN",
        "bare14": "NNNNNNNNNNNNNN", "bare11": "0NNNNNNNNNN", "space": "110 NNN NNNNNN", "wide": "1002 - NNN - NNNNNN", "dot": "110.NNN.NNNNNN",
    }  # fmt: skip
    if not form:
        form = r.choice(list(shapes))
    number = re.sub("N", lambda _: digits(1), shapes[form])
    return account(form) if re.match("01[016789]", number) else number


def luhn(first: str, length: int) -> str:
    body = first + digits(length - len(first) - 1)
    total = sum(
        sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10)) for i, d in enumerate(reversed(body))
    )
    return body + str(-total % 10)


def card(form: str) -> str:
    if form == "amex" or (not form and r.random() < 0.15):
        number = luhn("3782822", 15)
        return f"{number[:4]}-{number[4:10]}-{number[10:]}"
    number = luhn(pick("400000", "411111", "555555", "510510", "601111", "941000", "356600"), 16)
    joint = {"bare": "", "space": " ", "dash": "-"}
    if form == "context":
        form = pick("bare", "dash", "space")
    return joint[form or pick("dash", "dash", "space")].join(
        number[i : i + 4] for i in range(0, 16, 4)
    )


def business(form: str, valid: bool = True) -> str:
    first = f"{r.randint(101, 899)}{r.choice('012348')}{digits(1)}{digits(4)}"
    total = (
        sum(int(d) * w for d, w in zip(first, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=True))
        + int(first[8]) * 5 // 10
    )
    number = first + str(((10 - total % 10) + (0 if valid else r.randint(1, 9))) % 10)
    joint = {"dash": "-", "space": " ", "bare": "", "wide": " - "}[
        pick("dash", "dash", "bare", "space") if form == "context" else form or "dash"
    ]
    return joint.join((number[:3], number[3:5], number[5:]))


def email(form: str) -> str:
    name = pick("minji.lee", "hong_gildong", "kim.cs", "park1984", "contact", "info", "sales-team", "jh.choi", "student2023", "help+kr", "y", "ceo", "sujin_92", "DevTeam", "press")  # fmt: skip
    host = pick("example.com", "example.net", "example.org", "mail.example.co.kr", "office.example.go.kr", "cs.example.ac.kr", "my-shop.example.kr", "Example.COM", "sub.mail.example.io")  # fmt: skip
    if form == "spaced":
        return f"{name} @ {host}"
    if form == "at":
        return f"{name}{pick('(at)', '[at]', '(골뱅이)')}{host}"
    return f"{name}@{host}"


def ip(form: str) -> str:
    octet = lambda low=100, high=254: r.randint(low, high)  # noqa: E731
    if form == "v6":
        return pick(
            f"2001:2d8:{r.randint(4096, 65535):x}:{r.randint(4096, 65535):x}::{r.randint(1, 255):x}",
            ":".join(f"{r.randint(4096, 16383 if i == 0 else 65535) | (0x2000 if i == 0 else 0):x}" for i in range(8)),
        )  # fmt: skip
    if form == "short":
        return f"{pick('1', '14', '27', '39', '49', '58')}.{octet(2, 99)}.{octet(2, 99)}.{octet(2, 99)}"
    return f"{pick('58', '61', '110', '112', '118', '121', '125', '175', '182', '203', '211', '218', '220', '223')}.{octet()}.{octet(2, 254)}.{octet()}"


POSITIVE: dict[str, Callable[[str], str]] = {
    "resident_number": lambda form: resident_form(form, "1234"),
    "foreigner_number": lambda form: resident_form(form, "5678"),
    "passport": passport,
    "driver_licence": licence,
    "phone": phone,
    "account": account,
    "card": card,
    "business_number": business,
    "email": email,
    "ip": ip,
}

# ── what only looks like it ─────────────────────────────────────────────────────────────────────


def date(joint: str = "-") -> str:
    return joint.join(
        (f"{r.randint(1950, 2026)}", f"{r.randint(1, 12):02}", f"{r.randint(1, 28):02}")
    )


def not_luhn() -> str:
    number = luhn(pick("4000", "5555", "9410", "1234"), 16)
    number = number[:-1] + str((int(number[-1]) + r.randint(1, 9)) % 10)
    return "-".join(number[i : i + 4] for i in range(0, 16, 4))


def hexa(count: int) -> str:
    return "".join(r.choice("0123456789abcdef") for _ in range(count))


NEGATIVE: dict[str, Callable[[], str]] = {
    "order": lambda: pick(f"{date('')}-{digits(7)}", f"{date('')}{digits(6)}", f"{date('')}-{digits(3)}", f"{r.randint(20, 26)}{r.randint(1, 12):02}{r.randint(1, 28):02}-{r.randint(1, 4)}{digits(6)}", f"ORD-{digits(4)}-{digits(6)}", f"{digits(3)}-{digits(7)}-{digits(7)}"),
    "tracking": lambda: pick(digits(12), f"{digits(4)}-{digits(4)}-{digits(4)}", "6" + digits(12), f"{digits(5)}-{digits(4)}-{digits(4)}", f"EE{digits(9)}KR", "010" + digits(7)),
    "version": lambda: pick(f"{r.randint(1, 19)}.{r.randint(0, 9)}.{r.randint(0, 30)}.{r.randint(0, 99)}", f"10.0.{r.randint(10000, 22999)}.{r.randint(100, 2999)}", f"{r.randint(80, 130)}.0.{r.randint(4000, 6999)}.{r.randint(10, 200)}", f"{r.randint(1, 9)}.{r.randint(0, 99)}.{digits(7)}", f"11.2.202.{r.randint(200, 254)}"),
    "coordinate": lambda: f"{r.randint(33, 38)}.{digits(r.choice([6, 7]))}, {r.randint(124, 131)}.{digits(6)}",
    "isbn": lambda: pick(f"978-89-{digits(3)}-{digits(4)}-{digits(1)}", f"97889{digits(8)}", f"979-11-{digits(5)}-{digits(2)}-{digits(1)}", f"89-{digits(3)}-{digits(4)}-X", f"89-{digits(4)}-{digits(3)}-{digits(1)}"),
    "issn": lambda: f"{pick('1588', '1225', '1599', '2233', '1661')}-{digits(4)}",
    "date": lambda: pick(date(), date("."), date("/"), date(""), f"{date()} {r.randint(10, 23)}:{digits(1)}5:30", f"{date('')}T{r.randint(10, 23)}3000"),
    "years": lambda: pick(f"{(a := r.randint(1500, 1899))}-{a + r.randint(1, 60)}", f"{(b := r.randint(1900, 2010))}–{b + r.randint(1, 16)}", f"{(c := r.randint(1980, 2010))}~{c + 5}"),
    "price": lambda: pick(f"{r.randint(1, 99)},{digits(3)},{digits(3)}", f"{r.randint(1, 9)}{digits(7)}", f"{r.randint(100, 999)},{digits(3)}"),
    "table": lambda: " ".join(digits(r.choice([3, 4])).replace("0", "1", 1) for _ in range(r.randint(4, 6))),
    "big_table": lambda: " ".join("12345678"[r.randrange(8)] + digits(r.choice([5, 6])) for _ in range(r.randint(3, 5))),
    "model": lambda: pick(f"SM-G{digits(3)}N", f"NT950XED-K{digits(2)}A", f"KS-{digits(4)}-{digits(4)}", f"WF{digits(2)}T{digits(4)}KW", f"DT-{digits(3)}-{digits(6)}", f"M{digits(8)}"),
    "code": lambda: pick(f"031-{digits(4)}-{digits(4)}", f"010-{digits(4)}-{digits(4)}", f"070-{digits(4)}-{digits(4)}", f"02-{digits(3)}-{digits(4)}", f"1588-{digits(4)}"),
    "hash": lambda: pick(hexa(40), hexa(64), hexa(32), hexa(7) + digits(9), f"{hexa(8)}-{digits(4)}-4{digits(3)}-9{digits(3)}-{digits(12)}", f"{hexa(8)}-{hexa(4)}-4{hexa(3)}-a{hexa(3)}-{hexa(12)}"),
    "private_ip": lambda: pick(f"192.168.{r.randint(0, 254)}.{r.randint(1, 254)}", f"10.{r.randint(0, 254)}.{r.randint(0, 254)}.{r.randint(1, 254)}", f"172.{r.randint(16, 31)}.{r.randint(0, 254)}.{r.randint(1, 254)}", "127.0.0.1", "0.0.0.0", "255.255.255.0", f"169.254.{r.randint(1, 254)}.{r.randint(1, 254)}", "224.0.0.251"),
    "section": lambda: f"{r.randint(1, 12)}.{r.randint(1, 9)}.{r.randint(1, 9)}.{r.randint(1, 19)}",
    "not_card": not_luhn,
    "coupon": lambda: (n := luhn("4000", 16)) and "-".join(n[i : i + 4] for i in range(0, 16, 4)),
    "corporation": lambda: f"{pick('110111', '110112', '130111', '180111', '200111', '120111')}-{r.randint(0, 4)}{digits(6)}",
    "no_date": lambda: f"{digits(2)}{pick('13', '14', '19', '00', '99', '45')}{digits(2)}-{r.randint(1, 4)}{digits(6)}",
    "not_business": lambda: business("dash", valid=False),
    "timestamp": lambda: pick(f"16{digits(8)}", f"17{digits(8)}", f"16{digits(11)}"),
    "law": lambda: pick(f"제{digits(5).lstrip('0') or '7'}호", f"2023가합{digits(6)}", f"2019헌마{digits(4)}", f"제2024-{digits(3)}호", f"2018다{digits(6)}"),
    "patent": lambda: pick(f"10-{digits(7)}-0000", f"10-20{r.randint(10, 23)}-{digits(7)}", f"10-{digits(7)}"),
    "masked": lambda: pick("010-****-1234", "010-XXXX-XXXX", "9001**-1******", "110-***-******", "****-****-****-1234", "02-***-****", "010-○○○○-○○○○", "211.34.***.***", "ho***@naver.com"),
    "zip": lambda: pick(f"(0{digits(4)})", f"({r.randint(100, 799)}-{digits(3)})"),
    "binary": lambda: pick("0101" + "".join(r.choice("01") for _ in range(r.randint(4, 12))), "010" + "".join(r.choice("01") for _ in range(8))),
    "decimal": lambda: pick(f"3.{digits(12)}", f"0.{digits(9)}", f"-{digits(1)}.{digits(8)}e-05", f"010{digits(3)}.{digits(4)}"),
    "tender": lambda: pick(f"2024{digits(7)}-00", f"R24BK{digits(8)}-000", f"20{digits(2)}-{digits(6)}"),
    "barcode": lambda: "880" + digits(10),
    "not_email": lambda: pick("@handle_92", "icon@2x.png", "git@github.com:org/repo.git", "react@18.2.0", "@angular/core@12.0.1", "user@localhost", "root@web-01:~#", "logo@3x.jpg", "3@4", "lodash@^4.17.21", "@media.screen", "ubuntu@ip-10-0-0-5:~$", "build@v2.3.js"),
    "score": lambda: " ".join(f"{r.randint(15, 30)}-{r.randint(15, 30)}" for _ in range(5)),
    "part": lambda: f"{digits(2)}-{digits(3)}-{digits(2)}-{digits(4)}",
    "short_number": lambda: pick(digits(3), digits(5), digits(6), f"{r.randint(1, 99)}만"),
}  # fmt: skip


# ── writing ─────────────────────────────────────────────────────────────────────────────────────

_SLOT = re.compile(r"\{([a-z_]+)(?::([a-z0-9_]+))?\}|<([a-z_]+)>")
PER_TEMPLATE = 3


def fill(template: str) -> tuple[str, list[dict[str, object]]]:
    """A template with its slots filled, and where the personal data came to stand."""
    text, spans, at = "", [], 0
    for slot in _SLOT.finditer(template):
        text += template[at : slot.start()]
        at = slot.end()
        kind, form, other = slot.groups()
        if kind in POSITIVE:
            value = POSITIVE[kind](form or "")
            spans.append({"start": len(text), "end": len(text) + len(value), "kind": kind})
        elif other in NEGATIVE:
            value = NEGATIVE[other]()
        else:
            value = slot[0]
        text += value
    return text + template[at:], spans


def main() -> None:
    lines = (HERE / "pii_templates.txt").read_text("utf-8").splitlines()
    templates = [line for line in lines if line and not line.startswith("#")]
    held = set(random.Random(7).sample(range(len(templates)), len(templates) // 3))
    seen: set[str] = set()
    with (HERE / "pii_labelled.jsonl").open("w", encoding="utf-8") as file:
        for number, template in enumerate(templates):
            for _ in range(PER_TEMPLATE):
                text, spans = fill(template.removeprefix("-").replace("⏎", "\n"))
                if text in seen:
                    continue
                seen.add(text)
                line = {"text": text, "spans": spans, "held_out": number in held}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
