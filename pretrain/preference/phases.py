"""The preference phases of a run: made ready by one process, gone through by every rank.

In: the config, the documents, the weights that the other phases left. Out: the weights of the last one and a
report for each. A phase begins with the weights of the one before, which are its reference; its identity
is chained to theirs, so that a change of the data or of an earlier phase makes it run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from configs.errors import missing_extra
from configs.progress import Log, Progress
from configs.schema import Config
from pretrain.data.same_data import on_every_rank
from pretrain.data.tokens import Tokens
from pretrain.phases import identity
from pretrain.preference.choices import Choices, divide, write_choices
from pretrain.preference.tune import FOLDER, WEIGHTS, PreferenceReport, phase_identity, tune
from pretrain.zero import Ranks


def numbers(config: Config) -> list[int]:
    """The preference phases' places among all."""
    assert config.pretrain is not None
    phases = enumerate(config.pretrain.phases)
    return [number for number, phase in phases if phase.objective == "preference"]


def prepare_choices(
    config: Config,
    documents: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    tokens: Tokens,
    stage: Path,
    log: Log,
) -> None:
    """Encode the pairs and divide them, which finds what is wrong with them; one process.

    Raises InputError where TRL is not installed, a source has no pairs, or none of them fits.
    """
    if not numbers(config):
        return
    if find_spec("trl") is None:
        raise missing_extra("trl", "align")
    write_choices(config, documents, tokenizer, tokens.digest, stage / FOLDER, log)
    choices = Choices.open(stage / FOLDER)
    for number in numbers(config):
        division = divide(config, choices, number, 1)
        if division.too_long:
            assert config.pretrain is not None
            name = config.pretrain.phases[number].name
            said = (
                f"phase {name}: {division.too_long:,} pairs are longer than its sequence_length and are "
                f"left out; {len(division.rows):,} places remain"
            )
            log(Progress("pretrain", "warning", 1, 1, "", said))


def stage_identity(config: Config, tokens: Tokens, stage: Path) -> str:
    """A digest of everything that decides the stage's model. Raises InputError where pairs are gone."""
    found = identity(config, tokens)
    chosen = numbers(config)
    if chosen:
        digest = Choices.open(stage / FOLDER).digest
        for number in chosen:
            found = phase_identity(config, number, found, digest)
    return found


def tune_all(
    config: Config,
    stage: Path,
    weights: Path,
    tokens: Tokens,
    tokenizer: PreTrainedTokenizerFast,
    ranks: Ranks,
    log: Log,
) -> tuple[Path, list[PreferenceReport]]:
    """Every preference phase, in order, beginning with `weights`; the last one's weights."""
    reports = []
    before = identity(config, tokens)
    for number in numbers(config):
        digest = on_every_rank(lambda: Choices.open(stage / FOLDER)).digest
        reports.append(tune(config, stage, number, weights, before, tokenizer, ranks, log))
        before = phase_identity(config, number, before, digest)
        weights = stage / FOLDER / str(number) / WEIGHTS
    return weights, reports
