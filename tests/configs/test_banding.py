"""Bands × rows: datasketch proposes, and a pair that does not fit is answered with ones that do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHashLSH

from configs.banding import WEIGHTS, fitting, proposed, recall, recall_curve
from configs.errors import InputError
from configs.load import dump, load

CONFIG = "name: a\ndedup:\n  sources: [{name: s, paths: [x.jsonl]}]\n  near: {%s}\n"


def write(folder: Path, near: str) -> str:
    (folder / "a.yaml").write_text(CONFIG % near)
    return str(folder / "a.yaml")


def test_recall_is_the_share_of_pairs_that_agree_on_a_band() -> None:
    rng = np.random.default_rng(1)
    agree = rng.random((40_000, 8, 4)) < 0.6
    measured = agree.all(axis=2).any(axis=1).mean()
    assert abs(recall(0.6, 8, 4) - measured) < 0.01


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_auto_is_what_datasketch_proposes_and_finds_nearly_all_at_the_threshold(
    tmp_path: Path, threshold: float
) -> None:
    config = load(write(tmp_path, f"bands: auto, threshold: {threshold}"))
    assert config.dedup is not None
    near = config.dedup.near
    theirs = MinHashLSH(threshold=threshold, num_perm=128, weights=WEIGHTS)
    assert (theirs.b, theirs.r) == proposed(threshold, 128) == near.banding  # type: ignore[union-attr]
    assert recall(threshold, theirs.b, theirs.r) > 0.99
    (tmp_path / "b.yaml").write_text(dump(config))
    assert load(str(tmp_path / "b.yaml")) == config


def test_bands_auto_beside_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave rows out"):
        load(write(tmp_path, "bands: auto, rows: 5"))


def test_a_pair_that_does_not_fit_is_answered_with_fitting_ones_and_what_they_find(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError) as caught:
        load(write(tmp_path, "bands: 20, rows: 8, threshold: 0.7"))
    (line,) = caught.value.lines
    assert "bands × rows = 160 is more than permutations = 128" in line
    pairs = re.findall(r"(\d+) × (\d+) \(finds ([^)]*)\)", line)
    assert len(pairs) == 3
    for bands, rows, curve in pairs:
        assert int(bands) * int(rows) <= 128
        assert curve == recall_curve(0.7, int(bands), int(rows))
        assert re.fullmatch(r"0\.\d{4} at 0\.7, .* at 0\.75, .* at 0\.8, .* at 0\.85", curve)


@pytest.mark.parametrize("wanted", [(25, 6), (200, 1), (3, 200), (300, 300)])
def test_what_is_offered_fits(wanted: tuple[int, int]) -> None:
    offered = fitting(*wanted, 128)
    assert 2 <= len(offered) <= 3
    assert all(1 <= bands * rows <= 128 for bands, rows in offered)
