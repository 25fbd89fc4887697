"""Wikitext the quick way: the same text as by the parser, for whole and for broken markup."""

from __future__ import annotations

import random

import pytest

from dedup.formats import wikitext
from dedup.formats.wikitext_quick import Hard, quick

WHOLE = r"""한국은 ¶[[서울]]¶[[수도|큰 도시]]¶{{출처|날짜=2020}}¶{{llang|en|Seoul}}¶{{lang|ja|[[東京]]}}¶<ref>출처</ref>
<ref name="x" />¶<ref name=a>{{웹 인용|url=http://a.kr/b?c=d|제목=가 나}}</ref>¶<br />¶<br>¶&nbsp;¶&lt;¶&x;¶\n== 역사 ==\n
\n=== 둘 ===\n¶\n* 항목\n¶\n# 하나\n¶\n** 둘 [http://a.kr 링크]\n¶<!-- 주석 -->¶'''굵게'''¶''기울''¶<small>작게</small>
\n{| class="wikitable"\n! 가 !! 나\n|-\n| 1 || {{b|c}}\n|}\n¶[[파일:a.jpg|섬네일|[[강]]의 {{a}} 모습]]¶<sub>2</sub>
<math>x^2 {{ }</math>¶(, )¶3 < 5¶a = b¶가: 나¶\n: 들여\n¶1 | 2¶[1]¶<gallery>\na.jpg|b\n</gallery>¶\n¶\n\n¶[[분류:가]]
{{정보\n| 이름 = [[가|나]]\n| 값 = {{나|다}}\n}}¶{{nowrap|가 나}}¶<span style="color:red">빨강</span>¶[http://a.kr]
{{a|b=c|}}¶{{a\n|}}¶<references />¶&#44;¶<nowiki>[[x]]</nowiki>¶{{#if:a|b}}¶{{ruby|漢|한}}¶<div style="x">안\n밖</div>"""
BROKEN = r"""{{¶}}¶[[¶]]¶{|¶|}¶\n|}\n¶\n{|\n¶<ref>¶</ref>¶<ref¶[¶]¶{¶}¶|¶=¶\n=¶\n== x¶== \n¶<¶>¶</¶&¶http://b.kr/x¶mailto:x¶[http://a.kr ¶
[//a.kr b]¶<!--¶-->¶{{{¶}}}¶{{{a|b}}}¶\n;가: 나\n¶;¶:¶----¶\n----\n¶<math>¶</math>¶<nowiki>¶[[|a]]¶[[a|]]¶{{}}¶{{ |a}}
[[a\nb]]¶{{a\nb|c}}¶<small>¶</small>¶<foo>¶</foo>¶<br/¶\n|-\n¶\n! a\n¶\n| b="c | d\n¶* ¶\n*;¶\n:{|\n¶"¶<ref name="a>
\n= 가 =\n¶http¶://¶&#x41;¶<SMALL>¶</SMALL>¶[[:분류:가]]¶[[http://a.kr]]¶#¶||¶\t¶ ¶x"""  # fmt: skip


def pieces(text: str) -> list[str]:
    return [part.replace("\\n", "\n") for line in text.split("\n") for part in line.split("¶")]


@pytest.mark.parametrize("broken", [0.0, 0.03, 0.1, 0.3])
def test_the_quick_way_and_the_parser_give_the_same_text(broken: float) -> None:
    chance = random.Random(int(100 * broken))
    whole, odd = pieces(WHOLE), pieces(BROKEN)
    read = 0
    for _ in range(250):
        size = chance.randint(1, 14)
        markup = "".join(
            chance.choice(odd if chance.random() < broken else whole) for _ in range(size)
        )
        expected = wikitext.parsed(markup)
        assert wikitext.rendered(markup) == expected, repr(markup)
        try:
            assert quick(markup, wikitext.parsed, wikitext._in_sentence) == expected, repr(markup)
            read += 1
        except Hard:
            pass
    assert read > 30


def test_a_page_with_one_broken_section_keeps_its_others_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = wikitext.parsed
    given: list[str] = []

    def told(markup: str) -> str:
        given.append(markup)
        return parsed(markup)

    monkeypatch.setattr(wikitext, "parsed", told)
    sections = [
        "앞글 [[가|나]]다.\n",
        "== 하나 ==\n글 {{ 하나.\n",
        "== 둘 ==\n글<ref>a</ref> 둘.\n",
    ]
    page = "".join(sections)
    assert wikitext.rendered(page) == parsed(page)
    assert given == [sections[1]]
    given.clear()
    page += "== 셋 ==\n글 }} 셋.\n"  # closes what the first section opened
    assert wikitext.rendered(page) == parsed(page)
    assert len(given) == 1
    assert "".join(given).startswith("== 하나")
