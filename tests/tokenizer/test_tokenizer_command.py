"""The stage from the command line: stopped by Ctrl-C, or by a full disk, and gone on with."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from dedup.documents import SCHEMA
from launch.compare import side_by_side
from launch.report import write as write_page
from launch.segments import line
from launch.tokenizer_summary import summary
from tests.tokenizer.conftest import korean

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


@pytest.mark.thorough
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
    _, told = process.communicate(timeout=240)
    assert process.returncode == 130, told
    assert "go on with: malmoi tokenizer" in told and "Traceback" not in told
    counted = {path: path.stat().st_mtime_ns for path in counts.glob("*.parquet")}
    assert counted and not (tmp_path / "run/tokenizer/report.json").exists()
    process = start(config)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert "tokenizer: goes on where it was stopped" in told
    assert (tmp_path / "run/tokenizer/tokenizer.json").is_file()


@pytest.mark.thorough
def test_a_full_disk_is_one_error_line_and_the_same_command_goes_on_when_there_is_room(
    tmp_path: Path, small_folder: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(400 << 10)
    documents = write_corpus(tmp_path / "documents", files=6, documents=20)
    config = write_config(tmp_path, disk / "run", documents, small_folder)
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (250_000))
    process = start(config)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 2, told
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "no space left on the device" in errors[0]
    assert str(disk) in errors[0] and "Traceback" not in told
    assert not (disk / "run/tokenizer/report.json").exists()
    ballast.unlink()
    small_disk(20_000_000)
    process = start(config)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert "tokenizer: goes on where it was stopped" in told


# ── what is told ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> tuple[Path, str]:
    """A run folder whose tokenizer was made by the command, and what the command printed."""
    folder = tmp_path_factory.mktemp("told")
    draw = random.Random(2)
    shards = [
        [
            {"id": f"{shard}-{n}", "kind": "text", "text": korean(draw, 8), "source": source,
             "split": "heldout" if n % 10 == 0 else "train", "quality": 1.0,
             "cluster_id": f"{shard}-{n}", "cluster_size": 1}
            for n in range(30)
        ]
        for shard, source in enumerate(["notices", "talk"])
    ]  # fmt: skip
    (folder / "documents").mkdir()
    for index, rows in enumerate(shards):
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, folder / "documents" / f"{index}.parquet")
    config = write_config(folder, folder / "run", folder / "documents", small_folder)
    process = start(config)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return folder / "run", printed


def test_the_command_tells_what_the_tokenizer_is_worth(told: tuple[Path, str]) -> None:
    folder, printed = told
    report = json.loads((folder / "tokenizer/report.json").read_text())
    assert "tokens per eojeol, held-out text" in printed
    for source in ("notices", "talk"):
        own = report["heldout"][source]
        row = next(line for line in printed.splitlines() if line.startswith(f"  {source} "))
        assert row.split()[1:3] == [
            f"{own['fertility_before']:.2f}",
            f"{own['fertility_after']:.2f}",
        ]
    befores = [line for line in printed.splitlines() if line.startswith("  before ")]
    afters = [line for line in printed.splitlines() if line.startswith("  after ")]
    assert len(befores) == len(afters) == 10
    assert afters[0].count("|") == int(afters[0].split()[1]) - 1
    assert "200 new tokens: " in printed and "% never used on this text" in printed
    best = report["sizes_compared"]["best"]
    assert f"best size {best:,}: {report['sizes_compared']['reason']}" in printed
    assert any(line.startswith("  200 ") and "this one" in line for line in printed.splitlines())
    assert "\x1b[" not in printed  # no colours where nobody sees them


def test_sentences_are_coloured_on_a_terminal(told: tuple[Path, str]) -> None:
    drawn = summary(told[0], colour=True)
    plain = summary(told[0], colour=False)
    assert "\x1b[38;5;16;48;5;" in drawn and "\x1b[" not in plain
    bare = re.sub(r"\x1b\[[0-9;]*m", "", drawn)
    assert bare == "\n".join(
        line.replace("|", "") if line.startswith(("  before", "  after")) else line
        for line in plain.splitlines()
    )


def test_control_characters_of_a_text_do_not_reach_the_terminal() -> None:
    pieces = ["a\x1b[2J", " \t", "가\u202e", "👩\u200d👩", "⟨20 ed⟩"]
    assert line(pieces, colour=False) == "a\\u001b[2J|␣\\t|가\\u202e|👩\u200d👩|⟨20 ed⟩"


def test_the_page_shows_the_size_curve_sentences_and_what_was_never_used(
    told: tuple[Path, str],
) -> None:
    page = write_page(told[0]).read_text(encoding="utf-8")
    report = json.loads((told[0] / "tokenizer/report.json").read_text())
    section = page.split('<h2 id="tokenizer">')[1].split("</section>")[0]
    assert "How many tokens to add" in section
    assert f"The best size is <b>{report['sizes_compared']['best']:,}</b>" in section
    assert "% of tokens saved, by new tokens" in section
    assert "training GFLOPs a character, by new tokens" in section
    assert "9 more sentences, cut both ways" in section
    assert "never used on the heldout split" in section and "cut inside a character" in section
    assert section.count('class="best"') == 1
    assert section.count("<svg") == section.count("</svg>")


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"sizes_compared": {"best": 3, "curve": [{"new_tokens": 1}, "x"]}, "usage": []},
        {"sizes_compared": None, "usage": {"commonest": "x", "never_used": "y"}, "new_tokens": 1},
        {"sentences": [{"before": None}, 3], "heldout": {"a": {"words": 0}}, "tokens": []},
    ],
)
def test_a_report_that_lacks_parts_still_makes_a_page_and_a_summary(
    tmp_path: Path, report: dict[str, object]
) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "report.json").write_text(json.dumps(report))
    assert write_page(tmp_path).is_file()
    assert "Traceback" not in summary(tmp_path)


# ── compare-tokenizers ──────────────────────────────────────────────────────────────────────────


def compare(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", "compare-tokenizers", *arguments],
        cwd=ROOT, input=stdin, capture_output=True, timeout=120,
    )  # fmt: skip


def test_a_text_from_standard_input_is_compared(told: tuple[Path, str], small_folder: Path) -> None:
    text = "도서관에서 기다렸다.\n친구가 \udcff 왔다".encode("utf-8", "surrogateescape")
    done = compare(str(small_folder), str(told[0]), "-", stdin=text)
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode()
    assert "% fewer tokens than A" in out and "\\n" in out
    done = compare(str(small_folder), str(told[0]), "-", stdin=b" \n")
    assert done.returncode == 2 and b"error: compare-tokenizers: no text came" in done.stderr


def test_a_folder_of_the_hubs_cache_stands_for_its_snapshot(
    tmp_path: Path, small_folder: Path
) -> None:
    cache = tmp_path / "models--someone--something"
    for name in ("a1", "b2"):
        (cache / "snapshots" / name).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("b2")
    for file in small_folder.iterdir():
        (cache / "snapshots" / "b2" / file.name).symlink_to(file)
    told = side_by_side(str(cache), str(small_folder), "버스가 왔다", colour=False)
    assert "as many tokens as A and cuts the text alike" in told


def test_of_a_long_text_the_first_tokens_are_shown(small_folder: Path) -> None:
    told = side_by_side(str(small_folder), str(small_folder), "the bus " * 1000, colour=False)
    assert "more" in told.splitlines()[-1] and len(told) < 10_000


@pytest.mark.parametrize("name", ["", "./nowhere", "nowhere.json", "no/such/place"])
def test_a_tokenizer_that_is_not_there_is_named(small_folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        side_by_side(name, str(small_folder), None)
