"""Where stages run: this machine, or those of a cluster. What `run_stages` needs of either.

Lineage, lock, tracking, page and exit status are the launcher's, whatever the machines: only these two
calls differ. A cluster that does everything in a job of its own (Slurm, Kubernetes) calls `run_stages`
inside that job, with machines that are already there.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from configs.progress import Log
from configs.schema import Config


class Machines(Protocol):
    """The machines of one launch."""

    def for_data(
        self, stage: str, config: Config, folder: Path, log: Log
    ) -> AbstractContextManager[Config]:
        """Machines for dedup or tokenizer while the context is open; the config that uses them.

        Only keys that decide where a stage runs may differ in it (engine, address, workers).
        """
        ...

    def train(self, config: Config, folder: Path, log: Log) -> None:
        """Train until the run is done; what is to be read was prepared in `folder`.

        Raises InputError for a mistake a rank found, Stopped or KeyboardInterrupt after a stop that
        left a checkpoint, RuntimeError when restarts are used up.
        """
        ...
