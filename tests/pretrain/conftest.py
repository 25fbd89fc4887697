"""Run folders to train in."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import make_documents, make_tokenizer

from pretrain.data.token_shards import write_tokens
from pretrain.data.tokens import Tokens, open_tokens
from tokenizer.load import load_tokenizer


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("made") / "tokenizer")


@pytest.fixture(scope="session")
def tiny_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_documents(tmp_path_factory.mktemp("made") / "documents")


@pytest.fixture(scope="session")
def tokens(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path, tiny_documents: Path
) -> Tokens:
    """The small corpus as token shards."""
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = load_tokenizer(tiny_tokenizer)
    write_tokens([tiny_documents], tokenizer, tiny_tokenizer / "tokenizer.json", folder)
    return open_tokens(folder, verify=True)


@pytest.fixture
def run_folder(tmp_path: Path, tiny_tokenizer: Path, tiny_documents: Path) -> Path:
    """A run folder whose data stage and tokenizer are finished."""
    folder = tmp_path / "run"
    (folder / "dedup").mkdir(parents=True)
    (folder / "dedup" / "documents").symlink_to(tiny_documents)
    (folder / "tokenizer").symlink_to(tiny_tokenizer)
    return folder
