"""Counting on a Ray cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from configs.schema import Config
from dedup.executor import Cluster
from dedup.ray_engine import cluster_of
from tokenizer import stage

Make = Callable[..., Config]


@pytest.fixture
def ray() -> Iterator[Any]:
    """One node of two cores, as processes of this machine."""
    ray = pytest.importorskip("ray", reason="the engine ray needs the extra cluster")
    if not ray.is_initialized():
        ray.init(
            num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False
        )
    yield ray
    ray.shutdown()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_cluster_counts_what_local_processes_count(
    ray: Any, run_folder: Path, tmp_path: Path, config: Make
) -> None:
    documents = [str(run_folder / "dedup" / "documents")]
    there = config(documents=documents, engine="ray", workers="auto")
    assert cluster_of(there.tokenizer) == Cluster("auto", None, "tokenizer")
    stage.run(there, tmp_path / "there")
    stage.run(config(documents=documents, workers=2), tmp_path / "here")
    assert _tokenizer(tmp_path / "there") == _tokenizer(tmp_path / "here")


def _tokenizer(folder: Path) -> bytes:
    return (folder / "tokenizer" / "tokenizer.json").read_bytes()


def test_without_ray_the_error_names_the_key(
    run_folder: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tokenizer\.engine: ray is not installed"):
        cluster_of(config(engine="ray").tokenizer)
