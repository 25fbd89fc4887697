"""Training: phases of steps, to be read from top to bottom.

In: token shards, the start of training (`base/`), the phases of the config. Out: `metrics.jsonl`,
checkpoints, and after each phase its weights in `phases/<number>/`, from which the next one starts.

A step takes the next sequences of the phase's order, divides them among the ranks, sums the losses,
divides by the number of targets of the whole step, and lets DeepSpeed clip, reduce and update. The
optimizer is rebuilt at each phase: DeepSpeed fixes its partitions when it starts, so a phase that
trains other parameters needs another engine, and going through saved weights makes the first phase
and the fifth the same code. The cost is a few seconds and one set of weights per phase.

Everything a step depends on is a function of its number (data, learning rate, random numbers), so the
state of a run is a handful of numbers beside DeepSpeed's own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from configs.errors import Stopped
from configs.files import read_json
from configs.machine import cores
from configs.progress import Log, Progress
from configs.schema import Config
from pretrain import checkpoint
from pretrain.batches import Batch, StepData, prefetch, step_data
from pretrain.checkpoint import State
from pretrain.engine import attention, engine, save_weights
from pretrain.evaluate import by_language, heldout, judge, rows
from pretrain.guard import StopRequest, check_finite, stop_requests
from pretrain.model import read_rows
from pretrain.phases import PhaseReport, Work, identity, make_work
from pretrain.schedule import learning_rate_factor
from pretrain.tokens import Tokens
from pretrain.zero import Ranks, choose_dtype

FINISHED = "malmoi_phase.json"  # written into a phase's weights folder: how it went


class Trainer:
    """One rank of a training run, in the stage's folder `pretrain/`."""

    def __init__(
        self, config: Config, folder: Path, tokens: Tokens, ranks: Ranks, log: Log
    ) -> None:
        assert config.pretrain is not None
        self.config, self.pretrain, self.folder = config, config.pretrain, folder
        self.tokens, self.ranks, self.log = tokens, ranks, log
        self.dtype = choose_dtype(self.pretrain.dtype, ranks.device)
        self.rows = read_rows(folder / "base")
        self.metrics = folder / "metrics.jsonl"
        self.state = State.start(
            ranks.world_size, self.pretrain.zero_stage, identity(config, tokens)
        )
        self.clock = time.monotonic()
        torch.set_num_threads(_threads(self.pretrain.threads, ranks.local_world_size))
        self._prepare_evaluation()

    # ── the run ─────────────────────────────────────────────────────────────────────────────────

    def run(self) -> tuple[Path, list[PhaseReport]]:
        """Every phase that is not finished yet; the folder of the last one's weights.

        Raises Stopped after SIGTERM and KeyboardInterrupt after Ctrl-C, both with a checkpoint
        saved, and InputError where the loss is no number or a checkpoint belongs to another run.
        """
        finished = self._finished()
        found = self._newest_checkpoint(len(finished))
        if finished:
            self.state = replace(
                State(**finished[-1]["state"]),
                world_size=self.ranks.world_size,
                zero_stage=self.pretrain.zero_stage,
            )
        self._truncate_metrics(found[1].step if found else self.state.step)
        with stop_requests() as request:
            for index in range(len(finished), len(self.pretrain.phases)):
                self._run_phase(index, found, request)
                found = None
        reports = [PhaseReport(**entry["report"]) for entry in self._finished()]
        return self._weights(len(self.pretrain.phases)), reports

    def _run_phase(
        self, index: int, found: tuple[Path, State] | None, request: StopRequest
    ) -> None:
        """One phase, from its start or a checkpoint inside it, to its weights on disk."""
        work = make_work(self.config, self.tokens, index, self.ranks.world_size)
        other_ranks = found is not None and found[1].world_size != self.ranks.world_size
        with engine(
            self._weights(index),
            self.pretrain,
            work,
            self.rows,
            self.ranks,
            self.dtype,
            universal=other_ranks and self.pretrain.zero_stage > 0,
        ) as trained:
            self.state = replace(self.state, phase=index, phase_step=0)
            if found is not None:
                self._resume(trained, *found)
            self.clock = time.monotonic()
            if self.state.step == 0:
                self._evaluate(trained)
            for data in prefetch(self._data(work)):
                asked = self._step(trained, work, data, request)
                last = self.state.phase_step == work.steps
                if last or self.state.step % self.pretrain.evaluate.every_steps == 0:
                    self._evaluate(trained)
                if asked or (
                    not last and self.state.step % self.pretrain.checkpoint.every_steps == 0
                ):
                    self._save(trained)
                if asked:
                    if request.signal == signal.SIGINT:
                        raise KeyboardInterrupt
                    raise Stopped(f"stopped after step {self.state.step}; the same command goes on")
            self._finish(trained, work)

    # ── a step ──────────────────────────────────────────────────────────────────────────────────

    def _data(self, work: Work) -> Iterator[StepData]:
        """This rank's part of every step that is still to do."""
        size = work.share.sequences
        for step in range(self.state.phase_step, work.steps):
            first, last = step * size, min(work.total, (step + 1) * size)
            yield step_data(
                work.sequences, work.share, self.ranks.rank, first, last, digest=self.ranks.first
            )

    def _step(self, trained: Any, work: Work, data: StepData, request: StopRequest) -> bool:
        """One optimizer step. Whether any rank was asked to stop."""
        waited = time.monotonic() - self.clock
        factor = learning_rate_factor(work.phase.schedule, self.state.phase_step, work.steps)
        for group in trained.optimizer.param_groups:
            group["lr"] = work.phase.lr * factor
        torch.manual_seed(_step_seed(self.config.seed, self.state.step, self.ranks.rank))

        # DeepSpeed averages over ranks and micro-batches; `scale` makes that a mean over targets
        (targets,) = self.ranks.sum(sum(batch.target_count for batch in data.batches))
        scale = self.ranks.world_size * work.share.accumulation / max(1.0, targets)
        summed, asked = 0.0, 0.0
        for turn, batch in enumerate(data.batches, start=1):
            batch = self._shaped(batch)
            loss = trained(batch.input_ids, batch.position_ids, batch.targets)
            trained.backward(loss * scale)
            summed += float(loss.detach())
            if turn == len(data.batches):
                summed, asked = self.ranks.sum(summed, bool(request))
                mean = summed / max(1.0, targets)
                self._check("loss", mean, work, data)
            trained.step()
        norm = float(trained.get_global_grad_norm() or 0.0)
        self._check("gradient norm", norm, work, data)

        seconds = time.monotonic() - self.clock
        self.clock = time.monotonic()
        self.state = self.state.after_step(data.tokens, mean, seconds)
        self._write(
            step=self.state.step,
            phase=work.phase.name,
            tokens=self.state.tokens,
            first_sequence=data.first,
            sequences=data.sequences,
            sequence_digest=data.digest,
            targets=int(targets),
            loss=mean,
            learning_rate=work.phase.lr * factor,
            grad_norm=norm,
            tokens_per_second=round(data.tokens / seconds, 1),
            data_wait=round(waited / seconds, 4),
        )
        self.log(
            Progress(
                "pretrain",
                work.phase.name,
                self.state.phase_step,
                work.steps,
                "steps",
                f"loss {mean:.3f}, {data.tokens / seconds:,.0f} tokens/s",
            )
        )
        return asked > 0

    def _shaped(self, batch: Batch) -> Batch:
        """On the device; one long row where FlashAttention reads the positions (it wants one)."""
        batch = batch.to(self.ranks.device)
        return batch.flat() if self.flash else batch

    def _check(self, what: str, value: float, work: Work, data: StepData) -> None:
        check_finite(
            what,
            value,
            step=self.state.step + 1,
            phase=work.phase.name,
            first=data.first,
            count=data.sequences,
        )

    # ── held-out text ───────────────────────────────────────────────────────────────────────────

    def _prepare_evaluation(self) -> None:
        """The held-out sequences, the same ones every time."""
        self.flash = attention(self.ranks.device) == "flash_attention_2"
        length = self.pretrain.sequence_length
        budget = self.pretrain.evaluate.sequences * length
        names = sorted(source for source, split in self.tokens.sets if split == "heldout")
        documents = {name: heldout(self.tokens, name, budget) for name in names}
        self.judged = {
            name: rows(found, length, self.tokens.end) for name, found in documents.items() if found
        }
        self.judged_bytes = {name: sum(d.bytes for d in documents[name]) for name in self.judged}
        sets = {name: self.tokens.sets[name, "heldout"] for name in self.judged}
        self.languages = {name: s.language for name, s in sets.items() if s.kind == "text"}

    def _evaluate(self, trained: Any) -> None:
        """Bits per byte of every held-out source, into metrics.jsonl."""
        if not self.judged:
            return
        trained.eval()
        bits = judge(
            lambda *inputs: trained(*(self._shaped(Batch(*inputs)).__dict__.values())),
            self.judged,
            micro_batch=self.pretrain.micro_batch,
            device=self.ranks.device,
            filler=self.tokens.end,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        trained.train()
        totals = self.ranks.sum(*bits.values())
        bits = dict(zip(bits, totals, strict=True))
        scores = by_language(bits, self.judged_bytes, self.languages)
        phase = self.pretrain.phases[self.state.phase].name
        self._write(step=self.state.step, phase=phase, bits_per_byte=scores)
        self.clock = time.monotonic()

    # ── what survives a restart ─────────────────────────────────────────────────────────────────

    def _weights(self, phases: int) -> Path:
        """The folder of the weights after this many phases."""
        return self.folder / "phases" / str(phases) if phases else self.folder / "base"

    def _finished(self) -> list[dict[str, Any]]:
        """What was recorded of the phases whose weights are on disk and belong to this run."""
        entries: list[dict[str, Any]] = []
        for number in range(len(self.pretrain.phases), 0, -1):
            path = self._weights(number) / FINISHED
            if path.is_file():
                entries = read_json(path)
                break
        same = entries and entries[-1]["state"]["identity"] == self.state.identity
        return entries if same else []

    def _newest_checkpoint(self, phase: int) -> tuple[Path, State] | None:
        """Rank 0's choice, for all; None where none lies inside this phase."""
        chosen = None
        problem: Exception | None = None
        if self.ranks.first:
            try:
                checkpoint.remove_halves(self.folder / "checkpoints")
                chosen = checkpoint.newest(self.folder / "checkpoints", self.state.identity)
            except Exception as error:
                problem = error
        chosen, problem = self.ranks.broadcast((chosen, problem))
        if problem is not None:
            raise problem
        return chosen if chosen is not None and chosen[1].phase == phase else None

    def _resume(self, trained: Any, path: Path, state: State) -> None:
        stages = (state.zero_stage, self.pretrain.zero_stage)
        if state.world_size != self.ranks.world_size and self.pretrain.zero_stage > 0:
            path = checkpoint.convert(path, self.ranks)
        checkpoint.check_stage(path, *stages)
        checkpoint.load(trained, path)
        self.ranks.barrier()
        if self.ranks.first:
            checkpoint.remove_halves(self.folder / "checkpoints")  # a conversion is used up
        self.state = replace(state, resumed=state.resumed + 1, world_size=self.ranks.world_size)

    def _save(self, trained: Any) -> None:
        begun = time.monotonic()
        checkpoint.save(
            trained,
            self.folder / "checkpoints",
            self.state,
            self.ranks,
            keep=self.pretrain.checkpoint.keep,
        )
        self.log(
            Progress("pretrain", "save", 1, 1, "checkpoints", f"{time.monotonic() - begun:.1f} s")
        )
        self.clock = time.monotonic()

    def _finish(self, trained: Any, work: Work) -> None:
        """The phase's weights, with what happened so far; those of the phase before go."""
        state = self.state
        report = PhaseReport(
            work.phase.name, work.steps, work.tokens, state.loss_first, state.loss_last
        )
        record = [*self._finished(), {"state": asdict(state), "report": asdict(report)}]
        target = self._weights(work.index + 1)
        save_weights(trained, target, self.ranks, {FINISHED: record})
        if self.ranks.first and work.index:
            shutil.rmtree(self._weights(work.index), ignore_errors=True)
        self.ranks.barrier()

    def _truncate_metrics(self, step: int) -> None:
        if self.ranks.first:
            if step:
                checkpoint.truncate_metrics(self.metrics, step)
            else:
                self.metrics.write_bytes(b"")

    def _write(self, **entry: Any) -> None:
        if self.ranks.first:
            with self.metrics.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _step_seed(seed: int, step: int, rank: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _threads(wanted: int | str, ranks_here: int) -> int:
    if isinstance(wanted, int):
        return wanted
    return max(1, cores() // ranks_here)
