"""`malmoi dedup CONFIG --dry-run`: the prediction beside what the run then does."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from configs.schema import Config
from dedup.preview import predict
from dedup.sample import draw
from dedup.stage import run
from launch.prediction import said, warnings

STEPS = ("normalise", "filter", "pii", "decontaminate")

NOUNS = [
    "바다", "산길", "시장", "학교", "강가", "마을", "도서관", "기차역", "골목", "밭둑", "항구", "언덕", "부엌", "공원",
    "다리", "우체국",
]  # fmt: skip
VERBS = [
    "걸었다", "보았다", "들었다", "만났다", "지나갔다", "기다렸다", "돌아왔다", "남았다", "떠났다", "웃었다",
]  # fmt: skip
WORDS = [
    "오래된", "낡은", "조용한", "따뜻한", "커다란", "작은", "푸른", "이른", "늦은", "낯선", "반가운", "서툰",
]  # fmt: skip


def prose(rng: random.Random, sentences: int) -> str:
    """Plain Korean sentences that no filter minds."""
    return " ".join(
        f"{rng.choice(WORDS)} {rng.choice(NOUNS)}에서 {rng.randint(2, 99)}번째 {rng.choice(NOUNS)}까지 "
        f"{rng.choice(WORDS)} 사람들과 함께 {rng.choice(VERBS)}."
        for _ in range(sentences)
    )


def corpus(folder: Path, files: int = 6, each: int = 30) -> None:
    """JSONL files with exact copies, near copies, short texts and broken lines."""
    rng = random.Random(3)
    texts: list[str] = []
    folder.mkdir(parents=True)
    for file in range(files):
        lines = []
        for number in range(each):
            text = prose(rng, rng.randint(8, 25))
            if texts and number % 5 == 1:
                text = rng.choice(texts)
            elif texts and number % 5 == 2:
                text = rng.choice(texts).replace("사람들과", "동무들과", 1)
            elif number == 4:
                text = "짧다"
            texts.append(text)
            lines.append(json.dumps({"text": text}, ensure_ascii=False))
        (folder / f"part{file}.jsonl").write_text("\n".join([*lines, "{broken", ""]))


def config(folder: Path, **dedup: Any) -> Config:
    settings = {
        "sources": [{"name": "web", "paths": [str(folder / "*.jsonl")]}],
        "shard": 20_000,
        "workers": 1,
        "filters": {"min_characters": 40},
        **dedup,
    }
    return Config.model_validate({"name": "test", "dedup": settings})


def texts(rng: random.Random, count: int) -> list[str]:
    """Prose; every seventh too short, every ninth with a phone number, every thirteenth empty."""
    found = []
    for number in range(count):
        text = prose(rng, rng.randint(2, 12))
        if number % 7 == 0:
            text = "짧다"
        elif number % 9 == 0:
            text += " 연락은 010-9000-1234 번으로 주십시오."
        elif number % 13 == 0:
            text = " "
        found.append(text)
    return found


def write_lines(path: Path, rng: random.Random, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts(rng, count)]
    content = "\n".join(lines).encode() + b"\n"
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources: one big JSONL file, gzip files, Parquet with many row groups."""
    folder, rng = tmp_path_factory.mktemp("mixed"), random.Random(5)
    write_lines(folder / "one.jsonl", rng, 3000)
    for number in range(24):
        write_lines(folder / "packed" / f"{number:02}.jsonl.gz", rng, 100)
    table = pa.table({"text": texts(rng, 2000)})
    pq.write_table(table, folder / "rows.parquet", row_group_size=50)
    return folder


def three(folder: Path) -> list[dict[str, object]]:
    return [
        {"name": "one", "paths": [str(folder / "one.jsonl")]},
        {"name": "packed", "paths": [str(folder / "packed")]},
        {"name": "rows", "paths": [str(folder / "rows.parquet")]},
    ]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_sample_of_a_quarter_predicts_the_first_pass_within_a_fifth(
    mixed: Path, tmp_path: Path
) -> None:
    settings = config(mixed, sources=three(mixed), pii="drop", shard=64_000_000)
    guess = predict(settings, tmp_path / "run", size=size_of(mixed) // 4)
    assert 0.15 < guess.share < 0.35 and guess.pieces >= 12
    report = run(settings, tmp_path / "run")
    assert guess.documents["read"].value == pytest.approx(report.documents_in, rel=0.2)
    assert guess.characters_in.value == pytest.approx(report.characters_in, rel=0.2)
    for step in STEPS:
        true = report.removed.get(step, 0)
        assert guess.documents[step].value == pytest.approx(true, rel=0.2), step
    for step in ("exact", "near"):
        assert guess.documents[step].value <= 1.2 * report.removed.get(step, 0)
    stays = sum(path.stat().st_size for path in (tmp_path / "run" / "dedup").rglob("*.parquet"))
    assert guess.disk["documents"] + guess.disk["removed"] == pytest.approx(stays, rel=0.5)
    told = said(guess)
    assert "a sample was read" in told and "at most" in told and "±" in told


def test_a_small_corpus_is_read_whole_and_told_exactly(tmp_path: Path) -> None:
    corpus(tmp_path / "in")
    settings = config(tmp_path / "in")
    guess = predict(settings, tmp_path / "run")
    report = run(settings, tmp_path / "run")
    assert guess.whole
    assert guess.documents["read"].value == report.documents_in
    assert guess.documents["failed"].value == report.documents_failed
    for step in ("filter", "exact", "near"):
        assert guess.documents[step].value == report.removed[step], step
    assert guess.documents["kept"].value == report.documents_out
    assert guess.characters_out == report.characters_out
    assert "the counts are those of the run" in said(guess)


def test_the_run_folder_is_not_touched(tmp_path: Path) -> None:
    corpus(tmp_path / "in", files=2)
    predict(config(tmp_path / "in"), tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_the_same_files_give_the_same_pieces_spread_over_each(mixed: Path) -> None:
    dedup = config(mixed, sources=three(mixed)).dedup
    assert dedup is not None
    drawn = draw(dedup, size=size_of(mixed) // 4)
    assert drawn == draw(dedup, size=size_of(mixed) // 4)
    first = sorted(piece.parts[0].begin for piece in drawn.pieces if piece.source == 0)
    whole = (mixed / "one.jsonl").stat().st_size
    assert first[0] < whole / 8 and first[-1] > whole * 3 / 4 and len(first) >= 8


def test_a_packed_file_that_cannot_be_entered_is_read_from_its_start_and_scaled(
    tmp_path: Path,
) -> None:
    write_lines(tmp_path / "in" / "big.jsonl.gz", random.Random(3), 6000)
    settings = config(tmp_path / "in", sources=[{"name": "big", "paths": [str(tmp_path / "in")]}])
    guess = predict(settings, tmp_path / "run", size=(size_of(tmp_path / "in")) // 4)
    assert not guess.whole and guess.from_start == 1
    assert guess.documents["read"].value == pytest.approx(6000, rel=0.2)
    assert "beginnings of files" in said(guess)


def test_wrong_input_gives_the_mistakes_of_the_run(tmp_path: Path) -> None:
    corpus(tmp_path / "in", files=1)
    for settings in (
        config(tmp_path / "nowhere"),
        config(tmp_path / "in", against=[str(tmp_path / "no-run")]),
        config(tmp_path / "in", filters={"min_characters": 100_000}),
        config(tmp_path / "in", decontaminate=[str(tmp_path / "none.jsonl")]),
    ):
        told = []
        for call in (predict, run):
            with pytest.raises(InputError) as caught:
                call(settings, tmp_path / "run")
            told.append(caught.value.lines)
        assert told[0] == told[1]


def test_a_disk_that_is_too_small_is_told_before_the_run(tmp_path: Path) -> None:
    corpus(tmp_path / "in", files=2)
    guess = predict(config(tmp_path / "in"), tmp_path / "run")
    assert warnings(guess) == []
    guess.disk_free = 10
    guess.memory_free = 1000
    disk, memory = warnings(guess)
    assert "set dir to another disk" in disk and "fewer workers" in memory
