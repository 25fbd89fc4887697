"""The alarm for forgetting: how far may held-out text of another language get worse?

In: bits per byte at the start of the run and now, and the limit of the config. Out: what rose too
far and what to do, in words, or nothing. English bits per byte are the cheap proxy for what a model
loses while it learns Korean; what it loses of MMLU and GSM8K costs hours to measure.

The start is the evaluation before the first step. It is part of the state that checkpoints carry, so
a run that is resumed is held to the same figures. So is the last evaluation: a run that was stopped
does not go on until its limit or its settings have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from configs.errors import InputError
from configs.schema import Forgetting


def check_names(settings: Forgetting | None, known: Collection[str]) -> None:
    """Raise InputError for sources and languages that have no held-out text to be judged by."""
    these = ", ".join(sorted(known)) or "none"
    unknown = [name for name in settings.names if name not in known] if settings else []
    if unknown:
        raise InputError(
            [
                f"pretrain.evaluate.forgetting.source: no held-out text of {name}; there is of: {these}; "
                "name one of them, or add documents of it (dedup.heldout keeps some back)"
                for name in unknown
            ]
        )


def forgotten(
    settings: Forgetting, start: Mapping[str, float], now: Mapping[str, float]
) -> dict[str, float]:
    """Rise over the start, as a share of it, of every watched name that rose by more than the limit."""
    rises = {
        name: now[name] / start[name] - 1
        for name in settings.names
        if name in now and start.get(name, 0.0) > 0
    }
    return {name: rise for name, rise in rises.items() if rise > settings.limit}


def alarm(
    settings: Forgetting | None, step: int, start: Mapping[str, float], now: Mapping[str, float]
) -> str | None:
    """What rose too far by this step, by how much, and what to do; None where nothing did."""
    rises = forgotten(settings, start, now) if settings else {}
    if settings is None or not rises:
        return None
    said = " and ".join(
        f"{name} rose from {start[name]:.3f} to {now[name]:.3f} bits per byte ({100 * rise:+.1f} %)"
        for name, rise in rises.items()
    )
    text = (
        f"pretrain.evaluate.forgetting: by step {step} {said}, more than the limit of "
        f"{100 * settings.limit:g} %; give the mixture some replay (a share of {', '.join(rises)}), "
        "lower lr, or train the new rows first"
    )
    if settings.action == "stop":
        text += (
            "; to go on from this step's checkpoint as it is, raise limit or set action: warn, and "
            "give the same command again"
        )
    return text
