"""What is done about a loss or gradient that jumps: said, dropped, or rolled back.

In: a step's loss before its update, and its gradient's norm. Out: what the step's line in metrics.jsonl
says of it, the state with what was left out, or `RolledBack`, upon which the phase begins again at a
checkpoint before the jump and passes over the steps that led there.

Which steps were left out is written down at once (`left_out.json`) and carried by every checkpoint, so
a resume honours it wherever it begins. A step that is left out still counts as one: learning rate,
batch size and data of all others stay what they were.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from configs.progress import Log, Progress
from configs.schema import Guard
from pretrain.checkpoints.history import History
from pretrain.checkpoints.saver import Saver
from pretrain.checkpoints.state import LeftOut, State
from pretrain.data.batches import StepData
from pretrain.guards.guard import RolledBack, check_finite, too_many
from pretrain.guards.spikes import Spike, Watch, gradient_norm, let_refuse
from pretrain.phases import Work
from pretrain.zero import Ranks


class Jumps:
    """The guard of one rank's run; every rank comes to the same verdict."""

    def __init__(
        self, settings: Guard, history: History, saver: Saver, ranks: Ranks, log: Log
    ) -> None:
        self._settings, self._history, self._saver = settings, history, saver
        self._ranks, self._log = ranks, log
        self._watch = Watch(settings)
        self._said = 0

    def guard(self, engine: Any, state: State) -> None:
        """Let the engine's optimizer ask before it updates weights, where it may be refused."""
        if self._watch.acts or state.left_out:
            let_refuse(engine, self._watch)

    def begin(self, state: State) -> None:
        """A new step."""
        known = state.leaves_out(state.phase_step)
        self._watch.begin(state.losses, state.norms, known=known)

    def see_loss(self, loss: float, state: State, work: Work, data: StepData) -> None:
        """The loss of the whole step, before its update."""
        self._see("loss", loss, state, work, data)

    def see_norm(self, engine: Any, state: State, work: Work, data: StepData) -> float | None:
        """The norm of the step's gradient, which is given back; None where it was not taken."""
        norm = gradient_norm(engine)
        if norm is not None:
            self._see("gradient norm", norm, state, work, data)
        return norm

    def _see(self, what: str, value: float, state: State, work: Work, data: StepData) -> None:
        """A value that is no number ends the run, unless jumps are to be skipped or rolled back."""
        if not self._watch.acts:
            check_finite(
                what,
                value,
                step=state.step + 1,
                phase=work.phase.name,
                first=data.first,
                count=data.sequences,
            )
        self._watch.see(what, value)

    def act(self, state: State, work: Work, data: StepData) -> tuple[dict[str, str], State]:
        """What the step's line says of a jump, and the state with what was left out.

        Raises RolledBack, and InputError after too many jumps.
        """
        spike, known = self._watch.spike, self._watch.known
        if known is not None:
            return {"left_out": known.why}, state
        if spike is None:
            return {}, state
        self._said += 1
        if self._said <= self._settings.most:  # all of them are in metrics.jsonl
            message = f"{spike}; {self._settings.spike}"
            self._log(Progress("pretrain", f"jump at step {state.step + 1}", 1, 1, "", message))
        if not self._watch.acts:
            return {"spike": str(spike)}, state
        entry = self._leave_out(spike, state, work, data)
        if entry.action == "rollback":
            self._saver.wait()
            if self._ranks.first:
                self._saver.remove_later(state.step - state.phase_step + entry.first_step)
            self._ranks.barrier()
            raise RolledBack
        state = replace(state, left_out=list(self._history.left_out))
        return {"spike": str(spike), "left_out": entry.why}, state

    def _leave_out(self, spike: Spike, state: State, work: Work, data: StepData) -> LeftOut:
        """Record the steps that are left out: this one, and for a rollback those before it."""
        settings, last = self._settings, state.phase_step
        first = max(0, last - settings.rewind) if settings.spike == "rollback" else last
        entry = LeftOut(
            phase=state.phase,
            first_step=first,
            last_step=last,
            first_sequence=work.span(first)[0],
            last_sequence=data.first + data.sequences - 1,
            action=settings.spike,
            why=f"step {state.step + 1}: {spike}",
        )
        entries = self._history.leave_out(entry)
        if sum(other.phase == state.phase for other in entries) > settings.most:
            raise too_many(work.phase.name, settings, spike)
        return entry

    def pass_over(self, state: State, work: Work) -> State:
        """The state after the steps, if any, that a rollback has left out here; nothing is computed."""
        while (entry := state.leaves_out(state.phase_step)) is not None:
            if entry.action != "rollback":
                break
            first, end = work.span(state.phase_step)
            state = state.passed_over()
            self._history.write(
                step=state.step,
                phase=work.phase.name,
                first_sequence=first,
                sequences_left_out=end - first,
                left_out=entry.why,
            )
        return state
