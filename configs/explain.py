"""The schema for people and editors: one key explained, a config to start from, a JSON schema.

In: the pydantic models of `schema/`, nothing else, so none of the three can say something that
the check does not. `python -m configs.explain` writes `configs/schema.json` anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from configs.errors import InputError
from configs.files import write_text
from configs.keys import (
    Forms,
    expected,
    field_forms,
    input_path,
    nearest,
    section_of,
    suggest_key,
    walk,
    written,
)
from configs.load import SCHEMA_FILE
from configs.schema import Config, Section

_STAGES = ("dedup", "tokenizer", "pretrain")


def explain(key: str = "") -> str:
    """Meaning, type, limits, default and cost of a key; for a section also the keys in it.

    key: dotted, list indices optional (`pretrain.phases.lr`, `pretrain.phases.0.lr`); the last part
    alone where only one key has that name; "" for the whole config. Raises InputError for a key
    that does not exist, with the nearest one.
    """
    parts = [p for p in key.replace("[", ".").replace("]", "").split(".") if p and not p.isdigit()]
    if not parts:
        return "\n".join(["A config has these keys:", "", *_children(Config)])
    known = {dotted: (section, name) for dotted, name, section in walk()}
    dotted = ".".join(parts)
    if dotted not in known:
        ends = [path for path in known if path.endswith(f".{dotted}")]
        if len(ends) != 1:
            raise InputError(f"{key}: {_unknown(parts, ends)}")
        dotted = ends[0]
    section, name = known[dotted]
    field, forms = section.model_fields[name], field_forms(section, name)
    rows = [("type", expected(forms)), ("default", _default(field))]
    if any(input_path(form) for form in _flat(forms)):
        rows.append(
            ("relative", "to the config file's folder; in key=value to the working directory")
        )
    rows.append(("change", _cost(dotted, field)))
    lines = [dotted, f"  {field.description}", "", *(f"  {a:<9}{b}" for a, b in rows)]
    inner = section_of(forms)
    if inner is not None:
        each = "each item has" if any(form.kind == "list" for form in forms) else "it has"
        lines += ["", f"  {(inner.__doc__ or '').strip().splitlines()[0]}", f"  Keys {each}:", ""]
        lines += _children(inner)
    return "\n".join(lines)


def _unknown(parts: Sequence[str], ends: Sequence[str]) -> str:
    if ends:
        return f"several keys have this name; write one of {', '.join(ends)}"
    section: type[Section] = Config
    for depth, part in enumerate(parts):
        if part not in section.model_fields:
            above = ".".join(parts[:depth])
            return f"no such key; {suggest_key(part, section, above)}"
        below = section_of(field_forms(section, part))
        if below is None:
            break
        section = below
    everything = [dotted for dotted, _, _ in walk()]
    near = nearest(".".join(parts), everything)
    return f"no such key; did you mean {near}?" if near else "no such key"


def _children(section: type[Section]) -> list[str]:
    width = max(map(len, section.model_fields))
    defaults = {name: _default(field, short=True) for name, field in section.model_fields.items()}
    second = min(12, max(map(len, defaults.values())))
    return [
        f"  {name:<{width}}  {defaults[name]:<{second}}  {field.description}"
        for name, field in section.model_fields.items()
    ]


def _default(field: FieldInfo, *, short: bool = False) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "–" if short else "none given"
    if isinstance(value, Section):
        return "…" if short else "the defaults of the keys in it"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{}"
    return "''" if value == "" else written(value)


def _cost(dotted: str, field: FieldInfo) -> str:
    stage = dotted.split(".")[0]
    extra = field.json_schema_extra
    if stage not in (*_STAGES, "seed"):
        return "nothing runs again"
    if isinstance(extra, dict) and extra.get("affects_output") is False:
        return "how it runs, not what comes out: nothing runs again"
    if stage == "seed":
        return "every stage runs again"
    *before, last = _STAGES[_STAGES.index(stage) :]
    return f"{', '.join(before)} and {last} run again" if before else f"{last} runs again"


def _flat(forms: Forms) -> list[Any]:
    return [form for one in forms for form in (one, *(_flat(one.items[0]) if one.items else ()))]


# ── a config to start from ──────────────────────────────────────────────────────────────────────

_START: dict[str, Any] = {
    "name": None,
    "seed": 17,
    "dedup": {
        "sources": [{"name": "ko", "paths": '["data/ko/*.jsonl*"]', "format": "auto", "language": "ko"}],
        "filters": "korean_web",
        "pii": "mask",
        "near": {"threshold": 0.8},
        "heldout": 0.005,
        "workers": "auto",
    },
    "tokenizer": {"base": "llama3", "new_tokens": "32K", "algorithm": "bpe"},
    "pretrain": {
        "base": "meta-llama/Meta-Llama-3-8B",
        "sequence_length": 4096,
        "global_batch_tokens": "1M",
        "micro_batch": 1,
        "zero_stage": 3,
        "activation_checkpointing": "true",
        "checkpoint": {"every_steps": 500, "keep": 3},
        "phases": [
            {"name": "new-rows", "train": "[embed.new_rows, head.new_rows]", "tokens": "0.1B", "lr": "1e-4", "mixture": "{ko: 1.0}"},
            {"name": "full", "train": "all", "tokens": "5B", "lr": "2e-5", "mixture": "{ko: 1.0}"},
        ],
    },
    "chat": {"prompts": '["안녕하세요?"]'},
}  # fmt: skip


def init_text(name: str) -> str:
    """A config named `name` that is valid as it stands, each key commented from the schema."""
    lines: list[tuple[str, str]] = []
    _write({**_START, "name": name}, Config, 0, lines, said=set())
    width = min(58, max(len(text) for text, _ in lines))
    return (
        f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
        "# Any key explained: malmoi explain dedup.near. What would this cost: malmoi plan FILE. "
        "Then: malmoi run FILE\n"
        + "".join(f"{text:<{width}}  # {note}\n" if note else f"{text}\n" for text, note in lines)
    )


def _write(
    values: dict[str, Any],
    section: type[Section],
    indent: int,
    lines: list[tuple[str, str]],
    said: set[str],
) -> None:
    for name, value in values.items():
        field = section.model_fields[name]
        # A key that comes twice (a second phase) is explained once.
        key = f"{section.__name__}.{name}"
        note = "" if key in said else str(field.description)
        said.add(key)
        pad = " " * indent
        inner = section_of(field_forms(section, name))
        if isinstance(value, dict) and inner is not None:
            lines.append((f"{pad}{name}:", note))
            _write(value, inner, indent + 2, lines, said)
        elif isinstance(value, list) and inner is not None:
            lines.append((f"{pad}{name}:", note))
            for item in value:
                below: list[tuple[str, str]] = []
                _write(item, inner, indent + 4, below, said)
                first, comment = below[0]
                lines.append((f"{pad}  - {first.lstrip()}", comment))
                lines.extend(below[1:])
        else:
            lines.append((f"{pad}{name}: {value}", note))


# ── for editors ─────────────────────────────────────────────────────────────────────────────────


def json_schema() -> dict[str, Any]:
    """The schema for yaml-language-server and jsonschema (draft 2020-12).

    pydantic's titles ("Min Characters") only repeat the key and are left out.
    """
    schema = _tidy(Config.model_json_schema(mode="validation"))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "malmoi config",
        **schema,
    }


def _tidy(value: Any, *, properties: bool = False) -> Any:
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {}
    for key, item in value.items():
        if properties:
            result[key] = _tidy(item)
        elif key in ("ge", "le"):  # what pydantic calls a limit behind a validator
            result["minimum" if key == "ge" else "maximum"] = item
        elif key not in ("title", "affects_output"):
            result[key] = _tidy(item, properties=key in ("properties", "$defs"))
    return result


if __name__ == "__main__":
    write_text(SCHEMA_FILE, json.dumps(json_schema(), ensure_ascii=False, indent=2) + "\n")
