"""The command line's answers to mistakes: status 2, `error:` lines, no stack trace, nothing heavy."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import River

from configs.load import load

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
        "find",
        "why",
        "plan",
        "launch",
        "status",
        "stop",
        "lineage",
        "doctor",
        "track",
        "bundle",
        "compare-tokenizers",
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
        (["compare-tokenizers", "llama3", "./nowhere"], "./nowhere: no such file or folder"),
        (["dedup", "quickstart", "dir=README.md"], "README.md: file exists; a file stands where"),
        (["run", "quickstart", "dir=README.md/run"], "a file stands where a folder is needed"),
        (["run", "quickstart", "pretrain.base=./nowhere"], "pretrain.base: "),
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
    body = "dedup: {sources: [{name: a, paths: [dta/*.jsonl]}], decontaminate: [exams/*.tsv]}\n"
    done = malmoi("run", config(tmp_path, body))
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("error: dedup.sources.0.paths: ") and "dta" in first
    assert second.startswith("error: dedup.decontaminate: ") and "exams/*.tsv" in second


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


@pytest.mark.slow
def test_a_hub_id_that_is_no_model_is_named(tmp_path: Path, chat_model: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "한국어 글입니다."}\n' * 3, encoding="utf-8")
    body = (
        f"pretrain:\n  base: no/such-model\n  tokenizer: {chat_model}\n  documents: [a.jsonl]\n"
        "  phases: [{name: full, tokens: 1K, mixture: {a: 1.0}}]\n"
    )
    done = malmoi("pretrain", config(tmp_path, body))
    assert done.returncode == 2, done.stderr
    assert "error: pretrain.base: no/such-model " in done.stderr
    assert "set pretrain.base to it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_outside_a_run_is_judged_by_a_config_that_names_documents(
    tmp_path: Path, chat_model: Path
) -> None:
    done = malmoi("evaluate", str(chat_model))
    assert done.returncode == 2 and f"malmoi evaluate {chat_model} CONFIG" in done.stderr
    done = malmoi("evaluate", str(chat_model), "seed=3")  # an override, not a config
    assert done.returncode == 2 and "lies in no run folder" in done.stderr
    path = config(
        tmp_path, "pretrain: {base: x/y, phases: [{name: a, tokens: 1K, mixture: {a: 1}}]}"
    )
    done = malmoi("evaluate", str(chat_model), path)
    assert done.returncode == 2 and "pretrain.documents" in done.stderr


@pytest.mark.slow
def test_a_run_on_documents_of_ones_own_is_judged_by_their_held_out_part(
    tmp_path: Path, chat_model: Path
) -> None:
    lines = [f'{{"text": "새별시 {n}번 버스는 오늘도 늦게 왔습니다."}}' for n in range(800)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines), encoding="utf-8")
    body = "pretrain: {base: x/y, documents: [own.jsonl], phases: [{name: a, tokens: 1K, mixture: {own: 1}}]}"
    done = malmoi("evaluate", str(chat_model), config(tmp_path, body))
    assert done.returncode == 0, done.stderr
    assert "own.jsonl" in done.stdout and "bits per byte" in done.stdout


@pytest.mark.parametrize(
    ("folder", "name"),
    [("말모이 하나", "my-run"), ("내 run 2!", "run-2"), ("-x_", "x"), ("plain", "plain")],
)
def test_init_names_the_run_after_any_folder_and_prints_a_command_that_works(
    tmp_path: Path, folder: str, name: str
) -> None:
    done = malmoi("init", str(tmp_path / folder), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = shlex.split(done.stdout.splitlines()[-1])
    assert command[:2] == ["malmoi", "run"]
    assert load(command[2]).name == name
    assert Path(command[2]) == tmp_path / folder / "malmoi.yaml"


def test_the_next_command_keeps_the_overrides_and_can_be_pasted(tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    texts = [f"{n}번 버스는 {n * 7 % 60}분에 새별시청 앞을 지나 항구로 갑니다." for n in range(50)]
    lines = "".join(f'{{"text": "{text}"}}\n' for text in texts)
    (place / "a.jsonl").write_text(lines, encoding="utf-8")
    path = config(
        place, "dedup: {workers: 1, filters: none, sources: [{name: a, paths: [a.jsonl]}]}\n"
        "tokenizer: {new_tokens: 10}\n",
    )  # fmt: skip
    (place / "other").mkdir()
    (place / "other/replies.json").write_text('[{"prompt": "옛", "reply": "답"}]')
    given = [path, f"dir={place / 'other'}"]
    done = malmoi("dedup", *given)
    assert done.returncode == 0, done.stderr
    assert "옛" not in done.stdout
    assert not (place / "other/replies.json").exists()  # the config has no prompts
    assert shlex.split(done.stdout.splitlines()[-1]) == ["malmoi", "tokenizer", *given]
    done = malmoi("tokenizer", *given, "--dry-run")
    assert done.returncode == 0 and "tokenizer: starts" in done.stdout
    assert "dedup" not in done.stdout


@pytest.mark.slow
def test_two_tokenizers_side_by_side(river: River) -> None:
    report = json.loads((river[0] / "run/tokenizer/report.json").read_text())
    text = report["example"]["text"]
    done = malmoi("compare-tokenizers", "llama3", str(river[0] / "run"), text)
    assert done.returncode == 0, done.stderr
    assert "128,256" in done.stdout and "128,556" in done.stdout
    rates = [float(line.split()[-1]) for line in done.stdout.splitlines()[2:4]]
    assert rates[0] > rates[1] >= 1
    before, after = (line.split(maxsplit=1)[1] for line in done.stdout.splitlines()[-2:])
    assert before.count("|") > after.count("|")
    pieces = re.split(r"⟨([0-9a-f ]+)⟩", after.replace("|", "").replace("␣", " "))  # cut characters
    content = [
        bytes.fromhex(piece) if cut % 2 else piece.encode() for cut, piece in enumerate(pieces)
    ]
    assert b"".join(content).decode() == text


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [(signal.SIGINT, 130, "stopped by Ctrl-C"), (signal.SIGTERM, 75, "stopped; go on")],
)
def test_dedup_that_is_stopped_goes_on(
    tmp_path: Path, asked: signal.Signals, status: int, said: str
) -> None:
    for part in range(20):
        with (tmp_path / f"part-{part:02}.jsonl").open("w", encoding="utf-8") as handle:
            for n in range(500):
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
    if asked == signal.SIGINT:  # a terminal sends it to all processes, a scheduler to the first
        os.killpg(process.pid, asked)
    else:
        process.send_signal(asked)
    assert process.wait(timeout=60) == status
    assert process.stderr is not None
    told = process.stderr.read()
    assert said in told and "go on with: malmoi dedup" in told and "Traceback" not in told
    assert not (tmp_path / "run/dedup/report.json").exists()
    done = malmoi("dedup", path)
    assert done.returncode == 0, done.stderr
    assert "goes on where it was stopped" in done.stderr
