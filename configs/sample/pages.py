"""A text → the HTML page of an invented Korean site: menus, adverts, comments, footer and all.

In: a text (title, author, date, body). Out: the markup, and the phrases of it that are *not* the
text, which a test then looks for in what the data stage keeps. The four layouts differ in what makes
extraction hard: a public office's table layout without a single semantic element, a newspaper with
adverts inside the article, a blog with code listings, an encyclopaedia with edit links. Everything a
page says and every address in it is made up.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

from configs.sample.frames import Frame
from configs.sample.texts import Text


@dataclass(frozen=True)
class Page:
    """markup: the page without its charset; absent: phrases of its frame, none of its text."""

    markup: str
    absent: tuple[str, ...]


def _paragraphs(body: str, *, lists: bool = True) -> list[str]:
    """The body's markup, a block an item: paragraphs, bullet lists and code listings."""
    blocks = []
    for part in re.split(r"(?s)(```.*?```)", body):
        if part.startswith("```"):
            code = part.strip("`").split("\n", 1)[1].rstrip("\n")
            blocks.append(f"<pre><code>{html.escape(code, quote=False)}\n</code></pre>")
            continue
        for paragraph in filter(None, (p.strip("\n") for p in part.split("\n\n"))):
            lines = [html.escape(line, quote=False) for line in paragraph.split("\n")]
            if lists and all(line.startswith("- ") for line in lines):
                items = "\n".join(f"  <li>{line[2:]}</li>" for line in lines)
                blocks.append(f"<ul>\n{items}\n</ul>")
            else:
                blocks.append("<p>" + "<br>\n".join(lines) + "</p>")
    return blocks


def office(text: Text) -> Page:
    """A public office's notice board as built around 2006: nested tables, no semantic element."""
    frame = Frame(text, "notice")
    title = html.escape(text.title, quote=False)
    body = "\n".join(_paragraphs(text.body, lists=False)).replace("<p>■", "<p>&nbsp;■")
    menu = " | ".join(
        f'<a href="/menu{i}.do">{frame.say(name)}</a>'
        for i, name in enumerate(
            ("전체메뉴보기", "민원서식 내려받기", "조직 및 직원 안내", "찾아오시는 길")
        )
    )
    comments = "\n".join(
        f'<div class="cmt_item"><b>{name}</b> <span>{time}</span><div class="cmt_txt">{comment}</div></div>'
        for name, time, comment in frame.comments()
    )
    popular = "".join(f"<tr><td>· <a href='#'>{p}</a></td></tr>" for p in frame.popular(4))
    before, after = frame.popular(2)
    return Page(
        f"""<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01 Transitional//EN">
<html>
<head>
<!--charset-->
<title>{title} &gt; 알림마당 &gt; 새별시 열린누리집</title>
<link rel="stylesheet" type="text/css" href="/css/board.css">
<script type="text/javascript">function goList() {{ location.href = "/board/list.do?page=1"; }}</script>
</head>
<body bgcolor="#ffffff" topmargin="0">
<table id="top_menu" class="gnb" width="960" align="center"><tr><td><img src="/img/logo.gif" alt="새별시"></td>
<td class="gnb_list">{menu}</td></tr></table>
<table width="960" align="center" cellpadding="0" cellspacing="0"><tr valign="top">
<td width="180">
<div class="lnb"><ul><li><a href="#">{frame.say("고시·공고·입찰정보")}</a></li><li><a href="#">{frame.say("시정소식지 신청")}</a></li></ul></div>
<div class="left_banner"><a href="http://ad.saebyeol.example/"><img src="/img/b1.gif"><br>{frame.advert()}</a></div>
<table class="popular_posts"><tr><th>인기글</th></tr>{popular}</table>
</td>
<td width="20">&nbsp;</td>
<td>
<div class="board_view">
<table width="100%" border="0" class="view_head"><tr><td class="subject"><h3>{title}</h3></td></tr>
<tr><td class="info">작성자 {text.author} | 등록일 {text.date} | 조회 {frame.random.randint(80, 4000)}</td></tr></table>
<div class="view_cont" id="view_cont">
{body}
</div>
<div class="sns_share"><a href="#">{frame.say("이 글을 페이스북으로 보내기")}</a> <a href="#">{frame.say("카카오톡 공유하기")}</a></div>
<div class="reply_area"><p class="cmt_count">{frame.say("한마디 남기기 (로그인 후 이용)")}</p>
{comments}
</div>
<table class="prev_next" width="100%"><tr><td>이전글</td><td><a href="#">{before}</a></td></tr>
<tr><td>다음글</td><td><a href="#">{after}</a></td></tr></table>
<div class="btn_area"><a href="javascript:goList();">목록</a></div>
</div>
</td></tr></table>
<div id="footer" class="footer"><p>{frame.say("(00000) 새별시 가온대로 1 새별시청 대표전화 000-0000")}</p>
<p>COPYRIGHT ⓒ SAEBYEOL CITY. ALL RIGHTS RESERVED.</p></div>
</body>
</html>
""",
        tuple(frame.absent),
    )


def newspaper(text: Text) -> Page:
    """A local newspaper's article page, with adverts inside the article."""
    frame = Frame(text, "news")
    title = html.escape(text.title, quote=False)
    blocks = _paragraphs(text.body)
    middle = min(2, len(blocks))
    blocks.insert(
        middle,
        f'<div class="ad_box" id="ad_mid"><span>AD</span> <a href="https://ad.example/c?x=1">{frame.advert()}</a></div>',
    )
    comments = "\n".join(
        f'<li class="reply_item"><strong>{name}</strong> <em>{text.date} {time}</em><p>{comment}</p>'
        f"<span>{frame.say(f'공감 {frame.random.randint(10, 90)} 비공감 {frame.random.randint(10, 20)}')}</span></li>"
        for name, time, comment in frame.comments()
    )
    related = "\n".join(
        f'<li><a href="/article/{i}">{p}</a></li>' for i, p in enumerate(frame.popular(3))
    )
    popular = "\n".join(
        f"<li><em>{i}</em> <a href='#'>{p}</a></li>" for i, p in enumerate(frame.popular(5), 1)
    )
    body = "\n".join(blocks)
    return Page(
        f"""<!DOCTYPE html>
<html lang="ko">
<head>
<!--charset-->
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta property="og:title" content="{html.escape(text.title)}">
<meta property="og:type" content="article">
<title>{title} - 새별신문</title>
<style>.ad_box{{border:1px solid #ccc}} .reply_item em{{color:#999}}</style>
<script>window.dataLayer = window.dataLayer || []; dataLayer.push({{"page": "article", "author": "기자"}});</script>
</head>
<body>
<header class="site-header">
<a href="/" class="logo">새별신문</a>
<nav class="gnb"><ul><li><a href="/politics">정치·행정</a></li><li><a href="/economy">경제·산업</a></li><li><a href="/life">{frame.say("생활·문화 전체보기")}</a></li><li><a href="/sports">스포츠</a></li></ul></nav>
<div class="user_menu"><a href="/login">로그인</a> <a href="/join">회원가입</a> <a href="/pdf">{frame.say("지면보기 PDF 구독신청")}</a></div>
</header>
<div class="top_banner">{frame.advert()}</div>
<div id="wrap">
<main>
<article class="article_view">
<h1 class="headline">{title}</h1>
<div class="info_line"><span class="byline">{text.author}</span> <span class="date">입력 {text.date} 09:{frame.random.randint(10, 59)}</span></div>
<div class="share_btns"><button>{frame.say("기사 스크랩하기")}</button><button>{frame.say("글자크기 크게 작게")}</button></div>
<div id="article_body" class="article_body" itemprop="articleBody">
{body}
</div>
</article>
<section class="related_articles"><h4>{frame.say("이 기사와 함께 보면 좋은 뉴스")}</h4><ul>
{related}
</ul></section>
<section id="comments" class="comment_area"><h4>댓글 {frame.random.randint(3, 9)}개</h4>
<p>{frame.say("타인을 비방하는 댓글은 관리자가 지울 수 있습니다")}</p>
<ul class="reply_list">
{comments}
</ul></section>
</main>
<aside class="sidebar">
<div class="popular_news"><h4>{frame.say("많이 본 뉴스")}</h4><ol>
{popular}
</ol></div>
<div class="banner_side"><a href="#">{frame.advert()}</a></div>
</aside>
</div>
<footer><ul><li><a href="#">신문사 소개</a></li><li><a href="#">{frame.say("청소년보호정책")}</a></li><li><a href="#">{frame.say("이메일무단수집거부")}</a></li></ul>
<address>{frame.say("(주)새별신문사 대표이사 홍두깨 새별시 은행나무길 00")}</address>
<p>ⓒ 새별신문 All rights reserved.</p></footer>
</body>
</html>
""",
        tuple(frame.absent),
    )


def blog(text: Text) -> Page:
    """A technical blog with listings in <pre>, a side bar and a thread of comments."""
    frame = Frame(text, "howto")
    title = html.escape(text.title, quote=False)
    body = "\n".join(_paragraphs(text.body))
    comments = "\n".join(
        f'<div class="comment-item" id="c{i}"><div class="meta"><b>{name}</b> <time>{time}</time></div>'
        f'<div class="desc"><p>{comment}</p></div><a href="#">답글달기</a></div>'
        for i, (name, time, comment) in enumerate(frame.comments())
    )
    recent = "\n".join(
        f'<li><a href="/{i}">{p}</a></li>' for i, p in enumerate(frame.popular(4), 101)
    )
    tags = " ".join(
        f'<a href="/tag/{t}">#{t}</a>' for t in ("개발일지", "서버관리", "초보환영", "메모")
    )
    return Page(
        f"""<!doctype html>
<html lang="ko">
<head>
<!--charset-->
<title>{title} :: 코드텃밭</title>
<link rel="alternate" type="application/rss+xml" href="/rss">
</head>
<body id="tt-body-page">
<div id="container">
<div class="header"><h2 class="blog-name"><a href="/">코드텃밭</a></h2>
<nav><a href="/category">{frame.say("분류 전체보기 (128)")}</a> <a href="/guestbook">방명록</a> <a href="/notice">공지</a></nav></div>
<div id="content">
<div class="entry">
<div class="title-wrap"><h1>{title}</h1><span class="info">{text.author} · {text.date}</span></div>
<div class="adsense-top">{frame.advert()}</div>
<div class="entry-content">
{body}
</div>
<div class="social-share"><a href="#">{frame.say("이 글 링크 복사하기")}</a></div>
<div class="another_category"><h4>{frame.say("'서버 일기' 카테고리의 다른 글")}</h4><table>
{"".join(f"<tr><th><a href='#'>{p}</a></th><td>2024.0{i}.1{i}</td></tr>" for i, p in enumerate(frame.popular(3), 1))}
</table></div>
<div class="comment-list"><h3>{frame.say("이웃님들의 댓글")}</h3>
{comments}
<form action="/comment"><input name="name" placeholder="이름"><textarea name="body"></textarea><button>등록</button></form>
</div>
</div>
</div>
<div class="sidebar" id="sidebar"><h3>최근 글</h3><ul>
{recent}
</ul>
<div class="side-banner">{frame.advert()}</div>
<div class="tag-cloud">{tags}</div><p class="counter">{frame.say(f"오늘 방문자 {frame.random.randint(20, 300)}명 / 전체 {frame.random.randint(10000, 90000)}명")}</p></div>
<div id="footer" class="blog-footer">{frame.say("코드텃밭 블로그는 직접 써 본 것만 적습니다")} ⓒ 코드텃밭</div>
</div>
</body>
</html>
""",
        tuple(frame.absent),
    )


def wiki(text: Text) -> Page:
    """An encyclopaedia's article with edit links, a box of other articles and a talk section."""
    frame = Frame(text, "encyclopedia")
    title = html.escape(text.title, quote=False)
    talk = "\n".join(
        f'<li class="comment"><b>{name}</b> ({time}): {comment}</li>'
        for name, time, comment in frame.comments()
    )
    others = " · ".join(f'<a href="#">{p}</a>' for p in frame.popular(3))
    body = "\n".join(_paragraphs(text.body))
    return Page(
        f"""<!DOCTYPE html>
<html lang="ko" class="client-js">
<head>
<!--charset-->
<title>{title} - 새별백과</title>
</head>
<body class="page-article">
<nav id="side-nav"><a href="/">대문</a><ul><li><a href="#">{frame.say("무작위 문서로 가기")}</a></li><li><a href="#">{frame.say("도움말과 연습장")}</a></li><li><a href="#">최근 바뀜</a></li></ul></nav>
<div class="site-notice banner"><p>{frame.advert()}</p></div>
<main id="content" class="mw-body">
<h1 id="firstHeading">{title}</h1>
<div id="article">
{body}
</div>
<div class="related-articles"><b>같이 읽을 글</b> {others}</div>
<section class="comments" id="talk"><h3>{frame.say("이 문서의 토론")}</h3><ul>
{talk}
</ul></section>
</main>
<footer><ul><li>{frame.say("이 문서는 새별백과 이용 규칙에 따라 쓸 수 있습니다")}</li><li>개인정보처리방침</li></ul>
<p>{frame.say("새별백과 편집실 · 은가람대학교 후문 문화관 3층")} ⓒ 새별백과</p></footer>
</body>
</html>
""",
        tuple(frame.absent),
    )


LAYOUTS: dict[str, Callable[[Text], Page]] = {
    "notice": office,
    "news": newspaper,
    "howto": blog,
    "encyclopedia": wiki,
}

NAVIGATION_ONLY = """<!DOCTYPE html>
<html lang="ko"><head>
<!--charset-->
<title>새별시 포털</title></head>
<body><nav class="gnb"><ul><li><a href="/a">홈</a></li><li><a href="/b">카페</a></li><li><a href="/c">블로그</a></li><li><a href="/d">쇼핑</a></li></ul></nav>
<div class="menu"><ul><li><a href="/1">로그인</a></li><li><a href="/2">회원가입</a></li><li><a href="/3">고객센터</a></li></ul></div>
<footer><a href="/t">이용약관</a> <a href="/p">개인정보처리방침</a></footer></body></html>
"""
"""A page that holds links and no text."""


def encode(markup: str, charset: str, declared: str | None) -> bytes:
    """The page in `charset`, its meta tag naming `declared` (or no meta tag at all).

    `declared` starting with "http-equiv:" takes the older form of the tag.
    """
    tag = ""
    if declared is not None and declared.startswith("http-equiv:"):
        name = declared.removeprefix("http-equiv:")
        tag = f'<meta http-equiv="Content-Type" content="text/html; charset={name}">'
    elif declared is not None:
        tag = f'<meta charset="{declared}">'
    return markup.replace("<!--charset-->", tag, 1).encode(charset)
