"""What a phase asks of its data: enough of it, not too often, and from sources that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_run import SCHEMA, document, make_config

from configs.errors import InputError
from configs.progress import Progress
from pretrain.data.tokens import Tokens, open_tokens
from pretrain.phases import check_phases, make_work, repeated_sources
from pretrain.stage import prepare

TEXT = {"name": "text", "tokens": 6144, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}}


def refused(tokens: Tokens, phase: dict[str, Any], **fields: Any) -> list[str]:
    """The lines with which a phase is refused before its first step."""
    config = make_config(phases=[TEXT | phase], **fields)
    assert config.pretrain is not None
    with pytest.raises(InputError) as raised:
        check_phases(config.pretrain, tokens, 256, 0)
        make_work(config, tokens, 0, 1)
    return list(raised.value.lines)


@pytest.mark.parametrize(
    ("phase", "fields", "message"),
    [
        (
            {"mixture": {"ko": 0.5, "jp": 0.5}},
            {},
            "pretrain.phases.0.mixture.jp: has no document to train on; these have: dialogue, en, ko",
        ),
        (
            {"tokens": 500},
            {},
            "pretrain.phases.0.tokens: 500 are fewer than one batch of 512; train on more, or set the "
            "phase's global_batch_tokens to 500 or less",
        ),
        (
            {"tokens": 500},
            {"global_batch_tokens": {"start": 512, "end": 1024, "over": "1M"}},
            "pretrain.phases.0.tokens: 500 are fewer than one batch of 512; train on more, or set the "
            "phase's global_batch_tokens to 500 or less",
        ),
        (
            {"sequence_length": 200, "global_batch_tokens": 128},
            {},
            "pretrain.phases.0.global_batch_tokens: 128 tokens are not one sequence of 200; make it 200 "
            "or more, or sequence_length less",
        ),
        (
            {"sequence_length": 512},
            {},
            "pretrain.phases.0: sequence_length 512 is more than the model's 256 positions; make it "
            "256 or less",
        ),
        (
            {"max_epochs": {"jp": 2}},
            {},
            "pretrain.phases.0.max_epochs.jp: the mixture has no such source; it has ko, en",
        ),
    ],
)
def test_a_phase_that_its_data_cannot_serve_is_refused_with_what_would(
    tokens: Tokens, phase: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    assert refused(tokens, phase, **fields) == [message]


def test_epochs_that_are_less_than_a_batch_are_refused(tokens: Tokens) -> None:
    (line,) = refused(tokens, {"tokens": None, "epochs": 0.001})
    assert "0.001 are 64 tokens, fewer than one batch of 512" in line and "to 64 or less" in line


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"ko": 0.75, "en": 0.2}, "shares sum to 0.95, not to 1"),
        ({"ko": 1.5, "en": -0.5}, "every share must be 0 or more"),
        ({"ko": 0.0}, "their sum above 0"),
    ],
)
def test_a_mixture_must_sum_to_one_with_no_negative_share(
    mixture: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(phases=[TEXT | {"mixture": mixture}])


def test_a_source_read_more_often_than_allowed_is_refused_with_what_fits(tokens: Tokens) -> None:
    work = make_work(make_config(phases=[TEXT]), tokens, 0, 1)
    assert work.epochs["en"] > 0.6
    (line,) = refused(tokens, {"max_epochs": {"en": 0.5, "ko": 9}})
    assert line.startswith("pretrain.phases.0.max_epochs: 6,144 tokens go ")
    fits = int(line.split("; ")[1].split(" tokens fit")[0].replace(",", ""))
    share = float(line.split("a share of about ")[1].split(" ")[0])
    fitting = TEXT | {"tokens": fits, "max_epochs": {"en": 0.5}}
    assert make_work(make_config(phases=[fitting]), tokens, 0, 1).epochs["en"] <= 0.5
    assert refused(tokens, {"max_epochs": 0.5, "tokens": fits + 64})
    smaller = TEXT | {"mixture": {"ko": 1 - share, "en": share}}
    passes = make_work(make_config(phases=[smaller]), tokens, 0, 1).epochs["en"]
    assert passes == pytest.approx(0.5, abs=0.05)


def test_text_that_is_repeated_often_is_warned_of_unless_a_limit_says_how_often(
    tokens: Tokens,
) -> None:
    def warned(phase: dict[str, Any]) -> str | None:
        return repeated_sources(make_work(make_config(phases=[TEXT | phase]), tokens, 0, 1))

    assert warned({}) is None
    text = warned({"tokens": 60_000})
    assert text is not None and "repeats text more than 4 times (" in text and "en " in text
    assert warned({"tokens": 60_000, "max_epochs": 100}) is None


def replay_corpus(folder: Path) -> Path:
    """Another run's documents: English, in the contract's form."""
    folder.mkdir()
    rows = [document(n, "english", f"the road {n} runs home", language="en") for n in range(200)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "00000.parquet")
    return folder


@pytest.mark.slow
def test_documents_of_another_run_are_replayed_under_their_own_name_beside_this_runs(
    run_folder: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "old_prose.jsonl"
    plain.write_text("".join(f'{{"text": "wind number {n} blows"}}\n' for n in range(300)))
    replay = [str(replay_corpus(tmp_path / "earlier")), str(plain)]
    mixture = {"ko": 0.6, "english": 0.3, "old_prose": 0.1}
    said: list[Progress] = []
    config = make_config(phases=[TEXT | {"mixture": mixture}], replay=replay)
    prepare(config, run_folder, log=said.append)
    tokens = open_tokens(run_folder / "pretrain" / "tokens")
    assert set(mixture) < set(tokens.sources)
    work = make_work(config, tokens, 0, 1)
    sources = [work.sequences.order(i).source for i in range(work.total)]
    for name, share in mixture.items():
        assert sources.count(name) == pytest.approx(share * len(sources), abs=1)
    assert not [p for p in said if p.step == "warning"]
    often = make_config(phases=[TEXT | {"mixture": mixture, "tokens": 60_000}], replay=replay)
    prepare(often, run_folder, log=said.append)
    (warning,) = [p.message for p in said if p.step == "warning"]
    assert "english" in warning
