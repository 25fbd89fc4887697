"""What stands around a text on a page: adverts, comments, other articles, all of it made up.

A `Frame` draws them, the same ones for the same text in every build, and notes every phrase it drew:
these are not the text, and a test looks for them in what the data stage keeps.
"""

from __future__ import annotations

import html
import random

from configs.sample.texts import Text

_NAMES = (
    "바람개비", "동네한바퀴", "감자전", "새벽별", "은행나무", "노랑우산", "지나가는이", "달빛산책", "두부한모",
    "느티나무", "오늘도맑음", "주말농부", "골목대장", "하얀고래", "다람쥐둘", "귤까는사람", "물안개", "연필심",
)  # fmt: skip
_COMMENTS = {
    "notice": (
        "작년보다 안내가 자세해서 좋네요. 담당자님 고생 많으십니다.",
        "문의 전화가 계속 통화 중인데 답변은 여기서 받을 수 있나요?",
        "저희 동에는 안내문이 안 붙어서 이제야 봤습니다. 다음엔 문자로도 보내 주세요.",
        "일정 확인했습니다. 부모님께도 전해 드릴게요.",
        "주말에도 똑같이 적용되는지 궁금합니다.",
        "매번 공지가 늦어요. 일주일 전에는 올려 주셨으면 합니다.",
        "첨부파일이 안 열립니다. 다시 올려 주실 수 있을까요?",
        "덕분에 헛걸음 안 했네요. 감사합니다!",
        "작년에 가 봤는데 주차가 힘들었어요. 버스 타고 가시는 걸 추천합니다.",
        "신청했는데 확인 문자가 안 와요. 정상인가요?",
    ),
    "news": (
        "우리 동네 이야기가 기사로 나오니 신기하네요.",
        "기자님 후속 기사도 꼭 부탁드립니다.",
        "세금이 이렇게 쓰인다면 아깝지 않습니다.",
        "좋은 소식이긴 한데 반년 뒤에도 그대로일지 지켜보겠습니다.",
        "댓글 보고 왔는데 기사 내용이 제목보다 훨씬 좋네요.",
        "현장에 있었던 사람인데 분위기가 정말 훈훈했습니다.",
        "왜 좋은 일은 늘 작은 기사로만 나오나요.",
        "사진이 한 장뿐이라 아쉽습니다. 더 올려 주세요.",
        "할머니 댁 근처라 주말에 한번 들러 보려고요.",
        "숫자만 보면 대단한데 주민들 생각은 다를 수도 있겠네요.",
        "ㅋㅋㅋㅋ 마지막 문단 읽다가 빵 터졌습니다.",
    ),
    "howto": (
        "사흘 헤매다가 이 글 보고 십 분 만에 끝냈습니다. 복 받으세요!",
        "저는 두 번째 명령에서 권한 오류가 나는데 혹시 이유를 아시나요?",
        "즐겨찾기 해 놓고 매번 다시 봅니다.",
        "요즘 버전에서는 화면이 조금 다르더라고요. 그래도 흐름은 같습니다.",
        "설명이 차분해서 초보도 따라 할 수 있었어요.",
        "다음 편도 기다리겠습니다. 설정 파일 예제도 올려 주세요!",
        "저희 팀 신입에게 링크 보내 줬습니다.",
        "오타 제보합니다. 세 번째 줄에 띄어쓰기가 하나 더 들어갔어요.",
        "이런 글이 검색 첫 페이지에 나와야 하는데 말이죠.",
    ),
    "encyclopedia": (
        "두 번째 문단에 출처를 붙이면 좋겠습니다. 어디서 보셨나요?",
        "그림 자료가 하나쯤 있으면 이해가 빠를 것 같아요.",
        "문장이 길어서 둘로 나누었습니다. 확인 부탁드려요.",
        "지난달 토론에서 정한 표기와 다릅니다. 되돌려 주세요.",
        "초등학생 아이와 함께 읽었습니다. 고맙습니다.",
        "관련 항목 연결이 끊겨 있어서 고쳤어요.",
    ),
}  # fmt: skip
_ADVERTS = (
    "달구름 정수기 첫 달 렌털료 0원! 오늘 신청하면 사은품까지",
    "새별부동산 은가람역 5분 거리 신축 분양 마감 임박",
    "푹잠매트리스 백일 체험, 마음에 안 들면 무료 반품",
    "한끼뚝딱 밀키트 첫 주문 40% 할인 쿠폰 받기",
    "눈이편한안경 은빛나루점 개업 이벤트, 두 번째 안경 반값",
    "바로배송 새벽장보기 만 원 쿠폰 3장 즉시 지급",
    "튼튼치과 임플란트 상담 예약하고 스케일링 받으세요",
    "요금제 비교하고 통신비 절약하세요, 알뜰폰 가입 혜택",
    "자격증 한 번에 합격하는 인터넷 강의 무료 수강권",
    "여행은 역시 구름여행사, 제주 2박 3일 특가 상품 보기",
)
_POPULAR = (
    "요즘 뜨는 골목 카페 일곱 곳 총정리", "월세 계약 전에 꼭 물어볼 열 가지", "냉장고 정리만 잘해도 식비가 준다",
    "주말 나들이 추천, 걷기 좋은 강변길", "이번 주 로또보다 재미있는 퀴즈", "직장인이 뽑은 점심 메뉴 순위",
    "겨울 이불 세탁법 한눈에 보기", "초보 운전자가 자주 하는 실수", "반려식물 죽이지 않고 키우는 비결",
    "휴대전화 배터리 오래 쓰는 습관", "우리 아이 첫 자전거 고르기", "장바구니 물가 한 달 만에 내렸다",
)  # fmt: skip


class Frame:
    """Draws what surrounds one text, always the same for the same text, and notes what it drew."""

    def __init__(self, text: Text, kind: str) -> None:
        self.random = random.Random(f"frame of {text.id}")
        self.kind = kind
        self.absent: list[str] = []

    def say(self, phrase: str) -> str:
        self.absent.append(phrase)
        return html.escape(phrase, quote=False)

    def advert(self) -> str:
        return self.say(self.random.choice([a for a in _ADVERTS if a not in self.absent]))

    def popular(self, count: int) -> list[str]:
        return [self.say(title) for title in self.random.sample(_POPULAR, count)]

    def comments(self) -> list[tuple[str, str, str]]:
        """(name, time, comment) of three to five readers."""
        chosen = self.random.sample(_COMMENTS[self.kind], self.random.randint(3, 5))
        names = self.random.sample(_NAMES, len(chosen))
        return [
            (name, f"{self.random.randint(0, 23):02}:{self.random.randint(0, 59):02}", self.say(c))
            for name, c in zip(names, chosen, strict=True)
        ]
