"""The data stage, end to end, on small corpora made here."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from stage_corpus import ROOT, config, corpus, digests, prose, put, rows

from configs.errors import InputError
from configs.progress import Progress
from configs.schema import Config
from dedup.copies import room
from dedup.documents import SCHEMA, read_documents
from dedup.stage import run
from dedup.why import why


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """(input folder, run folder, {id: text}) of a run by one worker."""
    base = tmp_path_factory.mktemp("stage")
    written = corpus(base / "in")
    run(config(base / "in"), base / "run")
    return base / "in", base / "run", written


def test_the_books_balance_and_every_document_is_somewhere(
    finished: tuple[Path, Path, dict[str, str]],
) -> None:
    _, folder, written = finished
    report = json.loads((folder / "dedup" / "report.json").read_text())
    documents, removed = rows(folder, "documents"), rows(folder, "removed")
    assert {row["id"] for row in documents} | {row["id"] for row in removed} == set(written)
    assert len(documents) + len(removed) == len(written)
    assert report["documents_in"] == len(written) + 6
    assert report["documents_failed"] == 6
    assert report["documents_out"] == len(documents)
    assert sum(report["removed"].values()) == len(removed) == sum(report["reasons"].values())
    assert report["by_source"]["web"]["documents_out"] == len(documents)
    short = sum(len("".join(text.split())) < 40 for text in written.values())
    assert report["reasons"]["filter/too_short"] == short >= 6
    assert {"exact", "near", "filter"} == set(report["removed"])
    failed = [
        json.loads(line)
        for path in sorted((folder / "dedup" / "failed").iterdir())
        for line in path.open()
    ]
    assert [(Path(row["path"]).name, row["line"]) for row in failed] == [
        (f"part{file}.jsonl", 31) for file in range(6)
    ]
    assert len(report["failed_files"]) == 6
    assert not (folder / "dedup" / ".work").exists()
    first = next(read_documents(folder / "dedup" / "documents"))
    assert first.schema.equals(SCHEMA)


def test_every_copy_names_a_document_that_stayed_with_the_exact_similarity(
    finished: tuple[Path, Path, dict[str, str]],
) -> None:
    _, folder, _ = finished
    documents = {row["id"]: row for row in rows(folder, "documents")}
    copies = [row for row in rows(folder, "removed") if row["step"] in ("exact", "near")]
    size = dict.fromkeys(documents, 1)
    for row in copies:
        size[row["kept_id"]] += 1
        one = " ".join(row["text"].split())
        other = " ".join(documents[row["kept_id"]]["text"].split())
        shingles = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (one, other)]
        similarity = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
        assert row["similarity"] == similarity >= 0.8
        assert (row["step"] == "exact") == (one == other)
    assert size == {name: row["cluster_size"] for name, row in documents.items()}
    assert all(row["cluster_id"] == name for name, row in documents.items())
    assert {row["split"] for row in documents.values()} == {"train", "heldout"}


@pytest.mark.parametrize(("workers", "on_disk"), [(2, "auto"), (4, True)])
def test_any_number_of_workers_writes_the_same_bytes_in_memory_and_in_mapped_files(
    finished: tuple[Path, Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    on_disk: bool | str,
) -> None:
    monkeypatch.setattr(room, "_SMALL", 0)  # else so small a corpus needs no file
    source, folder, _ = finished
    run(config(source, workers=workers, on_disk=on_disk), tmp_path)
    assert digests(tmp_path) == digests(folder)


def test_files_named_in_another_order_have_the_same_ids_and_the_same_bytes(tmp_path: Path) -> None:
    """Without ids of their own, so that ids are made of paths; repeated ids are among them too."""
    written = corpus(tmp_path / "in", files=5)
    for number, path in enumerate(sorted((tmp_path / "in").iterdir())):
        lines = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
        path.write_text("")
        place = tmp_path / "in" / ["", "b", "a/deep", "", "c"][number] / path.name
        put(place, [{"text": line["text"]} | ({"id": "same"} if n == 7 else {})
                    for n, line in enumerate(lines)])  # fmt: skip
        if place != path:
            path.unlink()
    files = sorted(str(path) for path in (tmp_path / "in").rglob("*.jsonl"))
    base = str(tmp_path / "in")
    listed = [
        [f"{base}/**/*.jsonl"],
        files,
        files[::-1],
        [f"{base}/c", f"{base}/*/part*.jsonl", files[2], f"{base}/part3.jsonl", base],
        [f"{base}/part*.jsonl", *files[::2], f"{base}/a/**/*", *files],
    ]
    found = []
    for number, paths in enumerate(listed):
        sources = [{"name": "web", "paths": paths}]
        report = run(config(tmp_path, sources=sources), tmp_path / f"run{number}")
        assert report.documents_in == len(written)
        assert report.renamed_ids == 4
        found.append(digests(tmp_path / f"run{number}"))
        del found[-1]["dedup/report.json"]  # it has the digest of the config, in which the order is
    ids = {row["id"] for row in rows(tmp_path / "run0", "documents")}
    assert "web/a/deep/part2.jsonl#1" in ids or "web/a/deep/part2.jsonl#2" in ids
    assert all(other == found[0] for other in found[1:])


def test_a_finished_stage_is_not_run_again_and_another_config_is_refused(
    finished: tuple[Path, Path, dict[str, str]],
) -> None:
    source, folder, _ = finished
    steps: list[Progress] = []
    before = digests(folder)
    report = run(config(source, workers=2), folder, log=steps.append)
    assert not steps
    assert report.documents_out == len(rows(folder, "documents"))
    with pytest.raises(InputError, match="finished output of another config"):
        run(config(source, heldout=0.2), folder)
    assert digests(folder) == before


SCRIPT = """
import sys
from pathlib import Path
from configs.schema import Config
from dedup.stage import run
if __name__ == "__main__":
    def log(progress):
        print(progress.step, progress.done, flush=True)
    run(Config.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), log=log)
"""


def start(base: Path, settings: Config, folder: Path) -> subprocess.Popen[str]:
    (base / "stage_run.py").write_text(SCRIPT)
    (base / "config.json").write_text(settings.model_dump_json())
    return subprocess.Popen(
        [sys.executable, str(base / "stage_run.py"), str(base / "config.json"), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_that_is_killed_in_every_pass_ends_with_the_same_bytes(
    finished: tuple[Path, Path, dict[str, str]], tmp_path: Path
) -> None:
    """Kills at random moments, as many as one likes, are in test_kill.py."""
    source, folder, _ = finished
    settings = config(source, workers=2)
    killed = 0
    for moment in ("clean", "exact", "near", "publish"):
        process = start(tmp_path, settings, tmp_path / "run")
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(moment) and (moment != "clean" or not line.startswith("clean 0")):
                process.send_signal(signal.SIGINT if killed == 1 else signal.SIGKILL)
                break
        process.stdout.close()
        killed += process.wait(timeout=60) != 0
    assert killed >= 3
    run(settings, tmp_path / "run")
    assert digests(tmp_path / "run") == digests(folder)


def test_work_of_another_config_or_of_changed_input_is_not_gone_on_with(tmp_path: Path) -> None:
    corpus(tmp_path / "in", files=3)

    def stop(progress: Progress) -> None:
        if progress.step == "publish" and progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path / "in"), tmp_path / "run", log=stop)
    corpus(tmp_path / "in", seed=4, files=2)
    other = config(tmp_path / "in", near="none")
    run(other, tmp_path / "run")
    run(other, tmp_path / "fresh")
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")
    assert not [row for row in rows(tmp_path / "run", "removed") if row["step"] == "near"]


def test_the_better_copy_stays_by_source_then_quality_then_length_then_id(tmp_path: Path) -> None:
    text = prose(random.Random(1), 20)
    put(tmp_path / "a.jsonl", [{"id": "a", "text": text}, {"id": "c", "text": text + "\n\n"}])
    put(tmp_path / "b.jsonl", [{"id": "b2", "text": text}, {"id": "b1", "text": text}])
    sources = [
        {"name": "low", "paths": [str(tmp_path / "a.jsonl")]},
        {"name": "high", "paths": [str(tmp_path / "b.jsonl")], "quality": 2.0},
    ]
    run(config(tmp_path, sources=sources), tmp_path / "run")
    assert [row["id"] for row in rows(tmp_path / "run", "documents")] == ["b1"]
    kept = {row["id"]: row["kept_id"] for row in rows(tmp_path / "run", "removed")}
    assert kept == {"a": "b1", "c": "b1", "b2": "b1"}


def test_the_copy_of_a_near_copy_points_to_what_is_finally_kept(tmp_path: Path) -> None:
    text = prose(random.Random(2), 20)
    longer = text + " 그리고 맨 끝에 덧붙인 한 문장이 있다."
    put(
        tmp_path / "in.jsonl",
        [
            {"id": "copy", "text": text},
            {"id": "long", "text": longer},
            {"id": "near", "text": text},
        ],
    )
    run(config(tmp_path, filters="none"), tmp_path / "run")
    assert [row["id"] for row in rows(tmp_path / "run", "documents")] == ["long"]
    removed = rows(tmp_path / "run", "removed")
    assert {row["kept_id"] for row in removed} == {"long"}
    assert len({row["similarity"] for row in removed}) == 1
    assert {row["step"] for row in removed} == {"near"}


def test_a_source_with_near_none_is_neither_removed_nor_a_reason_but_its_exact_copies_go(
    tmp_path: Path,
) -> None:
    text = prose(random.Random(5), 20)
    changed = text.replace("사람들과", "이웃들과", 1)
    put(tmp_path / "a.jsonl", [{"id": "a1", "text": text}, {"id": "a2", "text": changed}])
    put(tmp_path / "b.jsonl", [{"id": "b1", "text": text}, {"id": "b2", "text": changed + "!"}])
    put(tmp_path / "c.jsonl", [{"id": "c1", "text": text + " 끝"}])
    sources = [
        {"name": "a", "paths": [str(tmp_path / "a.jsonl")], "near": "none"},
        {"name": "b", "paths": [str(tmp_path / "b.jsonl")]},
        {"name": "c", "paths": [str(tmp_path / "c.jsonl")], "quality": 3.0, "near": "none"},
    ]
    run(config(tmp_path, sources=sources, filters="none"), tmp_path / "run")
    kept = {row["id"] for row in rows(tmp_path / "run", "documents")}
    gone = {row["id"]: (row["step"], row["kept_id"]) for row in rows(tmp_path / "run", "removed")}
    assert kept == {"a1", "a2", "b2", "c1"}
    assert gone == {"b1": ("exact", "a1")}


def test_a_near_none_copy_does_not_follow_its_equal_into_removal(tmp_path: Path) -> None:
    text = prose(random.Random(6), 20)
    put(
        tmp_path / "a.jsonl", [{"id": "a1", "text": text}, {"id": "a2", "text": text + " 더 긴 글"}]
    )
    put(tmp_path / "b.jsonl", [{"id": "b1", "text": text}, {"id": "b2", "text": text}])
    sources = [
        {"name": "a", "paths": [str(tmp_path / "a.jsonl")]},
        {"name": "b", "paths": [str(tmp_path / "b.jsonl")], "near": "none"},
    ]
    run(config(tmp_path, sources=sources, filters="none"), tmp_path / "run")
    gone = {row["id"]: (row["step"], row["kept_id"]) for row in rows(tmp_path / "run", "removed")}
    assert gone == {"a1": ("near", "a2"), "b2": ("exact", "b1")}


def test_dialogues_are_copies_only_with_the_same_roles_and_texts(tmp_path: Path) -> None:
    def talk(*turns: str) -> list[dict[str, str]]:
        roles = ["user", "assistant"] * len(turns)
        return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]

    reversed_roles = [
        {"role": "assistant", "content": "안녕"},
        {"role": "user", "content": "반가워"},
    ]
    put(
        tmp_path / "chat.jsonl",
        [
            {"id": "t1", "messages": talk("안녕", "반가워")},
            {"id": "t2", "messages": talk("안녕", "반가워 ")},
            {"id": "t3", "messages": talk("안녕", "반가워요")},
            {"id": "t4", "messages": [*reversed_roles, {"role": "assistant", "content": "응"}]},
            {"id": "t5", "messages": talk("번호는 010-2345-6789 입니다", "알겠어요")},
        ],
    )
    sources = [{"name": "chat", "paths": [str(tmp_path / "chat.jsonl")], "format": "chat"}]
    run(config(tmp_path, sources=sources), tmp_path / "run")
    documents = {row["id"]: row for row in rows(tmp_path / "run", "documents")}
    assert set(documents) == {"t1", "t3", "t4", "t5"}
    for row in documents.values():
        assert row["kind"] == "chat"
        assert row["text"] == "\n".join(turn["text"] for turn in row["segments"])
    assert "2345-6789" not in documents["t5"]["text"]
    assert [turn["role"] for turn in documents["t5"]["segments"]] == ["user", "assistant"]


def test_an_id_that_occurs_again_is_made_unique_and_counted(tmp_path: Path) -> None:
    rng = random.Random(8)
    put(tmp_path / "a.jsonl", [{"id": "x", "text": prose(rng, 9)}, {"id": "x", "text": "짧다"}])
    put(
        tmp_path / "b.jsonl",
        [{"id": "x", "text": prose(rng, 9)}, {"id": "x~2", "text": prose(rng, 9)}],
    )
    report = run(config(tmp_path, shard=1000), tmp_path / "run")
    assert {row["id"] for row in rows(tmp_path / "run", "documents")} == {"x", "x~4", "x~2"}
    assert {row["id"] for row in rows(tmp_path / "run", "removed")} == {"x~3"}
    assert report.renamed_ids == 2


def test_files_that_cannot_be_read_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    written = corpus(tmp_path / "in", files=2)
    whole = gzip.compress((tmp_path / "in" / "part0.jsonl").read_bytes())
    (tmp_path / "in" / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "empty.jsonl").write_bytes(b"")
    sources = [{"name": "web", "paths": [str(tmp_path / "in")]}]
    report = run(config(tmp_path, sources=sources), tmp_path / "run")
    failed = {Path(row["path"]).name for row in report.failed_files}
    assert {"cut.jsonl.gz", "empty.jsonl"} <= failed
    assert report.documents_out > 0
    assert report.documents_in > len(written)


def test_every_broken_file_of_a_task_is_named_with_its_number_of_records(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good = json.dumps({"text": prose(random.Random(3), 30)})
    for number, broken in enumerate([30, 0, 2, 1]):
        lines = [good, *["{not json"] * broken]
        (source / f"{number}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = run(config(source, shard="64MB"), tmp_path / "run")
    found = [
        (Path(entry["path"]).name, entry["records"], entry["line"]) for entry in report.failed_files
    ]
    assert found == [("0.jsonl", 30, 2), ("2.jsonl", 2, 2), ("3.jsonl", 1, 2)]
    assert report.documents_failed == 33


def test_the_report_shows_near_copies_beside_what_was_kept_from_where_they_differ(
    finished: tuple[Path, Path, dict[str, str]],
) -> None:
    _, folder, written = finished
    examples = json.loads((folder / "dedup/report.json").read_text())["examples"]["near/near copy"]
    assert 1 <= len(examples) <= 3
    for example in examples:
        text, kept = example["text"], example["kept_text"]
        assert text != kept and max(len(text), len(kept)) <= 402
        assert text.strip("…") in written[example["id"]]
        assert kept.strip("…") in written[example["kept_id"]]


def test_removed_documents_carry_no_personal_data_and_no_text_where_the_config_says_so(
    tmp_path: Path,
) -> None:
    put(
        tmp_path / "in.jsonl",
        [
            {"id": "gone", "text": "전화 010-2345-6789"},
            {"id": "stays", "text": prose(random.Random(9), 9) + " 연락은 010-2345-6789 로."},
        ],
    )
    report = run(config(tmp_path), tmp_path / "run")
    (gone,) = rows(tmp_path / "run", "removed")
    assert gone["step"] == "filter"
    assert "2345" not in gone["text"]
    assert "2345" not in rows(tmp_path / "run", "documents")[0]["text"]
    assert "2345" not in json.dumps(report.examples)
    assert sum(report.pii.values()) >= 1
    run(config(tmp_path, keep_removed_text=False), tmp_path / "bare")
    assert rows(tmp_path / "bare", "removed")[0]["text"] is None


def test_personal_data_drops_the_document_where_the_config_says_so(tmp_path: Path) -> None:
    rng = random.Random(10)
    put(
        tmp_path / "in.jsonl",
        [
            {"id": "with", "text": prose(rng, 9) + " 연락은 010-2345-6789 로."},
            {"id": "without", "text": prose(rng, 9)},
        ],
    )
    report = run(config(tmp_path, pii="drop"), tmp_path / "run")
    assert report.reasons == {"pii/personal data": 1}
    assert [row["id"] for row in rows(tmp_path / "run", "documents")] == ["without"]


def test_evaluation_text_is_taken_out(tmp_path: Path) -> None:
    rng = random.Random(11)
    secret = "평가에만 쓰이는 이 문장은 학습 글뭉치에 절대로 들어가서는 안 되는 아주 긴 문장이다."
    put(
        tmp_path / "in.jsonl",
        [
            {"id": "leak", "text": f"{prose(rng, 9)} {secret} {prose(rng, 3)}"},
            {"id": "clean", "text": prose(rng, 9)},
        ],
    )
    put(tmp_path / "eval.json", [{"question": secret}])
    shutil.move(tmp_path / "eval.json", tmp_path / "eval.jsonl.txt")
    report = run(
        config(
            tmp_path,
            sources=[{"name": "web", "paths": [str(tmp_path / "in.jsonl")]}],
            decontaminate=[str(tmp_path / "eval.jsonl.txt")],
        ),
        tmp_path / "run",
    )
    assert report.reasons == {"decontaminate/evaluation text": 1}
    assert why(tmp_path / "run", "leak").step == "decontaminate"


def test_why_shows_a_removed_document_beside_the_one_that_was_kept(
    finished: tuple[Path, Path, dict[str, str]],
) -> None:
    _, folder, written = finished
    row = next(row for row in rows(folder, "removed") if row["step"] == "near")
    told = why(folder, row["id"])
    assert (told.step, told.reason, told.kept_id) == ("near", "near copy", row["kept_id"])
    assert told.similarity == row["similarity"]
    assert told.text == written[row["id"]]
    assert told.kept_text == written[row["kept_id"]]
    assert why(folder, row["kept_id"]).kept
    short = why(folder, "f0-004")
    assert (short.step, short.reason, short.kept_id) == ("filter", "too_short", None)
    with pytest.raises(InputError, match=r"no document of .* had this id; did you mean f0-00\d, "):
        why(folder, "f0-00")
    with pytest.raises(InputError, match="no finished data stage"):
        why(folder / "elsewhere", "x")


def test_a_corpus_of_which_nothing_is_left_says_what_took_it_and_what_to_loosen(
    tmp_path: Path,
) -> None:
    put(tmp_path / "in.jsonl", [{"id": str(number), "text": "짧다"} for number in range(5)])
    with pytest.raises(InputError) as caught:
        run(config(tmp_path), tmp_path / "run")
    assert caught.value.lines[0] == "dedup: no document is left of 5"
    assert (
        "5 went by filter: too_short; loosen dedup.filters.min_characters" in caught.value.lines[1]
    )
    assert not (tmp_path / "run" / "dedup" / "report.json").exists()
    put(tmp_path / "in.jsonl", [])
    with pytest.raises(InputError, match="empty file"):
        run(config(tmp_path), tmp_path / "run")


def test_a_config_without_the_stage_and_a_path_without_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dedup: is missing"):
        run(Config(name="x"), tmp_path)
    with pytest.raises(InputError, match="matches no file"):
        run(config(tmp_path / "nowhere"), tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_leaves_no_half_file_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Callable[[int], Path], workers: int
) -> None:
    disk = small_disk(1 << 20)
    corpus(tmp_path / "in", files=12, each=60)
    settings = config(tmp_path / "in", workers=workers)
    (disk / "ballast").write_bytes(b"x" * 700_000)
    with pytest.raises(InputError, match=r"the disk is full \([\d,]+ bytes are free\)"):
        run(settings, disk / "run")
    out = disk / "run" / "dedup"
    assert not (out / "report.json").exists()
    for path in out.rglob("*.parquet"):
        if not path.name.startswith("."):
            pq.read_table(path)
    (disk / "ballast").unlink()
    small_disk(20_000_000)
    run(settings, disk / "run")
    run(settings, tmp_path / "roomy")
    assert digests(disk / "run") == digests(tmp_path / "roomy")
