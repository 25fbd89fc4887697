"""What `malmoi launch` was asked for, in one value that every kind of cluster takes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from configs.clusters.schema import Cluster
from configs.schema import Config

STAGES = ("dedup", "tokenizer", "pretrain", "run")


@dataclass(frozen=True)
class Job:
    """cluster: the machines. cluster_source, source, overrides: as the person gave them.

    stage: dedup, tokenizer, pretrain, or run (all of them). config: of the run, overrides applied.
    folder: the run's, absolute.
    """

    cluster: Cluster
    cluster_source: str
    stage: str
    config: Config
    source: str
    overrides: tuple[str, ...]
    folder: Path

    @property
    def only(self) -> str | None:
        """The one stage that is wanted; None for all."""
        return None if self.stage == "run" else self.stage

    @property
    def stages(self) -> list[str]:
        """The stages that the job runs, in order."""
        if self.only is not None:
            return [self.only]
        return [name for name in STAGES[:3] if getattr(self.config, name) is not None]

    @property
    def command(self) -> str:
        """The command line that does it, and that goes on with it after a stop."""
        words = ["malmoi", "launch", self.cluster_source, self.stage, self.source]
        return shlex.join([*words, *self.overrides])
