"""Run folders to train in, and real processes that do it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path.insert(0, str(Path(__file__).parent))  # for tiny_run, which the tests here share

from tiny_run import make_documents, make_tokenizer  # type: ignore[import-not-found]

from configs.schema import Config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("made") / "tokenizer")


@pytest.fixture(scope="session")
def tiny_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_documents(tmp_path_factory.mktemp("made") / "documents")


@pytest.fixture
def run_folder(tmp_path: Path, tiny_tokenizer: Path, tiny_documents: Path) -> Path:
    """A run folder whose data stage and tokenizer are finished."""
    folder = tmp_path / "run"
    (folder / "dedup").mkdir(parents=True)
    (folder / "dedup" / "documents").symlink_to(tiny_documents)
    (folder / "tokenizer").symlink_to(tiny_tokenizer)
    return folder


RANK = """
import os, sys, yaml
from pathlib import Path
from configs.schema import Config
from pretrain.stage import run
folder = Path(sys.argv[1])
config = Config.model_validate(yaml.safe_load((folder / "config.yaml").read_text()))
kill_at = int(os.environ.get("KILL_AT", "0"))
def log(progress):
    if kill_at and progress.step == "text" and progress.done == kill_at:
        os.kill(os.getpid(), int(os.environ["KILL_WITH"]))
run(config, folder, log=log)
"""


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the stage in `ranks` real processes under torchrun (or one plain one)."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)

    def start(
        config: Config, folder: Path, *, ranks: int = 1, kill_at: int = 0, kill_with: int = 9
    ) -> subprocess.CompletedProcess[str]:
        (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        command = [sys.executable]
        if ranks > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        variables = {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        if kill_at:
            variables |= {"KILL_AT": str(kill_at), "KILL_WITH": str(kill_with)}
        return subprocess.run(
            [*command, str(script), str(folder)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return start
