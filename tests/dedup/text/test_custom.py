"""Custom filters: a function of the user's, named in the config, drops documents with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs.errors import InputError
from configs.schema import Config
from dedup.stage import run
from dedup.text.custom import load_filter

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
    return "my_filters"


def test_what_it_names_is_dropped_counted_and_kept_apart(tmp_path: Path, module: str) -> None:
    texts = [
        "지난 회의록 전문을 여기에 옮겨 적는다. 끝.",
        "강가에 나가 바람을 쐬고 돌아와 글을 쓴다.",
    ]
    source = tmp_path / "in.jsonl"
    source.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    config = Config.model_validate(
        {
            "name": "own",
            "dedup": {
                "sources": [{"name": "a", "paths": [str(source)]}],
                "custom_filters": [f"{module}:no_minutes"],
                "workers": 1,
            },
        }
    )
    report = run(config, tmp_path / "run")
    assert (report.documents_in, report.documents_out) == (2, 1)
    assert report.reasons == {"filter/minutes": 1}
    (gone,) = parquet.read_table(tmp_path / "run/dedup/removed").to_pylist()
    assert (gone["step"], gone["reason"], gone["text"]) == ("filter", "minutes", texts[0])


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
