"""What `pip install` puts on a machine: the packages, the recipes and the sample, no build material."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from small_run import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_wheel_holds_every_module_the_recipes_and_the_sample(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(tmp_path), str(copy)],
        check=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(tmp_path.glob("malmoi-*.whl"))) as wheel:
        held = set(wheel.namelist())
    packages = ("configs", "dedup", "tokenizer", "pretrain", "launch")
    modules = {
        str(path.relative_to(copy))
        for package in packages
        for path in (copy / package).rglob("*.py")
        if "sample" not in path.parts
    }
    assert modules <= held
    data = {"launch/clusters/containers/Dockerfile", "launch/clusters/containers/malmoi.def"}
    data |= {"configs/clusters/slurm.yaml", "configs/clusters/kubernetes.yaml"}
    data |= {"configs/schema.json", "configs/quickstart.yaml", "configs/sample/dialogues.jsonl"}
    assert {*data, "launch/report.html", "launch/chat/page.html"} <= held
    assert any(name.startswith("configs/sample/ko/pages/") for name in held)
    assert not any(name.startswith(("tests/", "configs/sample/source/")) for name in held)


def test_no_dependency_range_replaces_a_users_torch() -> None:
    torch = [need for need in PROJECT["project"]["dependencies"] if re.match(r"torch\b", need)]
    assert torch == ["torch>=2.5"]


def test_the_extras_a_message_may_name_exist() -> None:
    named = set()
    for path in ROOT.glob("*/**/*.py"):
        if ".venv" not in path.parts:
            named |= set(re.findall(r'missing_extra\([^,]+,\s*"(\w+)"\)', path.read_text("utf-8")))
    assert named <= set(PROJECT["project"]["optional-dependencies"])
    assert {"cluster", "llama3", "align", "dev"} <= set(PROJECT["project"]["optional-dependencies"])
