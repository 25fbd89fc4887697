"""Training: phases of steps, to be read from top to bottom.

In: token shards, the start of training (`base/`), the phases of the config. Out: `metrics.jsonl`,
checkpoints, and after each phase its weights in `phases/<number>/`, from which the next one starts.

A step takes the next sequences of the phase's order, divides them among the ranks, sums the losses,
divides by the number of targets of the whole step, and lets DeepSpeed clip, reduce and update. The
optimizer is rebuilt at each phase: DeepSpeed fixes its partitions when it starts, so a phase that
trains other parameters needs another engine, and going through saved weights makes the first phase
and the fifth the same code. The cost is a few seconds and one set of weights per phase.

Everything a step depends on is a function of its number (data, learning rate, random numbers), so the
state of a run is a handful of numbers beside DeepSpeed's own. A jump of the loss that is to be rolled
back is therefore no more than a resume from an earlier checkpoint, with some steps to be passed over.
"""

from __future__ import annotations

import gc
import hashlib
import math
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from configs.errors import InputError, Stopped
from configs.machine import cores
from configs.progress import Log, Progress
from configs.schema import Config
from pretrain.by_source import SourceLosses
from pretrain.checkpoints import checkpoint
from pretrain.checkpoints.checkpoint import check_best
from pretrain.checkpoints.convert import convert, needs_conversion
from pretrain.checkpoints.history import FINISHED, History
from pretrain.checkpoints.saver import Saver, remove_phases
from pretrain.checkpoints.state import State
from pretrain.data.batches import Batch, StepData, prefetch, step_data
from pretrain.data.tokens import Tokens
from pretrain.engine import attention, engine, save_weights
from pretrain.evaluation.evaluate import by_language, heldout, judge
from pretrain.evaluation.forgetting import alarm, check_names
from pretrain.evaluation.windows import rows
from pretrain.guards.guard import RolledBack, StopRequest, process_seconds, stop_requests
from pretrain.guards.jumps import Jumps
from pretrain.heartbeat import Heartbeat, Stopwatch
from pretrain.phases import PhaseReport, Work, make_work
from pretrain.schedule import learning_rate_factor
from pretrain.sequence_parallel import SequenceParallel
from pretrain.weights.model import read_rows
from pretrain.zero import Ranks, choose_dtype


class Trainer:
    """One rank of a training run, in the stage's folder `pretrain/`."""

    def __init__(
        self, config: Config, folder: Path, tokens: Tokens, ranks: Ranks, log: Log
    ) -> None:
        assert config.pretrain is not None
        self.config, self.pretrain, self.folder = config, config.pretrain, folder
        self.tokens, self.ranks, self.log = tokens, ranks, log
        self.parallel = SequenceParallel(config.pretrain, ranks)
        self.dtype = choose_dtype(self.pretrain.dtype, ranks.device)
        self.rows = read_rows(folder / "base")
        self.history = History(config, folder, tokens, ranks)
        self.state = State.start(
            ranks.world_size, self.pretrain.zero_stage, self.history.identity.digest
        )
        guard, history = self.pretrain.guard, self.history
        self.saver = Saver(
            folder,
            self.pretrain.checkpoint,
            history.identity,
            ranks,
            history.store,
            rewind=guard.rewind if guard.spike == "rollback" else None,
        )
        self.jumps = Jumps(guard, history, self.saver, ranks, log)
        self.waits_for_first_step = True
        self.evaluated = -1  # the step at which held-out text was judged last
        self.heartbeat = Heartbeat(folder, ranks.rank, ranks.world_size)
        self.own = Stopwatch(ranks.device)
        self.step_seconds = 0.0
        self.clock = time.monotonic()
        torch.set_num_threads(_threads(self.pretrain.threads, ranks.local_world_size))
        self._prepare_evaluation()

    # ── the run ─────────────────────────────────────────────────────────────────────────────────

    def run(self) -> tuple[Path, list[PhaseReport]]:
        """Every phase that is not finished yet; the folder of the last one's weights.

        Raises Stopped after SIGTERM and KeyboardInterrupt after Ctrl-C, both with a checkpoint
        saved, and InputError where the loss is no number or a checkpoint belongs to another run.
        """
        history = self.history
        history.fetch()
        self.saver.send_again()
        try:
            with stop_requests() as request:
                while (index := len(history.finished())) < len(self.pretrain.token_phases):
                    with suppress(RolledBack):  # the same phase again, from an earlier step
                        self._run_phase(index, request)
                    gc.collect()  # an engine must be gone before the next one is made
        except BaseException:
            with suppress(Exception):  # what is on its way says more
                self.saver.wait()
            raise
        self.saver.close(stopped=False)
        self._tell()
        return history.weights(len(self.pretrain.token_phases)), history.reports()

    def _run_phase(self, index: int, request: StopRequest) -> None:
        """One phase, from its start or a checkpoint inside it, to its weights on disk."""
        self.heartbeat.doing("start")
        path, saved, self.state = self.history.go_on(index)
        self.evaluated = self.state.bits_step
        work = make_work(self.config, self.tokens, index, self.parallel.replicas)
        converted = path is not None and needs_conversion(
            path, saved, self.ranks.world_size, self.pretrain.zero_stage
        )
        with engine(
            self.history.weights(index),
            self.pretrain,
            work,
            self.rows,
            self.ranks,
            self.parallel,
            self.dtype,
            universal=converted,
            seed=self.config.seed,
        ) as trained:
            if path is not None:
                self._resume(trained, path, saved, converted=converted)
            self.jumps.guard(trained, self.state)
            self.clock = time.monotonic()
            if self.state.step == 0:
                self._evaluate(trained)
            for data in prefetch(self._data(work)):
                self.state = self.jumps.pass_over(self.state, work)
                asked = self._step(trained, work, data, request)
                self._tell()
                last = self.state.phase_step == work.steps
                if last or self.state.step % self.pretrain.evaluate.every_steps == 0:
                    self._evaluate(trained)
                if asked or (
                    not last and self.state.step % self.pretrain.checkpoint.every_steps == 0
                ):
                    self._save(trained, best=not asked)
                if asked:
                    self._stop(request)
            self.state = self.jumps.pass_over(self.state, work)
            if self.evaluated != self.state.step:
                self._evaluate(trained)
            self._finish(trained, work)

    # ── a step ──────────────────────────────────────────────────────────────────────────────────

    def _data(self, work: Work) -> Iterator[StepData]:
        """This rank's part of every step that is still to do."""
        passed = [entry for entry in self.state.left_out if entry.action == "rollback"]
        begun = replace(self.state, left_out=passed)
        for step in range(begun.phase_step, work.steps):
            if begun.leaves_out(step):
                continue
            share, span = work.share_of(step), work.span(step)
            place, first = self.parallel.replica, self.ranks.first
            data = step_data(work.sequences, share, place, *span, digest=first)
            yield replace(data, batches=[self.parallel.part(batch) for batch in data.batches])

    def _step(self, trained: Any, work: Work, data: StepData, request: StopRequest) -> bool:
        """One optimizer step. Whether any rank was asked to stop."""
        waited = time.monotonic() - self.clock
        factor = learning_rate_factor(
            work.phase.schedule, self.state.phase_step, work.steps, work.tokens / work.steps
        )
        for group in trained.optimizer.param_groups:
            group["lr"] = work.phase.lr * factor
        torch.manual_seed(_step_seed(self.config.seed, self.state.step, self.ranks.rank))

        self.jumps.begin(self.state)
        # DeepSpeed averages over ranks and micro-batches; `scale` makes that a mean over targets
        (targets,) = self.ranks.sum(sum(batch.target_count for batch in data.batches))
        scale = self.ranks.world_size * work.share.accumulation / max(1.0, targets)
        place, device = self.parallel.replica, self.ranks.device
        losses = SourceLosses(work, data, self.state.phase_step, place, device)
        asked = 0.0
        for turn, batch in enumerate(data.batches, start=1):
            batch = self._shaped(batch)
            trained.set_gradient_accumulation_boundary(turn == len(data.batches))
            if turn == 1:
                self.own.start()
            loss, nats = trained(batch.input_ids, batch.position_ids, batch.targets, True)
            if turn == 1:
                self.own.stop()
            trained.backward(loss * scale)
            losses.add(turn - 1, nats, batch.targets)
            if turn == len(data.batches):
                asked, *sums = self.ranks.sum(bool(request), *losses.sums())
                mean, by_source = losses.means(sums)
                self.jumps.see_loss(mean, self.state, work, data)
            trained.step()
        norm = self.jumps.see_norm(trained, self.state, work, data)
        noted, self.state = self.jumps.act(self.state, work, data)

        self.step_seconds = seconds = time.monotonic() - self.clock
        self.clock = time.monotonic()
        window = self.pretrain.guard.window
        self.state = self.state.after_step(data.tokens, mean, norm, seconds, window)
        self.heartbeat.step(self.state.step, seconds, waited + self.own.seconds())
        self.history.write(
            step=self.state.step,
            phase=work.phase.name,
            tokens=self.state.tokens,
            first_sequence=data.first,
            sequences=data.sequences,
            sequence_digest=data.digest,
            targets=int(targets),
            loss=_number(mean),
            loss_by_source={source: _number(loss) for source, loss in by_source.items()},
            learning_rate=work.phase.lr * factor,
            grad_norm=_number(norm or 0.0),
            tokens_per_second=round(data.tokens / seconds, 1),
            data_wait=round(waited / seconds, 4),
            **noted,
        )
        if self.waits_for_first_step:
            self.waits_for_first_step = False
            start = {"seconds_to_first_step": round(process_seconds(), 2)}
            self.history.write(step=self.state.step, phase=work.phase.name, start=start)
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
        known = {*self.judged, *self.languages.values()}
        check_names(self.pretrain.evaluate.forgetting, known)
        check_best(self.pretrain.checkpoint, known)

    def _evaluate(self, trained: Any) -> None:
        """Bits per byte of every held-out source, into metrics.jsonl."""
        if not self.judged:
            return
        self.heartbeat.doing("evaluate")
        trained.eval()

        def forward(*inputs: Any) -> Any:
            self.heartbeat.alive()
            return trained(*vars(self._shaped(self.parallel.part(Batch(*inputs)))).values())

        bits = judge(
            forward,
            self.judged,
            micro_batch=self.pretrain.micro_batch,
            device=self.ranks.device,
            filler=self.tokens.end,
            rank=self.parallel.replica,
            world_size=self.parallel.replicas,
        )
        trained.train()
        totals = self.ranks.sum(*bits.values())
        bits = dict(zip(bits, totals, strict=True))
        scores = by_language(bits, self.judged_bytes, self.languages)
        phase = self.pretrain.phases[self.state.phase].name
        self.history.write(step=self.state.step, phase=phase, bits_per_byte=scores)
        self.evaluated = step = self.state.step
        start = self.state.bits_at_start or scores
        self.state = replace(self.state, bits_per_byte=scores, bits_step=step, bits_at_start=start)
        if forgotten := self._forgotten():
            self._save(trained, best=False)
            self.saver.wait()
            raise forgotten
        self.clock = time.monotonic()

    def _forgotten(self) -> InputError | None:
        """The error to stop with if held-out text got much worse; a warning is said here."""
        settings, state = self.pretrain.evaluate.forgetting, self.state
        text = alarm(settings, state.bits_step, state.bits_at_start, state.bits_per_byte)
        if settings is None or text is None:
            return None
        if settings.action == "stop":
            return InputError(text)
        self.log(Progress("pretrain", f"step {state.step}", 1, 1, "", text))
        return None

    # ── what survives a restart ─────────────────────────────────────────────────────────────────

    def _resume(self, trained: Any, path: Path, saved: State, *, converted: bool) -> None:
        """Load a checkpoint, in another form where other ranks or another ZeRO stage wrote it."""
        if converted:
            path = convert(path, self.ranks, saved, self.pretrain.zero_stage)
        checkpoint.load(trained, path)
        self.ranks.barrier()
        if self.ranks.first:
            checkpoint.remove_halves(self.history.checkpoints)  # a conversion is used up
        if forgotten := self._forgotten():
            raise forgotten

    def _save(self, trained: Any, *, best: bool) -> None:
        """A checkpoint. best: held-out text is judged first where the best one is kept."""
        if best and self.pretrain.checkpoint.keep_best and self.evaluated != self.state.step:
            self._evaluate(trained)
        self.heartbeat.doing("save")
        self.saver.save(trained, self.state, self.step_seconds)
        self.clock = time.monotonic()

    def _stop(self, request: StopRequest) -> None:
        """End after a checkpoint, by the signal that asked for it."""
        self.heartbeat.doing("save")
        self.saver.close(stopped=True)
        self._tell()
        if request.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(f"stopped after step {self.state.step}; the same command goes on")

    def _finish(self, trained: Any, work: Work) -> None:
        """The phase's weights, with what happened so far; those of the phase before go."""
        self.heartbeat.doing("export")
        state = self.state
        report = PhaseReport(
            work.phase.name,
            work.steps,
            work.tokens,
            state.loss_first,
            state.loss_last,
            work.epochs,
        )
        record = self.history.with_phase(state, report)
        target = self.history.weights(work.index + 1)
        save_weights(trained, target, self.rows, self.ranks, {FINISHED: record})
        if self.ranks.first:
            self.saver.finish_phase(target)
            remove_phases(self.folder, work.index + 1, self.saver.held())
        self.ranks.barrier()

    def _tell(self) -> None:
        """Log and record what savers and uploaders have done since the last step."""
        if not self.ranks.first:
            return
        self.saver.check()
        phase = self.pretrain.phases[self.state.phase].name
        for step, kind, note in self.saver.told():
            self.history.write(step=step, phase=phase, **{kind: note})
            if kind == "saved":
                said = f"{note['stall_seconds']:.1f} s, {note['bytes'] / 1e6:,.1f} MB"
                self.log(Progress("pretrain", "save", 1, 1, "checkpoints", said))
            elif "problem" in note:
                said = f"to {note['address']} failed: {note['problem']}"
                self.log(Progress("pretrain", f"copy of {note['name']}", 1, 1, "", said))


def _number(value: float) -> float | None:
    """As JSON has it, which knows no nan."""
    return value if math.isfinite(value) else None


def _step_seed(seed: int, step: int, rank: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _threads(wanted: int | str, ranks_here: int) -> int:
    if isinstance(wanted, int):
        return wanted
    return max(1, cores() // ranks_here)
