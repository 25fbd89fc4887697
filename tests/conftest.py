"""What every test may use: the measured data where it is present, and a quiet environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_run import River, malmoi, write_config

ROOT = Path(__file__).resolve().parent.parent

# A shell that starts a job with & lets it ignore Ctrl-C, and so would every process under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes share the tests: file by file, and what names a group, or needs a finished run, in one.

    Two Slurm clusters at a time would share the kernel's control groups, and break each other.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            needs_run = "river" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("river" if needs_run else str(item.path)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text that lies beside the checkout in development; skips where it does not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real text of {folder}, which is not part of the project")
    return folder


@pytest.fixture(scope="session")
def river(
    tmp_path_factory: pytest.TempPathFactory,
) -> River:
    """A folder with river.yaml and its finished run/, and what the command printed."""
    folder = tmp_path_factory.mktemp("river")
    done = malmoi("run", str(write_config(folder)))
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of its own (a tmpfs); calling it sets the size in bytes and gives its folder."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("mounting a small tmpfs needs root on Linux")
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size: int) -> Path:
        options = f"size={size}" if not place.is_mount() else f"remount,size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "malmoi-test", str(place)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
        return place

    yield resize
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)
