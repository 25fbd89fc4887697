"""What a run has behind it: finished phases, checkpoints, steps left out; and where it goes on.

In: the stage's folder, the run's identity, the ranks. Out: the phase to train next, the checkpoint to
load and the `State` it stands at, the same on every rank: rank 0 reads the disk, the others are told.
Starting, resuming, fetching from far away and rolling back are one path through here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from configs.files import read_json, write_json
from configs.schema import Config
from pretrain.checkpoints import checkpoint
from pretrain.checkpoints.identity import differences, identify
from pretrain.checkpoints.state import LeftOut, State
from pretrain.checkpoints.store import Store, restore
from pretrain.data.tokens import Tokens
from pretrain.phases import PhaseReport
from pretrain.zero import Ranks

FINISHED = "malmoi_phase.json"  # written into a phase's weights folder: how it went


class History:
    """The past of the run in the stage's folder `pretrain/`."""

    def __init__(self, config: Config, folder: Path, tokens: Tokens, ranks: Ranks) -> None:
        assert config.pretrain is not None
        self.folder, self.ranks, self._pretrain = folder, ranks, config.pretrain
        self.identity = identify(config, tokens)
        self.checkpoints = folder / "checkpoints"
        self.metrics = folder / "metrics.jsonl"
        address = self._pretrain.checkpoint.upload
        digest = self.identity.digest
        self.store = Store(address, config.name, digest) if address else None
        self.left_out: list[LeftOut] = []
        self._resumed: int | None = None  # how often the run was, once this process has begun

    # ── phases ──────────────────────────────────────────────────────────────────────────────────

    def weights(self, phases: int) -> Path:
        """The folder of the weights after this many phases."""
        return self.folder / "phases" / str(phases) if phases else self.folder / "base"

    def finished(self) -> list[dict[str, Any]]:
        """What was recorded of the phases whose weights are on disk and belong to this run."""
        for number in range(len(self._pretrain.token_phases), 0, -1):
            path = self.weights(number) / FINISHED
            if path.is_file():
                entries: list[dict[str, Any]] = read_json(path)
                same = entries[-1]["state"]["identity"] == self.identity.digest
                saved = entries[-1].get("identity")
                if same or (saved is not None and not differences(saved, self.identity)):
                    return entries
                break
        return []

    def reports(self) -> list[PhaseReport]:
        return [PhaseReport(**entry["report"]) for entry in self.finished()]

    def with_phase(self, state: State, report: PhaseReport) -> list[dict[str, Any]]:
        """The record of all finished phases and one more, for the folder of its weights."""
        entry = {"state": asdict(state), "report": asdict(report)}
        return [*self.finished(), {**entry, "identity": self.identity.as_json()}]

    # ── where to go on ──────────────────────────────────────────────────────────────────────────

    def fetch(self) -> None:
        """Bring back from `checkpoint.upload` what is gone here, and read what was left out.

        Every rank calls it. Raises InputError where the store cannot be read.
        """
        problem: Exception | None = None
        gone = not checkpoint.found(self.checkpoints) and not self.finished()
        if self.ranks.first and self.store is not None and gone:
            try:
                restore(self.store, self.folder, warn=print)
            except Exception as error:
                problem = error
        problem = self.ranks.broadcast(problem)
        if problem is not None:
            raise problem
        path = self.folder / "left_out.json"
        record: dict[str, Any] = read_json(path) if path.is_file() else {}
        if record.get("identity") == self.identity.digest:
            self.left_out = [LeftOut(**entry) for entry in record["left_out"]]

    def go_on(self, phase: int) -> tuple[Path | None, State, State]:
        """The newest sound checkpoint inside a phase, the state that wrote it, and the one to go on in.

        The path is None where the phase begins anew. metrics.jsonl is cut off after that step. Raises
        InputError where a checkpoint belongs to another run.
        """
        found: tuple[Path, State] | None = None
        problem: Exception | None = None
        if self.ranks.first:
            try:
                checkpoint.remove_halves(self.checkpoints)
                found = checkpoint.newest(
                    self.checkpoints, self.identity, phase, left_out=self.left_out
                )
            except Exception as error:
                problem = error
        found, problem = self.ranks.broadcast((found, problem))
        if problem is not None:
            raise problem
        path = found[0] if found is not None else None
        saved = found[1] if found is not None else self._start_of(phase)
        if self._resumed is None:  # later ones are phases of this start, or rollbacks
            self._resumed = saved.resumed + (path is not None)
        # a run that was forked, or fetched from far away, has its record in the checkpoint alone
        self.left_out += [entry for entry in saved.left_out if entry not in self.left_out]
        state = replace(
            saved,
            left_out=list(self.left_out),
            resumed=self._resumed,
            world_size=self.ranks.world_size,
            zero_stage=self._pretrain.zero_stage,
            identity=self.identity.digest,
        )
        if self.ranks.first:
            if state.step:
                checkpoint.truncate_metrics(self.metrics, state.step)
            else:
                self.metrics.write_bytes(b"")
        return path, saved, state

    def _start_of(self, phase: int) -> State:
        entries = self.finished()
        if entries:
            return State.of(entries[-1]["state"]).begin_phase(phase)
        stage, digest = self._pretrain.zero_stage, self.identity.digest
        return State.start(self.ranks.world_size, stage, digest)

    # ── what is written down while it happens ───────────────────────────────────────────────────

    def leave_out(self, entry: LeftOut) -> list[LeftOut]:
        """Record it at once, so that no earlier checkpoint is gone on from without knowing; all entries."""
        self.left_out = [*self.left_out, entry]
        if self.ranks.first:
            entries = [asdict(entry) for entry in self.left_out]
            record = {"identity": self.identity.digest, "left_out": entries}
            write_json(self.folder / "left_out.json", record)
        return self.left_out

    def write(self, **entry: Any) -> None:
        """A line of metrics.jsonl."""
        if self.ranks.first:
            with self.metrics.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
