"""YAML text → plain values, with the line and column of every key kept within reach.

In: the text of a config, or the value of a `key=value` override. Out: a node tree (for positions)
and the plain Python value of it. Scalars follow YAML 1.2's core schema: `1e-4` is a number, and
`on`, `off`, `yes`, `no` and dates stay text. PyYAML alone reads 1.1, where `1e-4` is text: in the
free-form `pretrain.base` mapping that text would reach transformers. Anchors, aliases and `<<`
work; a key written twice is a mistake, never a silent last-one-wins.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from configs.errors import InputError

KeyPath = tuple[Any, ...]

_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)


class Problem(NamedTuple):
    """Something wrong in the text itself: 1-based line and column, key, and what."""

    line: int
    column: int
    key: str
    message: str


class _Resolver(BaseResolver):
    pass


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would take for something other than text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


for _name, _pattern, _first in _CORE:
    _Resolver.add_implicit_resolver(_TAG + _name, re.compile(rf"^{_pattern}$"), _first)
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(rf"^{_pattern}$"), _first)


def emit(value: Any) -> str:
    """Plain value → block YAML that `compose` and `construct` read back as the same value."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )


def compose(text: str, where: str) -> Node | None:
    """Text → node tree, None for a text without content.

    Raises InputError (`where:line:column: …`) in plain words when it is not YAML.
    """
    try:
        return _Loader(text).get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise InputError(
            f"{where}:{line}:{column}: the control character U+{ord(text[error.position]):04X} "
            "cannot stand in YAML; delete it"
        ) from None
    except yaml.MarkedYAMLError as error:
        line, column, message = _in_plain_words(error, text.splitlines())
        raise InputError(f"{where}:{line}:{column}: {message}") from None


def construct(node: Node | None, problems: list[Problem]) -> Any:
    """Node tree → plain value. Repeated keys and the like are appended to `problems`."""
    return _construct(node, problems, (), ())


def position(node: Node | None, path: KeyPath) -> tuple[int, int] | None:
    """1-based line and column of the key (or list item) at `path`; None where there is none."""
    if node is None:
        return None
    mark = node.start_mark
    for part in path:
        if isinstance(node, MappingNode):
            # After `<<` the later of two equal keys is the one that counts.
            for key, value in reversed(node.value):
                if isinstance(key, ScalarNode) and _scalar(key) == part:
                    mark, node = key.start_mark, value
                    break
            else:
                return None
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            return None
    return mark.line + 1, mark.column + 1


def _construct(
    node: Node | None, problems: list[Problem], path: KeyPath, above: tuple[int, ...]
) -> Any:
    if node is None:
        return None
    if id(node) in above:
        problems.append(_problem(node, path, "contains itself through an alias"))
        return None
    above = (*above, id(node))
    if isinstance(node, ScalarNode):
        try:
            return _scalar(node)
        except ValueError:
            message = f"the tag {node.tag.replace(_TAG, '!!')} does not fit {node.value!r}"
            problems.append(_problem(node, path, message))
            return None
    if node.tag not in (_TAG + "map", _TAG + "seq"):
        message = f"the tag {node.tag.replace(_TAG, '!!')} means nothing here; delete it"
        problems.append(_problem(node, path, message))
    if isinstance(node, SequenceNode):
        return [
            _construct(item, problems, (*path, index), above)
            for index, item in enumerate(node.value)
        ]
    assert isinstance(node, MappingNode)
    _merge(node, problems, path)
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, ScalarNode):
            message = "a key is a word, not a list or mapping; quote values that start with { or ["
            problems.append(_problem(key_node, path, message))
            continue
        key = _scalar(key_node)
        result[key] = _construct(value_node, problems, (*path, key), above)
    return result


def _merge(node: MappingNode, problems: list[Problem], path: KeyPath) -> None:
    """Replace `<<` by the pairs it stands for, and report keys written twice."""
    own: list[tuple[Node, Node]] = []
    merged: list[tuple[Node, Node]] = []
    first: dict[Any, int] = {}
    for key, value in node.value:
        if key.tag == _TAG + "merge":
            for part in value.value if isinstance(value, SequenceNode) else [value]:
                if isinstance(part, MappingNode) and part is not node:
                    _merge(part, [], path)
                    merged = [*part.value, *merged]
                else:
                    problems.append(_problem(key, path, "<< takes a mapping, or a list of them"))
            continue
        if isinstance(key, ScalarNode):
            name = _scalar(key)
            if name in first:
                message = f"written twice; the first is in line {first[name]}, keep one of them"
                problems.append(_problem(key, (*path, name), message))
            first.setdefault(name, key.start_mark.line + 1)
        own.append((key, value))
    # A mapping that an alias repeats passes here again: by then its `<<` is gone, and its merged
    # pairs come first, so the key check must not see them as repetitions.
    if merged:
        node.value = [pair for pair in merged if _key(pair) not in first] + own
    else:
        node.value = own


def _key(pair: tuple[Node, Node]) -> Any:
    return _scalar(pair[0]) if isinstance(pair[0], ScalarNode) else None


def _scalar(node: ScalarNode) -> Any:
    text, tag = node.value, node.tag.removeprefix(_TAG)
    if tag == "null":
        return None
    if tag == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if tag == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if tag == "float":
        return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf")
                     .replace(".nan", "nan").replace(".NaN", "nan").replace(".NAN", "nan"))  # fmt: skip
    if tag in ("str", "merge"):
        return text
    raise ValueError(text)


def _problem(node: Node, path: KeyPath, message: str) -> Problem:
    mark = node.start_mark
    return Problem(mark.line + 1, mark.column + 1, ".".join(map(str, path)), message)


def _in_plain_words(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[int, int, str]:
    """The parser's complaint → line, column and a sentence about what stands there."""
    problem, context = error.problem or "", error.context or ""
    mark = error.problem_mark or error.context_mark
    start = error.context_mark or mark
    if mark is None or start is None:
        return 1, 1, problem
    line, column = mark.line + 1, mark.column + 1
    here = lines[mark.line] if mark.line < len(lines) else ""
    opened = f"opened in line {start.line + 1}, column {start.column + 1}"

    if "'\\t'" in problem or (here[: mark.column + 1].strip(" ") or " ")[0] == "\t":
        return line, column, "a tab; indent with spaces"
    if "mapping values are not allowed" in problem:
        if ": " in here[: mark.column]:
            return line, column, "a second ': ' in one line; put the value in quotes"
        before = mark.line - 1
        while before >= 0 and not lines[before].strip():
            before -= 1
        text = lines[before] if before >= 0 else ""
        words = text.strip().removeprefix("- ")
        at = len(text) - len(text.lstrip()) + 1
        if words and ":" not in words and not words.startswith("#"):
            return before + 1, at, f"no ':' after the key in {words!r}; write key: value"
        if words and re.match(r"[^\s\"']+:\S", words):
            return before + 1, at, f"no space after ':' in {words!r}; write key: value"
        return line, column, "a ':' where none can stand; indent this line like its neighbours"
    if "could not find expected ':'" in problem:
        words = lines[start.line].strip() if start.line < len(lines) else ""
        missing = (
            "no space after ':'" if re.match(r"[^\s\"']+:\S", words) else "no ':' after the key"
        )
        return start.line + 1, start.column + 1, f"{missing} in {words!r}; write key: value"
    if "quoted scalar" in context and "end of stream" in problem:
        return start.line + 1, start.column + 1, "this quote is never closed"
    if "unknown escape character" in problem:
        return line, column, "\\ starts an escape in double quotes; use single quotes, or \\\\"
    if "flow mapping" in context or "flow sequence" in context:
        bracket, closing = ("{", "}") if "mapping" in context else ("[", "]")
        return line, column, f"',' or '{closing}' expected here; the {bracket} was {opened}"
    if "block mapping" in context or "block collection" in context:
        if here.strip().startswith("-") and "block mapping" in context:
            return (
                line,
                column,
                "a list item ('- ') among keys; indent it below the key it belongs to",
            )
        return line, column, "this line is indented unlike the lines it belongs to"
    if context.endswith(("an alias", "an anchor", "a directive", "a block scalar")):
        sign = lines[start.line][start.column : start.column + 1]
        message = f"{sign!r} has a meaning of its own at the start; put the value in quotes"
        return start.line + 1, start.column + 1, message
    if "expected the node content" in problem:
        if "stream end" in problem:
            return line, column, "the text ends inside { or [; close it"
        found = problem.rpartition("found ")[2].strip("'")
        return line, column, f"{found!r} where a value should be; put text in quotes"
    if "sequence entries are not allowed" in problem:
        return (
            line,
            column,
            "a list item ('- ') begins in the line of its key; give it its own line",
        )
    if "undefined alias" in problem:
        name = re.findall(r"'([^']*)'", problem)
        return line, column, f"no anchor &{name[0] if name else ''} stands above this alias"
    if "single document" in context:
        return line, column, "a second document ('---') begins here; a config is one document"
    if "cannot start any token" in problem:
        character = here[mark.column : mark.column + 1]
        return line, column, f"{character!r} cannot begin a value; put the value in quotes"
    if "document start" in problem:
        return line, column, "this line is indented unlike the lines above, or stands after the end"
    words = f"{context}, {problem}" if context else problem
    return line, column, f"not YAML: {words}"
