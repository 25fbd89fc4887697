"""Markdown on a terminal while it streams: the styles, the text, and nothing a model may not send."""

from __future__ import annotations

import random
import re

import pytest

from launch.chat.ansi import Markdown

CASES = [
    ("그냥 글", "그냥 글"),
    ("**말**은 *기울여* `코드`", "[1]말[22]은 [3]기울여[23] [36]코드[39]"),
    ("**\"따옴표\"**는", "[1]\"따옴표\"[22]는"),
    ("**굵게 `코드` 끝**", "[1]굵게 [36]코드[39][1] 끝[22]"),
    ("~~지움~~ a*b*c 2 * 3 * 4 snake_case", "[9]지움[29] a*b*c 2 * 3 * 4 snake_case"),
    ("닫히지 **않은\n다음", "닫히지 **않은\n다음"),
    ("`a*b*` ``c`d``", "[36]a*b*[39] [36]c`d[39]"),
    ("# 제목 **굵게**\n글", "[1]제목 [1]굵게[22][1][22]\n글"),
    ("#해시", "#해시"),
    ("- 하나\n  * 둘\n3. 셋", "• 하나\n  • 둘\n3. 셋"),
    ("> 인용", "[2]│ [22]인용"),
    ("[글](https://a.kr/b) [x](javascript:1)", "[4]글[24] (https://a.kr/b) [x](javascript:1)"),
    ("앞\n```python\nx = '**'\n``` no\n```\n뒤", "앞\n[2]```python[22]\n[36]x = '**'[39]\n[36]``` no[39]\n[2]```[22]\n뒤"),
    ("````\n```\n````\n*뒤*", "[2]````[22]\n[36]```[39]\n[2]````[22]\n[3]뒤[23]"),
    ("| 이름 | 값 |\n|---|--:|\n| 가나다 | **1** |\n끝", "[1]이름    값[22]\n[2]──────  ──[22]\n가나다  [1]1[22]\n끝"),
    ("| 그냥 | 줄", "| 그냥 | 줄"),
    ("", ""),
    ("**", "**"),
    ("끝은 `열림", "끝은 `열림"),
]  # fmt: skip


def render(text: str, pieces: list[str] | None = None, width: int = 80) -> str:
    markdown = Markdown(width)
    shown = "".join(markdown.feed(piece) for piece in pieces or [text]) + markdown.end()
    assert re.sub(r"\x1b\[\d+m", "", shown).count("\x1b") == 0
    shown = re.sub(r"\x1b\[(\d+)m", r"[\1]", shown)
    return shown.replace("[39][36]", "")  # a line of code that came in pieces


@pytest.mark.parametrize(("text", "shown"), CASES)
def test_marks_become_styles_and_the_same_in_any_pieces(text: str, shown: str) -> None:
    assert render(text) == shown
    assert render(text, list(text)) == shown
    chance = random.Random(4)
    for _ in range(20):
        cuts = sorted(chance.choices(range(len(text) + 1), k=3))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert render(text, pieces) == shown


def test_what_needs_no_decision_is_shown_at_once() -> None:
    markdown = Markdown(80)
    assert markdown.feed("안녕") == "안녕"
    assert markdown.feed("하세요 **굵") == "하세요"
    assert markdown.feed("게** ") == " \x1b[1m굵게\x1b[22m "
    assert markdown.feed("\n- ") == "\n"
    assert markdown.feed("하") == "• 하"
    assert markdown.feed("\n```py\nx = ") == "\n\x1b[2m```py\x1b[22m\n\x1b[36mx = \x1b[39m"


def test_a_code_block_that_never_ends_leaves_no_style_behind() -> None:
    assert render("```\nx") == "[2]```[22]\n[36]x[39][0]"
    assert render("# 제목") == "[1]제목[0]"


def test_a_table_too_wide_for_the_window_stays_as_it_was_written() -> None:
    text = "| 아주 긴 제목 | 값 |\n|---|---|\n| 가 | 나 |\n"
    assert render(text, width=12) == text


def test_a_model_can_send_no_escape_sequence() -> None:
    assert render("가\x1b[31m나\x1b]0;제목\x07 **\x9b2J다**") == "가[31m나]0;제목 [1]2J다[22]"


@pytest.mark.thorough
@pytest.mark.timeout(120)  # were it quadratic in the length, it would be minutes
def test_no_text_takes_long() -> None:
    pieces = ["**a ", "`", "``a`", "[", "[a](", "*a ", "> ", "|a", "- ", "#", "~~a ", "\n", " ", "```", "* *a"]  # fmt: skip
    for piece in pieces:
        text = piece * (20_000 // len(piece))
        markdown = Markdown(80)
        shown = "".join(markdown.feed(text[i : i + 5]) for i in range(0, len(text), 5))
        shown += markdown.end()
        assert shown
