"""Documents that share much, or are very long, are not swept together."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
import zstandard
from benchmarks.largest_clusters import char5, clusters_of, deduplicate, jaccard


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.8, 0.6])
def test_in_templated_documentation_every_pair_of_the_largest_clusters_is_alike(
    shared_data: Path, tmp_path: Path, threshold: float
) -> None:
    """The benchmark of the same name prints the pairs beside the texts."""
    pages = shared_data / "ko_web" / "ms_docs_ko.jsonl.zst"
    report = deduplicate([pages], tmp_path, threshold)
    assert report.documents_out > 0.8 * report.documents_in
    found = clusters_of(tmp_path, 10)
    assert len(found) == 10
    for kept, gone in found:
        assert 1 + len(gone) < 0.02 * report.documents_in
        sets = [char5(kept["text"]), *(char5(row["text"]) for row in gone)]
        for row, other in zip(gone, sets[1:], strict=True):
            assert row["similarity"] == jaccard(sets[0], other) >= threshold
        for one, other in combinations(sets, 2):
            assert jaccard(one, other) >= 2 * threshold - 1  # 1 − J is a metric


@pytest.mark.slow
def test_long_unrelated_documents_stay_and_their_copies_go(
    shared_data: Path, tmp_path: Path
) -> None:
    """Books of 100,000 characters and more share many shingles, but not most of them."""
    texts = []
    raw = zstandard.ZstdDecompressor().stream_reader(
        (shared_data / "ko_web" / "movie_review_pages.jsonl.zst").open("rb")
    )
    pages = iter(raw.read(24_000_000).splitlines()[:-1])
    while len(texts) < 40:
        pieces: list[str] = []
        while sum(map(len, pieces)) < 100_000:
            pieces.append(orjson.loads(next(pages))["text"])
        texts.append("\n".join(pieces))
    copies = [text[:60_000] + " 덧붙임 " + text[61_000:] for text in texts[:5]]
    with (tmp_path / "books.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts + copies):
            file.write(json.dumps({"id": f"{number}", "text": text}, ensure_ascii=False) + "\n")
    report = deduplicate([tmp_path / "books.jsonl"], tmp_path, 0.8)
    assert report.documents_out == len(texts)
    removed = pq.read_table(tmp_path / "dedup" / "removed").to_pylist()
    pairs = {tuple(sorted((int(row["id"]), int(row["kept_id"])))) for row in removed}
    assert pairs == {(number, 40 + number) for number in range(5)}
    sets = [char5(text) for text in texts[:12]]
    assert max(jaccard(one, other) for one, other in combinations(sets, 2)) < 0.3
