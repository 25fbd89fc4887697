"""What the second pass and the index hold of each further document, counted, not sampled."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.synthetic_corpus import make_work

from configs.schema import Config
from dedup.copies import comparison, duplicates, index_writer, room
from dedup.copies.against import Earlier
from dedup.read import Task


def unsaid(step: str, done: float, total: float) -> None:
    """Nobody follows the progress."""


STEPS = {
    duplicates: ["load_corpus", "first_of_equals", "decide", "cluster_sizes", "similarity_bins",
                 "largest_clusters", "write_outcomes", "find_duplicates"],
    comparison: ["group", "write_sets", "select"],
    comparison.Comparison: ["__init__", "_band_keys", "_sketches", "_parts", "_settings"],
    index_writer: ["_Kept", "_write_digests", "write_index"],
}  # fmt: skip


def watch(monkeypatch: pytest.MonkeyPatch, most: dict[str, int]) -> None:
    """Note the most that is held while each step runs. Their outer steps alone would hide what grows
    behind what is large but constant."""

    def watched(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            tracemalloc.reset_peak()
            result = step(*given, **named)
            most[name] = tracemalloc.get_traced_memory()[1]
            return result

        return call

    for place, names in STEPS.items():
        for name in names:
            monkeypatch.setattr(place, name, watched(name, getattr(place, name)))


def work_of(folder: Path, documents: int, on_disk: bool) -> None:
    """Make the work files, seek copies, and write the index."""
    folder.mkdir()
    make_work(folder, documents, task=2_500)
    dedup = Config.model_validate(
        {
            "name": "memory",
            "dedup": {
                "sources": [{"name": "web", "paths": ["none"]}],
                "on_disk": on_disk,
                "workers": 1,
            },
        }
    ).dedup
    assert dedup is not None
    count = json.loads((folder / "tasks.json").read_text())
    tasks = [Task(index, 0, (), 0) for index in range(count)]
    earlier = Earlier.open(dedup, folder)
    duplicates.find_duplicates(tasks, dedup, folder, earlier, workers=1, say=unsaid)
    index_writer.write_index(tasks, dedup, folder, folder / "made", {}, workers=1, say=unsaid)


@pytest.mark.parametrize(("on_disk", "most"), [(True, 32), (False, 500)])
def test_in_no_step_more_than_a_few_bytes_are_held_of_each_further_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool, most: int
) -> None:
    """Mapped files are not counted: the kernel takes their pages back when it needs them."""
    monkeypatch.setattr(room, "_SMALL", 0)
    work_of(tmp_path / "first", 100, on_disk)  # what is loaded and compiled on the way
    found: list[dict[str, int]] = [{}, {}]
    sizes = (5_000, 15_000)
    tracemalloc.start()
    for held, documents in zip(found, sizes, strict=True):
        with monkeypatch.context() as steps:
            watch(steps, held)
            work_of(tmp_path / str(documents), documents, on_disk)
    tracemalloc.stop()
    each = {name: (found[1][name] - found[0][name]) / (sizes[1] - sizes[0]) for name in found[1]}
    print({name: round(value, 1) for name, value in each.items()})
    assert set(each) == {name for names in STEPS.values() for name in names}
    assert max(each.values()) <= most
