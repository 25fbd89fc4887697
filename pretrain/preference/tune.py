"""A preference phase, from the weights before it to the weights after it; one rank.

In: the config, the weights of the phases before, `preference/choices.arrow`, the ranks. Out, in
`preference/<number>/`: metrics.jsonl (a line a step: loss, margin and accuracy of the rewards), checkpoints,
`reference.npy` (log probabilities of the model that the phase began with), `weights/`, and `report.json`,
written last. Goes on where it was killed; bit for bit with the same ranks, for nothing in a step is random.

Held-out pairs are judged before and after: `ranking_accuracy` is the share of pairs whose chosen answer
the model finds likelier than the rejected one (Chen et al. 2024, "Preference learning algorithms do not
learn preference rankings"), `reward_accuracy` the share that moved the right way against the reference,
which is what DPO's loss sees; the first says more about the model, and moves less.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from configs.errors import InputError, Stopped
from configs.files import atomic, read_json, sync, write_json
from configs.load import output_keys
from configs.progress import Log, Progress
from configs.schema import Config
from pretrain.guards.guard import StopRequest, stop_requests
from pretrain.heartbeat import Heartbeat
from pretrain.phases import PhaseReport
from pretrain.preference import saves
from pretrain.preference.choices import Choices, Division, divide
from pretrain.zero import Ranks, choose_dtype

FOLDER = "preference"  # in the stage's
WEIGHTS, REPORT, METRICS = "weights", "report.json", "metrics.jsonl"


@dataclass(frozen=True)
class Judgement:
    """Held-out pairs. margin: mean of the rewards' difference (beta × log ratios), in nats."""

    pairs: int
    ranking_accuracy: float
    reward_accuracy: float | None
    margin: float


@dataclass(frozen=True)
class PreferenceReport:
    """What a preference phase did; also its report.json.

    tokens: ids read, both dialogues of each pair. too_long: pairs left out. judged: held-out pairs
    {"before" | "after"}, None where there are none. trl: version. resumed: how often it went on.
    """

    name: str
    pairs: int
    steps: int
    tokens: int
    beta: float
    loss_first: float
    loss_last: float
    margin_last: float
    accuracy_last: float
    too_long: int
    epochs: dict[str, float]
    before: Judgement | None
    after: Judgement | None
    seconds: float
    resumed: int
    trl: str
    choices: str
    identity: str

    @classmethod
    def of(cls, values: dict[str, Any]) -> PreferenceReport:
        """From report.json. Raises TypeError where it is another's."""
        judged = {name: values[name] and Judgement(**values[name]) for name in ("before", "after")}
        return cls(**values | judged)

    def as_phase(self) -> PhaseReport:
        """As other phases report."""
        losses = (self.loss_first, self.loss_last)
        return PhaseReport(self.name, self.steps, self.tokens, *losses, self.epochs)


def phase_identity(config: Config, number: int, before: str, choices: str) -> str:
    """A digest of what decides a preference phase. before: of all that was trained before it."""
    pretrain = config.pretrain
    assert pretrain is not None
    settings = output_keys(config, "pretrain")["pretrain"]
    own = [settings["phases"][number], settings["sequence_length"], settings["global_batch_tokens"]]
    text = json.dumps(
        [before, choices, own, settings["optimizer"], settings["dtype"]], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def finished(folder: Path, identity: str) -> PreferenceReport | None:
    """The report of a phase that is done, where it is this one and its weights are there."""
    try:
        values = read_json(folder / REPORT)
        if values["identity"] != identity or not (folder / WEIGHTS / "config.json").is_file():
            return None
        return PreferenceReport.of(values)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tune(
    config: Config,
    stage: Path,
    number: int,
    weights: Path,
    before: str,
    tokenizer: PreTrainedTokenizerFast,
    ranks: Ranks,
    log: Log,
) -> PreferenceReport:
    """Phase `number` of the config on this rank, beginning with `weights`; its report.

    before: identity of what made `weights`. Raises Stopped or KeyboardInterrupt after a stop, which left a
    checkpoint where a step was made, InputError where the loss is no number or the pairs do not fit.
    """
    choices = Choices.open(stage / FOLDER)
    identity = phase_identity(config, number, before, choices.digest)
    folder = stage / FOLDER / str(number)
    done = ranks.broadcast(finished(folder, identity) if ranks.first else None)
    if done is not None:
        return done
    division = divide(config, choices, number, ranks.world_size)
    work = _Phase(config, stage, number, weights, identity, choices, division, ranks, log)
    with stop_requests() as request, _accelerate():
        return work.run(tokenizer, request)


class _Phase:
    """One phase on one rank; told of the trainer's steps (`dpo.Told`), it writes down, saves and stops."""

    def __init__(
        self,
        config: Config,
        stage: Path,
        number: int,
        weights: Path,
        identity: str,
        choices: Choices,
        division: Division,
        ranks: Ranks,
        log: Log,
    ) -> None:
        assert config.pretrain is not None
        self.config, self.pretrain = config, config.pretrain
        self.phase = config.pretrain.phases[number]
        self.folder = stage / FOLDER / str(number)
        self.weights, self.identity, self.choices = weights, identity, choices
        self.division, self.ranks, self.log = division, ranks, log
        self.beta = self.phase.beta or 0.1
        self.heartbeat = Heartbeat(stage, ranks.rank, ranks.world_size)
        self.belongs = {"identity": identity, "ranks": ranks.world_size}
        self.belongs["zero_stage"] = self.pretrain.zero_stage
        self.belongs |= {"step": division.step, "pairs": len(division.rows)}
        self.metrics = self.folder / METRICS
        self.request = StopRequest()
        self.clock = time.monotonic()
        self.step_seconds = 0.0
        self.asked = False

    def run(self, tokenizer: PreTrainedTokenizerFast, request: StopRequest) -> PreferenceReport:
        from pretrain.preference.dpo import make_trainer, trl_version

        self.request = request
        dtype = choose_dtype(self.pretrain.dtype, self.ranks.device)
        found = self._begin()
        trainer = make_trainer(
            self.config, self.phase, self.weights, tokenizer, self.choices, self.division,
            self.ranks, dtype, self.folder, self,
        )  # fmt: skip
        trainer.alive = self._alive
        reference = self._reference(trainer)
        trainer.data_collator.reference = reference
        heldout = self.division.heldout
        start = judged(reference[heldout], reference[heldout], self.beta)
        if found is None and start is not None:
            self._write(step=0, heldout=asdict(start))
        self.clock = time.monotonic()
        trainer.train(resume_from_checkpoint=str(found) if found else None)
        self._stopped()
        engine = trainer.model_wrapped
        self.heartbeat.doing("evaluate")
        end = None
        if len(heldout):
            now = trainer.log_probabilities(engine, heldout, self.ranks)
            end = judged(now, reference[heldout], self.beta)
            assert end is not None
            self._write(step=self.division.steps, heldout=asdict(end))
        self.heartbeat.doing("export")
        self._save_weights(trainer)
        report = self._report(start, end, trl_version())
        if self.ranks.first:
            write_json(self.folder / REPORT, asdict(report))
            saves.keep_newest(self.folder, 0)
        self.ranks.barrier()
        engine.destroy()
        trainer.accelerator.free_memory()
        del trainer, engine
        gc.collect()
        return report

    def _begin(self) -> Path | None:
        """The checkpoint to go on from; metrics.jsonl is cut off after it."""
        found: Path | None = None
        if self.ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / REPORT).unlink(missing_ok=True)
            found, others = saves.newest(self.folder, self.belongs)
            if found is not None:
                shutil.copyfile(found / saves.METRICS, self.metrics)
                self._write(step=saves.step_of(found), resumed=True)
            else:
                self.metrics.write_bytes(b"")
            if others and found is None:
                why = "begins again: what was saved is of other ranks, another ZeRO stage or batch"
                self.log(Progress("pretrain", self.phase.name, 0, None, "", why))
        return self.ranks.broadcast(found)

    def _reference(self, trainer: Any) -> NDArray[np.float32]:
        """What the model that the phase begins with gives all pairs of it: float32 [pairs, 2].

        Computed once, while the trainer's model is that one, and kept with the identity of the phase.
        """
        path, record = self.folder / "reference.npy", self.folder / "reference.json"
        rows = np.unique(np.concatenate([self.division.rows, self.division.heldout]))
        same = False
        if self.ranks.first:
            same = path.is_file() and record.is_file()
            same = same and read_json(record).get("identity") == self.identity
            # other ranks make other steps, which may hold pairs that were left out then
            same = same and not np.isnan(np.load(path)[rows]).any()
        if self.ranks.broadcast(same):
            return np.asarray(np.load(path), np.float32)
        self.log(
            Progress("pretrain", self.phase.name, 0, None, "", "asking the model it begins with")
        )
        self.heartbeat.doing("evaluate")
        from trl.models import prepare_deepspeed

        # an engine for inference: it places the weights, which a trainer has not yet done here
        engine = prepare_deepspeed(trainer.model, trainer.accelerator)
        found = trainer.log_probabilities(engine, rows, self.ranks)
        engine.train()
        reference = np.full((self.choices.table.num_rows, 2), np.nan, np.float32)
        reference[rows] = found
        if self.ranks.first:
            record.unlink(missing_ok=True)
            with atomic(path) as temporary, temporary.open("wb") as handle:
                np.save(handle, reference)
            write_json(record, {"identity": self.identity})
        self.ranks.barrier()
        return reference

    # ── steps ───────────────────────────────────────────────────────────────────────────────────

    def _alive(self) -> None:
        """Between forward passes outside a step, which every rank makes as often; a stop ends them."""
        self.heartbeat.alive()
        self.asked = self.ranks.sum(bool(self.request))[0] > 0
        self._stopped()

    def on_substep_end(self, args: Any, state: Any, control: Any) -> None:
        self.heartbeat.alive()

    def on_step_end(self, args: Any, state: Any, control: Any) -> None:
        seconds = time.monotonic() - self.clock
        self.clock = time.monotonic()
        self.step_seconds = seconds
        self.heartbeat.step(state.global_step, seconds, seconds)
        self.asked = self.ranks.sum(bool(self.request))[0] > 0
        control.should_log = True
        last = (
            state.global_step >= self.division.steps
        )  # saved too: judging and writing take a while
        every = (
            self.pretrain.checkpoint.every_steps
        )  # a resumed state has the one it was saved with
        control.should_save = self.asked or last or state.global_step % every == 0
        if self.asked:
            control.should_training_stop = True
        if control.should_save:
            self.heartbeat.doing("save")  # which takes as long as it takes

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None) -> None:
        if not logs or "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm") or 0.0)
        for what, value in (("loss", loss), ("gradient's norm", norm)):
            if not math.isfinite(value):
                raise InputError(
                    f"pretrain.phases ({self.phase.name}): the {what} is {value} at step "
                    f"{state.global_step}; lower its lr or raise its beta and give the command again"
                )
        step = state.global_step
        pairs = self.division.rows[(step - 1) * self.division.step : step * self.division.step]
        tokens = int(self.choices.tokens[pairs].sum())
        margin, accuracy = float(logs["rewards/margins"]), float(logs["rewards/accuracies"])
        self._write(
            step=step,
            loss=loss,
            margin=margin,
            accuracy=accuracy,
            reward_chosen=float(logs["rewards/chosen"]),
            reward_rejected=float(logs["rewards/rejected"]),
            learning_rate=float(logs["learning_rate"]),
            grad_norm=norm,
            pairs=len(pairs),
            tokens=tokens,
            tokens_per_second=round(tokens / max(self.step_seconds, 1e-9), 1),
            seconds=round(self.step_seconds, 4),
        )
        said = f"loss {loss:.4f}, margin {margin:.4f}, accuracy {accuracy:.0%}"
        self.log(Progress("pretrain", self.phase.name, step, self.division.steps, "steps", said))

    def on_save(self, args: Any, state: Any, control: Any) -> None:
        self.ranks.barrier()
        if self.ranks.first:
            path = self.folder / f"checkpoint-{state.global_step}"
            saves.seal(path, self.belongs, self.metrics)
            saves.keep_newest(self.folder, self.pretrain.checkpoint.keep)
        self.ranks.barrier()
        self.clock = time.monotonic()

    def _stopped(self) -> None:
        """End by the signal that asked for it, where training did."""
        if not self.asked:
            return
        signals = self.ranks.sum(self.request.signal == signal.SIGINT)
        if signals[0]:
            raise KeyboardInterrupt
        raise Stopped("stopped in the preference phase; the same command goes on")

    # ── what is written ─────────────────────────────────────────────────────────────────────────

    def _write(self, **entry: Any) -> None:
        if self.ranks.first:
            whole = {"step": entry.pop("step"), "phase": self.phase.name, **entry}
            with self.metrics.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(whole, ensure_ascii=False) + "\n")

    def _save_weights(self, trainer: Any) -> None:
        """The model as a Hugging Face folder, whole or not at all, in the type it was trained in."""
        target, partial = self.folder / WEIGHTS, self.folder / f"{WEIGHTS}.tmp"
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if self.ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
            model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
            state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
            if model.config.get_text_config().tie_word_embeddings:
                state.pop("lm_head.weight", None)
            model.save_pretrained(partial, state_dict=state)
            for path in partial.iterdir():
                path.chmod(0o644)
                sync(path)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            sync(self.folder)
        self.ranks.barrier()

    def _report(self, start: Judgement | None, end: Judgement | None, trl: str) -> PreferenceReport:
        lines: list[dict[str, Any]] = []
        if self.ranks.first:
            text = self.metrics.read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.splitlines()]
        lines = self.ranks.broadcast(lines)
        steps = [line for line in lines if "loss" in line]
        return PreferenceReport(
            name=self.phase.name,
            pairs=len(self.division.rows),
            steps=self.division.steps,
            tokens=sum(line["tokens"] for line in steps),
            beta=self.beta,
            loss_first=steps[0]["loss"],
            loss_last=steps[-1]["loss"],
            margin_last=steps[-1]["margin"],
            accuracy_last=steps[-1]["accuracy"],
            too_long=self.division.too_long,
            epochs=self.division.epochs,
            before=start,
            after=end,
            seconds=round(sum(line["seconds"] for line in steps), 2),
            resumed=sum("resumed" in line for line in lines),
            trl=trl,
            choices=self.choices.digest,
            identity=self.identity,
        )


def judged(
    now: NDArray[np.float32], reference: NDArray[np.float32], beta: float
) -> Judgement | None:
    """Held-out pairs by their log probabilities [pairs, 2] now and by the reference; None for no pairs."""
    if not len(now):
        return None
    ratio = (now - reference).astype(np.float64)
    margins = beta * (ratio[:, 0] - ratio[:, 1])
    moved = bool(np.abs(ratio).max() > 0)
    return Judgement(
        pairs=len(now),
        ranking_accuracy=float((now[:, 0] > now[:, 1]).mean()),
        reward_accuracy=float((margins > 0).mean()) if moved else None,
        margin=float(margins.mean()),
    )


@contextmanager
def _accelerate() -> Iterator[None]:
    """accelerate's and transformers' global state for this trainer alone: a process may train twice."""
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    def reset() -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        PartialState._reset_state()
        unset_hf_deepspeed_config()

    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    reset()
    try:
        yield
    finally:
        reset()
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            del os.environ[name]
        os.environ.update(before)
