"""Reading a config, and telling what is wrong with it, loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "torch transformers deepspeed numba numpy pyarrow mlflow datasets fastapi sentencepiece ray"


@pytest.mark.parametrize("module", ["configs.load", "configs.explain", "launch.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    program = (
        f"import sys, {module}\nprint(*(name for name in {HEAVY.split()!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_wrong_config_is_refused_without_anything_heavy() -> None:
    program = (
        "import sys\n"
        "from configs.load import load, InputError\n"
        "try: load('quickstart', ['dedup.near.treshold=1', 'pretrain.zero_stage=9'])\n"
        "except InputError as error: print(len(error.lines), end=' ')\n"
        f"print(*(name for name in {HEAVY.split()!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2"]
