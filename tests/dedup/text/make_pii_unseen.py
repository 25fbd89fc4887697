"""Writes `pii_unseen.jsonl`: lines with personal data marked, and lines that only look like it.

    python tests/dedup/text/make_pii_unseen.py > tests/dedup/text/pii_unseen.jsonl

Written from the specification and the published forms of the numbers by someone who had read neither
the detector nor the first labelled set; the file was frozen before the detector was run on it once
(the scores of that first look stand in `test_pii_unseen.py`). Every number is made up by a seeded
generator. A line is `{"text", "spans": [[kind, begin, end], …], "about"}`, positions in code points; `about`
names the form or, of a line without spans, what it looks like.

Left out, because the specification does not decide them: private addresses (192.168.…), numbers
that are placeholders by sight (123-45-67890 behind "사업자등록번호"), e-mail written with words
("골뱅이"), `git@github.com`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

Numbers = random.Random(202611)


def digits(count: int) -> str:
    return "".join(Numbers.choice("0123456789") for _ in range(count))


def one(*choices: str) -> str:
    return Numbers.choice(choices)


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────


def birth(century: int) -> str:
    year = Numbers.randint(40, 99) if century == 19 else Numbers.randint(0, 24)
    return f"{year:02}{Numbers.randint(1, 12):02}{Numbers.randint(1, 28):02}"


def resident() -> tuple[str, str]:
    century = Numbers.choice([19, 19, 19, 20])
    head, tail = birth(century), one(*("12" if century == 19 else "34")) + digits(6)
    joint = one("-", "-", "-", "-", " - ", " ", "–", "")
    return f"{head}{joint}{tail}", "plain" if joint == "" else "resident"


def foreigner() -> tuple[str, str]:
    century = Numbers.choice([19, 19, 20])
    head, tail = birth(century), one(*("56" if century == 19 else "78")) + digits(6)
    joint = one("-", "-", "-", " - ", "")
    return f"{head}{joint}{tail}", "plain" if joint == "" else "foreigner"


def passport() -> tuple[str, str]:
    letter = one("M", "M", "M", "M", "S", "R")
    new = f"{letter}{digits(3)}{one(*'ABCDEFGHJKLMNPQRSTUVWXYZ')}{digits(4)}"
    return one(f"{letter}{digits(8)}", new), "passport"


def driver() -> tuple[str, str]:
    region = one(*(f"{code}" for code in [*range(11, 27), 28]))
    year = f"{Numbers.choice([*range(75, 100), *range(25)]):02}"
    number = f"{year}-{digits(6)}-{digits(2)}"
    place = one("서울", "경기", "부산", "대구", "인천", "충남", "전북", "경남")
    return one(f"{region}-{number}", f"{region}-{number}", f"{place} {number}"), "driver"


def exchange(count: int) -> str:
    return one(*"23456789") + digits(count - 1)


def phone() -> tuple[str, str]:
    form = Numbers.randrange(20)
    joint = one("-", "-", ".", " ")
    if form < 7:
        return f"010{joint}{exchange(4)}{joint}{digits(4)}", "mobile"
    if form == 7:
        return f"010{exchange(4)}{digits(4)}", "mobile, digits only"
    if form == 8:
        return one(f"+82-10-{exchange(4)}-{digits(4)}", f"+82 10 {exchange(4)} {digits(4)}",
                   f"+8210{exchange(4)}{digits(4)}", f"+82 (0)10-{exchange(4)}-{digits(4)}"), "+82"  # fmt: skip
    if form == 9:
        return f"{one('011', '016', '017', '018', '019')}-{exchange(3)}-{digits(4)}", "old mobile"
    if form == 10:
        return one(f"02){exchange(3)}-{digits(4)}", f"(02){exchange(4)}-{digits(4)}",
                   f"(02) {exchange(3)}-{digits(4)}", f"031){exchange(3)}-{digits(4)}"), "bracket"  # fmt: skip
    if form <= 12:
        return f"02{joint}{exchange(Numbers.choice([3, 4]))}{joint}{digits(4)}", "Seoul"
    if form <= 14:
        area = one("031", "032", "033", "041", "042", "043", "044", "051", "052", "053", "054",
                   "055", "061", "062", "063", "064")  # fmt: skip
        return f"{area}-{exchange(3)}-{digits(4)}", "area"
    if form == 15:
        return f"070-{exchange(4)}-{digits(4)}", "internet"
    if form == 16:
        return f"{one('0502', '0504', '0505', '0507')}-{exchange(4)}-{digits(4)}", "safe number"
    if form == 17:
        return f"080-{exchange(3)}-{digits(4)}", "free call"
    if form == 18:
        head = one("1544", "1566", "1577", "1588", "1599", "1600", "1644", "1661", "1670", "1688",
                   "1800", "1833", "1899")  # fmt: skip
        return f"{head}-{digits(4)}", "service number"
    return one(f"010 - {exchange(4)} - {digits(4)}", f"010–{exchange(4)}–{digits(4)}",
               f"010){exchange(4)}-{digits(4)}", f"010-{exchange(4)}{digits(4)}"), "mobile, odd"  # fmt: skip


ACCOUNTS: list[tuple[str, Callable[[], str]]] = [
    ("국민은행", lambda: f"{digits(6)}-{one('01', '02', '04')}-{digits(6)}"),
    ("KB국민", lambda: f"{digits(6)}-04-{digits(6)}"),
    ("신한은행", lambda: f"110-{digits(3)}-{digits(6)}"),
    ("신한", lambda: f"110-{digits(3)}-{digits(6)}"),
    ("우리은행", lambda: f"1002-{digits(3)}-{digits(6)}"),
    ("하나은행", lambda: f"{digits(3)}-{digits(6)}-{digits(5)}"),
    ("농협", lambda: f"302-{digits(4)}-{digits(4)}-{digits(2)}"),
    ("농협은행", lambda: f"301-{digits(4)}-{digits(4)}-{digits(2)}"),
    ("기업은행", lambda: f"{digits(3)}-{digits(6)}-{digits(2)}-{digits(3)}"),
    ("카카오뱅크", lambda: f"3333-{digits(2)}-{digits(7)}"),
    ("토스뱅크", lambda: f"1000-{digits(4)}-{digits(4)}"),
    ("케이뱅크", lambda: f"100-{digits(3)}-{digits(6)}"),
    ("새마을금고", lambda: f"9002-{digits(4)}-{digits(4)}-{digits(1)}"),
    ("우체국", lambda: f"{digits(6)}-01-{digits(6)}"),
    ("SC제일은행", lambda: f"{digits(3)}-20-{digits(6)}"),
    ("부산은행", lambda: f"101-{digits(4)}-{digits(4)}-{digits(2)}"),
    ("대구은행", lambda: f"{digits(3)}-{digits(2)}-{digits(6)}-{digits(1)}"),
    ("신협", lambda: f"131-{digits(3)}-{digits(6)}"),
    ("수협", lambda: f"{digits(3)}-{digits(2)}-{digits(6)}"),
    ("씨티은행", lambda: f"{digits(3)}-{digits(6)}-{digits(3)}"),
]


def luhn(body: str) -> str:
    total = sum(
        sum(divmod(2 * int(d), 10)) if place % 2 == 0 else int(d)
        for place, d in enumerate(reversed(body))
    )
    return body + str(-total % 10)


def card() -> tuple[str, str]:
    if Numbers.random() < 0.15:
        number = luhn("37" + digits(12))
        joint = one("-", " ")
        return joint.join((number[:4], number[4:10], number[10:])), "amex"
    head = one("4", "51", "52", "53", "54", "55", "9410", "6210", "3569")
    number = luhn(head + digits(15 - len(head)))
    joint = one("-", "-", "-", " ", " ", "")
    return joint.join(number[at : at + 4] for at in range(0, 16, 4)), "card"


def business() -> tuple[str, str]:
    head = f"{Numbers.randint(101, 899)}{Numbers.randint(1, 89):02}{digits(4)}"
    total = sum(int(d) * w for d, w in zip(head, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=True))
    number = head + str(-(total + int(head[8]) * 5 // 10) % 10)
    if Numbers.random() < 0.15:
        return number, "plain"
    return f"{number[:3]}-{number[3:5]}-{number[5:]}", "business"


def email() -> tuple[str, str]:
    name = one("minsu", "jiyoung", "hong.gildong", "kimsh", "sora_lee", "ceo", "help", "park-jh",
               "dahye", "yoon", "news", "contact", "h2o", "x", "webmaster", "tax.bill")  # fmt: skip
    name += one("", "", digits(2), digits(4), f"_{digits(2)}", f"+{one('shop', 'news')}")
    host = one("naver.com", "gmail.com", "hanmail.net", "daum.net", "nate.com", "kakao.com",
               "korea.kr", "snu.ac.kr", "cs.kaist.ac.kr", "mail.company.co.kr", "hani.co.kr",
               "example.org", "startup.io", "me.or.kr", "hotmail.com", "kt.com", "lab.re.kr",
               "photo.studio")  # fmt: skip
    written = f"{name}@{host}"
    return (written.upper() if Numbers.random() < 0.05 else written), "email"


def address() -> tuple[str, str]:
    first = Numbers.choice([1, 14, 27, 39, 58, 61, 106, 112, 118, 121, 125, 175, 183, 203, 211, 218, 220, 223])  # fmt: skip
    four = f"{first}.{Numbers.randint(0, 255)}.{Numbers.randint(0, 255)}.{Numbers.randint(1, 254)}"
    form = Numbers.randrange(10)
    if form < 7:
        return four, "IPv4"
    part = lambda: f"{Numbers.randint(0x100, 0xFFFF):x}"  # noqa: E731
    return one(
        f"2404:6800:{part()}:{part()}::{part()}",
        f"2001:2d8:{part()}:{part()}:{part()}:{part()}:{part()}:{part()}",
        f"240e:{part()}:{part()}::1",
    ), "IPv6"


# ── sentences: {} is the number ─────────────────────────────────────────────────────────────────

NAMES = ("김민수", "이서연", "박준호", "최은영", "정하늘", "강도윤", "윤지우", "한소라")

SENTENCES: dict[str, tuple[str, ...]] = {
    "resident": (
        "주민등록번호: {}", "주민번호 {} 로 조회해 주세요.", "성명 {name}, 주민등록번호 {}, 주소 서울시 마포구",
        "제 주민번호는 {}입니다.", "피고인 {name} ({})", "본인 확인을 위해 {}을 입력하였다.",
        "{name}({}, 남) 외 2명", "신청인 {name} 주민등록번호 {} 연락처는 아래와 같습니다.",
        "이름과 주민번호({})가 그대로 노출되어 있습니다", "등본을 보니 세대주 {name} {} 로 나와 있다",
        "주민번호 뒷자리까지 {} 다 적으라고 하던데요", "jumin={}&name={name}",
    ),
    "foreigner": (
        "외국인등록번호: {}", "외국인 등록번호 {}", "체류자 {name}, 외국인등록번호 {}, 비자 E-9",
        "등록증을 보면 {} 라고 적혀 있어요.", "외국인등록증 번호는 {}입니다.", "응우옌 반 민({}), 베트남",
        "국내거소신고번호 {}", "사업주는 근로자의 외국인등록번호({})를 신고한다.",
        "왕리({}) 씨는 지난달 입국했다", "ARC No. {}",
    ),
    "passport": (
        "여권번호: {}", "여권번호 {} 만료일 2029-03-01", "여권 {} 을 분실했습니다.", "제 여권번호는 {}이고 영문 이름은 HONG입니다.",
        "Passport No. {}", "passport number: {}", "{name}, 여권 번호 {}, 생년월일 1990년 3월 1일",
        "예약 시 여권번호({})를 입력하세요", "분실 여권: {}", "출국자 명단 - {name} (여권 {})",
        "여권번호가 {}인 분을 찾습니다",
    ),
    "driver": (
        "운전면허번호: {}", "운전면허 {} (1종 보통)", "면허번호 {} 로 등록된 차량", "{name}의 운전면허번호는 {}입니다.",
        "면허증에 적힌 {} 를 입력해 주세요", "렌터카 예약: {name}, 면허 {}", "운전면허증 번호 [{}]",
        "2종 보통 면허번호: {}", "면허번호({})와 생년월일이 필요합니다.", "자동차운전면허증 {} 갱신 기간 안내",
    ),
    "phone": (
        "연락처: {}", "문의는 {} 로 해주세요.", "전화 {}", "{name} {}", "Tel. {}", "TEL : {} / FAX 없음",
        "{}으로 전화 주시면 됩니다", "☎ {}", "휴대폰 번호가 {}인데 바뀌었어요.", "급하신 분은 {} 문자 주세요!",
        "담당자 {name}({})에게 문의", "고객센터 {} (평일 9시~18시)", "<p>전화번호: {}</p>", "핸드폰 {}입니다.",
        "{} 연락 바랍니다", "예약문의★{}★", "분실물 습득하신 분 {}", "전화:{},이메일:없음", "대표번호 {} 운영시간 10:00-19:00",
        "서울시 강남구 테헤란로 123 4층 {}", "카톡이나 {}번으로 연락",
    ),
    "card": (
        "카드번호: {}", "카드번호 {} 유효기간 12/27", "신용카드 {} 로 결제했습니다.", "제 카드가 {}인데 정지해 주세요",
        "체크카드 번호 {}", "card number {}", "결제 카드 {} / 일시불", "분실 카드번호는 {}입니다.",
        "{} 카드로 자동이체", "법인카드({}) 사용 내역", "Visa {} exp 08/26",
    ),
    "business": (
        "사업자등록번호: {}", "사업자 등록번호 {}", "사업자번호 {} 대표 {name}", "상호: 한빛상사 | 사업자등록번호 : {} | 대표자 {name}",
        "(주)늘봄 사업자등록번호 {} 통신판매업신고 제2019-서울강남-01234호", "Business License {}",
        "세금계산서 발행: {} 로 부탁드립니다.", "사업자등록번호({})", "사업자 {} 조회 결과 계속사업자",
        "공급자 등록번호 {}", "COMPANY : 바른마켓 / 사업자번호 : {}",
    ),
    "email": (
        "이메일: {}", "문의: {}", "{}으로 보내 주세요.", "{name} 기자 {}", "메일은 {} 입니다", "<{}>", "E-mail : {}",
        "담당자({})에게 회신 바랍니다.", "{name} {}", "보내는 사람: {name} <{}>", "자료는 {}로 요청하시면 됩니다.",
        "mailto:{}", "제 주소는 {}.", "아이디 {}, 비밀번호는 잊었습니다", "{}/{name}", "저작권자 문의({})",
    ),
    "ip": (
        "접속 IP: {}", "IP {} 에서 로그인했습니다.", "작성자 아이피 {}", "ip주소는 {}입니다.", "공격자는 {}에서 접속하였다.",
        "client {} - GET /index.html 200", "차단된 주소: {}", "서버({})가 응답하지 않습니다", "{} - - [10/Oct/2023:13:55:36 +0900] \"GET / HTTP/1.1\" 200",
        "host={}", "로그에 {} 가 찍혀 있네요", "DNS를 {}으로 바꿨습니다.", "[{}] 님이 입장하셨습니다",
    ),
}  # fmt: skip

ACCOUNT_SENTENCES = (
    "{bank} {} {name}", "{bank} {} 예금주 {name}", "입금계좌: {bank} {}", "계좌번호 : {} ({bank})",
    "{} {bank} {name}", "후원계좌 {bank} {} (사단법인 나눔)", "{bank} 계좌 {}로 보내주세요.",
    "{bank}: {}", "환불은 {bank} {} 로 부탁드려요", "회비는 {bank} {}({name})으로 입금",
    "{bank}/{}/{name}", "{name} {bank} {}", "무통장입금 {bank} {}",
)  # fmt: skip

MAKERS: dict[str, Callable[[], tuple[str, str]]] = {
    "resident": resident, "foreigner": foreigner, "passport": passport, "driver": driver,
    "phone": phone, "card": card, "business": business, "email": email, "ip": address,
}  # fmt: skip
SHARES = {"phone": 140, "email": 70}

# Where a number's form says nothing (13 or 10 digits in a row), only a sentence that names it.
PLAIN = {
    "resident": ("주민등록번호: {}", "주민번호 {} 로 조회해 주세요.", "제 주민번호는 {}입니다."),
    "foreigner": ("외국인등록번호: {}", "외국인 등록번호 {}", "외국인등록번호({})"),
    "business": ("사업자등록번호: {}", "사업자번호 {} 대표 {name}", "사업자등록번호({})"),
}


def line(sentence: str, kind: str, number: str, about: str, **words: str) -> dict[str, object]:
    before, after = sentence.split("{}")
    fill = {"name": one(*NAMES), **words}
    before, after = (part.replace("{name}", fill["name"]).replace("{bank}", fill.get("bank", "")) for part in (before, after))  # fmt: skip
    spans = [[kind, len(before), len(before) + len(number)]]
    return {"text": before + number + after, "spans": spans, "about": about}


def positives() -> list[dict[str, object]]:
    lines = []
    for kind, make in MAKERS.items():
        for _ in range(SHARES.get(kind, 60)):
            number, about = make()
            sentences = PLAIN[kind] if about == "plain" else SENTENCES[kind]
            lines.append(line(one(*sentences), kind, number, f"{kind}: {about}"))
    for _ in range(80):
        bank, make_account = Numbers.choice(ACCOUNTS)
        number, about = make_account(), "account"
        if Numbers.random() < 0.15:
            number, about = number.replace("-", ""), "account, digits only"
        lines.append(line(one(*ACCOUNT_SENTENCES), "account", number, about, bank=bank))
    return lines


def several() -> list[dict[str, object]]:
    """Lines with more than one number: a signature, a form, a footer."""
    forms = (
        ("phone", " / ", "email"), ("business", " 대표 한소라 전화 ", "phone"),
        ("resident", " 연락처 ", "phone"), ("phone", " 접속 ", "ip"), ("email", " 문의 ", "phone"),
        ("passport", " 여권, 면허 ", "driver"), ("phone", ", 팩스 ", "phone"),
    )  # fmt: skip
    leads = {"passport": "여권번호 ", "business": "사업자등록번호 ", "resident": "신청인 "}
    lines = []
    for _ in range(50):
        first, between, second = Numbers.choice(forms)
        text = leads.get(first, one("", "문의: ", "연락처 "))
        spans = []
        for kind in (first, second):
            number, about = MAKERS[kind]()
            while about == "plain":
                number, about = MAKERS[kind]()
            spans.append([kind, len(text), len(text) + len(number)])
            text += number + (between if kind is first and len(spans) == 1 else "")
        text += one("", "", " 감사합니다", " (2019-04-05 기준)", "\n주문번호 2019040512345")
        lines.append({"text": text, "spans": spans, "about": "several"})
    return lines


# ── what only looks like it ─────────────────────────────────────────────────────────────────────

R = Numbers.randint


def day(joint: str = "-") -> str:
    return f"{R(1950, 2025)}{joint}{R(1, 12):02}{joint}{R(1, 28):02}"


def barcode(head: str) -> str:
    body = head + digits(12 - len(head))
    return body + str(-sum(int(d) * (3 if at % 2 else 1) for at, d in enumerate(body)) % 10)


# Years of people and of reigns whose first is also the head of a service number.
YEARS = (
    "토머스 홉스(1588-1679)", "루벤스(1577-1640)", "허난설헌(1563-1589)", "제임스 1세(1566-1625)",
    "칼데론(1600-1681)", "청나라(1644-1912)", "강희제의 치세(1661-1722)", "아우구스트 2세(1670-1733)",
    "알렉산더 포프(1688-1744)", "윌리엄 길버트 (1544-1603)", "크롬웰 1599-1658", "브람스 1833-1897년",
    "1800-1891년의 인구 변화", "히치콕은 1899-1980 사이에 살았다", "도요토미 연간 1577-1598",
    "1588-1598년 사이의 기록", "실록 1644-1661년 부분",
)  # fmt: skip
CHEATS: dict[str, Callable[[], str]] = {
    "order number": lambda: one(
        f"주문번호 {day('')}{digits(8)}", f"주문번호: {day('')}-{digits(7)}", f"주문 번호 {digits(10)}",
        f"결제번호 {digits(12)}", f"접수번호 {R(2010, 2025)}-{digits(6)}", f"Order #{digits(9)}",
        f"예약번호 {one('A', 'H', 'R')}{digits(7)} 확인", f"운송장번호 {digits(4)}-{digits(4)}-{digits(4)}",
        f"송장 {digits(12)} (한진택배)", f"주문번호 20{digits(6)}0101{digits(4)}",
        f"민원 접수번호 1AA-{R(2001, 2412)}-{digits(7)}"),
    "version": lambda: one(
        f"버전 {R(1, 20)}.{R(0, 9)}.{R(0, 30)}.{R(0, 99)}", f"v{R(1, 9)}.{R(0, 9)}.{R(0, 9)}.{R(0, 200)} 업데이트",
        f"Chrome/{R(80, 130)}.0.{R(3000, 6500)}.{R(10, 200)} Safari/537.36", f"펌웨어 {R(1, 3)}.0.{R(0, 20)}.{R(0, 99)} 배포",
        f"Windows 10.0.{R(14000, 22999)}.{R(1, 999)}", f"release {R(1, 9)}.{R(0, 20)}.{R(0, 20)}", f"TensorFlow {R(1, 2)}.{R(0, 15)}.{R(0, 3)}-rc{R(0, 2)}",
        f"AssemblyVersion(\"{R(1, 9)}.{R(0, 9)}.{R(0, 9)}.{R(0, 9)}\")", f"Visual Studio {R(14, 17)}.{R(0, 9)}.{R(1, 40)}.{R(0, 9)} 버전에서",
        f"드라이버 버전: {R(1, 30)}.{R(0, 99)}.{R(0, 200)}.{R(0, 250)}"),
    "section": lambda: one(
        f"{R(1, 9)}.{R(1, 9)}.{R(1, 9)}.{R(1, 9)}절 참조", f"제{R(1, 9)}.{R(1, 9)}.{R(1, 9)}항", f"그림 {R(1, 9)}.{R(1, 9)}.{R(1, 9)}.{R(1, 9)}",
        f"OID 1.3.6.1.4.1.{R(300, 9999)}.{R(1, 20)}.{R(1, 9)}"),
    "coordinates": lambda: one(
        f"{R(33, 38)}.{digits(4)}, {R(124, 131)}.{digits(4)}", f"위도 {R(33, 38)}.{digits(6)} 경도 {R(124, 131)}.{digits(6)}",
        f"({R(33, 38)}.{digits(14)}, {R(124, 131)}.{digits(13)})", f"{R(33, 38)}°{R(10, 59)}'{R(10, 59)}.{digits(2)}\"N",
        f"LatLng({R(33, 38)}.{digits(6)},{R(124, 131)}.{digits(6)})"),
    "ISBN": lambda: one(
        f"ISBN 978-89-{digits(4)}-{digits(3)}-{digits(1)}", f"ISBN {barcode('97889')}", f"ISBN: 89-{digits(4)}-{digits(3)}-{digits(1)}",
        f"{barcode('97911')} 종이책", f"ISSN {digits(4)}-{digits(4)}", f"979-11-{digits(5)}-{digits(2)}-{digits(1)} (93000)"),
    "date": lambda: one(
        day(), day("."), day("/"), f"{day()} {R(10, 23)}:{R(10, 59)}:{R(10, 59)}", f"{day('.')}~{day('.')}",
        f"생년월일 {R(50, 99)}{R(1, 12):02}{R(1, 28):02}", f"{day('')}T{R(10, 23)}{R(10, 59)}{R(10, 59)}Z", f"timestamp {R(1400000000, 1700000000)}",
        f"ts={R(1400000000000, 1700000000000)}", f"{day('')}-{day('')}", f"{R(2001, 2025)}년 {R(1, 12)}월 {R(1, 28)}일 02-03시",
        f"{R(1, 12):02}-{R(1, 28):02}-{R(1950, 2025)}", f"기간: {R(2001, 2025)}-{R(2001, 2025)}"),
    "price": lambda: one(
        f"{R(1, 999)},{digits(3)},{digits(3)}원", f"가격 {R(1, 99)},{digits(3)}~{R(100, 999)},{digits(3)}원", f"매출 {R(1, 9)},{digits(3)},{digits(3)},{digits(3)}원",
        f"총 {digits(10)}원이 집행되었다", f"₩{R(100000, 99999999)}", f"$1,{digits(3)}.{digits(2)}", f"예산 {R(1000, 9999)}억 {R(1000, 9999)}만원",
        f"시가총액 {R(100, 999)}조{R(1000, 9999)}억원"),
    "model": lambda: one(
        f"SM-{one('G', 'N', 'S')}{digits(3)}N", f"모델명 NT{digits(3)}XDA-K{digits(2)}A", f"LG 그램 {R(14, 17)}Z{digits(2)}0-GA{digits(2)}K", f"부품번호 M{digits(8)}",
        f"품번 {one('S', 'G', 'R')}{digits(8)} 입고", f"i7-{R(7, 13)}{digits(3)}K", f"RTX {R(20, 40)}{R(5, 9)}0", "ECHO M16A4 소총", f"규격 {digits(3)}-{digits(2)}-{digits(3)}",
        f"JIS B {digits(4)}-{R(1, 9)}:{R(1980, 2020)}", f"Part No. {digits(2)}-{digits(4)}-{digits(3)}", f"KS X {digits(4)}:{R(1980, 2020)}",
        f"CVE-{R(2010, 2025)}-{digits(5)}"),
    "hash": lambda: one(
        f"commit {Numbers.getrandbits(160):040x}", f"커밋 {Numbers.getrandbits(28):07x} 참조", f"md5: {Numbers.getrandbits(128):032x}",
        f"sha256:{Numbers.getrandbits(256):064x}", f"{Numbers.getrandbits(32):08x}-{digits(4)}-4{digits(3)}-a{digits(3)}-{Numbers.getrandbits(48):012x}",
        f"guid {{{Numbers.getrandbits(32):08X}-{digits(4)}-{digits(4)}-{digits(4)}-{digits(12)}}}", f"0x{Numbers.getrandbits(64):016x}",
        f"revision {digits(7)}", f"index {Numbers.getrandbits(28):07x}..{Numbers.getrandbits(28):07x} 100644"),
    "product code": lambda: one(
        f"바코드 {barcode('880')}", f"상품코드 {barcode('880')}", f"상품번호 {digits(10)}", f"EAN {barcode('49')}", f"품목코드 {digits(3)}-{digits(5)}",
        f"관리번호 {digits(5)}-{digits(6)}", f"로트번호 LOT{day('')[2:]}-{digits(4)}", f"시리얼 {digits(4)}-{digits(4)}-{digits(4)}-{digits(3)}A",
        f"SKU {digits(8)}-{digits(2)}", f"허가번호 {digits(2)}-{digits(4)}"),
    "public number": lambda: one(
        f"특허 제10-{digits(7)}호", f"출원번호 10-{R(2001, 2025)}-00{digits(5)}", f"의안번호 20{digits(5)}", f"{R(2001, 2025)}가합{digits(6)} 판결",
        f"대법원 {R(1990, 2025)}다{digits(5)}", f"통신판매업신고 제{R(2005, 2025)}-서울강남-{digits(5)}호", f"문서번호 99-13-{digits(6)}-{digits(2)}",
        f"우편번호 {digits(3)}-{digits(3)}", f"제{R(2001, 2025)}-{digits(3)}호 고시", f"학번 20{R(10, 24)}{digits(5)}", f"법령 제{digits(5)}호 ({day('.')})",
        f"카카오뱅크({R(100000, 400000)}) 주가", f"KB금융 105560 {R(50000, 90000)}원"),
    "near a bank": lambda: one(
        f"국민은행이 {day()} 발표한 자료", f"우리은행 금리는 {R(1, 6)}.{digits(2)}%였다", f"하나은행 {day('.')} 기준 {R(1, 9)},{digits(3)},{digits(3)}원",
        f"신한은행 {R(1980, 2000)}-{R(2001, 2020)}년 실적", f"한국은행 기준금리 {R(0, 5)}.{R(0, 75):02}%", f"농협 조합원 {R(1, 9)}{digits(2)},{digits(3)}명",
        f"기업은행 직원 {digits(5)}명", f"은행나무 {digits(3)}-{digits(2)}번지", f"국민은행 {R(1, 9)}층 {digits(3)}호", "은행 업무시간 09:00-16:00",
        f"우체국 택배 운송장 {digits(13)}"),
    "technical": lambda: one(
        f"npm install react@{R(15, 18)}.{R(0, 9)}.{R(0, 9)}", f"lodash@^4.{R(1, 17)}.{R(0, 21)}", "logo@2x.png 파일", "@media (max-width: 768px)",
        "root@localhost:~$ ls", f"user@host:~/work$ make -j{R(2, 9)}", f"@user{digits(3)} 님 감사합니다", f"subnet 255.255.{one('255', '0')}.0", "127.0.0.1:8080 에서 실행",
        "0.0.0.0 으로 바인드", f"00:1{one(*'ABCDEF')}:{R(10, 99)}:3C:4D:{R(10, 99)}", f"std::vector<int>::size_type n{R(1, 9)}", f"요한복음 {R(1, 21)}:{R(1, 40)}:{R(41, 60)}", f"3.14159265358979{digits(2)}",
        f"0.{digits(16)}", f"rgba({R(0, 255)}, {R(0, 255)}, {R(0, 255)}, 0.{R(1, 9)})", f"width {digits(4)} height {digits(4)}", f"{R(10, 23)}:{R(10, 59)}:{R(10, 59)}.{digits(3)}",
        f"KST {R(10, 23)}:{R(10, 59)}:{R(10, 59)}", f"ratio 16:9:{R(1, 9)}", f"[{R(1, 9)}, {digits(4)}, {digits(4)}, {digits(4)}]", f"id={digits(15)}",
        f"ffff::{one('map', 'fmt')} 네임스페이스", f"토큰 {digits(6)}-{digits(6)}"),
    "years": lambda: one(*YEARS),
    "count": lambda: one(
        f"조회수 {digits(7)}", f"{digits(3)}-{digits(4)}번 버스", f"인구 {R(100, 999)},{digits(3)}명", f"p. {digits(4)}-{digits(4)}", f"{digits(2)}-{digits(2)}로 이겼다",
        f"pp. {R(100, 400)}–{R(401, 800)}", f"좌석 {R(1, 40)}-{R(1, 4)}", f"로또 {R(1, 9)} {R(10, 15)} {R(16, 23)} {R(24, 30)} {R(31, 38)} {R(39, 45)}",
        f"아이디 {digits(11)}", f"제{R(1, 30)}조제{R(1, 9)}항", f"{R(2, 9)}{digits(2)}-{digits(4)}-{digits(4)} 품목", f"선거구 {digits(2)}-{digits(3)}", f"국번없이 {one('112', '119', '110', '120', '182')}",
        f"계량기 {digits(2)}-{digits(8)}"),
}  # fmt: skip
AROUND = (
    "{}",
    "{}",
    "• {}",
    "{} 확인 바랍니다.",
    "이것은 {} 입니다",
    "표 3: {}",
    "({})",
    "| {} | 완료 |",
    "자세한 내용은 {} 를 보세요",
)


def negatives() -> list[dict[str, object]]:
    lines = []
    for about, make in CHEATS.items():
        lines += [
            {"text": one(*AROUND).replace("{}", make()), "spans": [], "about": about}
            for _ in range(30 if about == "years" else 55)
        ]
    return lines


if __name__ == "__main__":
    for item in [*positives(), *several(), *negatives()]:
        print(json.dumps(item, ensure_ascii=False))
