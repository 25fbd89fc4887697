"""Whether what all ranks read is there already, told without importing what makes it.

In: the config and the run folder of a training that goes on, whose keys and inputs were found unchanged.
Out: yes, and then its ranks can be started; or no, and then `stage.prepare` has to look and say why.

The decision: files of tokens are verified as `prepare` verifies them and the identity is compared, but
neither torch nor transformers is imported: the launcher would take five seconds for that before any rank
starts its own import. The base's weights are read by the ranks, who refuse what they cannot read.
"""

from __future__ import annotations

from pathlib import Path

from configs.errors import InputError
from configs.files import read_json, sha256
from configs.schema import Config
from pretrain.checkpoints.identity import identify
from pretrain.data.tokens import Tokens, open_tokens


def is_prepared(config: Config, folder: Path) -> bool:
    """Whether `prepare` would find all it makes in `folder`, whole and of this config.

    False, too, where only `prepare` can tell: with preference phases, `start_from`, or when the run
    may be finished.
    """
    settings, stage = config.pretrain, folder / "pretrain"
    if settings is None or settings.start_from is not None or (stage / "report.json").exists():
        return False
    if len(settings.token_phases) != len(settings.phases):
        return False
    if settings.tokenizer is not None and not Path(settings.tokenizer).is_dir():
        return False  # a hub id, which is copied into the run
    base = stage / "base"
    if not (base / "malmoi_rows.json").is_file() or not any(base.glob("*.safetensors")):
        return False
    try:
        tokens = open_tokens(stage / "tokens", verify=True)
        tokenizer = Path(settings.tokenizer or folder / "tokenizer") / "tokenizer.json"
        if sha256(tokenizer) != tokens.tokenizer_sha256 or not _planned(tokens):
            return False
        return bool(
            read_json(stage / "prepared.json")["identity"] == identify(config, tokens).digest
        )
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return False


def _planned(tokens: Tokens) -> bool:
    """Whether the packing is there with its digests; else every rank would pack all documents at once."""
    pieces = list((tokens.folder / "plans" / tokens.digest[:16]).glob("*.pieces.npy"))
    records = [path.with_name(path.name.removesuffix(".pieces.npy") + ".json") for path in pieces]
    return bool(records) and all(record.is_file() for record in records)
