"""Prose: the compiled walk cuts what these regular expressions say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.documents import read_documents
from dedup.text.normalize import normalize_text
from dedup.text.prose import prose

FRONT_MATTER = re.compile(r"\A---\n.*?\n---(?:\n|\Z)", re.DOTALL)
FENCED = re.compile(r"^[ \t>]*(```|~~~).*?(?:^[ \t>]*\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
LINES = re.compile(
    r"""(?mx)
      ^\ *\|.*$                                              # a row of a table
    | ^(?:\ {4}|\t)[^가-힣\n]*$                              # indented, no Hangul: code
    | ^[^가-힣\n]*(?:[;{}\\]|[=(,]|->|=>|\)\ *\{?|</?\w+>)\ *$  # ends as code does
    | ^\ *(?:[-=*_~^"'`+:.\#]{3,}.{0,2}|:::.*)$              # rules, underlines, directives
    | ^\ *(?:\$|>>>|\.\.\.|\#!|//|/\*|\*/|import\ |from\ \w+\ import|\#include|using\ |public\ |private\ |def\ |class\ |return\ |var\ |let\ |const\ )[^가-힣\n]*$
    """
)
INSIDE = (
    re.compile(r"`[^`\n]{1,200}`"),
    re.compile(r"\[![A-Za-z]+[ \t]*\[[^\]\n]*\][^\]\n]*\]"),
    re.compile(r"\]\([^)\n]{0,400}\)"),
    re.compile(r"(?:http|ftp)s?://[^\s가-힣<>()\"']+"),
    re.compile(r"</?[A-Za-z!][^<>\n]{0,400}>"),
    re.compile(r"&#?[A-Za-z0-9]{2,8};"),
)


def by_expressions(text: str) -> str:
    text = FRONT_MATTER.sub("", text, count=1)
    text = LINES.sub("", FENCED.sub("", text))
    for pattern in INSIDE:
        text = pattern.sub(" ", text)
    return text


PIECES_IN_A_ROW = (
    "가나다 |글 ` `` ``` ~~~ --- === ... ::: # #! #include [ ] ( ) ]( [! < > </ <a> <제목> -> => ; { } \\ , = : "
    "/ // /* */ http:// https://a.kr ftp://x $ >>> import from def class import_ var let public a_b 1 . ' \" + * ^ _ 漢 é & &nbsp; &#160; &#xA0; &; &abcdefghi;"
)
PIECES = st.sampled_from(
    [*PIECES_IN_A_ROW.split(), "\n", "\n"]
    + ["\n"] * 12
    + [" "] * 6
    + [
        "    ",
        "\t",
        "---\n",
        "```\n",
        "from a import b",
        "from 가 import",
        "> ```",
        "[!INCLUDE[x](y)]",
    ]
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join).map(normalize_text))
def test_the_walk_and_the_expressions_leave_the_same(text: str) -> None:
    assert prose(text) == by_expressions(text)


def test_long_spans_are_left_alone_at_the_same_length() -> None:
    for size in (199, 200, 201, 400, 401, 402):
        for text in (f"`{'a' * size}` 가", f"[x]({'a' * size}) 가", f"<a{'b' * (size - 1)}> 가"):
            assert prose(text) == by_expressions(text), (size, text[:3])


@pytest.mark.parametrize("source", ["ms_docs_ko", "oss_docs_ko", "movie_review_pages", "petitions"])
def test_real_pages_leave_the_same(shared_data: Path, source: str) -> None:
    seen = 0
    for batch in read_documents(shared_data / "ko_web" / f"{source}.jsonl.zst"):
        for text in batch["text"].to_pylist():
            text = normalize_text(text)
            assert prose(text) == by_expressions(text)
        seen += batch.num_rows
        if seen > 300:
            return


def test_prose_is_what_is_left_without_code_tables_and_addresses() -> None:
    text = "앞 글이다.\n```\ncode;\n```\n| a | b |\n    return x;\n[이름](http://a.kr/b) `f(x)` 뒤 글이다."
    assert prose(text).split() == ["앞", "글이다.", "[이름", "뒤", "글이다."]


def test_an_include_goes_whole_and_what_follows_it_stays() -> None:
    assert prose("[!INCLUDE[a](b)] 중요한 글 [상태 [x] 표시").split() == [
        "중요한",
        "글",
        "[상태",
        "[x]",
        "표시",
    ]
