"""Saving while training goes on: ranks stop only as long as DeepSpeed writes.

In: the engine and the state after a step. Out: a checkpoint on disk, the older ones pruned, and where
`checkpoint.upload` says so a copy far away. Writing stalls training; flushing to the disk, digesting,
renaming, pruning and copying run in threads of rank 0 beside the following steps. The next save, a stop
and the end of a phase wait for them, so at most one checkpoint is unsealed at a time: a kill loses that
one, and the one before it is whole.

How long saves take is written to `pretrain/saves.json`: the launcher gives ranks that were asked to stop
that much time, and no constant.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.files import read_json, write_json
from configs.schema import Checkpoint
from pretrain.checkpoints.checkpoint import name_of, prune, remove_halves, seal
from pretrain.checkpoints.identity import Identity
from pretrain.checkpoints.state import State
from pretrain.checkpoints.store import Store, Uploader, write_manifest
from pretrain.zero import Ranks

REMEMBERED = 5  # saves that saves.json describes
AT_A_STOP = 30.0  # seconds that a stop waits for copies, at least; what is left is copied later


class Saver:
    """The checkpoints of one rank's run. Every rank makes one and calls `save`; rank 0 does the rest.

    rewind: `guard.rewind` where jumps are rolled back, else None.
    """

    def __init__(
        self,
        stage: Path,
        settings: Checkpoint,
        identity: Identity,
        ranks: Ranks,
        store: Store | None,
        rewind: int | None = None,
    ) -> None:
        self.folder, self._stage = stage / "checkpoints", stage
        self._settings, self._identity, self._ranks = settings, identity, ranks
        self._rewind = rewind
        self._sealing: threading.Thread | None = None
        self._problem: BaseException | None = None
        self._told: deque[tuple[int, str, dict[str, Any]]] = deque()
        self._newest = -1
        self.uploader = Uploader(store, stage) if store is not None and ranks.first else None

    def save(self, engine: Any, state: State, step_seconds: float) -> float:
        """Write a checkpoint; every rank calls it. The seconds that training stood still.

        step_seconds: how long a step takes, for saves.json. Raises what sealing the one before raised.
        """
        begun = time.monotonic()
        partial, target = self.folder / f"{name_of(state.step)}.tmp", name_of(state.step)
        if self._ranks.first:
            self.wait()
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_halves(self.folder)
        self._ranks.barrier()
        engine.save_checkpoint(str(self.folder), tag=partial.name, save_latest=False)
        self._ranks.barrier()
        if self._ranks.first:
            for script in self.folder.glob("zero_to_*.py"):  # DeepSpeed leaves its own tools there
                script.unlink()
            write_json(partial / "state.json", asdict(state))
            write_json(partial / "identity.json", self._identity.as_json())
        stall = time.monotonic() - begun
        if self._ranks.first:
            self._newest = step = state.step
            times = {"stall_seconds": round(stall, 3), "step_seconds": round(step_seconds, 3)}
            self._start(lambda: self._seal(step, partial, self.folder / target, begun, times))
        return stall

    def _seal(
        self, step: int, partial: Path, target: Path, begun: float, times: dict[str, float]
    ) -> None:
        size = seal(partial, target)
        self._prune()
        seconds = round(time.monotonic() - begun, 3)
        entry = {"step": step, "bytes": size, "save_seconds": seconds, **times}
        record = self._stage / "saves.json"
        earlier = read_json(record) if record.is_file() else []
        write_json(record, [*earlier, entry][-REMEMBERED:])
        self._told.append((step, "saved", {k: v for k, v in entry.items() if k != "step"}))
        if self.uploader is not None:
            self.uploader.put(target)

    def _prune(self) -> None:
        prune(self.folder, self._settings, self._newest, self.held(), self._rewind)

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as problem:
                self._problem = problem

        self._sealing = threading.Thread(target=run, name="seal", daemon=True)
        self._sealing.start()

    # ── what runs beside training ───────────────────────────────────────────────────────────────

    def check(self) -> None:
        """Raise what went wrong beside training (a full disk), as soon as a step has ended."""
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def wait(self) -> None:
        """Wait until the checkpoint that was written last is sealed."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        self.check()

    def told(self) -> list[tuple[int, str, dict[str, Any]]]:
        """(step, "saved" or "uploaded", figures) of what ended since the last call."""
        notes = []
        while self._told:
            notes.append(self._told.popleft())
        while self.uploader is not None and self.uploader.told:
            notes.append((self._newest, "uploaded", self.uploader.told.popleft()))
        return notes

    def finish_phase(self, weights: Path) -> None:
        """Send a finished phase's weights after its checkpoints."""
        self.wait()
        if self.uploader is not None:
            write_manifest(weights)
            self.uploader.put(weights)

    def send_again(self) -> None:
        """Copy what an earlier start had no time to; what is there already is only compared."""
        if self.uploader is not None:
            for folder in sorted(self.folder.glob("step-*")):
                if (folder / "manifest.json").is_file():
                    self.uploader.put(folder)

    def close(self, *, stopped: bool) -> None:
        """The end of training, or a stop, which waits for copies only as long as saves take."""
        self.wait()
        if self.uploader is not None:
            patience = max(AT_A_STOP, 2 * slowest(self._stage))
            self.uploader.wait(patience if stopped else threading.TIMEOUT_MAX)
            self.uploader.close()

    def held(self) -> list[str]:
        """Names of folders that are being copied, and must stay so long."""
        return self.uploader.held() if self.uploader is not None else []

    def remove_later(self, step: int) -> None:
        """Delete checkpoints of steps after `step`: a rollback has left out what they saw."""
        self._newest = step
        self._prune()


def slowest(stage: Path) -> float:
    """Seconds of the slowest of the last saves; 0 where none was measured."""
    record = stage / "saves.json"
    if not record.is_file():
        return 0.0
    return max((float(entry["save_seconds"]) for entry in read_json(record)), default=0.0)


def remove_phases(stage: Path, before: int, held: list[str]) -> None:
    """Delete the weights of phases that later ones have gone on from."""
    for folder in (stage / "phases").glob("*"):
        if folder.name.isdigit() and int(folder.name) < before and folder.name not in held:
            shutil.rmtree(folder, ignore_errors=True)
