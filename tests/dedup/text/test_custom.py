"""Custom filters: a function of the user's, named in the config, drops documents with its reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import InputError
from configs.schema import Config
from dedup.stage import run
from dedup.text.custom import code_digest, filter_files, load_filter
from launch.console import Console
from launch.run import run_stages

ROOT = Path(__file__).resolve().parents[3]

MODULE = """
import pyarrow.compute as pc

def no_minutes(batch):
    return pc.if_else(pc.match_substring(batch["text"], "회의록"), "minutes", None)

def short(batch):
    return [None]

def broken(batch):
    raise KeyError("부서")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_filters.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_filters", raising=False)  # of the test before
    return "my_filters"


TEXTS = [
    "지난 회의록 전문을 여기에 옮겨 적는다. 끝.",
    "강가에 나가 바람을 쐬고 돌아와 글을 쓴다.",
]


def config(folder: Path, *filters: str) -> Config:
    """One source with TEXTS, and these filters."""
    source = folder / "in.jsonl"
    if not source.exists():
        lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
        source.write_text("".join(lines), encoding="utf-8")
    return Config.model_validate(
        {
            "name": "own",
            "dedup": {
                "sources": [{"name": "a", "paths": [str(source)]}],
                "custom_filters": list(filters),
                "workers": 1,
            },
            "tracking": {"mlflow": False},
        }
    )


def test_what_it_names_is_dropped_counted_and_kept_apart(tmp_path: Path, module: str) -> None:
    report = run(config(tmp_path, f"{module}:no_minutes"), tmp_path / "run")
    assert (report.documents_in, report.documents_out) == (2, 1)
    assert report.reasons == {"filter/minutes": 1}
    (gone,) = parquet.read_table(tmp_path / "run/dedup/removed").to_pylist()
    assert (gone["step"], gone["reason"], gone["text"]) == ("filter", "minutes", TEXTS[0])


def test_an_edited_filter_runs_a_finished_stage_again_and_an_unchanged_one_does_not(
    tmp_path: Path, module: str
) -> None:
    settings = config(tmp_path, f"{module}:no_minutes")
    source = tmp_path / f"{module}.py"

    def again() -> tuple[str, tuple[str, ...], dict[str, int]]:
        with Console(interactive=False) as console:
            (decision,) = run_stages(settings, tmp_path / "run", ["dedup"], console).values()
        report = json.loads((tmp_path / "run/dedup/report.json").read_text())
        return decision.action, decision.reasons, report["reasons"]

    assert again() == ("start", (), {"filter/minutes": 1})
    source.touch()
    assert again() == ("skip", (), {"filter/minutes": 1})
    source.write_text(MODULE.replace('"회의록"', '"바람"').replace("minutes", "wind"))
    with pytest.raises(InputError, match="has no no_minutes"):
        again()
    source.write_text(MODULE.replace('"회의록"', '"바람"').replace('"minutes"', '"wind"'))
    assert again() == ("again", (f"input changed: {source}",), {"filter/wind": 1})
    assert (tmp_path / "run/dedup.before-1/report.json").exists()


def test_what_was_begun_with_an_earlier_form_of_the_filter_is_not_gone_on_with(
    tmp_path: Path, module: str
) -> None:
    settings = config(tmp_path, f"{module}:no_minutes")

    def stop(progress: object) -> None:
        if getattr(progress, "step", "") == "publish":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "run", log=stop)
    source = tmp_path / f"{module}.py"
    source.write_text(MODULE.replace('"회의록"', '"바람"'))
    run(settings, tmp_path / "run")
    (gone,) = parquet.read_table(tmp_path / "run/dedup/removed").to_pylist()
    assert gone["text"] == TEXTS[1]
    source.write_text(MODULE)
    with pytest.raises(InputError, match="of an earlier custom filter; move it away"):
        run(settings, tmp_path / "run")


def test_the_code_of_a_package_is_all_of_its_modules_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("from own_package.words import drop\n")
    (package / "words.py").write_text("def drop(batch):\n    return [None] * batch.num_rows\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["own_package:drop"]
    assert [path.name for path in filter_files(names)] == ["__init__.py", "words.py"]
    before = code_digest(names)
    assert code_digest([*names, *names]) == before
    (package / "words.py").write_text("def drop(batch):\n    return ['x'] * batch.num_rows\n")
    assert code_digest(names) != before


@pytest.mark.slow
def test_names_that_lead_nowhere_are_all_told_before_any_work_with_status_2(
    tmp_path: Path, module: str
) -> None:
    settings = config(tmp_path, f"{module}:missing", "no_such_module:f", f"{module}:no_minutes")
    (tmp_path / "own.yaml").write_text(settings.model_dump_json(exclude_defaults=True))
    command = [sys.executable, "-m", "launch.cli", "dedup", "own.yaml", "dir=out"]
    done = subprocess.run(
        [*command], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "error"]
    assert "my_filters has no missing" in done.stderr
    assert "no_such_module:f: cannot be imported" in done.stderr
    assert not (tmp_path / "out/dedup").exists()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("short", "must give a string or None for each of 2 documents, gave 1"),
        ("broken", "failed on a batch of 2 documents that begins with a/1: KeyError"),
    ],
)
def test_a_filter_that_misbehaves_is_named_with_the_batch(
    module: str, function: str, said: str
) -> None:
    own = load_filter(f"{module}:{function}")
    with pytest.raises(InputError, match=f"{module}:{function} {said}"):
        own(pa.record_batch({"id": ["a/1", "a/2"], "text": ["가", "나"]}))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "is no package.module:function"),
        ("no_such_module:f", "cannot be imported"),
        ("my_filters:missing", "my_filters has no missing"),
    ],
)
def test_a_name_that_leads_nowhere_is_a_mistake(module: str, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_filter(name)
