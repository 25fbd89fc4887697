"""Wikitext → the prose of a page.

In: the wikitext of an article. Out: its text: references, tables, infoboxes, files and categories go,
`{{llang|en|Seoul}}` stays as its text, headings stay as lines where anything stands below them, and the
brackets that templates left empty (`대한민국()`) go. Parsed with mwparserfromhell (extra `wiki`).

The decision: the parser reads about half a megabyte a second, so only sections that need it get it;
`wikitext_quick` renders the others to the same text. Sections are independent where the quick way
could read them, since nothing opens or closes beyond one. Where it could not read two or more, all from the
first to the last of them go to the parser in one piece: a bracket may span them. (A comment, which holds
no comment, may even end at the end of one in a sound section.)
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from configs.errors import missing_extra
from dedup.formats.wikitext_quick import HEADING, HEADING_MARK, PLACES_GONE, TAGS_GONE, Hard, quick
from dedup.records import clean

_LANGUAGE = re.compile(r"(?:llang|lang|언어)(?:-[a-z-]+)?|[a-z]{2}-?", re.IGNORECASE)
_KEPT = {"nowrap", "작게", "small", "big", "굵게", "보조어", "ruby", "루비", "어휘", "강조"}
_EMPTY = re.compile(r"[ \t]*[(（][\s,;:·/、，]*[)）]|[ \t]*\[\s*\]")
_LEADING = re.compile(r"([(（])(?:\s*[,;:、，]\s*)+")
_TRAILING = re.compile(r"\s*[,;:、，][\s,;:、，]*([)）])")
_HOLLOW = re.compile(
    r"[,;:、，]\s*[)）]|[(（]\s*[,;:·/、，)）]|\[\s*\]"
)  # one of the three is there
_LINES = re.compile(r"\n{3,}")
_SWITCHES = re.compile(r"__[A-Z가-힣]+__|'{2,5}")

# What ends at the first closing mark behind it, whatever stands between.
_NOT_NESTED = [
    (re.compile("<!--"), "-->"),
    (re.compile("<(?:ce|chem|gallery|graph|hiero|imagemap|inputbox|math|nowiki|pre|score|section|source|"
                "syntaxhighlight|templatedata|timeline|categorytree)", re.IGNORECASE), "</"),
]  # fmt: skip


@cache
def parser() -> Any:
    try:
        import mwparserfromhell
    except ImportError:
        raise missing_extra("mwparserfromhell", "wiki") from None
    return mwparserfromhell


def plain(markup: str) -> str:
    """The prose of a page's wikitext."""
    text = _SWITCHES.sub("", rendered(markup))
    for _ in range(3):  # brackets in brackets
        if not _HOLLOW.search(text):
            break
        text = _EMPTY.sub("", _TRAILING.sub(r"\1", _LEADING.sub(r"\1", text)))
    lines = [line.strip().lstrip("*#:;").strip() for line in text.split("\n")]
    return clean(_LINES.sub("\n\n", "\n".join(_without_empty_headings(lines))))


def rendered(markup: str) -> str:
    """A page as text, headings marked: the quick way where that is proved to be the same."""
    starts = [0, *(heading.start() for heading in HEADING.finditer(markup) if heading.start())]
    ends = [*starts[1:], len(markup)]
    pieces: list[str | None] = []
    for start, end in zip(starts, ends, strict=True):
        try:
            pieces.append(quick(markup[start:end], parsed, _in_sentence))
        except Hard:
            pieces.append(None)
    if None not in pieces:
        return "".join(piece for piece in pieces if piece)
    first = pieces.index(None)
    last = len(pieces) - pieces[::-1].index(None)
    for opened, closing in _NOT_NESTED:
        if opened.search(markup, starts[first], ends[last - 1]):
            behind = markup.rfind(closing, ends[last - 1])
            while behind >= ends[last - 1]:
                last += 1
    middle = parsed(markup[starts[first] : ends[last - 1]])
    return "".join([*(p or "" for p in pieces[:first]), middle, *(p or "" for p in pieces[last:])])


def parsed(markup: str) -> str:
    """The same of any wikitext, by the parser alone."""
    nodes = parser().nodes
    code = parser().parse(markup, skip_style_tags=True)
    return "".join(_render(node, nodes) for node in code.nodes)


def _render(node: Any, nodes: Any) -> str:
    if isinstance(node, nodes.Text):
        return str(node.value)
    if isinstance(node, nodes.Heading):
        return f"{HEADING_MARK}{_inside(node.title, nodes).strip()}"
    if isinstance(node, nodes.Wikilink):
        if PLACES_GONE.match(str(node.title)):
            return ""
        return _inside(node.text if node.text is not None else node.title, nodes).lstrip(":")
    if isinstance(node, nodes.ExternalLink):
        return _inside(node.title, nodes) if node.title is not None else ""
    if isinstance(node, nodes.Tag):
        name = str(node.tag).strip().lower()
        if name in TAGS_GONE:
            return ""
        if node.wiki_markup is not None and node.contents is None:  # of a list, or ----
            return ""
        if name == "br":
            return "\n"
        return _inside(node.contents, nodes) if node.contents is not None else ""
    if isinstance(node, nodes.HTMLEntity):
        return str(node.normalize())
    if isinstance(node, nodes.Template):
        return _template(node, nodes)
    return ""  # comments, arguments


def _inside(code: Any, nodes: Any) -> str:
    return "".join(_render(node, nodes) for node in code.nodes)


def _in_sentence(name: str, values: list[str]) -> str | None:
    """The text of a template with these positional values, for the few that stand in a sentence; None
    for all others."""
    low = name.lower()
    if low in ("llang", "lang", "언어"):
        return values[1].strip() if len(values) > 1 else ""
    if _LANGUAGE.fullmatch(name) or low in _KEPT:
        return values[0].strip() if values else ""
    return None


def _template(node: Any, nodes: Any) -> str:
    values = [_inside(param.value, nodes) for param in node.params if not param.showkey]
    return _in_sentence(str(node.name).strip(), values) or ""


def _without_empty_headings(lines: list[str]) -> list[str]:
    """Headings with no text below them (of tables, galleries, lists of references) go."""
    kept: list[str] = []
    for line in reversed(lines):
        if line.startswith(HEADING_MARK):
            below = next((other for other in reversed(kept) if other), HEADING_MARK)
            if below.startswith(HEADING_MARK):
                continue
        kept.append(line)
    return [line.removeprefix(HEADING_MARK) for line in reversed(kept)]
