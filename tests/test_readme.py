"""The README's code blocks run: commands against a small finished run, YAML through the loader,
Python as it stands. Both languages hold the same blocks.

Commands that install, train the quickstart, or occupy a terminal are not run here: CI's own steps
run `make`, tests/launch runs the server, and each is checked to exist.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import ROOT, River

from configs.load import load

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TRAINS = ("malmoi dedup", "malmoi tokenizer", "malmoi pretrain", "malmoi run       quickstart")


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [body for kind, body in BLOCK.findall(text) if kind == language]


def commands() -> list[str]:
    """The lines of every bash block, continuation lines joined, comments cut."""
    joined = "\n".join(blocks("README.md", "bash")).replace("\\\n", " ")
    return [re.sub(r"\s{2,}#.*$", "", line).strip() for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(river: River, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which runs/quickstart is a finished (small) run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "runs").mkdir()
    (folder / "runs" / "quickstart").symlink_to(river[0] / "run", target_is_directory=True)
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "malmoi").write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m launch.cli "$@"\n'
    )
    (binaries / "malmoi").chmod(0o755)
    return folder


def shell(place: Path, command: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    return subprocess.run(
        command, shell=True, cwd=place, capture_output=True, text=True, timeout=timeout,
        env=os.environ | {"PATH": path},
    )  # fmt: skip


def test_the_first_code_stands_within_twenty_lines_and_is_the_two_commands() -> None:
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:20]
    assert any(line.startswith("make quickstart") for line in head)
    assert any(line.startswith("make test") for line in head)
    targets = (ROOT / "Makefile").read_text()
    for target in ("quickstart", "test", "check"):
        assert re.search(rf"^{target}:", targets, re.MULTILINE)


def test_both_languages_hold_the_same_sections_and_code_blocks() -> None:
    english, korean = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.ko.md"))
    for text in (english, korean):
        assert "@@" not in text
    assert len(re.findall(r"^## ", english, re.M)) == len(re.findall(r"^## ", korean, re.M))
    for language in ("bash", "yaml", "python", "text"):
        assert blocks("README.md", language) == blocks("README.ko.md", language)


@pytest.mark.slow
def test_every_command_of_the_readme_works(place: Path) -> None:
    for command in commands():
        if command.startswith(("make ", "curl ", *TRAINS)) or "--serve" in command:
            continue
        done = shell(place, command)
        if command.endswith("my-run/malmoi.yaml --dry-run"):  # its data is the reader's own
            assert done.returncode == 2 and "matches no file" in done.stderr, done.stderr
            continue
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout, command  # a model this small may answer with nothing but newlines


def test_the_training_commands_of_the_readme_are_commands(place: Path) -> None:
    named = [command for command in commands() if command.startswith(TRAINS)]
    assert len(named) == 4
    for command in named:
        done = shell(place, f"{command} --dry-run dir=elsewhere")
        if command.split()[1] in ("dedup", "run"):
            assert done.returncode == 0, done.stderr
            assert "dedup: starts" in done.stdout


@pytest.mark.slow
def test_the_server_and_curl_of_the_readme_work_together(place: Path) -> None:
    serve = next(command for command in commands() if "--serve" in command)
    curl = next(command for command in commands() if command.startswith("curl "))
    path = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    server = subprocess.Popen(
        serve.split(), cwd=place, stderr=subprocess.PIPE, env=os.environ | {"PATH": path}
    )
    try:
        deadline = time.monotonic() + 90
        while (answer := shell(place, curl)).returncode != 0:
            assert server.poll() is None and time.monotonic() < deadline, answer.stderr
            time.sleep(0.5)
        assert '"assistant"' in answer.stdout and '"usage"' in answer.stdout
        (client,) = [body for body in blocks("README.md", "python") if "OpenAI(" in body]
        done = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_the_yaml_of_the_readme_is_a_valid_config(tmp_path: Path) -> None:
    for number, body in enumerate(blocks("README.md", "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(body, encoding="utf-8")
        assert load(str(path)).name == "my-run"


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    for body in blocks("README.md", "python"):
        if "OpenAI(" in body:  # with the server, above
            continue
        done = subprocess.run(
            [sys.executable, "-c", body], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "→" in done.stdout
