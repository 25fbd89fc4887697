"""What a checkpoint belongs to: base, tokenizer, data, seed and the settings that decide the losses.

In: the config and the token shards. Out: an `Identity`, kept as `identity.json` in every checkpoint and
compared with the running config's on resume, key by key, so that a refusal can name what differs.

A key that the program has learned since the checkpoint was written is no difference where its value is
the default, for a default keeps the old meaning. How many ranks compute a step, and how, is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from configs.load import output_keys
from configs.schema import Config, Pretrain
from pretrain.data.tokens import Tokens

MANY = 6  # differing keys that a message names


@dataclass(frozen=True)
class Identity:
    """settings: the keys of `pretrain` that decide what it writes, as plain JSON values.

    tokens: digest of the token shards' manifest; tokenizer: sha256 of the tokenizer they were made with.
    """

    seed: int
    tokens: str
    tokenizer: str
    settings: dict[str, Any]

    @property
    def digest(self) -> str:
        """One name for all of it."""
        content = [self.seed, self.tokens, self.settings]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def identify(config: Config, tokens: Tokens) -> Identity:
    """The identity of a run of this config over these token shards."""
    settings = dict(output_keys(config, "pretrain")["pretrain"])
    for name in (
        "documents",
        "replay",
        "tokenizer",
    ):  # where they lie; what they hold is in the tokens
        settings.pop(name, None)
    # a preference phase comes after all of this, and has an identity of its own
    settings["phases"] = [p for p in settings["phases"] if p["objective"] != "preference"]
    # through JSON, as a checkpoint's own have been: tuples are lists there
    settings = json.loads(json.dumps(settings))
    return Identity(config.seed, tokens.digest, tokens.tokenizer_sha256, settings)


def differences(saved: dict[str, Any], now: Identity) -> list[str]:
    """What differs between a checkpoint's identity.json and this run's, a line each; none where equal."""
    lines = []
    if saved["tokenizer"] != now.tokenizer:
        lines.append("pretrain.tokenizer: the checkpoint was trained with another tokenizer")
    elif saved["tokens"] != now.tokens:
        lines.append("pretrain.documents: the checkpoint was trained on other documents")
    if saved["seed"] != now.seed:
        lines.append(f"seed: {saved['seed']} in the checkpoint, {now.seed} in the config")
    before, after = _with_defaults(saved["settings"]), _with_defaults(now.settings)
    changed = _changed(before, after, "pretrain")
    lines += changed[:MANY]
    if len(changed) > MANY:
        lines.append(f"and {len(changed) - MANY} keys more")
    return lines


def _with_defaults(settings: dict[str, Any]) -> Any:
    """The settings with every key of today's schema; as they are where it would refuse them."""
    try:
        whole = Pretrain.model_validate(settings)
    except ValidationError:
        return settings
    return json.loads(whole.model_dump_json())


def _changed(old: Any, new: Any, key: str) -> list[str]:
    """Keys whose values differ, each with both."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*new, *(name for name in old if name not in new)]
        return [
            line
            for name in names
            for line in _changed(old.get(name), new.get(name), f"{key}.{name}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for number, (before, after) in enumerate(zip(old, new, strict=True))
            for line in _changed(before, after, f"{key}.{number}")
        ]
    if old == new:
        return []
    return [f"{key}: {_short(old)} in the checkpoint, {_short(new)} in the config"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
