"""The stage: real training, real interruptions, real checkpoints."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import BASE, make_config, twin
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import InputError, Stopped
from configs.progress import Progress
from pretrain.evaluation.measure import evaluate_model
from pretrain.stage import prepare, run

pytestmark = pytest.mark.slow
PHASES = [
    {"name": "text", "tokens": 6144, "lr": 3e-3, "mixture": {"ko": 0.75, "en": 0.25}},
    {"name": "chat", "objective": "chat", "epochs": 1, "lr": 1e-3, "mixture": {"dialogue": 1.0}},
]


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def steps(folder: Path) -> list[tuple[Any, ...]]:
    """What must not differ between two runs of the same thing."""
    names = ("step", "phase", "tokens", "first_sequence", "sequence_digest", "targets", "loss")
    return [
        tuple(entry[name] for name in (*names, "learning_rate", "grad_norm"))
        for entry in metrics(folder)
        if "loss" in entry
    ]


def stop_at(step: int, number: int = signal.SIGTERM) -> Callable[[Progress], None]:
    def log(progress: Progress) -> None:
        if progress.step == "text" and progress.done == step:
            os.kill(os.getpid(), number)

    return log


def test_two_phases_train_and_leave_a_model_that_transformers_loads(run_folder: Path) -> None:
    config = make_config(phases=PHASES)
    report = run(config, run_folder)
    assert [phase.name for phase in report.phases] == ["text", "chat"]
    for phase in report.phases:
        assert phase.loss_last < phase.loss_first
    before, after = report.bits_per_byte["before"], report.bits_per_byte["after"]
    assert set(after) == {"ko", "en", "dialogue"} and after["ko"] < before["ko"]

    entries = metrics(run_folder)
    assert entries[0]["step"] == 0 and "bits_per_byte" in entries[0]
    assert sum(entry.get("sequences", 0) for entry in entries) * 64 == report.tokens

    model_folder = run_folder / "model"
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    vocabulary = tokenizer.get_vocab()
    ends = [vocabulary["<|end_of_text|>"], vocabulary["<|eot_id|>"]]
    assert model.generation_config.eos_token_id == ends
    assert min(model.generation_config.suppress_tokens) == len(tokenizer)
    assert tokenizer.chat_template
    assert report.parameters == sum(p.numel() for p in model.parameters())
    card = (model_folder / "README.md").read_text()
    assert "| ko | text |" in card and "Bits per byte" in card

    scores = evaluate_model(model_folder, run_folder / "dedup" / "documents", sequence_length=64)
    assert scores["en"] == pytest.approx(after["en"], rel=0.2)
    assert run(config, run_folder) == report  # finished: nothing is done again


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_that_was_stopped_and_resumed_has_bitwise_the_same_losses(
    stage: int, run_folder: Path
) -> None:
    dtype = "bf16" if stage == 1 else "fp32"
    config = make_config(zero_stage=stage, dtype=dtype, checkpoint={"every_steps": 100, "keep": 1})
    other = twin(run_folder, "stopped")
    run(config, run_folder)
    with pytest.raises(Stopped, match="the same command goes on"):
        run(config, other, log=stop_at(4))
    assert len(steps(other)) == 5
    assert (other / "pretrain" / "checkpoints" / "latest").read_text() == "step-00000005\n"
    report = run(config, other)
    assert report.resumed == 1
    assert steps(other) == steps(run_folder)
    same = [
        AutoModelForCausalLM.from_pretrained(f / "model").state_dict() for f in (run_folder, other)
    ]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


def test_ctrl_c_saves_and_propagates(run_folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(make_config(), run_folder, log=stop_at(2, signal.SIGINT))
    assert (run_folder / "pretrain" / "checkpoints" / "step-00000003" / "manifest.json").is_file()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    other = twin(run_folder, "damaged")
    run(config, run_folder)
    with pytest.raises(Stopped):
        run(config, other, log=stop_at(5))
    newest = other / "pretrain" / "checkpoints" / "step-00000006"
    file = next(newest.glob("*optim_states.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run(config, other)
    assert f"{file.name} is not as it was written" in capsys.readouterr().out
    assert steps(other) == steps(run_folder)


def test_the_fresh_checkpoint_stays_where_a_newer_one_is_damaged(run_folder: Path) -> None:
    one = {"every_steps": 100, "keep": 1}
    with pytest.raises(Stopped):
        run(make_config(checkpoint={"every_steps": 4, "keep": 3}), run_folder, log=stop_at(7))
    checkpoints = run_folder / "pretrain" / "checkpoints"
    (checkpoints / "step-00000008" / "manifest.json").unlink()
    for left in ("step-00000007.tmp", "universal.tmp"):
        (checkpoints / left).mkdir()
    with pytest.raises(Stopped):
        run(make_config(checkpoint=one), run_folder, log=stop_at(5))
    names = {path.name for path in checkpoints.iterdir()}
    assert names == {"step-00000006", "latest"}


def test_a_changed_number_of_checkpoints_to_keep_does_not_start_anew(run_folder: Path) -> None:
    with pytest.raises(Stopped):
        run(make_config(), run_folder, log=stop_at(4))
    changed = make_config(checkpoint={"every_steps": 5, "keep": 1}, micro_batch=1, threads=2)
    report = run(changed, run_folder)
    assert report.resumed == 1


@pytest.mark.parametrize("stage", [2, 3])
def test_rows_that_do_not_learn_move_exactly_nothing(stage: int, run_folder: Path) -> None:
    vocabulary = len(AutoTokenizer.from_pretrained(run_folder / "tokenizer"))
    tokenizer = run_folder / "own"
    tokenizer.mkdir()
    for path in (run_folder / "tokenizer").iterdir():
        (tokenizer / path.name).symlink_to(path)
    new = range(vocabulary - 60, vocabulary)  # said to be new: rows of words that do occur
    lines = "".join(f"{index}\tx\tx\t1\t\n" for index in new)
    (tokenizer / "new_tokens.tsv").write_text("id\ttoken\ttext\tcount\tbase_ids\n" + lines)
    phases = [{**PHASES[0], "train": ["embed.new_rows"], "tokens": 2048}]
    run(make_config(tokenizer=str(tokenizer), phases=phases, zero_stage=stage), run_folder)
    start = AutoModelForCausalLM.from_pretrained(run_folder / "pretrain" / "base").state_dict()
    end = AutoModelForCausalLM.from_pretrained(run_folder / "model").state_dict()
    for name, value in start.items():
        moved = (end[name] - value).abs()
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert float(moved[: new[0]].max()) == 0 and float(moved[vocabulary:].sum()) == 0
            assert float(moved[new[0] : vocabulary].max()) > 0
        else:
            assert float(moved.max()) == 0


def test_the_loss_of_a_step_does_not_depend_on_how_it_is_divided(run_folder: Path) -> None:
    losses = []
    for name, micro in (("one", 1), ("three", 3), ("eight", 8)):
        folder = twin(run_folder, name)
        phases = [{**PHASES[1], "epochs": None, "tokens": 1536}]
        run(make_config(micro_batch=micro, phases=phases), folder)
        losses.append([step[6] for step in steps(folder)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[2] == pytest.approx(losses[0], abs=1e-4)


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_do(run_folder: Path) -> None:
    phases = [{**PHASES[0], "lr": 1e30}]
    with pytest.raises(InputError, match=r"at step \d+, sequences .* lower its lr"):
        run(make_config(phases=phases, optimizer={"clip": 0}), run_folder)
    assert not (run_folder / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": [{**PHASES[0], "mixture": {"jp": 1.0}}]}, "jp: has no document to train on"),
        ({"phases": [{**PHASES[1], "mixture": {"ko": 1.0}}]}, "not dialogues"),
        ({"sequence_length": 512}, "more than the model's 256 positions"),
        ({"documents": ["nothing/*.parquet"]}, "no file is there"),
        ({"phases": [{**PHASES[0], "train": ["embed.new_rows"]}]}, "the tokenizer has none"),
    ],
)
def test_a_mistake_in_the_phases_is_found_before_the_first_step(
    change: dict[str, Any], message: str, run_folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        prepare(make_config(**change), run_folder)


def test_an_untied_model_in_bf16_trains_too(run_folder: Path) -> None:
    base = {**BASE, "tie_word_embeddings": False}
    phases = [{**PHASES[0], "tokens": 1024}]
    report = run(make_config(base=base, dtype="bf16", zero_stage=3, phases=phases), run_folder)
    model = AutoModelForCausalLM.from_pretrained(run_folder / "model", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert report.parameters == sum(p.numel() for p in model.parameters())
