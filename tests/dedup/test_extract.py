"""Extraction: the article without what stands round it, whatever the charset is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedup.extract import decode, extract
from dedup.formats.pages import responses

PAGE = """<!doctype html><html lang="ko"><head><meta charset="{charset}">
<title>마을 축제 안내 - 가람신문</title></head><body class="has-sidebar page">
<div id="gnb"><ul><li><a href="/">첫화면</a></li><li><a href="/n">새소식</a></li></ul></div>
<nav>차림표 하나 둘 셋</nav>
<div class="container"><h1>마을 축제 안내</h1><div class="article_body">
<p>이번 주말 가람마을에서 축제가 열린다. 많은 주민이 찾아올 것으로 보인다. 음식은 모두 무료다.</p>
<div class="ad-banner">지금 가입하면 반값으로 드려요</div>
<p>주최 측은 비가 와도 연다고 밝혔다. <code><span class="token comment"># 설명</span></code></p></div>
<div class="sns_share">이 글 나누기</div>
<section id="comments" class="comment-list"><h3>의견 2</h3><ul class="comment_ul">
<li>정말 가 보고 싶네요 언제까지 하나요</li><li>작년에는 조금 붐볐습니다</li></ul></section>
<div class="related-articles"><h4>함께 볼 글</h4><ul><li>다른 마을의 겨울 잔치</li></ul></div></div>
<footer>가람신문이 만든다</footer></body></html>"""
NOISE = ["첫화면", "차림표", "반값", "나누기", "붐볐", "함께 볼", "겨울 잔치", "만든다"]


def test_navigation_adverts_comments_and_related_articles_are_left_out() -> None:
    page = extract(PAGE.format(charset="utf-8").encode())
    assert "음식은 모두 무료다." in page.text
    assert "비가 와도 연다고" in page.text
    assert "# 설명" in page.text  # a highlighter's "comment" is not a comment
    assert not [noise for noise in NOISE if noise in page.document]
    assert page.title == "마을 축제 안내 - 가람신문"


def test_the_title_opens_the_document_only_where_the_text_does_not() -> None:
    assert extract(PAGE.format(charset="utf-8").encode()).document.count("축제 안내") == 1
    bare = PAGE.format(charset="utf-8").replace("<h1>마을 축제 안내</h1>", "")
    assert extract(bare.encode()).document.startswith("마을 축제 안내 - 가람신문\n\n이번 주말")


def test_code_in_pre_is_fenced_and_a_letter_in_pre_is_not() -> None:
    body = (
        "<html><body><main><h1>자전거 계산기</h1><p>먼저 아래와 같이 적고 저장합니다. 이름은 바꿔도 됩니다.</p>"
        "<pre><code><span>import</span> math\ndef 면적(r):\n    return math.pi * r</code></pre>"
        "<p>그다음에는 편지를 한 통 씁니다. 어렵지 않습니다.</p>"
        "<pre>그리운 벗에게\n  잘 지내고 있는지 궁금하네.</pre></main></body></html>"
    )
    text = extract(body.encode()).text
    assert "```\nimport math\ndef 면적(r):\n    return math.pi * r\n```" in text
    assert text.count("```") == 2
    assert "그리운 벗에게\n  잘 지내고" in text


@pytest.mark.parametrize("header", [None, "utf-8", "euc-kr", "ks_c_5601-1987", "iso-8859-1", "x?"])
@pytest.mark.parametrize("meta", ["utf-8", "euc-kr"])
@pytest.mark.parametrize("real", ["utf-8", "cp949"])
def test_header_and_meta_tag_may_lie_about_the_charset(
    header: str | None, meta: str, real: str
) -> None:
    page = extract(
        PAGE.format(charset=meta).replace("열린다", "열린다. 뷁똠방각하").encode(real), header
    )
    assert "뷁똠방각하" in page.text  # in CP949, not in EUC-KR
    assert page.charset == real


def test_a_byte_order_mark_wins_and_is_no_text() -> None:
    assert decode(b"\xef\xbb\xbf" + "가".encode()) == ("가", "utf-8")
    assert decode("\ufeff가나".encode("utf-16-le"), "cp949")[0] == "가나"


def test_bytes_that_are_no_text_raise_and_a_few_broken_ones_do_not() -> None:
    with pytest.raises(ValueError, match="neither UTF-8 nor CP949"):
        decode(bytes([0x80, 0xFF, 0x81, 0x20] * 50))
    text, charset = decode(("가나다라마바사 " * 40).encode() + b"\xea\xb0")
    assert charset == "utf-8"
    assert text.count("\ufffd") == 1


def test_real_pages_keep_their_text_whatever_their_headers_say(shared_data: Path) -> None:
    pages = 0
    for response in responses(str(shared_data / "html_ko" / "pages.warc.gz")):
        page = extract(response.body, response.charset)
        assert "\ufffd" not in page.text
        assert "Search in all modules" not in page.text
        pages += bool(page.text)
        if pages == 250:
            break
    assert pages == 250


PROSE = "오래된 우물 둘레에 아이들이 모여 앉아 할머니의 이야기를 듣던 저녁을 아직도 기억한다."


def test_a_list_of_prose_near_the_body_stays_and_a_list_of_links_goes() -> None:
    items = "".join(f"<li><p>{n}째로, {PROSE}</p></li>" for n in ("첫", "둘", "셋"))
    links = "".join(f'<li><a href="/{n}">차림표 {n}</a></li>' for n in range(9))
    for around in ("{}", "<div>{}</div>", "<div><div>{}</div></div>"):
        body = around.format(f"<ul>{links}</ul><h1>우물</h1><p>{PROSE}</p><ul>{items}</ul>")
        text = extract(f"<html><body>{body}</body></html>".encode()).text
        assert text.count("째로") == 3
        assert "차림표" not in text


def test_a_boxed_text_called_sidebar_stays_and_a_bar_of_links_goes() -> None:
    links = "".join(f'<a href="/{n}">지난 글 {n}</a> ' for n in range(20))
    box = f'<div class="sidebar"><p><strong>토막글</strong> 낱말</p><p>{PROSE * 3}</p></div>'
    bar = f'<div class="sidebar"><p>{links}</p></div>'
    page = f"<html><body><h1>우물</h1><p>{PROSE}</p>{box}<p>{PROSE}</p>{bar}</body></html>"
    text = extract(page.encode()).text
    assert "토막글" in text
    assert "지난 글" not in text


def test_a_page_inside_one_form_keeps_its_text_and_still_loses_its_navigation() -> None:
    menu = '<div id="gnb"><ul><li><a href="/">첫화면</a></li></ul></div>'
    page = (
        f'<html><body><form id="aspnetForm">{menu}<div><h1>알림</h1><p>{PROSE}</p><p>{PROSE}</p>'
        '<input value="찾기"><select><option>고르기</option></select></div></form></body></html>'
    )
    text = extract(page.encode()).text
    assert text.count("우물") == 2
    assert not [word for word in ("첫화면", "찾기", "고르기") if word in text]


def test_scripts_longer_than_the_text_do_not_bring_the_navigation_back() -> None:
    script = f"<script>var data = {'[1,2,3],' * 3000}</script>"
    menu = '<div class="related_articles"><p>함께 볼 글</p></div>'
    page = f"<html><body>{script}{menu}<div><h1>우물</h1><p>{PROSE}</p></div></body></html>"
    text = extract(page.encode()).text
    assert "우물" in text
    assert "함께" not in text


def test_the_header_of_the_site_goes_and_that_of_the_article_stays() -> None:
    page = (
        "<html><body><header><a href='/'>가람신문 7.4</a></header><div><article><header><h1>우물 이야기</h1>"
        f"<p>글 홍길동</p></header><p>{PROSE}</p></article></div></body></html>"
    )
    text = extract(page.encode()).text
    assert "우물 이야기" in text
    assert "가람신문" not in text
