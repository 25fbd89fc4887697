"""`explain`, `init` and the editor's schema say what the check says, from the same models."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from configs.errors import InputError
from configs.explain import explain, init_text, json_schema
from configs.keys import walk
from configs.load import SCHEMA_FILE, load, recipes
from configs.yaml12 import compose, construct


def test_every_key_has_a_line_of_help() -> None:
    for dotted, name, section in walk():
        assert section.model_fields[name].description, dotted


def test_every_key_can_be_explained() -> None:
    for dotted, _, section in walk():
        assert explain(dotted).startswith(f"{dotted}\n"), section


def test_a_key_is_explained_with_type_limits_default_and_cost() -> None:
    text = explain("dedup.near.threshold")
    assert "Jaccard similarity at or above which a document goes" in text
    assert "a number, above 0 and at most 1" in text
    assert "0.8" in text
    assert "dedup, tokenizer and pretrain run again" in text
    assert "nothing runs again" in explain("dedup.workers")


def test_list_indices_and_the_last_part_alone_are_understood() -> None:
    assert explain("pretrain.phases.0.lr") == explain("pretrain.phases[1].lr") == explain("lr")


def test_a_section_lists_its_keys() -> None:
    text = explain("dedup.sources")
    assert all(word in text for word in ("paths", "encoding", "each item has"))
    assert "pretrain" in explain()


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("dedup.nere", "did you mean near?"),
        ("dedup.near.treshold", "did you mean threshold?"),
        ("lrr", "did you mean lr, under pretrain.phases?"),
        ("workers", "write one of dedup.workers, tokenizer.workers"),
        ("pretrain.zero_stage.x", "did you mean pretrain.zero_stage?"),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(key: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        explain(key)
    assert says in str(caught.value)


def test_the_config_to_start_from_is_valid_as_it_stands(tmp_path: Path) -> None:
    text = init_text("my-run")
    (tmp_path / "my-run.yaml").write_text(text, encoding="utf-8")
    config = load(str(tmp_path / "my-run.yaml"))
    assert config.name == "my-run"
    assert 30 <= len(text.splitlines()) <= 50
    assert f"$schema={SCHEMA_FILE}" in text.splitlines()[0]
    assert "Jaccard similarity at or above which a document goes" in text
    jsonschema.validate(construct(compose(text, "init"), []), json_schema())


def test_the_schema_for_editors_is_current() -> None:
    stored = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert stored == json_schema(), "run: python -m configs.explain"


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_is_right_by_the_schema_for_editors(name: str) -> None:
    text = recipes()[name].read_text(encoding="utf-8")
    jsonschema.validate(construct(compose(text, name), []), json_schema())


def test_the_schema_for_editors_refuses_a_typo() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    with pytest.raises(jsonschema.ValidationError, match="pi"):
        jsonschema.validate({"name": "a", "dedup": {"pi": "mask"}}, json_schema())
