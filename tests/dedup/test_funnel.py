"""The figures behind the live funnel agree with the report, also after a stop."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from near_corpus import edited, passage, put, settings

import dedup.stage
from configs.progress import Funnel, Progress
from dedup.stage import run


def corpus(folder: Path) -> Any:
    """Six files of twenty documents: copies, near copies, short ones; a broken line in each."""
    rng = random.Random(11)
    first = passage(rng)
    for file in range(6):
        texts = {f"{file}-{number}": passage(rng) for number in range(20)}
        texts[f"{file}-3"] = first
        texts[f"{file}-4"] = edited(rng, first)
        texts[f"{file}-5"] = "짧다"
        put(folder / f"{file}.jsonl", texts)
        with (folder / f"{file}.jsonl").open("a") as handle:
            handle.write("{broken\n")
    return settings(folder, filters={"min_characters": 40, "min_language": 0, "mean_word": [1, 9]})


def funnels(told: list[Progress], step: str) -> list[Funnel]:
    return [one.funnel for one in told if one.step == step and one.funnel is not None]


@pytest.mark.parametrize("stopped", [False, True])
def test_the_last_funnel_says_what_the_report_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    config = corpus(tmp_path / "in")
    if stopped:

        def stop(progress: Progress) -> None:
            if progress.step == "publish" and progress.done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", log=stop)
    told: list[Progress] = []
    report = run(config, tmp_path / "run", log=told.append)
    last = funnels(told, "publish")[-1]
    assert last.documents == last.judged == report.documents_in
    assert (last.kept, last.failed) == (report.documents_out, report.documents_failed)
    assert {step: count for step, count in last.removed.items() if count} == report.removed
    assert last.bytes == sum(path.stat().st_size for path in (tmp_path / "in").iterdir())


def test_documents_move_within_a_task_and_steps_between_tasks(tmp_path: Path) -> None:
    told: list[Progress] = []
    run(corpus(tmp_path / "in"), tmp_path / "run", log=told.append)
    seen = funnels(told, "clean")
    assert seen[0].documents == 0 and seen[0].judged == 0
    assert [one.documents for one in seen] == sorted(one.documents for one in seen)
    assert any(one.documents > one.judged for one in seen)
    assert "near" not in seen[-1].removed and seen[-1].removed["filter"] == 6


def test_the_report_carries_lengths_letters_and_the_largest_clusters_texts(tmp_path: Path) -> None:
    report = run(corpus(tmp_path / "in"), tmp_path / "run")
    assert sum(report.lengths_in.values()) == report.documents_in - report.documents_failed
    assert sum(report.lengths_out.values()) == report.documents_out
    assert report.scripts == {"hangul": report.by_source["web"]["scripts"]["hangul"]}
    first = report.largest_clusters[0]
    assert first["documents"] == 12 and len(first["members"]) == 3
    member = first["members"][0]
    assert member["similarity"] < 1 and member["text"] != member["kept_text"]
    assert "고친말" in member["text"] + member["kept_text"]
    again = json.loads((tmp_path / "run" / "dedup" / "report.json").read_text())
    assert again["largest_clusters"] == report.largest_clusters
    assert dedup.stage.Report.read(tmp_path / "run/dedup/report.json").scripts == report.scripts
