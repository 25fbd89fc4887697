"""The command line's answers to mistakes: status 2, `error:` lines, no stack trace, nothing heavy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def malmoi(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_help_names_every_command() -> None:
    done = malmoi("--help")
    assert done.returncode == 0
    for command in (
        "init",
        "run",
        "dedup",
        "tokenizer",
        "pretrain",
        "evaluate",
        "chat",
        "why",
        "explain",
    ):
        assert f"  {command} " in done.stdout


def test_help_and_mistakes_answer_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['malmoi', *sys.argv[1:]]\n"
        "from launch.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'deepspeed', 'numba', 'pyarrow', 'mlflow', 'datasets'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    for arguments in (
        ["--help"],
        ["run", "nowhere.yaml"],
        ["run", "quickstart", "dedup.neer=1"],
        ["chat", "nowhere"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "HEAVY []" in done.stdout, (arguments, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "Did you mean"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "quikstart"], "quickstart"),
        (["run", "quickstart", "dedup.near.treshold=0.7"], "threshold"),
        (["run", "quickstart", "dedup.near.threshold=high"], "dedup.near.threshold"),
        (["chat", "nowhere"], "nowhere: no such folder"),
        (["chat", "configs"], "configs: no config.json, so no model"),
        (["evaluate", "configs"], "configs: no config.json, so no model"),
        (["why", "configs", "x"], "holds no finished dedup"),
        (["explain", "dedup.near.treshold"], "threshold"),
        (["chat", "configs", "--port", "many"], "--port"),
    ],
)
def test_a_mistake_is_one_error_line_and_status_2(arguments: list[str], said: str) -> None:
    done = malmoi(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr


def config(folder: Path, body: str) -> str:
    path = folder / "run.yaml"
    path.write_text(
        f"name: bad\ndir: {folder / 'run'}\ntracking: {{mlflow: false}}\n{body}", encoding="utf-8"
    )
    return str(path)


def test_a_path_that_matches_nothing_is_named_before_the_run_starts(tmp_path: Path) -> None:
    done = malmoi("run", config(tmp_path, "dedup: {sources: [{name: a, paths: [dta/*.jsonl]}]}\n"))
    assert done.returncode == 2 and "dta" in done.stderr and "Traceback" not in done.stderr


def test_an_empty_corpus_after_filtering_says_what_took_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "짧다"}\n{"text": "더 짧다"}\n', encoding="utf-8")
    done = malmoi(
        "run", config(tmp_path, "dedup: {workers: 1, sources: [{name: a, paths: [a.jsonl]}]}\n")
    )
    assert done.returncode == 2 and "too_short" in done.stderr and "Traceback" not in done.stderr


def test_a_corpus_without_korean_stops_the_tokenizer_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(
            f'{{"text": "line {n} of an English corpus, nothing else in it"}}\n' for n in range(9)
        )
    )
    done = malmoi(
        "tokenizer",
        config(tmp_path, "tokenizer: {documents: [a.jsonl], new_tokens: 10, workers: 1}\n"),
    )
    assert done.returncode == 2, done.stderr
    assert "Korean" in done.stderr or "Hangul" in done.stderr


@pytest.mark.parametrize("base", ["empty-folder", "no/such-model"])
def test_a_base_that_is_no_model_is_named(tmp_path: Path, base: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "a.jsonl").write_text('{"text": "한국어 글입니다."}\n' * 3, encoding="utf-8")
    body = (
        f"pretrain:\n  base: {base}\n  tokenizer: {tmp_path / 'empty-folder'}\n  documents: [a.jsonl]\n"
        "  phases: [{name: full, tokens: 1K, mixture: {a: 1.0}}]\n"
    )
    done = malmoi("pretrain", config(tmp_path, body))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ctrl_c_in_dedup_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    for part in range(40):
        with (tmp_path / f"part-{part:02}.jsonl").open("w", encoding="utf-8") as handle:
            for n in range(1500):
                sentences = " ".join(
                    f"{part * n + k}번 버스는 {k * 7 % 60}분에 새별시청 앞을 지납니다."
                    for k in range(12)
                )
                handle.write(f'{{"id": "{part}-{n}", "text": "{sentences}"}}\n')
    path = config(
        tmp_path,
        "dedup: {workers: 2, shard: 100KB, filters: none, sources: [{name: a, paths: ['part-*.jsonl']}]}\n",
    )
    command = [sys.executable, "-m", "launch.cli", "dedup", path]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    work = tmp_path / "run" / "dedup"
    deadline = time.monotonic() + 90
    while not work.is_dir() or not any(
        path.suffix == ".parquet" for path in work.rglob("*.parquet")
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stderr is not None and "go on with: malmoi dedup" in process.stderr.read()
    assert not (tmp_path / "run/dedup/report.json").exists()
    done = malmoi("dedup", path)
    assert done.returncode == 0, done.stderr
    assert "goes on where it was stopped" in done.stderr
