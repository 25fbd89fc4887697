"""A training that goes on starts its ranks without the launcher importing what made its tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import make_config, make_documents, make_tokenizer

from configs.load import dump
from configs.schema import Config
from pretrain.prepared import is_prepared
from pretrain.stage import prepare

LOOK = """
import sys
from pathlib import Path
from configs.load import load
from pretrain.prepared import is_prepared
assert is_prepared(load(sys.argv[1]), Path(sys.argv[2]))
heavy = [name for name in ("torch", "transformers", "deepspeed") if name in sys.modules]
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    config = _config(folder)
    prepare(config, folder)
    return config, folder


def _config(folder: Path, **keys: Any) -> Config:
    place = folder / "given"
    if not place.exists():
        make_tokenizer(place / "tokenizer")
        make_documents(place / "documents")
    given = {"documents": [str(place / "documents")], "tokenizer": str(place / "tokenizer")}
    return make_config(**given | keys).model_copy(update={"dir": str(folder)})


def test_what_is_prepared_is_found_so_without_torch(made: tuple[Config, Path]) -> None:
    config, folder = made
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    words = [sys.executable, "-c", LOOK, str(folder / "config.yaml"), str(folder)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_config_a_damaged_file_or_a_missing_base_is_not(made: tuple[Config, Path]) -> None:
    config, folder = made
    assert is_prepared(config, folder)
    assert not is_prepared(config.model_copy(update={"seed": 8}), folder)
    assert not is_prepared(_config(folder, sequence_length=32), folder)
    assert not is_prepared(config, folder / "elsewhere")
    weights = next((folder / "pretrain" / "base").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".gone"))
    assert not is_prepared(config, folder)
    weights.with_suffix(".gone").rename(weights)
    ids = next((folder / "pretrain" / "tokens").rglob("*ids*"))
    content = ids.read_bytes()
    ids.write_bytes(content[:-4])
    assert not is_prepared(config, folder)
    ids.write_bytes(content)
    assert is_prepared(config, folder)
