"""Names on the Hugging Face hub, for people who may have no way to it.

In: what the hub's client raised. Out: one line that says why (offline, gated, no such name, no network)
and how to bring what is missing to this machine. And the switches that keep libraries from reporting
home: nothing this program starts sends usage statistics, on any network.
"""

from __future__ import annotations

import os
from pathlib import Path

NO_TELEMETRY = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
_YES = {"1", "true", "yes", "on"}


def no_telemetry() -> None:
    """Switch usage reports of libraries off, also in the processes that this one starts."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    if offline():
        for name, value in OFFLINE.items():
            os.environ.setdefault(name, value)


def offline() -> bool:
    """Whether the person said that there is no network (HF_HUB_OFFLINE)."""
    said = (os.environ.get(name, "").lower() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value in _YES for value in said)


def is_hub_id(name: str) -> bool:
    """Whether a name is `organisation/name` and nothing on this disk."""
    parts = name.split("/")
    return (
        len(parts) == 2
        and all(parts)
        and not name.startswith((".", "~"))
        and not Path(name).exists()
    )


def cannot_be_had(key: str, name: str, error: BaseException) -> str:
    """The line for a model or tokenizer that did not come from the hub: why, and how to bring it.

    key: of the config, for example pretrain.base.
    """
    return f"{key}: {name} {_why(name, error)}; {_bring(key, name, gated=_is_gated(error))}"


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or link.__context__
    return found


def _is_gated(error: BaseException) -> bool:
    return any(
        type(link).__name__ == "GatedRepoError" or "trying to access a gated repo" in str(link)
        for link in _chain(error)
    )


def _why(name: str, error: BaseException) -> str:
    kinds = {type(link).__name__ for link in _chain(error)}
    if offline():
        return "is not on this machine, and HF_HUB_OFFLINE says that there is no network"
    if _is_gated(error):
        return (
            f"is gated: accept its licence at https://huggingface.co/{name} and log in with "
            "`hf auth login`"
        )
    if "RepositoryNotFoundError" in kinds or " 404 " in f" {error} ":
        return "is no folder here and no model on the hub (or a private one)"
    if kinds & {"ConnectionError", "ConnectError", "LocalEntryNotFoundError", "ConnectTimeout"}:
        return "is not on this machine, and the hub does not answer"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"is no folder here, and could not be had from the hub ({first})"


def _bring(key: str, name: str, *, gated: bool) -> str:
    login = "" if gated else " (log in there first where it is gated: hf auth login)"
    folder = name.rsplit("/", 1)[-1]
    return (
        f"without a network, have `malmoi bundle CONFIG` or `hf download {name} --local-dir {folder}` "
        f"done on a machine that has one{login}, carry the folder here, and set {key} to it"
    )
