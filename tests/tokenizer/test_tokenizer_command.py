"""The stage from the command line: stopped by Ctrl-C, or by a full disk, and gone on with."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup.documents import SCHEMA

ROOT = Path(__file__).resolve().parents[2]
SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4)]


def write_corpus(folder: Path, files: int, documents: int) -> Path:
    """Parquet files of random Korean-looking words: each file has thousands of distinct ones."""
    draw = random.Random(7)
    folder.mkdir()
    for file in range(files):
        rows = []
        for number in range(documents):
            words = (
                "".join(draw.choices(SYLLABLES[:900], k=draw.randrange(1, 4))) for _ in range(300)
            )
            name = f"{file}-{number}"
            rows.append(
                {"id": name, "kind": "text", "text": " ".join(words), "source": "own", "split": "train",
                 "quality": 1.0, "cluster_id": name, "cluster_size": 1}
            )  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, folder / f"{file:03d}.parquet")
    return folder


def write_config(folder: Path, run: Path, documents: Path, base: Path) -> str:
    path = folder / "run.yaml"
    path.write_text(
        f"name: own\ndir: {run}\ntracking: {{mlflow: false}}\n"
        f"tokenizer: {{base: {base}, documents: ['{documents}'], new_tokens: 200, workers: 2}}\n"
    )
    return str(path)


def start(config: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "tokenizer", config],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(
    tmp_path: Path, small_folder: Path
) -> None:
    documents = write_corpus(tmp_path / "documents", files=16, documents=40)
    config = write_config(tmp_path, tmp_path / "run", documents, small_folder)
    process = start(config)
    counts = tmp_path / "run/tokenizer/.work/counts"
    deadline = time.monotonic() + 90
    while not list(counts.glob("*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "go on with: malmoi tokenizer" in told and "Traceback" not in told
    counted = {path: path.stat().st_mtime_ns for path in counts.glob("*.parquet")}
    assert counted and not (tmp_path / "run/tokenizer/report.json").exists()
    process = start(config)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "tokenizer: goes on where it was stopped" in told
    assert (tmp_path / "run/tokenizer/tokenizer.json").is_file()


def test_a_full_disk_is_one_error_line_and_the_same_command_goes_on_when_there_is_room(
    tmp_path: Path, small_folder: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(400 << 10)
    documents = write_corpus(tmp_path / "documents", files=6, documents=20)
    config = write_config(tmp_path, disk / "run", documents, small_folder)
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (250_000))
    process = start(config)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2, told
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "no space left on the device" in errors[0]
    assert str(disk) in errors[0] and "Traceback" not in told
    assert not (disk / "run/tokenizer/report.json").exists()
    ballast.unlink()
    small_disk(20_000_000)
    process = start(config)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "tokenizer: goes on where it was stopped" in told
