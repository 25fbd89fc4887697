"""Which steps, checkpoints and models read a document: against going through all sequences."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_run import River

from configs.load import load
from launch.find import answer, runs_in
from launch.trained_on import trained_on
from pretrain.data.order import Order, Place, permute, unpermute
from pretrain.data.packing import open_plan
from pretrain.data.tokens import open_tokens, renderings
from pretrain.phases import make_work


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000, 65_537])
def test_unpermute_undoes_permute(size: int) -> None:
    chance = random.Random(size)
    for key in (1, 2**63 + 7):
        for index in {0, size - 1, *(chance.randrange(size) for _ in range(50))}:
            assert unpermute(permute(index, size, key), size, key) == index


def test_the_numbers_of_a_place_are_those_that_lead_to_it() -> None:
    order = Order(5, "0/text", {"ko": 0.7, "pairs": 0.3}, {"ko": 40, "pairs": [9, 11]})
    total, wanted = 25_000, defaultdict(list)
    for number in range(total):
        place = order(number)
        wanted[place.source, place.rendering, place.index].append(number)
    for (source, rendering, index), numbers in wanted.items():
        assert list(order.numbers(Place(source, index, 0, rendering), total)) == numbers
    assert list(order.numbers(Place("nowhere", 0, 0), total)) == []


def find(folder: Path, text: str | None = None, **options: Any) -> bool:
    """`malmoi find`; whether anything was found."""
    plain = {"file": None, "id": None, "url": None, "at_least": None, "most": 10, "as_json": False}
    return answer(folder, text, **(plain | options))


def _by_walking(run: Path) -> dict[tuple[str, int], list[int]]:
    """(source, document) → the steps that read it, by looking at every sequence of every phase."""
    config = load(str(run / "config.yaml"))
    assert config.pretrain is not None
    tokens = open_tokens(run / "pretrain" / "tokens")
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    begin = 0
    for number, phase in enumerate(config.pretrain.phases):
        work = make_work(config, tokens, number, 1)
        length = work.sequences.sequence_length
        for sequence in range(work.total):
            place = work.sequences.order(sequence)
            kind = tokens.sets[place.source, "train"].kind
            split = renderings(kind, phase.objective)[place.rendering]
            plan = open_plan(tokens, place.source, length, phase.objective, split)
            for document in plan[place.index]["document"].tolist():
                found[place.source, document].append(begin + work.division.at(sequence) + 1)
        begin += work.steps
    return found


def test_every_step_that_read_a_document_is_found_and_no_other(river: River) -> None:
    run = river[0] / "run"
    wanted: dict[tuple[str, str], tuple[str, int]] = {}
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for path in sorted((run / "dedup/documents").glob("*.parquet")):
        for row in pq.read_table(path, columns=["id", "source", "split"]).to_pylist():
            key = row["source"], row["split"]
            wanted[row["source"], row["id"]] = row["split"], counted[key]
            counted[key] += 1
    truth = _by_walking(run)
    told = {(one.source, one.id): one for one in trained_on(run, wanted)}
    assert set(told) == set(wanted)
    read = 0
    for (source, id), (split, number) in wanted.items():
        one = told[source, id]
        steps = sorted(truth.get((source, number), [])) if split == "train" else []
        assert one.certain and one.times == len(steps)
        assert one.steps == list(dict.fromkeys(steps))
        read += bool(steps)
        if split != "train":
            assert "held out" in one.why and one.model is None
        elif steps:
            assert one.model == str(run / "model") and one.tokenizer
            for path in one.checkpoints:
                if Path(path).name.startswith("step-"):
                    assert int(Path(path).name.removeprefix("step-")) >= steps[0]
        else:
            assert "none of the" in one.why and one.model is None and not one.checkpoints
    assert 0 < read < len(wanted)  # the small run does not come to all of them


def test_find_names_the_models_with_a_text_across_runs_and_through_a_base(
    river: River, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = river[0] / "run"
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "first").symlink_to(run)
    later = runs / "later"  # goes on from the first one's model, with documents of its own
    (later / "pretrain" / "checkpoints" / "step-00000005").mkdir(parents=True)
    (later / "model").mkdir()
    (later / "model" / "config.json").write_text("{}")
    (later / "lineage.json").write_text('{"stages": {}}')
    (later / "own.jsonl").write_text('{"id": "x", "text": "다른 글이 여기에 하나 있다"}\n')
    (later / "config.yaml").write_text(
        f"name: later\npretrain:\n  base: {runs / 'first' / 'model'}\n"
        f"  tokenizer: {runs / 'first' / 'tokenizer'}\n  documents: [{later / 'own.jsonl'}]\n"
        "  phases: [{name: more, tokens: 1K, mixture: {own: 1.0}}]\n"
    )
    assert runs_in(runs) == [runs / "first", later]
    truth = _by_walking(run)
    rows = [
        row
        for path in sorted((run / "dedup/documents").glob("*.parquet"))
        for row in pq.read_table(path, columns=["id", "source", "split", "text"]).to_pylist()
    ]
    board = [row for row in rows if row["source"] == "board" and row["split"] == "train"]
    number = next(n for n in range(len(board)) if truth.get(("board", n)))
    assert find(runs, id=board[number]["id"], as_json=True)
    found = json.loads(capsys.readouterr().out)
    told = {Path(one["run"]).name: one for one in found["trained"]}
    assert told["first"]["steps"] == list(dict.fromkeys(sorted(truth["board", number])))
    assert told["later"]["model"] == str(later / "model")
    assert "through its base" in told["later"]["why"]
    assert told["later"]["checkpoints"] == [str(later / "pretrain/checkpoints/step-00000005")]
    assert find(run, board[number]["text"])
    assert f"model {run / 'model'} contains it" in capsys.readouterr().out
    assert not find(runs, "이런 글은 어느 말뭉치에도 들어 있지 않다")
    assert "not found" in capsys.readouterr().out


def test_where_the_shards_are_gone_all_that_may_hold_it_is_named(
    river: River, tmp_path: Path
) -> None:
    run, copy = river[0] / "run", tmp_path / "copy"
    (copy / "pretrain" / "checkpoints" / "step-00000004").mkdir(parents=True)
    (copy / "dedup").symlink_to(run / "dedup")
    (copy / "model").symlink_to(run / "model")
    (copy / "config.yaml").write_text((run / "config.yaml").read_text())
    row = pq.read_table(sorted((run / "dedup/documents").glob("*.parquet"))[0]).to_pylist()
    wanted = [r for r in row if r["split"] == "train" and r["source"] == "board"][:1]
    (one,) = trained_on(copy, {(r["source"], r["id"]) for r in wanted})
    assert not one.certain and "gone or not whole" in one.why
    assert one.model and one.checkpoints == [str(copy / "pretrain/checkpoints/step-00000004")]
