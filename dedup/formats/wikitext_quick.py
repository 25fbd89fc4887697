"""Well-formed wikitext → text, without building a tree of it.

In: a section of a page's wikitext. Out: the text that `wikitext.plain` makes of it before it tidies the
lines, or `Hard`: something stands in it that this scanner does not prove harmless.

The decision: mwparserfromhell tries every opening bracket as everything that it could open, and takes
it back where nothing closes it; that is right for broken pages and costs 20 times the time. Nearly
all sections hold nothing but whole constructs, and for these the outcome is known at the opening
bracket. So only what is whole is taken here: brackets that match, names and titles that are ones,
tags with plain attributes. What a template, a reference or a table holds is walked over to find its
end, since its text goes. Everything doubtful (a stray bracket, a free URL, a definition list, a tag
unknown here) is left to the parser; a fuzzing test compares the two.
"""

from __future__ import annotations

import html.entities
import re
from collections.abc import Callable

HEADING = re.compile(r"^(={2,6})(?!=)([^=\n]+)\1[ \t]*$", re.MULTILINE)
HEADING_MARK = "\x01"
"""Marks a heading until it is known whether anything stands below it."""

TAGS_GONE = {"ref", "references", "gallery", "math", "chem", "timeline", "score", "table", "style",
             "imagemap", "mapframe", "templatestyles", "syntaxhighlight", "source"}  # fmt: skip
PLACES_GONE = re.compile(r"\s*(?:파일|그림|분류|file|image|category|media)\s*:", re.IGNORECASE)

_SCHEMES = frozenset(
    "bitcoin ftp ftps geo git gopher http https irc ircs magnet mailto mms news nntp redis sftp sip "  # noqa: SIM905
    "sips sms ssh svn tel telnet urn worldwind xmpp".split()
)
_LITERAL = frozenset(["gallery", "math", "chem", "timeline", "score", "source", "syntaxhighlight"])
_PLAIN = frozenset("small big sub sup u s b i span center div code abbr cite q del ins".split())  # noqa: SIM905
_MARK = re.compile(r"\{[{|]|\}\}|\[|\]\]|<|&|:|\|\}|^(?:[=*#;]|-{4})", re.MULTILINE)
_INNER = re.compile(r"\{[{|]|\}\}|\[|\]\]|<|\|\}|^[=;]", re.MULTILINE)
_LIST = re.compile(r"[*#:]+")
_NAME = re.compile(r"\s*[^\[\]{}<>|\n#&=:\s](?:[^\[\]{}<>|\n#&=:]*[^\[\]{}<>|\n#&=:\s])?\s*")
_PART = r"[^\[\]{}<>|\n#&=:;*]"
_SHORT = re.compile(rf"\{{\{{({_PART}+)((?:\|{_PART}*)*)\}}\}}")  # a template of plain values
_TITLE = re.compile(r"[^\[\]{}<>|\n&%]+")
_EXTERNAL = re.compile(
    r"\[(?:https?|ftp)://[\w.~/?#@!$()*+,;:%=-]+(?:( )([^\[\]{}<>\n&]*))?\]", re.ASCII
)
_ADDRESS = re.compile(r"\[(?://|[A-Za-z][A-Za-z0-9+.-]*:)")
_TAG = re.compile(
    r"<([A-Za-z]+)(?:\s+[A-Za-z-]+\s*=\s*(?:\"[^\"<>{}\[\]|\n]*\"|[\w.#%-]+))*\s*(/?)>"
)
_CLOSING = re.compile(r"</([A-Za-z]+)>")
_ENTITY = re.compile(r"&([A-Za-z0-9]+);")
_BEFORE = re.compile(r"[A-Za-z0-9]*$")


class Hard(Exception):
    """This section is for the parser."""


Careful = Callable[[str], str]
Template = Callable[[str, list[str]], str | None]


def quick(markup: str, careful: Careful, template: Template) -> str:
    """The rendering of a section. `careful` renders a construct that is whole but out of the
    ordinary, `template` one of a name with these positional values; None: it has no text. Raises Hard.
    """
    out, at = _Scanner(markup, careful, template).run(0, "")
    assert at == len(markup)
    return out


class _Scanner:
    def __init__(self, markup: str, careful: Careful, template: Template) -> None:
        self.markup, self.careful, self.template = markup, careful, template

    def run(self, at: int, stop: str) -> tuple[str, int]:
        """Text from `at` to the closing `stop` ("": the end), and the place behind that."""
        markup = self.markup
        out: list[str] = []
        while True:
            mark = _MARK.search(markup, at)
            if mark is None:
                if stop:
                    raise Hard
                out.append(markup[at:])
                return "".join(out), len(markup)
            begin = mark.start()
            if stop == "]]" and ("\n" in markup[at:begin] or "]" in markup[at:begin]):
                raise Hard
            out.append(markup[at:begin])
            token = mark[0]
            if token == ":":
                if begin == 0 or markup[begin - 1] == "\n":
                    at = self._list(begin)
                    continue
                if _BEFORE.search(markup, max(0, begin - 12), begin)[0].lower() in _SCHEMES:  # type: ignore[index]
                    raise Hard
                out.append(":")
                at = begin + 1
            elif token == "]]":
                if stop != "]]":
                    raise Hard
                return "".join(out), begin + 2
            elif token == "<" and stop.startswith("<") and markup.startswith(stop, begin):
                return "".join(out), begin + len(stop)
            else:
                text, at = self._construct(token, begin, stop)
                out.append(text)

    def _construct(self, token: str, begin: int, stop: str) -> tuple[str, int]:
        markup = self.markup
        if token == "{{":
            short = _SHORT.match(markup, begin)
            if short and short[1].strip() and not markup.startswith("}", short.end()):
                values = short[2].split("|")[1:]
                return self.template(short[1].strip(), values) or "", short.end()
            end = self._end(begin)
            name = _NAME.match(markup, begin + 2)
            if name is None or self.template(name[0].strip(), []) is None:
                return "", end
            return self.careful(markup[begin:end]), end
        if token == "{|":
            if stop or (begin and markup[begin - 1] != "\n"):
                raise Hard
            return "", self._end(begin)
        if token == "[":
            return self._link(begin, stop)
        if token == "<":
            return self._tag(begin)
        if token == "&":
            entity = _ENTITY.match(markup, begin)
            if entity is None:
                if markup.startswith("&#", begin):
                    raise Hard
                return "&", begin + 1
            point = html.entities.name2codepoint.get(entity[1])
            return (chr(point), entity.end()) if point else ("&", begin + 1)
        if token == "=" and not stop:
            return self._heading(begin)
        if token in ("*", "#"):
            return "", self._list(begin)
        raise Hard  # }} or |} without what it closes, a definition list, a rule

    def _list(self, begin: int) -> int:
        end = _LIST.match(self.markup, begin).end()  # type: ignore[union-attr]
        if self.markup[end : end + 1] in (";", "{"):
            raise Hard
        return end

    def _heading(self, begin: int) -> tuple[str, int]:
        heading = HEADING.match(self.markup, begin)
        if heading is None:
            raise Hard
        title = heading[2]
        if _MARK.search(title):
            title = quick(title, self.careful, self.template)
        end = begin + 2 * len(heading[1]) + len(heading[2])
        return f"{HEADING_MARK}{title.strip()}", end

    def _link(self, begin: int, stop: str) -> tuple[str, int]:
        markup = self.markup
        if not markup.startswith("[[", begin):
            if stop == "]]":
                raise Hard
            external = _EXTERNAL.match(markup, begin)
            if external is not None:
                text = external[2] or ""
                if ":" in text or "'" in text or text != text.strip():
                    return self.careful(external[0]), external.end()
                return text, external.end()
            if _ADDRESS.match(markup, begin):
                raise Hard
            return "[", begin + 1
        if stop == "]]":
            raise Hard
        title = self._title(begin)
        at = begin + 2 + len(title)
        if PLACES_GONE.match(title):
            return "", self._end(begin)
        if markup.startswith("]]", at):
            if markup.startswith("]", at + 2):
                raise Hard
            return title.lstrip(":"), at + 2
        text, at = self.run(at + 1, "]]")
        if not text or markup.startswith("]", at):
            raise Hard
        return text.lstrip(":"), at

    def _title(self, begin: int) -> str:
        """Title of the link that begins with the [[ here, up to its | or ]]."""
        title = _TITLE.match(self.markup, begin + 2)
        if title is None or not title[0].strip() or "://" in title[0] or "//" in title[0][:2]:
            raise Hard
        if title[0].partition(":")[0].strip().lower() in _SCHEMES:
            raise Hard
        if not self.markup.startswith(("|", "]]"), title.end()):
            raise Hard
        return title[0]

    def _tag(self, begin: int) -> tuple[str, int]:
        markup = self.markup
        if markup.startswith("<!--", begin):
            return "", self._comment(begin)
        opened = _TAG.match(markup, begin)
        if opened is None:
            if re.match(r"<[A-Za-z/!?]", markup[begin : begin + 2]):
                raise Hard
            return "<", begin + 1
        name = opened[1].lower()
        if name == "br":
            return "\n", opened.end()
        if name in TAGS_GONE and name != "table":
            return "", self._end(begin)
        if name not in _PLAIN or opened[2]:
            raise Hard
        return self.run(opened.end(), f"</{opened[1]}>")

    def _comment(self, begin: int) -> int:
        end = self.markup.find("-->", begin + 4)
        if end < 0:
            raise Hard
        return end + 3

    # ── the end of what goes ────────────────────────────────────────────────────────────────────

    def _end(self, begin: int) -> int:
        """Where the construct that begins here ends: a template, a link, a table or a tag."""
        markup = self.markup
        stack: list[str] = []
        at = begin
        while True:
            mark = _INNER.search(markup, at)
            if mark is None:
                raise Hard
            at = mark.start()
            token = mark[0]
            if token == "{{":
                at = self._template(at)
                stack.append("}}")
            elif token == "{|":
                if at and markup[at - 1] != "\n":
                    raise Hard
                if stack and stack[-1] != "}}":
                    raise Hard
                stack.append("|}")
                at += 2
            elif token == "[":
                at = self._bracket(at, stack)
            elif token == "<":
                at = self._tag_inside(at, stack)
            elif token == "|}" and stack[-1] == "}}" and markup.startswith("|}}", at):
                at += 1  # an empty last parameter
                continue
            elif token in ("}}", "]]", "|}") and stack and stack[-1] == token:
                if token == "|}" and (markup[at - 1] != "\n" or markup.startswith("|}}", at)):
                    raise Hard
                last = token[-1]
                if token != "|}" and self._run_of(last, at) % 2:
                    raise Hard
                stack.pop()
                at += 2
            else:
                raise Hard
            if not stack:
                return at

    def _run_of(self, character: str, at: int) -> int:
        end = at
        while self.markup.startswith(character, end):
            end += 1
        return end - at

    def _template(self, at: int) -> int:
        """Behind the name of the template that begins here."""
        name = _NAME.match(self.markup, at + 2)
        if name is None or not self.markup.startswith(("|", "}}"), name.end()):
            raise Hard
        return name.end()

    def _bracket(self, at: int, stack: list[str]) -> int:
        markup = self.markup
        if markup.startswith("[[", at):
            title = self._title(at)
            stack.append("]]")
            return at + 2 + len(title)
        external = _EXTERNAL.match(markup, at)
        if external is not None:
            return external.end()
        if stack and stack[-1] == "]]":
            raise Hard
        if _ADDRESS.match(markup, at):
            raise Hard
        return at + 1

    def _tag_inside(self, at: int, stack: list[str]) -> int:
        markup = self.markup
        if markup.startswith("<!--", at):
            return self._comment(at)
        closed = _CLOSING.match(markup, at)
        if closed is not None:
            if not stack or stack[-1] != closed[0].lower():
                raise Hard
            stack.pop()
            return closed.end()
        opened = _TAG.match(markup, at)
        if opened is None:
            if re.match(r"<[A-Za-z/!?]", markup[at : at + 2]):
                raise Hard
            return at + 1
        name = opened[1].lower()
        if opened[2] or name == "br":
            return opened.end()
        if name in _LITERAL:
            end = re.compile(f"</{name}>", re.IGNORECASE).search(markup, opened.end())
            if end is None:
                raise Hard
            return end.end()
        if name not in _PLAIN and name not in ("ref", "references"):
            raise Hard
        stack.append(f"</{name}>")
        return opened.end()
