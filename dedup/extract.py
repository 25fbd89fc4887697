"""HTML bytes → title and main text, and bytes of unknown charset → text.

In: the bytes of a page and the charset its HTTP header named, if any. Out: a `Page`. The parser and
the main-content rules are resiliparse's (two orders of magnitude faster than the readability family
and the one that keeps most Hangul); what it leaves in on Korean sites (comment lists, advert boxes,
"related articles") is cut here by class and id before, and what it takes for navigation by its place
alone (a list near the body, a box called sidebar) is kept where it is prose and no list of links.

The decision worth knowing: bytes that are valid UTF-8 *are* UTF-8, whatever header and meta tag say.
Korean archives lie about charsets in both directions, and CP949 text that happens to be valid UTF-8
does not occur. What is not UTF-8 is tried strictly as header, BOM or meta say, then as CP949, which
contains EUC-KR and the 8,822 syllables that EUC-KR lacks.
"""

from __future__ import annotations

import codecs
import html
import re
from dataclasses import dataclass
from functools import lru_cache

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree


@dataclass(frozen=True, slots=True)
class Page:
    """A page's title ("" for none), its main text (title not included) and the charset it was in."""

    title: str
    text: str
    charset: str

    @property
    def document(self) -> str:
        """Title and text as one document; the title only where the text does not open with it."""
        squeezed = re.sub(r"\W+", "", self.title)
        opening = re.sub(r"\W+", "", self.text[: 3 * len(self.title) + 200])
        if not squeezed or squeezed in opening:
            return self.text
        heading = re.sub(r"\W+", "", self.text.split("\n", 1)[0])
        if len(heading) >= 4 and squeezed.startswith(heading):  # the title is "heading - site name"
            return self.text
        return f"{self.title}\n\n{self.text}"


# ── charsets ────────────────────────────────────────────────────────────────────────────────────

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9_.-]+)""", re.IGNORECASE)
_KOREAN = {
    "euc-kr", "euckr", "ks_c_5601-1987", "ks_c_5601", "ksc5601", "ksc_5601", "ks_c_5601-1989",
    "windows-949", "ms949", "uhc", "x-windows-949", "korean", "iso-ir-149",
}  # fmt: skip
# Every byte string decodes as these, so a header that names one proves nothing.
_CATCH_ALL = {"iso8859-1", "cp1252", "latin-1", "ascii", "iso8859-15"}


def codec(name: str) -> str | None:
    """Python's name of a charset as pages spell it ("ks_c_5601-1987" → "cp949"); None if unknown."""
    name = name.strip().strip("\"'").lower()
    if name in _KOREAN:
        return "cp949"
    try:
        found = codecs.lookup(name).name
        b"".decode(found)  # base64 and the like are codecs, but not of text
    except (LookupError, ValueError):
        return None
    return found


def decode(data: bytes, declared: str | None = None, *, meta: bool = False) -> tuple[str, str]:
    """Decode bytes of unknown charset; returns the text and the charset that fitted.

    `declared` is what a header named; with `meta` the first 4 kB are searched for a meta tag or an
    XML declaration. Where no candidate fits every byte, the one with the fewest undecodable bytes
    is taken with U+FFFD in their places, for as long as these stay under 2 %.

    Raises ValueError where nothing fits.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            try:
                return data.decode(name).removeprefix("\ufeff"), name
            except UnicodeDecodeError:
                break
    named = [declared]
    if meta:
        named += [
            match[1].decode("ascii") if match else None
            for match in (_META.search(data[:4096]), _XML.search(data[:200]))
        ]
    claimed = [found for name in named if name and (found := codec(name))]
    strong = [name for name in claimed if name not in _CATCH_ALL]
    weak = [name for name in claimed if name in _CATCH_ALL and name != "ascii"]
    stateful = [name for name in strong if name.startswith(("utf-16", "utf-32", "iso2022", "hz"))]
    candidates = list(dict.fromkeys([*stateful, "utf-8", *strong, "cp949", *weak]))
    for name in candidates:
        try:
            return data.decode(name), name
        except UnicodeDecodeError:
            continue
    tries = [(data.decode(name, "replace"), name) for name in candidates if name not in stateful]
    text, name = min(tries, key=lambda pair: pair[0].count("\ufffd"))
    if text.count("\ufffd") > 0.02 * len(text):
        raise ValueError("is neither UTF-8 nor CP949; name the charset in `encoding`")
    return text, name


# ── pages ───────────────────────────────────────────────────────────────────────────────────────

_BLOCKS = ("div", "section", "aside", "ul", "ol", "dl", "li", "table", "article", "p", "header")
_NAMES = re.compile(
    r"""\b(class|id)\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)'|([^\s"'<>]+))""", re.IGNORECASE
)
# One class or id that says by itself: not the text. Matched against whole names, never substrings:
# "ad" is part of "header", "comment" of a highlighter's span in a code listing.
_NOT_TEXT = re.compile(
    r"""(?ix)
    (?:.*[-_])?(?:comments?|commentlist|cmt|reply|replies|disqus|livere|respond|guestbook)
        (?:[-_]?(?:list|area|box|wrap|wrapper|section|thread|form|item|view|body|block|count|container))*
    | (?:u_)?cbox(?:[-_].*)?
    | (?:.*[-_])?(?:ads?|adv|advert(?:s|isement|isements|ising)?|adsense|adsbygoogle|adfit|banners?|sponsor(?:ed|s)?|promo(?:tion)?)
        (?:[-_]?(?:\d+|area|box|wrap|wrapper|section|slot|unit|block|container|top|bottom|left|right|side|sidebar|inner|image|link|text))*
    | (?:.*[-_])?(?:related|recommend(?:ed|ation)?|popular|ranking|most[-_]?(?:viewed|read))
        (?:[-_]?(?:articles?|posts?|pages?|topics?|news|list|box|area|wrap|links?|section|contents?))+
    | (?:.*[-_])?(?:share|sharing|sns|social)(?:[-_]?(?:buttons?|btns?|links?|bar|box|list|area|wrap|icons?))*
    | (?:.*[-_])?(?:breadcrumbs?|pagination|paging|pager|gnb|lnb|snb|toc|(?:doc|post|page|entry|article)[-_]?nav(?:igation|bar)?|sidebar|sidemenu|skip[-_]?(?:nav|link)s?|cookie[-_]?(?:banner|notice|consent)|newsletter|subscribe)
    """
)
_NO_PROSE = ["script", "style", "noscript", "template"]
_SKIP = ["nav", "aside", "footer", "form", "button", "select", "noscript", "template", "dialog"]
_HANGUL = re.compile("[가-힣]")
_MANY_SPACES = re.compile(r"[ \t]*\n(?:[ \t]*\n)+")


def extract(data: bytes, charset: str | None = None) -> Page:
    """Title and main text of an HTML page.

    `charset`: what the HTTP header, or the config, named. `text` is "" for a page without any.
    Raises ValueError where the bytes decode as nothing.
    """
    markup, name = decode(data, charset, meta=True)
    tree = HTMLTree.parse(markup.replace("\x00", ""))
    title = _title(tree)
    if tree.body is None:
        return Page(title, "", name)
    _fence_code(tree, tree.body)
    _hide_headers(tree.body)
    _keep_boxes(tree.body)
    _keep_lists(tree, tree.body)
    skipped = _not_text(tree.body, markup)
    skipped += [name for name in _SKIP if name != "form" or not _is_page(tree.body)]
    text = _main_text(tree, skipped)
    if len(text) < 0.1 * len(tree.body.text or ""):
        whole = extract_plain_text(tree, alt_texts=False, skip_elements=_NO_PROSE)
        if len(text) < 0.1 * len(whole):  # a page built of <aside> or <footer>, as some boards
            text = max(text, _main_text(tree, _NO_PROSE), key=len)
    return Page(title, _MANY_SPACES.sub("\n\n", text).strip(), name)


def _main_text(tree: HTMLTree, skipped: list[str]) -> str:
    return extract_plain_text(
        tree, main_content=True, alt_texts=False, preserve_formatting=True, skip_elements=skipped
    )


def _is_page(body: ElementNode) -> bool:
    """Some form is no form but the page itself, as ASP.NET writes it."""
    return body.query_selector("form h1, form h2, form main, form article") is not None


def _linked(node: ElementNode) -> tuple[int, int]:
    """Characters of a block's text, and those of them that stand in links."""
    links = sum(len((link.text or "").strip()) for link in node.query_selector_all("a"))
    return len(" ".join((node.text or "").split())), links


def _hide_headers(body: ElementNode) -> None:
    """The site's header, unlike an article's, has no heading in it."""
    for header in body.query_selector_all("header"):
        if header.query_selector("h1, h2, h3, p + p") is None:
            header.setattr("hidden", "")


def _keep_boxes(body: ElementNode) -> None:
    """Take the name "sidebar" off boxes of prose: to DocBook and to magazines it is a boxed text."""
    for box in body.query_selector_all("div[class~=sidebar], section[class~=sidebar]"):
        length, links = _linked(box)
        if length >= 80 and 2 * links < length and box.query_selector("p, .para") is not None:
            box.setattr("class", "")


_NEAR_BODY = 3  # levels within which resiliparse takes every list for the site's navigation


def _keep_lists(tree: HTMLTree, body: ElementNode) -> None:
    """Put prose that stands in a list near the body deep enough to be seen as such."""
    for block in body.query_selector_all("ul"):
        depth = 0
        above = block.parent
        while above is not None and above != body and depth < _NEAR_BODY:
            depth += 1
            above = above.parent
        if depth >= _NEAR_BODY:
            continue
        length, links = _linked(block)
        items = len(block.query_selector_all("li"))
        if 3 * links > length or length < 10 * items:
            continue
        place = block.parent
        for _ in range(_NEAR_BODY - depth):
            wrapper = tree.create_element("div")
            if place is None or wrapper is None:
                break
            place.insert_before(wrapper, block)
            wrapper.append_child(block)
            place = wrapper


def _fence_code(tree: HTMLTree, body: ElementNode) -> None:
    """Put ``` round what stands in <pre>, so that the filters know code from prose.

    Only round what is mostly not Hangul: old boards put whole letters and poems into <pre>.
    """
    for block in body.query_selector_all("pre"):
        code = block.text or ""
        letters = sum(map(str.isalpha, code))
        if not code.strip() or "```" in code or 2 * len(_HANGUL.findall(code)) > letters:
            continue
        opening = tree.create_text_node("```\n")
        closing = tree.create_text_node("```" if code.endswith("\n") else "\n```")
        if opening is not None and closing is not None:
            block.insert_before(opening, block.first_child)
            block.append_child(closing)


def _title(tree: HTMLTree) -> str:
    """og:title (rarely carries the site's name) before <title>, entities resolved, on one line."""
    title = ""
    if tree.head is not None:
        meta = tree.head.query_selector('meta[property="og:title"]')
        if meta is not None:
            title = meta.getattr("content", "") or ""
    return " ".join(html.unescape(title or tree.title or "").split())


@lru_cache(maxsize=1 << 16)
def _names_no_text(name: str) -> bool:
    return _NOT_TEXT.fullmatch(name) is not None


def _not_text(body: ElementNode, markup: str) -> list[str]:
    """Selectors of the blocks whose class or id names a comment list, an advert, a share bar, …

    The names are looked up in the markup: walking the elements from Python takes longer than all
    the rest of the extraction.
    """
    found = [
        f'[{match[1].lower()}~="{name}"]'
        for match in _NAMES.finditer(markup)
        for name in (match[2] or match[3] or match[4] or "").split()
        if "\\" not in name and '"' not in name and _names_no_text(name)
    ]
    selectors = []
    for attribute in dict.fromkeys(found):
        # A wrapper round the whole page ("has-sidebar", "no-ads") holds the heading.
        if any(body.query_selector(f"{attribute} {inner}") for inner in ("h1", "main")):
            continue
        selectors += [f"{block}{attribute}" for block in _BLOCKS]
    return selectors
