"""lm-eval's tasks and KLUE's, from local copies: the scores are those of lm-eval's own command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from task_rows import KMMLU, MMLU, NER, STS, jsonl, parquet, tagged, write_copies
from tiny_model import make_model

from configs.errors import InputError
from pretrain.evaluation import local_datasets
from pretrain.evaluation.harness import OURS, TaskScore, run_tasks
from pretrain.evaluation.klue import entities, similarity

NAMES = ("kobest", "haerae", "klue", "gsm8k", "mmlu_anatomy", "kmmlu_biology")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_copies(tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("judged") / "model", positions=1024)


@pytest.fixture(scope="module")
def scores(model: Path, data: Path) -> list[TaskScore]:
    return run_tasks(model, NAMES, data=data, device="cpu")


def one_by_hand(folder: Path, theirs: Path, task: str, files: dict[str, Path]) -> None:
    """A task of lm-eval's that reads these files, in its own YAML form."""
    suffix = next(iter(files.values())).suffix
    kind = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}[suffix]
    settings: dict[str, Any] = {
        "include": str(theirs),
        "task": task,
        "dataset_path": kind,
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
    }
    (folder / f"{task}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def tasks_by_hand(folder: Path, data: Path) -> Path:
    import lm_eval

    tasks = Path(lm_eval.__file__).parent / "tasks"
    for name in ("boolq", "copa", "sentineg", "hellaswag", "wic"):
        splits = ("train", "validation", "test")
        files = {s: data / "skt/kobest_v1" / name / s / "0000.parquet" for s in splits}
        task = f"kobest_{name}"
        one_by_hand(folder, tasks / "kobest" / f"{task}.yaml", task, files)
    haerae = {
        "gk": "general_knowledge",
        "hi": "history",
        "lw": "loan_word",
        "rw": "rare_word",
        "sn": "standard_nomenclature",
    }
    for number, (short, name) in enumerate(haerae.items()):
        files = {"test": data / "HAERAE-HUB/HAE_RAE_BENCH" / f"part{number}.jsonl"}
        path = tasks / "haerae" / f"haerae_{short}.yaml"
        one_by_hand(folder, path, f"haerae_{name}", files)
    for name in ("nli", "sts", "ner"):
        files = {
            s: data / "klue/klue" / name / f"{s}-00000-of-00001.parquet"
            for s in ("train", "validation")
        }
        one_by_hand(folder, OURS / f"klue_{name}.yaml", f"klue_{name}", files)
    files = {s: data / "gsm8k" / f"{s}.jsonl" for s in ("train", "test")}
    one_by_hand(folder, tasks / "gsm8k/gsm8k.yaml", "gsm8k", files)
    anatomy = tasks / "mmlu/default/mmlu_anatomy.yaml"
    files = {s: data / "cais/mmlu/anatomy" / f"{s}-00000-of-00001.parquet" for s in ("test", "dev")}
    one_by_hand(folder, anatomy, "mmlu_anatomy", files)
    biology = tasks / "kmmlu/default/kmmlu_biology.yaml"
    files = {s: data / "HAERAE-HUB/KMMLU/data" / f"Biology-{s}.csv" for s in ("test", "dev")}
    one_by_hand(folder, biology, "kmmlu_biology", files)
    return folder


def lm_evals_own_command(
    model: Path, names: tuple[str, ...], include: Path, out: Path, *options: str
) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args"]
    command += [f"pretrained={model},dtype=float32", "--tasks", ",".join(names), "--device", "cpu"]
    command += ["--include_path", str(include), "--output_path", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.rglob("results_*.json")
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return found


@pytest.mark.thorough  # its own command reads ten thousand task files, and asks the hub for F1
def test_every_score_is_that_of_lm_evals_own_command_on_the_same_rows(
    scores: list[TaskScore], model: Path, data: Path, tmp_path: Path
) -> None:
    include = tmp_path / "include"
    include.mkdir()
    theirs = lm_evals_own_command(model, NAMES, tasks_by_hand(include, data), tmp_path / "out")
    ours = {(one.task, f"{one.metric},{one.filter}"): one.value for one in scores}
    figures = {
        (task, key): value
        for task, found in theirs.items()
        for key, value in found.items()
        if "," in key and "_stderr" not in key
    }
    assert ours == pytest.approx(figures, abs=1e-12)
    assert {"kobest", "kobest_wic", "haerae", "klue_ner", "gsm8k"} <= set(theirs)


def test_each_task_says_how_many_rows_and_examples_it_took(scores: list[TaskScore]) -> None:
    first = {one.task: one for one in reversed(scores)}
    assert (first["kobest"].rows, first["kobest"].of, first["kobest"].shots) == (25, 25, 0)
    assert first["kobest_wic"].group == "kobest" and first["kobest"].group is None
    assert first["gsm8k"].shots == 5 and first["gsm8k"].rows == 6
    assert first["klue_ner"].shots == 5 and first["klue_ner"].group == "klue"
    assert {one.metric for one in scores if one.task == "klue_sts"} == {"acc", "f1", "pearson"}


@pytest.mark.thorough
def test_groups_of_groups_are_judged_from_copies_of_every_subject(
    model: Path, tmp_path: Path
) -> None:
    from lm_eval.tasks import TaskManager

    index = TaskManager().task_index
    for group, rows, folder in (("mmlu", MMLU, "cais/mmlu"), ("kmmlu", KMMLU, "HAERAE-HUB/KMMLU")):
        for name in local_datasets.leaves(group, index):
            for split in ("test", "dev"):
                config = index[name].cfg["dataset_name"]
                parquet(tmp_path / folder / config / split / "0000.parquet", rows)
    scores = run_tasks(model, ["mmlu", "kmmlu"], data=tmp_path, limit=1, device="cpu")
    first = {one.task: one for one in reversed(scores)}
    assert (first["mmlu"].rows, first["mmlu"].of, first["mmlu"].group) == (57, 285, None)
    assert (first["kmmlu"].rows, first["kmmlu"].of) == (45, 225)
    assert first["mmlu_anatomy"].group == "mmlu"


def test_shots_and_limit_reach_the_tasks(model: Path, data: Path) -> None:
    (one,) = run_tasks(model, ["klue_nli"], data=data, shots=2, limit=3, device="cpu")
    assert (one.shots, one.rows, one.of) == (2, 3, 5)


def test_a_task_named_beside_its_group_is_run_once(model: Path, data: Path) -> None:
    names = ["klue_nli", "klue_sts", "klue_nli"]
    found = run_tasks(model, names, data=data, limit=1, device="cpu")
    assert [one.task for one in found].count("klue_nli") == 1
    found = run_tasks(model, ["kobest_wic", "kobest"], data=data, limit=1, device="cpu")
    assert {one.rows for one in found if one.task == "kobest"} == {5}
    assert next(one for one in found if one.task == "kobest_wic").group is None


def test_examples_are_only_needed_where_they_are_shown(model: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "klue" / "sts" / "validation.jsonl", STS)  # the dev set alone, as KLUE has it
    found = run_tasks(model, ["klue_sts"], data=tmp_path, device="cpu")
    assert {one.rows for one in found} == {5}
    with pytest.raises(InputError, match="no file of the split train of sts"):
        run_tasks(model, ["klue_sts"], data=tmp_path, shots=1, device="cpu")


def test_an_unknown_task_gets_the_one_that_was_meant(model: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_tasks(model, ["kobset", "clue_nli"])
    assert caught.value.lines == (
        "--tasks: lm-eval has no task kobset; did you mean kobest?",
        "--tasks: lm-eval has no task clue_nli; did you mean klue_nli?",
    )


def test_a_missing_copy_comes_with_the_command_that_fetches_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "klue").mkdir()
    with pytest.raises(InputError) as caught:
        run_tasks(model, ["kobest", "klue_nli"], data=tmp_path)
    first, second = caught.value.lines
    assert first.startswith(f"{tmp_path}: holds no copy of skt/kobest_v1; fetch it: hf download ")
    assert "--repo-type dataset" in first and str(tmp_path / "skt/kobest_v1") in first
    assert "no file of the split validation of nli; expected such as nli/validation.jsonl" in second


def test_rows_of_another_form_are_a_mistake_not_a_crash(model: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "klue" / "nli" / "validation.jsonl", [{"text": "봄", "label": 1}])
    with pytest.raises(InputError, match=r"--tasks klue_nli: the rows in .* cannot be read"):
        run_tasks(model, ["klue_nli"], data=tmp_path)


def test_more_examples_than_rows_are_a_mistake_too(model: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"--tasks klue_nli: lm-eval cannot go on .*fewer --shots"):
        run_tasks(model, ["klue_nli"], data=data, shots=50, device="cpu")


# ── where the rows of a split lie ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("files", "config", "split", "found"),
    [
        (["boolq/test/0000.parquet", "boolq/test/0001.parquet"], "boolq", "test", [0, 1]),
        (["copa/test/0000.parquet", "boolq/test/0000.parquet"], "boolq", "test", [1]),
        (["main/train-00000-of-00002.parquet", "main/test-00000-of-00001.parquet"], "main", "train", [0]),
        (["data/Biology-dev.csv", "data/Biology-test.csv"], "Biology", "test", [1]),
        (["data/Computer-Science-test.csv", "data/Science-test.csv"], "Science", "test", [1]),
        (["train.jsonl", "test.jsonl"], "main", "test", [1]),
        (["train.jsonl", "test.jsonl"], "sts", "test", []),
        (["sts/dev.jsonl"], "sts", "validation", [0]),
        (["sts/dev.jsonl", "sts/validation.jsonl"], "sts", "validation", [1]),
        (["sts/validation.jsonl", "sts/.validation.jsonl.tmp"], "sts", "validation", [0]),
    ],
)  # fmt: skip
def test_the_files_of_a_split_are_found_by_their_names(
    tmp_path: Path, files: list[str], config: str, split: str, found: list[int]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert local_datasets.find(tmp_path, config, split) == [tmp_path / files[n] for n in found]


# ── KLUE ────────────────────────────────────────────────────────────────────────────────────────


def test_entities_are_read_from_the_tags_and_from_a_generated_line() -> None:
    row = NER[0]
    assert entities.entities(row) == [("봄", "날짜"), ("가람", "사람"), ("새별시", "장소")]
    assert entities.read(entities.target(row)) == entities.entities(row)
    assert entities.read(" 가람 = 사람; 새별시=나라;;=장소 ;봄") == [("가람", "사람")]
    beside = tagged(("가람", "PS"), ("나래", "PS"))  # two entities with nothing between them
    assert entities.target(beside) == "가람=사람; 나래=사람"
    plain = tagged(("바람이 분다.", ""))
    assert entities.target(plain) == "없음" and entities.read("없음") == []
    assert entities.prompt(plain).startswith("문장: 바람이 분다.\n")


def test_entity_f1_is_the_mean_over_kinds() -> None:
    gold = [("봄", "날짜"), ("가람", "사람"), ("나래", "사람")]
    said = [("봄", "날짜"), ("가람", "사람"), ("강", "장소")]
    # 날짜 1.0; 사람 2·1/(2+1); 장소 was named and is none: 0
    assert entities.entity_f1([(gold, said)]) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert entities.entity_f1([(gold, gold), (gold, gold)]) == 1.0
    assert entities.entity_f1([([], [])]) == 0.0


def test_likeness_is_judged_by_the_probability_of_yes() -> None:
    row = STS[4]
    said = similarity.results(row, [(-2.0, False), (-1.0, True)])
    assert said["acc"] == 1.0 and said["f1"] == (1, 1)
    assert said["pearson"] == pytest.approx((3.2, 0.7310586))
    assert similarity.pearson([(0.0, 0.1), (2.5, 0.6), (5.0, 0.9)]) == pytest.approx(
        0.98974, abs=1e-5
    )
    assert similarity.pearson([(1.0, 0.5), (2.0, 0.5)]) == 0.0
