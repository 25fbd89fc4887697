"""Documents + tokenizer + base model → checkpoint: the stage as a function.

`prepare` writes what all ranks read: token shards, packing plans, the start of training. It runs once,
in one process, and finds every mistake that can be found before a step is taken. `run` is one rank: it
trains, and rank 0 writes `model/` and, last of all, `pretrain/report.json`. Both go on where they were
killed, and do nothing costly when all is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from configs.errors import InputError
from configs.files import read_json, write_json
from configs.progress import Log, Progress, silent
from configs.schema import Config
from pretrain.checkpoints.fork import fork
from pretrain.checkpoints.identity import identify
from pretrain.data.same_data import open_same_tokens
from pretrain.data.token_shards import write_tokens
from pretrain.data.tokens import Tokens, open_tokens
from pretrain.phases import PhaseReport, check_phases, make_work, pair_forms, repeated_sources
from pretrain.preference.phases import prepare_choices, stage_identity, tune_all
from pretrain.preference.tune import PreferenceReport
from pretrain.weights.model import count_stored_parameters, read_rows, write_base
from pretrain.weights.trainable import check_train
from pretrain.zero import process_group, quiet_deepspeed
from tokenizer.load import load_tokenizer


@dataclass(frozen=True)
class Report:
    """What the stage did; also `pretrain/report.json`.

    phases: all of them; the loss of a preference phase is DPO's. preference: more of those, in order.
    tokens, seconds, bits_per_byte: of the others. seconds: of training, over all attempts. bits_per_byte: {"before" | "after": {source or language:
    bits}}. resumed: how often training went on from a checkpoint. steps_left_out: after jumps of the
    loss, as `pretrain.guard` asks for.
    """

    parameters: int
    vocab_size: int
    phases: list[PhaseReport]
    tokens: int
    seconds: float
    bits_per_byte: dict[str, dict[str, float]]
    resumed: int
    world_size: int
    zero_stage: int
    dtype: str
    identity: str
    steps_left_out: int = 0
    preference: list[PreferenceReport] = field(default_factory=list)


def _places(config: Config, folder: Path) -> tuple[Sequence[str | Path], Path]:
    """Where documents and tokenizer come from: the config's own, or this run's."""
    pretrain = config.pretrain
    if pretrain is None:
        raise InputError("pretrain: the config has no such section; add one, or run another stage")
    own: Sequence[str | Path] = pretrain.documents or [folder / "dedup" / "documents"]
    documents = [*own, *pretrain.replay]
    if not pretrain.documents and not (folder / "dedup" / "documents").is_dir():
        raise InputError(
            f"{folder / 'dedup' / 'documents'}: is missing; run dedup first, or set pretrain.documents"
        )
    if pretrain.tokenizer is None and not (folder / "tokenizer" / "tokenizer.json").is_file():
        raise InputError(
            f"{folder / 'tokenizer'}: is missing; run tokenizer first, or set pretrain.tokenizer"
        )
    return documents, _tokenizer_folder(pretrain.tokenizer, folder)


def _tokenizer_folder(name: str | None, folder: Path) -> Path:
    """The tokenizer's folder; one named by hub id is copied into the run first."""
    if name is None:
        return folder / "tokenizer"
    if Path(name).is_dir():
        return Path(name)
    copy = folder / "pretrain" / "tokenizer"
    if not (copy / "tokenizer.json").is_file():
        load_tokenizer(name).save_pretrained(str(copy))
    return copy


def prepare(config: Config, folder: Path, *, log: Log | None = None) -> None:
    """Write `pretrain/tokens/` and `pretrain/base/` of the run in `folder`; one process.

    What is there already is verified (the digest of every file of tokens), not made again. Raises
    InputError with what is wrong with base, tokenizer, documents or phases.
    """
    log = log or silent
    quiet_deepspeed()
    documents, tokenizer_folder = _places(config, folder)
    pretrain = config.pretrain
    assert pretrain is not None
    if _finished(config, folder) is not None:
        return
    tokenizer = load_tokenizer(tokenizer_folder)
    stage = folder / "pretrain"
    disable_progress_bar()  # transformers' own; the log says where we are
    log(Progress("pretrain", "base"))
    rows = write_base(
        pretrain.base, tokenizer, tokenizer_folder, pretrain.new_rows, config.seed, stage / "base"
    )
    tokenizer_file = tokenizer_folder / "tokenizer.json"
    pairs = pair_forms(config)
    write_tokens(documents, tokenizer, tokenizer_file, stage / "tokens", pairs=pairs, log=log)
    tokens = open_tokens(stage / "tokens", verify=True)
    prepare_choices(config, documents, tokenizer, tokens, stage, log)
    model_config = AutoConfig.from_pretrained(str(stage / "base")).get_text_config()
    longest = getattr(model_config, "max_position_embeddings", None)
    check_phases(pretrain, tokens, longest, rows.vocabulary - rows.base)
    check_train(pretrain, stage / "base")
    packed = len(pretrain.token_phases)
    for number in range(packed):
        log(Progress("pretrain", "pack", number, packed, "phases"))
        warning = repeated_sources(make_work(config, tokens, number, 1))
        if warning is not None:
            log(Progress("pretrain", "warning", 1, 1, "", warning))
    log(Progress("pretrain", "pack", packed, packed, "phases"))
    if pretrain.start_from is not None:
        own = identify(config, tokens)
        fork(pretrain.start_from, stage, own, lambda n: make_work(config, tokens, n, 1).steps)
    write_json(stage / "prepared.json", {"identity": stage_identity(config, tokens, stage)})


def _prepared(config: Config, folder: Path) -> bool:
    stage = folder / "pretrain"
    try:
        tokens = open_tokens(stage / "tokens")
        own = stage_identity(config, tokens, stage)
        return bool(read_json(stage / "prepared.json")["identity"] == own)
    except (OSError, ValueError, InputError):
        return False


def _finished(config: Config, folder: Path) -> Report | None:
    """The report of an earlier run with this config, where its outputs are whole."""
    path = folder / "pretrain" / "report.json"
    if not path.is_file() or not (folder / "model" / "config.json").is_file():
        return None
    values = read_json(path)
    tokens = open_tokens(folder / "pretrain" / "tokens")
    try:
        own = stage_identity(config, tokens, folder / "pretrain")
    except InputError:  # the encoded pairs were removed: they are made again
        return None
    if values["identity"] != own:
        return None
    phases = [PhaseReport(**phase) for phase in values.pop("phases")]
    preference = [PreferenceReport.of(phase) for phase in values.pop("preference", [])]
    return Report(**values, phases=phases, preference=preference)


def run(config: Config, folder: Path, *, log: Log | None = None) -> Report:
    """One rank of training; every rank returns the report.

    RANK, WORLD_SIZE and LOCAL_RANK come from the environment (torchrun sets them); without them this
    process is the only rank. Goes on from the newest sound checkpoint. Raises Stopped after SIGTERM
    and KeyboardInterrupt after Ctrl-C, with a checkpoint saved, and InputError where input, config or
    a loss that is no number ends the run.
    """
    log = log or silent
    quiet_deepspeed()
    disable_progress_bar()
    from pretrain.train import Trainer

    _, tokenizer_folder = _places(config, folder)
    done = _finished(config, folder)
    if done is not None:
        return done
    stage = folder / "pretrain"
    with process_group() as ranks:
        log = log if ranks.first else silent
        problem: Exception | None = None
        if ranks.first and not _prepared(config, folder):
            try:
                prepare(config, folder, log=log)
            except Exception as error:
                problem = error
        problem = ranks.broadcast(problem)
        if problem is not None:
            raise problem
        tokens = open_same_tokens(config, stage / "tokens", ranks)
        trainer = Trainer(config, stage, tokens, ranks, log)
        weights, phases = trainer.run()
        tokenizer = load_tokenizer(tokenizer_folder)
        weights, preference = tune_all(config, stage, weights, tokens, tokenizer, ranks, log)
        rows = read_rows(stage / "base")
        state = trainer.state
        report = Report(
            parameters=count_stored_parameters(weights),
            vocab_size=rows.total,
            phases=[*phases, *(one.as_phase() for one in preference)],
            tokens=state.tokens,
            seconds=round(state.seconds, 2),
            bits_per_byte=_scores(stage / "metrics.jsonl"),
            resumed=state.resumed,
            world_size=ranks.world_size,
            zero_stage=state.zero_stage,
            dtype=str(trainer.dtype).removeprefix("torch."),
            identity=stage_identity(config, tokens, stage),
            steps_left_out=sum(e.last_step - e.first_step + 1 for e in state.left_out),
            preference=preference,
        )
        if ranks.first:
            _export(config, folder, tokens, tokenizer_folder, weights, report, log)
        ranks.barrier()
    return report


def _export(
    config: Config,
    folder: Path,
    tokens: Tokens,
    tokenizer_folder: Path,
    weights: Path,
    report: Report,
    log: Log,
) -> None:
    from pretrain.weights.export import export_model, legal_files, model_card

    log(Progress("pretrain", "export"))
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(tokenizer_folder)
    card = model_card(config, folder, tokens, report)
    rows = read_rows(folder / "pretrain" / "base")
    beside = legal_files(config, folder, report)
    export_model(weights, tokenizer, tokenizer_folder, rows, card, folder / "model", beside)
    write_json(folder / "pretrain" / "report.json", asdict(report))


def _scores(metrics: Path) -> dict[str, dict[str, float]]:
    """The first and the last evaluation in metrics.jsonl."""
    if not metrics.is_file():  # only preference phases
        return {"before": {}, "after": {}}
    entries: list[dict[str, Any]] = [
        json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()
    ]
    scores = [entry["bits_per_byte"] for entry in entries if "bits_per_byte" in entry]
    return {"before": scores[0], "after": scores[-1]} if scores else {"before": {}, "after": {}}
