"""`malmoi evaluate MODEL --chat`: how a model reads and makes dialogues, beside others on the same ones.

In: a model folder and dialogues that were held out (of its run, of a config's run, or files that are
named). Out: a table or JSON; of a run's own model on its own dialogues also evaluations.json, the model
card, report.html and MLflow. Figures of other models (`--against`: before tuning, by chat vector) stay in
the run as long as they were made of the same dialogues in the same way.

Replies are greedy, by the engine that `malmoi chat` talks through, so that what is measured is what
people meet. One model is in memory at a time, first to read, then to speak.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import InputError
from configs.load import load, run_folder
from configs.progress import Log, Progress
from launch.console import Console, table
from launch.model_folder import check

if TYPE_CHECKING:
    from pretrain.evaluation.dialogues import Said, Talk

AT_ONCE = 16  # replies decoded together


@dataclass(frozen=True)
class Asked:
    """How to measure. replies: prompts answered, 0 for none; tokens: longest reply; dialogues: files in
    place of a run's held-out ones; kilobytes: of what the assistant says, of each source, 0 for all."""

    against: str | None = None
    dialogues: tuple[Path, ...] = ()
    replies: int = 32
    tokens: int = 128
    kilobytes: int = 300
    window: int | None = None
    batch_size: int | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Found:
    """Of one model: what it makes of dialogues, and what it answers (None: it was not asked)."""

    said: Said
    talk: Talk | None

    def figures(self) -> dict[str, Any]:
        """By name, as they are noted."""
        names = ("distinct_1", "distinct_2", "korean", "stopped", "length", "empty")
        spoken = {} if self.talk is None else {name: getattr(self.talk, name) for name in names}
        return {"bits_per_byte": self.said.bits_per_byte, **spoken}


def evaluate_dialogues(
    model: Path, source: str | None, overrides: Sequence[str], asked: Asked
) -> None:
    """Measure, print, and note in the run.

    Raises InputError where there is no model, no dialogue, or none that fits the model's context.
    """
    check(model)
    models = [model]
    if asked.against is not None:
        check(Path(asked.against))
        models.append(Path(asked.against))
    from launch.evaluation import _called, _heldout, _quiet

    _quiet(offline=True)
    own = not asked.dialogues
    documents = _heldout(model, source, overrides) if own else list(asked.dialogues)
    with redirect_stdout(sys.stderr), Console() as console:
        from pretrain.evaluation.dialogues import choose_dialogues, prompts, read_dialogues
        from pretrain.evaluation.measure import window_of

        split = "heldout" if own else None
        rows = choose_dialogues(documents, split=split, most=asked.kilobytes * 1000 or None)
        window = min(window_of(name, asked.window) for name in models)
        questions = prompts(rows, asked.replies) if asked.replies else []
        said = [
            read_dialogues(
                str(name), rows, window=window, micro_batch=asked.batch_size, log=console.log
            )
            for name in models
        ]
        tokens = min([asked.tokens, *(_context(name) // 2 for name in models)])
        spoken = _speak(models, questions, tokens, console.log)
    found = [Found(one, talk) for one, talk in zip(said, spoken, strict=True)]
    way = {
        "dialogues": said[0].dialogues,
        "bytes": said[0].bytes,
        "replies": spoken[0].replies if spoken[0] else 0,
        "max_new_tokens": tokens,
        "window": window,
        "digest": _digest(rows),
    }
    names = [_called(str(name)) for name in models]
    if asked.as_json:
        entries = [
            {"model": str(name), **way, **one.figures()}
            for name, one in zip(models, found, strict=True)
        ]
        print(json.dumps(entries, ensure_ascii=False, indent=2))
    else:
        more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
        print(f"{model} on {'the held-out dialogues of ' if own else ''}{documents[0]}{more}")
        print(_table(way, names, found))
    if (
        not own
        or overrides
        or (source and run_folder(load(source)).resolve() != model.resolve().parent)
    ):
        return
    noted = _note(model, way, found, names[1:])
    if not asked.as_json:
        print(f"{f'noted in {noted}; ' if noted else ''}next: malmoi chat {model}")


def _context(model: Path) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(model)).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 4096)


def _digest(rows: Sequence[dict[str, Any]]) -> str:
    """Of the ids and texts: figures are compared only where these are the same."""
    state = hashlib.sha256()
    for row in rows:
        state.update(json.dumps([row["id"], row["segments"]], ensure_ascii=False).encode())
    return state.hexdigest()[:16]


def _speak(
    models: Sequence[Path], questions: Sequence[list[dict[str, str]]], tokens: int, log: Log
) -> list[Talk | None]:
    """What each model answers to the prompts that fit all of them."""
    from launch.chat.engine import Engine

    if not questions:
        return [None] * len(models)
    fitting: set[int] | None = None
    made: list[Talk | None] = []
    for turn, model in enumerate(models):
        with Engine(model) as engine:
            if fitting is None:
                fitting = _fitting(models, engine, questions, tokens)
            chosen = [questions[number] for number in sorted(fitting)]
            said = f"{turn + 1} of {len(models)}" if len(models) > 1 else ""
            made.append(_replies(engine, chosen, tokens, log, said))
        del engine
        gc.collect()
    return made


def _fitting(
    models: Sequence[Path], engine: Any, questions: Sequence[list[dict[str, str]]], tokens: int
) -> set[int]:
    """Numbers of the prompts that leave room for a reply in every model."""
    from launch.chat.backend import ChatFormat
    from launch.chat.loading import load_tokenizer

    formats: list[tuple[Any, int]] = [(engine, engine.context)]
    formats += [(ChatFormat(name, load_tokenizer(name)), _context(name)) for name in models[1:]]
    found = {
        number
        for number, turns in enumerate(questions)
        if all(len(form.prompt(turns)) + tokens <= context for form, context in formats)
    }
    if not found:
        raise InputError(
            f"{models[0]}: its context holds none of the {len(questions)} prompts and {tokens} tokens of "
            "reply; write --replies 0 to read the dialogues only"
        )
    return found


def _replies(
    engine: Any, questions: Sequence[list[dict[str, str]]], tokens: int, log: Log, said: str
) -> Talk:
    from launch.chat.sampling import Sampling
    from pretrain.evaluation.dialogues import talk

    sampling = Sampling(max_tokens=tokens, temperature=0.0, seed=0)
    replies = []
    for first in range(0, len(questions), AT_ONCE):
        some = [engine.prompt(turns) for turns in questions[first : first + AT_ONCE]]
        for reply in engine.replies(some, sampling):
            text = "".join(delta.text for delta in reply)
            replies.append((text, reply.finish_reason == "stop"))
            log(Progress("evaluate", "replies", len(replies), len(questions), "replies", said))
    return talk(replies)


# ── for a reader ────────────────────────────────────────────────────────────────────────────────


def _table(way: dict[str, Any], names: Sequence[str], found: Sequence[Found]) -> str:
    """A line a figure, a column a model."""
    from pretrain.evaluation.scores import dialogue_lines

    kilobytes = way["bytes"] / 1000
    said = f"{way['dialogues']:,} dialogues, {kilobytes:,.0f} KB by the assistant"
    if way["replies"]:
        said += f"; {way['replies']} replies of at most {way['max_new_tokens']} tokens, greedy"
    lines = dialogue_lines([one.figures() for one in found])
    return f"{said}\n{table(['', *names], [[label, *cells] for label, cells in lines])}"


def _note(
    model: Path, way: dict[str, Any], found: Sequence[Found], others: list[str]
) -> Path | None:
    """Write the figures into the run whose model this is; None where it is none."""
    from launch.holder import lock
    from launch.lineage import Lineage
    from launch.report import write
    from launch.tracking import mirror_scores
    from pretrain.evaluation.scores import note_dialogues, run_of

    run = run_of(model)
    if run is None:
        return None
    figures = found[0].figures()
    beside = {name: one.figures() for name, one in zip(others, found[1:], strict=True)}
    try:
        with lock(run):
            note_dialogues(run, way, figures, beside)
            Lineage(run).output_changed("pretrain", run / "model" / "README.md")
            write(run)
    except InputError as error:  # the figures are on the screen: they must not be lost with it
        print(f"not noted in the run: {error}", file=sys.stderr)
        return None
    numbers = {
        f"evaluate/chat/{name}": value for name, value in figures.items() if value is not None
    }
    if (problem := mirror_scores(load(str(run / "config.yaml")), run, numbers)) is not None:
        print(problem, file=sys.stderr)
    return run
