"""Reading the stages' reports with care: what is not of the expected form counts as absent.

A page about a run of an older version, or of one cut short, still comes out with the parts it has.
"""

from __future__ import annotations

import math
from typing import Any

Entry = dict[str, Any]


def entry(value: Any) -> Entry:
    """The mapping that should be there, or an empty one."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Entry]:
    """The mappings of a list that should be there."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def counts(value: Any) -> dict[str, float]:
    """A mapping of names to numbers; what is not a number is left out."""
    return {
        str(name): figure
        for name, item in entry(value).items()
        if (figure := number(item)) is not None
    }


def is_number(text: str) -> bool:
    """Whether a mapping's key is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def share(part: float, whole: float) -> str:
    """`part` of `whole` in per cent, for people."""
    return f"{100 * part / whole:.1f} %" if whole else "–"
