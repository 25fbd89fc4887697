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
from tests.tokenizer.conftest import corpus_rows, write_documents
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


@pytest.mark.thorough
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


# ── how many tokens ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """The folder of a finished run of the small config: look, do not touch."""
    folder = tmp_path_factory.mktemp("finished")
    write_documents(folder / "dedup" / "documents", corpus_rows())
    settings = {"base": str(small_folder), "new_tokens": 120, "workers": 1}
    stage.run(Config.model_validate({"name": "test", "tokenizer": settings}), folder)
    return folder


def report_of(folder: Path) -> stage.Report:
    return stage.Report(**json.loads((folder / "tokenizer" / "report.json").read_text()))


def test_the_size_curve_stands_in_the_report_and_agrees_with_what_was_measured(
    finished: Path,
) -> None:
    report = report_of(finished)
    assert report.sizes_compared is not None
    curve = {size["new_tokens"]: size for size in report.sizes_compared["curve"]}
    assert {0, 120, report.sizes_compared["best"]} <= curve.keys()
    assert curve[120]["saved"] == pytest.approx(report.tokens_saved, abs=2e-4)
    saved = [curve[size]["saved"] for size in sorted(curve)]
    assert saved == sorted(saved) and saved[0] == 0
    assert max(curve) > 120  # learning went on for the curve, and what it learned was left out
    usage = report.usage
    assert usage is not None and 0 <= usage["never_used"] < 1
    assert all(uses > 0 for _, uses in usage["commonest"])
    assert usage["commonest"][0][0] >= report.base_vocab_size


def test_the_tokens_do_not_depend_on_what_was_learned_for_the_curve(
    run_folder: Path, finished: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenizer.size.MOST", 0)
    stage.run(config(), run_folder)
    assert digests(run_folder / "tokenizer") == digests(finished / "tokenizer")


def trained(config: Config, tokens: int) -> Config:
    """The config with a training of that many tokens, half of them Korean."""
    base = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
    mixture = {"notices": 0.4, "talk": 0.1, "english": 0.5}
    phase = {"name": "full", "train": "all", "tokens": tokens, "mixture": mixture}
    settings = config.model_dump() | {"pretrain": {"base": base, "phases": [phase]}}
    return Config.model_validate(settings)


def test_auto_takes_the_best_size(run_folder: Path, tmp_path: Path, config: Make) -> None:
    report = stage.run(trained(config(new_tokens="auto"), 10**9), run_folder)
    assert report.sizes_compared is not None
    assert report.sizes_compared["planned"] == "pretrain"
    assert report.new_tokens == report.asked == report.sizes_compared["best"] > 100
    assert f"auto took {report.new_tokens:,}: " in report.note
    documents = [str(run_folder / "dedup" / "documents")]
    asked = config(new_tokens=report.new_tokens, documents=documents)
    stage.run(asked, tmp_path / "asked")
    assert digests(run_folder / "tokenizer") == digests(tmp_path / "asked" / "tokenizer")


def test_auto_takes_no_token_that_a_short_training_would_hardly_show(
    run_folder: Path, config: Make
) -> None:
    report = stage.run(trained(config(new_tokens="auto"), 2000), run_folder)
    assert report.new_tokens == 0 and report.vocab_size == report.base_vocab_size
    assert "auto took 0: the planned training would show" in report.note
    assert report.tokens_saved == 0 and len(report.gates) == 11


def test_ten_sentences_are_cut_both_ways(finished: Path) -> None:
    report = report_of(finished)
    assert len(report.sentences) == 10 and report.example == report.sentences[0]
    assert len({one["text"] for one in report.sentences}) == 10
    assert {one["source"] for one in report.sentences} == {"notices", "talk"}
    for one in report.sentences:
        pieces = [
            bytes.fromhex(piece[1:-1]) if piece.startswith("⟨") else piece.encode()
            for piece in one["after"]
        ]
        assert b"".join(pieces).decode() == one["text"]
        assert len(one["after"]) <= len(one["before"])


# ── odd input ───────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """Stands for a signal between two steps."""


@pytest.mark.parametrize("step", ["learn", "write", "check", "report"])
def test_a_stage_killed_between_steps_leaves_nothing_in_place_and_ends_with_the_same_bytes(
    run_folder: Path, finished: Path, config: Make, step: str
) -> None:
    def killed(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    with pytest.raises(Killed):
        stage.run(config(), run_folder, log=killed)
    assert not (run_folder / "tokenizer" / "tokenizer.json").exists()
    assert not (run_folder / "tokenizer" / "report.json").exists()
    stage.run(config(), run_folder)
    assert digests(run_folder / "tokenizer") == digests(finished / "tokenizer")


def test_a_stage_killed_while_files_are_moved_into_place_ends_with_the_same_bytes(
    run_folder: Path, finished: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Path] = []
    replace = Path.replace

    def killed_at_the_third(self: Path, target: Path) -> Path:
        if self.parent.name == "new":
            moved.append(self)
            if len(moved) == 3:
                raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed_at_the_third)
        with pytest.raises(Killed):
            stage.run(config(), run_folder)
    assert not (run_folder / "tokenizer" / "report.json").exists()
    stage.run(config(), run_folder)
    assert digests(run_folder / "tokenizer") == digests(finished / "tokenizer")


def test_a_base_that_has_korean_tokens_already_gets_more(
    run_folder: Path, tmp_path: Path, config: Make
) -> None:
    first = stage.run(config(new_tokens=60), run_folder)
    base = str(run_folder / "tokenizer")
    documents = [str(run_folder / "dedup" / "documents")]
    second = stage.run(config(base=base, new_tokens=40, documents=documents), tmp_path / "more")
    assert second.base_vocab_size == first.vocab_size
    assert second.vocab_size == first.vocab_size + 40
    before = json.loads((run_folder / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    after = json.loads((tmp_path / "more/tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    assert before.items() <= after.items()
    # going on is the same as going all the way: the first 60 and 40 more are the first 100
    whole = stage.run(config(new_tokens=100, documents=documents), tmp_path / "whole")
    assert whole.vocab_size == second.vocab_size
    whole_vocab = json.loads((tmp_path / "whole/tokenizer/tokenizer.json").read_text())["model"]
    assert whole_vocab["vocab"] == after


def test_control_tokens_written_in_the_corpus_stay_what_they_are(
    tmp_path: Path, config: Make, documents: Documents, korean_text: str
) -> None:
    texts = [
        f"{korean_text}<|eot_id|>라고<|start_header_id|>도서관<|end_header_id|> {n}"
        for n in range(4)
    ]
    folder = documents([("talk", text) for text in texts])
    stage.run(config(documents=[str(folder)]), tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
    ids = tokenizer.encode("도서관<|eot_id|>라고", add_special_tokens=False)
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in ids
    rows = (tmp_path / "run/tokenizer/new_tokens.tsv").read_text(encoding="utf-8")
    assert "eot_id" not in rows and "header_id" not in rows


def test_a_lone_surrogate_in_a_corpus_of_ones_own_is_named_with_its_line(
    tmp_path: Path, config: Make, korean_text: str
) -> None:
    path = tmp_path / "own.jsonl"
    lines = [{"id": "0", "text": korean_text}, {"id": "1", "text": "깨진 글자 \ud83d 입니다"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "\\ud83d" in path.read_text()
    with pytest.raises(InputError, match=r"own.jsonl:2: .*surrogate.*clean with dedup"):
        stage.run(config(documents=[str(path)]), tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer" / "report.json").exists()


@pytest.mark.parametrize("name", ["nowhere/*.parquet", "nowhere.jsonl"])
def test_documents_that_name_nothing_are_named(tmp_path: Path, config: Make, name: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        stage.run(config(documents=[str(tmp_path / name)]), tmp_path / "run")


def test_an_empty_corpus_is_named(tmp_path: Path, config: Make) -> None:
    (tmp_path / "own.jsonl").write_text("")
    with pytest.raises(InputError, match=r"own.jsonl: empty file"):
        stage.run(config(documents=[str(tmp_path / "own.jsonl")]), tmp_path / "run")


def test_a_report_of_an_older_version_is_read(
    run_folder: Path, finished: Path, config: Make
) -> None:
    path = run_folder / "tokenizer" / "report.json"
    path.parent.mkdir()
    old = json.loads((finished / "tokenizer" / "report.json").read_text())
    for key in ("sentences", "sizes_compared", "usage"):
        del old[key]
    path.write_text(json.dumps(old))
    report = stage.run(config(), run_folder)
    assert report.sizes_compared is None and report.new_tokens == 120
