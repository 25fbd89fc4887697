"""What the values of a config may be: amounts, paths, lengths, and a mapping that knows its keys.

In: a value as YAML has it (`0.5B`, `64MB`, `200 steps`). Out: the number or string that a stage works with.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMbBtT]?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)[bB]?")


def _count(value: Any) -> Any:
    """`0.5B` → 500,000,000 (K, M, B, T are powers of a thousand)."""
    if isinstance(value, str):
        match = _COUNT.fullmatch(value.strip().replace("_", "").replace(",", ""))
        if match is None:
            raise ValueError(
                "is not a count; write a whole number, or one with K, M, B or T (0.5B)"
            )
        scale = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}[match[2].lower()]
        return round(float(match[1]) * scale)
    if isinstance(value, bool):
        raise ValueError("is not a count; write a whole number, or one with K, M, B or T (0.5B)")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _size(value: Any) -> Any:
    """`64MB` → 64,000,000 bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip().replace("_", ""))
        if match is None:
            raise ValueError("is not a size; write bytes, or a number with KB, MB, GB or TB (64MB)")
        scale = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}[match[2].lower()]
        return round(float(match[1]) * scale)
    return value


class InputPath:
    """Marks a string as a path (or glob) that load.py resolves.

    A relative path in a file is taken from that file's folder, one in a `key=value` override from
    the working directory. With `optional=True` the string may be a name instead ("llama3", a hub
    id), and is left alone unless such a path exists.
    """

    def __init__(self, *, optional: bool = False) -> None:
        self.optional = optional


def runtime(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes how a stage runs but never what it writes."""
    return Field(
        default, description=description, json_schema_extra={"affects_output": False}, **limits
    )


Count = Annotated[
    int,
    BeforeValidator(
        _count,
        json_schema_input_type=int | Annotated[str, Field(pattern=r"^[0-9][0-9._,]*[kKmMbBtT]?$")],
    ),
]
Size = Annotated[
    int,
    BeforeValidator(
        _size,
        json_schema_input_type=int
        | Annotated[str, Field(pattern=r"^[0-9][0-9._]*[kKmMgGtT]?[bB]?$")],
    ),
]
PathGlob = Annotated[str, InputPath()]
PathOrName = Annotated[str, InputPath(optional=True)]
Auto = Literal["auto"]
AtLeastOne = Annotated[int, Field(ge=1)]
NewTokens = Annotated[Count, Field(ge=0, le=1_000_000)]
BatchTokens = Annotated[Count, Field(ge=16)]
EpochLimit = Annotated[float, Field(gt=0)]


class Words:
    """Marks a string that has a form of its own with the words for that form in a message."""

    def __init__(self, words: str) -> None:
        self.words = words


Length = (
    Annotated[float, Field(ge=0, le=1)]
    | Annotated[
        str,
        Field(pattern=r"^\d[\d_]* steps$|^\d[\d._]*[kKmMbBtT]? tokens$"),
        Words("an amount (200 steps, 0.5B tokens)"),
    ]
)


class Section(BaseModel):
    """A mapping of the config: unknown keys are errors, values are never changed afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
