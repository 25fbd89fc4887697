"""The stage, from documents to a folder that transformers loads."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from configs.errors import InputError
from configs.progress import Progress
from configs.schema import Config
from tokenizer import checks, stage
from tokenizer.base import Base, token_bytes
from tokenizer.checks import Candidate, GateFailed
from tokenizer.write import FILES

Make = Callable[..., Config]
Documents = Callable[[list[tuple[str, str]]], Path]


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def test_documents_become_a_tokenizer_that_spends_fewer_tokens_on_korean(
    run_folder: Path, config: Make
) -> None:
    seen: list[Progress] = []
    report = stage.run(config(), run_folder, log=seen.append)
    assert report.new_tokens == report.asked == 120
    assert report.vocab_size == report.base_vocab_size + 120
    assert report.measured_on == "heldout"
    assert report.tokens_saved is not None and report.tokens_saved > 0.2
    assert report.fertility_after < report.fertility_before
    assert report.heldout["english"]["korean"] is False
    assert set(report.gates.values()) == {"passed"} and len(report.gates) == 11
    assert len(report.example["before"]) > len(report.example["after"])
    assert json.loads((run_folder / "tokenizer" / "report.json").read_text())["new_tokens"] == 120
    assert not (run_folder / "tokenizer" / ".work").exists()
    assert {"count", "learn", "check"} <= {progress.step for progress in seen}


def test_transformers_loads_the_folder_beside_a_llama_config(
    run_folder: Path, config: Make, small_base: Base
) -> None:
    report = stage.run(config(), run_folder)
    (run_folder / "tokenizer" / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "tokenizer")
    assert len(tokenizer) == report.vocab_size
    assert tokenizer.bos_token == "<|begin_of_text|>"
    text = "도서관에서 친구를 기다렸다. The bus was late."
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert max(ids) >= report.base_vocab_size
    english = "The bus was late again."
    before = small_base.tokenizer.encode(english, add_special_tokens=False).ids
    assert tokenizer.encode(english, add_special_tokens=False) == before


def test_the_table_of_new_tokens_names_each_with_its_base_ids(
    run_folder: Path, config: Make, small_base: Base
) -> None:
    report = stage.run(config(), run_folder)
    content = small_base.tokens()
    with (run_folder / "tokenizer" / "new_tokens.tsv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [int(row["id"]) for row in rows] == list(
        range(report.base_vocab_size, report.vocab_size)
    )
    for own in rows:
        data = b"".join(content[int(index)] for index in own["base_ids"].split())
        assert data == token_bytes(own["token"])
        assert int(own["count"]) >= 2


def test_two_runs_and_any_number_of_workers_give_the_same_bytes(
    run_folder: Path, tmp_path: Path, config: Make
) -> None:
    stage.run(config(workers=1), run_folder)
    documents = str(run_folder / "dedup" / "documents")
    stage.run(config(workers=3, documents=[documents]), tmp_path / "other")
    assert digests(run_folder / "tokenizer") == digests(tmp_path / "other" / "tokenizer")


def test_a_finished_stage_is_left_as_it_is(run_folder: Path, config: Make) -> None:
    first = stage.run(config(), run_folder)
    started = time.monotonic()
    assert stage.run(config(), run_folder) == first
    assert time.monotonic() - started < 1


def test_no_new_tokens_keep_the_base(run_folder: Path, config: Make, small_base: Base) -> None:
    report = stage.run(config(new_tokens=0), run_folder)
    assert report.vocab_size == report.base_vocab_size
    assert report.tokens_saved == 0
    written = json.loads((run_folder / "tokenizer" / "tokenizer.json").read_text())
    assert written["model"]["vocab"] == small_base.definition["model"]["vocab"]
    assert written["model"]["merges"] == small_base.definition["model"]["merges"]


def test_no_new_tokens_need_no_documents(tmp_path: Path, config: Make) -> None:
    report = stage.run(config(new_tokens=0), tmp_path)
    assert report.measured_on == "none" and report.new_tokens == 0


def test_fewer_merges_than_asked_are_written_and_said_so(run_folder: Path, config: Make) -> None:
    seen: list[Progress] = []
    report = stage.run(config(new_tokens=50_000), run_folder, log=seen.append)
    assert 0 < report.new_tokens < 50_000 and report.asked == 50_000
    assert "instead of the 50,000 asked for" in report.note
    assert any(report.note in progress.message for progress in seen)


def test_a_corpus_without_korean_is_named(
    tmp_path: Path, config: Make, documents: Documents
) -> None:
    folder = documents([("en", "nothing but English here"), ("en", "漢字 ㅋㅋㅋ")])
    with pytest.raises(InputError, match=f"no Hangul in {folder}"):
        stage.run(config(documents=[str(folder)]), tmp_path / "run")


def test_missing_documents_are_named(tmp_path: Path, config: Make) -> None:
    with pytest.raises(InputError, match="no file is there"):
        stage.run(config(), tmp_path)


def test_without_held_out_documents_the_report_says_so(
    tmp_path: Path, config: Make, documents: Documents, korean_text: str
) -> None:
    folder = documents([("talk", korean_text)])
    report = stage.run(config(documents=[str(folder)]), tmp_path / "run")
    assert report.measured_on == "train"
    assert "no document is held out" in report.note


def test_a_gate_that_fails_leaves_nothing_in_place(
    run_folder: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(candidate: Candidate) -> None:
        raise GateFailed("fails", "an example")

    monkeypatch.setattr(checks, "GATES", (*checks.GATES, fails))
    with pytest.raises(
        GateFailed, match="the gate fails failed, so nothing was written: an example"
    ):
        stage.run(config(), run_folder)
    assert [path.name for path in (run_folder / "tokenizer").iterdir()] == [".work"]


_CHILD = """
import sys
from pathlib import Path
from configs.schema import Config
from tokenizer import stage
config = Config.model_validate_json(sys.argv[1])
def log(progress):
    print(progress.step, progress.done, flush=True)
    if progress.step == "count" and progress.done:
        import time
        time.sleep(60)
if __name__ == "__main__":
    stage.run(config, Path(sys.argv[2]), log=log)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stage_stopped_while_counting_ends_with_the_same_bytes(
    run_folder: Path, tmp_path: Path, config: Make, number: signal.Signals
) -> None:
    documents = str(run_folder / "dedup" / "documents")
    stage.run(config(documents=[documents]), tmp_path / "whole")
    script = tmp_path / "child.py"
    script.write_text(_CHILD)
    child = subprocess.Popen(
        [sys.executable, str(script), config(workers=2).model_dump_json(), str(run_folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )
    assert child.stdout is not None
    for line in child.stdout:
        step, done = line.rsplit(" ", 1)
        if step == "count" and float(done):
            break
    time.sleep(0.2)
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert child.returncode != 0
    assert number != signal.SIGINT or "KeyboardInterrupt" in errors
    assert not (run_folder / "tokenizer" / "report.json").exists()
    assert list((run_folder / "tokenizer" / ".work" / "counts").glob("*.parquet"))
    stage.run(config(), run_folder)
    assert digests(run_folder / "tokenizer") == digests(tmp_path / "whole" / "tokenizer")


def test_llama3_learns_korean_and_keeps_its_control_tokens(
    run_folder: Path, config: Make, llama3: Base
) -> None:
    report = stage.run(config(base="llama3", new_tokens=150), run_folder)
    assert report.base_vocab_size == 128_256 and report.new_tokens == 150
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "tokenizer")
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") == 128_009
    assert tokenizer.encode("a")[0] == 128_000
    assert len(tokenizer) == 128_406
