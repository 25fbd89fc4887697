"""The alarm for forgetting: a model that knows English is continued on Korean alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_run import make_config

from configs.errors import InputError
from configs.progress import Progress
from configs.schema import Config, Evaluate, Forgetting
from pretrain.evaluation.forgetting import alarm, check_names
from pretrain.stage import run

KOREAN = [{"name": "korean", "tokens": 10240, "lr": 2e-2, "mixture": {"ko": 1.0}}]


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def run_in(folder: Path, like: Path) -> Path:
    """A run folder over the documents and tokenizer of another."""
    (folder / "dedup").mkdir(parents=True)
    (folder / "dedup" / "documents").symlink_to(like / "dedup" / "documents")
    (folder / "tokenizer").symlink_to(like / "tokenizer")
    return folder


def continued(base: Path, **forgetting: Any) -> Config:
    evaluate = {"every_steps": 3, "sequences": 4, "forgetting": {"limit": 0.03} | forgetting}
    return make_config(
        base=str(base), phases=KOREAN, evaluate=evaluate, checkpoint={"every_steps": 100, "keep": 1}
    )


@pytest.mark.slow
def test_a_run_that_forgets_stops_says_by_how_much_and_goes_on_when_it_may(
    run_folder: Path, tmp_path: Path
) -> None:
    english = [{"name": "en", "tokens": 8192, "lr": 5e-3, "mixture": {"en": 1.0}}]
    run(make_config(phases=english), run_folder)
    base = run_folder / "model"
    folder = run_in(tmp_path / "korean", run_folder)

    with pytest.raises(InputError) as caught:
        run(continued(base, action="stop"), folder)
    message = str(caught.value)
    said = re.search(r"by step (\d+) en rose from ([\d.]+) to ([\d.]+) .*\(\+([\d.]+) %\)", message)
    assert said is not None, message
    assert "limit of 3 %" in message and "replay" in message and "action: warn" in message
    step, rise = int(said[1]), float(said[4])
    first, *_, last = (entry for entry in metrics(folder) if "bits_per_byte" in entry)
    start, now = first["bits_per_byte"]["en"], last["bits_per_byte"]["en"]
    assert (first["step"], last["step"]) == (0, step)
    assert rise == pytest.approx(100 * (now / start - 1), abs=0.05) and rise > 3
    assert [path.name for path in (folder / "pretrain/checkpoints").glob("step-*")] == [
        f"step-{step:08d}"
    ]

    lines = len(metrics(folder))
    with pytest.raises(InputError) as again:  # the same command trains no further
        run(continued(base, action="stop"), folder)
    assert str(again.value) == message and len(metrics(folder)) == lines

    warned: list[str] = []

    def log(progress: Progress) -> None:
        if "forgetting" in progress.message:
            warned.append(progress.message)

    report = run(continued(base, action="warn"), folder, log=log)
    assert report.resumed == 1 and report.phases[0].steps == 20
    assert len(warned) >= 2  # of the checkpoint, and of every evaluation after it
    assert all(f"en rose from {start:.3f} to" in text for text in warned)  # still the first start


def test_a_rise_below_the_limit_and_what_is_not_watched_are_left_alone() -> None:
    settings = Forgetting(source="en", limit=0.03)
    assert alarm(settings, 5, {"en": 1.0, "ko": 1.0}, {"en": 1.029, "ko": 9.0}) is None
    assert alarm(None, 5, {"en": 1.0}, {"en": 9.0}) is None
    assert alarm(settings, 5, {}, {"en": 9.0}) is None  # a state without a start
    both = Forgetting(source=["en", "code"], limit=0.01)
    text = alarm(both, 5, {"en": 1.0, "code": 2.0}, {"en": 1.02, "code": 2.2})
    assert text is not None and "en rose from 1.000 to 1.020" in text
    assert "and code rose from 2.000 to 2.200 bits per byte (+10.0 %)" in text


def test_a_name_without_held_out_text_is_a_mistake() -> None:
    check_names(None, set())
    with pytest.raises(InputError, match="no held-out text of en; there is of: dialogue, ko"):
        check_names(Forgetting(), {"ko", "dialogue"})


def test_the_limit_changes_nothing_that_was_trained() -> None:
    from configs.load import output_keys

    plain = make_config()
    watched = make_config(evaluate={"every_steps": 6, "sequences": 4, "forgetting": {"limit": 0.1}})
    assert output_keys(plain, "pretrain") == output_keys(watched, "pretrain")
    with pytest.raises(ValidationError):
        Evaluate.model_validate({"forgetting": {"limit": 0}})
