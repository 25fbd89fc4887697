"""Which documents share a sequence."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from pretrain.data.packing import cut, make_plan, open_plan, pack
from pretrain.data.tokens import Tokens, open_tokens


def test_no_document_that_fits_is_cut_and_the_waste_is_under_one_percent() -> None:
    chance = np.random.default_rng(3)
    lengths = np.exp(chance.normal(5.5, 1.2, 20_000)).astype(np.int64) + 2
    plan = pack(cut(lengths, 1024), 1024)
    pieces = plan.pieces
    assert int(pieces["length"].sum()) == int(lengths.sum())
    assert Counter(pieces["document"].tolist()) == Counter(
        {n: max(1, -(-int(size) // 1024)) for n, size in enumerate(lengths)}
    )
    assert max(int(plan[k]["length"].sum()) for k in range(len(plan))) <= 1024
    assert 1 - plan.tokens / (len(plan) * 1024) < 0.01


def test_the_packing_of_random_lengths_never_loses_a_token() -> None:
    chance = random.Random(5)
    for _ in range(30):
        lengths = np.array([chance.randint(1, 90) for _ in range(chance.randint(1, 60))])
        plan = pack(cut(lengths, 32), 32)
        covered = np.zeros(int(lengths.sum()), int)
        starts = np.cumsum(lengths) - lengths
        for document, start, length in plan.pieces.tolist():
            covered[starts[document] + start : starts[document] + start + length] += 1
        assert (covered == 1).all()


def test_a_plan_that_was_damaged_is_made_again(tokens: Tokens, tmp_path: Path) -> None:
    shutil.copytree(tokens.folder, tmp_path / "tokens")
    own = open_tokens(tmp_path / "tokens")
    made = make_plan(own.sets["ko", "train"], 96, "pretrain")
    open_plan(own, "ko", 96, "pretrain")
    folder = tmp_path / "tokens" / "plans" / own.digest[:16]
    pieces, bins, record = (
        folder / f"ko.pretrain.96.{end}" for end in ("pieces.npy", "bins.npy", "json")
    )
    whole = pieces.read_bytes(), bins.read_bytes()
    stood = pieces.stat().st_mtime_ns

    assert np.array_equal(open_plan(own, "ko", 96, "pretrain").pieces, made.pieces)
    assert pieces.stat().st_mtime_ns == stood  # a sound one is left as it is

    for path, damaged in (
        (pieces, whole[0][:-3] + bytes([whole[0][-3] ^ 1]) + whole[0][-2:]),
        (bins, whole[1][:-8]),
        (record, b'{"half'),
        (record, b"[]"),
    ):
        path.write_bytes(damaged)
        again = open_plan(own, "ko", 96, "pretrain")
        assert np.array_equal(again.pieces, made.pieces) and np.array_equal(again.bins, made.bins)
        assert (pieces.read_bytes(), bins.read_bytes()) == whole
    record.unlink()  # an older version wrote none
    stood = pieces.stat().st_mtime_ns
    open_plan(own, "ko", 96, "pretrain")
    assert record.is_file() and pieces.stat().st_mtime_ns == stood
