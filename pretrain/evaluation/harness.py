"""lm-eval's tasks by name, on a saved model: kobest, kmmlu, haerae, mmlu, gsm8k, klue and the rest.

In: a model folder, names of tasks, groups or tags. Out: a `TaskScore` per task and metric, the very
figures that lm-eval's own command prints (Gao et al., https://github.com/EleutherAI/lm-evaluation-harness):
its `simple_evaluate` runs them, with its seeds. Ours are KLUE's tasks and the local copies.

On a CPU a bf16 model is read as fp32, which is exact and faster than bf16 that is emulated.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError, missing_extra
from configs.keys import nearest
from pretrain.evaluation.local_datasets import leaves, redirect

OURS = Path(__file__).parent / "klue"
USUAL = ("kobest", "kmmlu", "haerae", "klue", "mmlu", "gsm8k")


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    group: of which of the groups asked for it is a part, None for what was asked for by name.
    filter: how the answer was read from what was generated ("none" where nothing was). stderr: None
    where the metric has none. shots: examples before the question (None where a group's tasks
    differ); rows: questions judged, of `of`.
    """

    task: str
    group: str | None
    metric: str
    filter: str
    value: float
    stderr: float | None
    shots: int | None
    rows: int
    of: int


def run_tasks(
    model: Path | str,
    names: Sequence[str],
    *,
    data: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> list[TaskScore]:
    """Judge a saved model by lm-eval's tasks.

    data: the folder of local dataset copies; without one lm-eval asks the hub. shots: examples shown
    (None: each task's own number, mostly 0). limit: rows per task. batch_size: sequences at a time;
    default 1 on a CPU, as many as fit on a GPU. Raises InputError where lm-eval is not installed, a
    task is unknown, or rows are missing or of another form.
    """
    try:
        from lm_eval import simple_evaluate
    except ImportError:
        raise missing_extra("lm_eval", "eval") from None
    import torch

    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)  # it warns of every file it reads
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    manager = _manager(names)
    with (
        tempfile.TemporaryDirectory(prefix="malmoi-tasks-") as folder,
        redirect_stdout(sys.stderr),  # where it says how large a batch it tries
    ):
        if data is not None:
            few = None if shots is None else shots > 0
            redirect(names, manager.task_index, data.resolve(), Path(folder), few_shot=few)
        loaded = [_load(manager, name, data) for name in _distinct(names, manager.task_index)]
        try:
            found = simple_evaluate(
                model="hf",
                model_args={
                    "pretrained": str(model),
                    "dtype": "auto" if place.startswith("cuda") else "float32",
                },
                tasks=[task for tasks in loaded for task in tasks],
                num_fewshot=shots,
                limit=limit,
                batch_size=batch_size or ("auto" if place.startswith("cuda") else 1),
                device=place,
                bootstrap_iters=100,
                log_samples=False,
                task_manager=manager,
            )
        except (ArithmeticError, AssertionError, LookupError, ValueError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise InputError(
                f"--tasks {','.join(names)}: lm-eval cannot go on ({first}); fewer --shots, or a whole "
                "copy of the data, may mend it"
            ) from error
    assert found is not None
    return _scores(dict(found), names, manager.task_index)


def _manager(names: Sequence[str]) -> Any:
    """lm-eval's tasks and ours. Raises InputError for names that are in neither.

    Its index reads thousands of files; the folders that are called like the names come first, and the
    rest only where a name is not among them.
    """
    import lm_eval.tasks

    every = Path(lm_eval.tasks.__file__).parent
    folders = {every / name.partition("_")[0] for name in names}
    near = [OURS, *sorted(folder for folder in folders if folder.is_dir())]
    manager = lm_eval.tasks.TaskManager(include_path=list(near), include_defaults=False)
    if not all(name in manager.task_index for name in names):
        manager = lm_eval.tasks.TaskManager(include_path=str(OURS))
    mistakes = []
    for name in names:
        if name not in manager.task_index:
            meant = nearest(name, [*USUAL, *manager.all_tasks])
            hint = f"did you mean {meant}?" if meant else f"usual ones are {', '.join(USUAL)}"
            mistakes.append(f"--tasks: lm-eval has no task {name}; {hint}")
    if mistakes:
        raise InputError(mistakes)
    return manager


def _distinct(names: Sequence[str], index: Any) -> list[str]:
    """The names without those whose tasks a larger one brings too (kobest and kobest_wic)."""
    tasks = {name: set(leaves(name, index)) for name in names}
    kept: list[str] = []
    for name in sorted(tasks, key=lambda name: -len(tasks[name])):
        if not any(tasks[name] <= tasks[other] for other in kept):
            kept.append(name)
    return [name for name in names if name in kept]


@contextmanager
def _lm_evals_own_metrics() -> Iterator[None]:
    """kobest asks the library `evaluate` for F1, which fetches it from the hub and tries for seconds.

    lm-eval has an F1 of that name, and calls neither: what is judged by is the task's aggregation.
    """
    from lm_eval.api import task

    asked = task.get_metric
    task.get_metric = lambda name, hub=False: asked(name)
    try:
        yield
    finally:
        task.get_metric = asked


def _load(manager: Any, name: str, data: Path | None) -> list[Any]:
    """The tasks of a name, with their rows read."""
    try:
        with _lm_evals_own_metrics() if data else nullcontext():
            loaded = manager.load([name])
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        where = f"the rows in {data}" if data else "its dataset from the hub"
        mend = (
            "compare their columns with the dataset's own"
            if data
            else "give local copies with --data DIR"
        )
        raise InputError(f"--tasks {name}: {where} cannot be read ({first}); {mend}") from error
    groups = loaded.get("groups") or {}
    return [groups[name]] if name in groups else list(loaded["tasks"].values())


def _scores(found: dict[str, Any], names: Sequence[str], index: Any) -> list[TaskScore]:
    """lm-eval's results, flat: each name asked for, then the tasks it stands for."""
    scores: list[TaskScore] = []
    seen: set[str] = set()
    for name in names:
        parts = [part for part in leaves(name, index) if part != name]
        for task in (name, *parts):
            if task in seen:
                continue
            seen.add(task)
            below = [task] if task in found["n-samples"] else parts
            shots = {found["n-shot"][part] for part in below if part in found["n-shot"]}
            same = shots.pop() if len(shots) == 1 else None
            counts = [found["n-samples"][part] for part in below if part in found["n-samples"]]
            figures = found["results"].get(task) or (found.get("groups") or {}).get(task) or {}
            for key, value in figures.items():
                metric, comma, way = str(key).partition(",")
                if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                    continue
                error = figures.get(f"{metric}_stderr,{way}")
                scores.append(
                    TaskScore(
                        task=task,
                        group=None if task == name else name,
                        metric=metric,
                        filter=way,
                        value=float(value),
                        stderr=float(error) if isinstance(error, int | float) else None,
                        shots=same,
                        rows=sum(count["effective"] for count in counts),
                        of=sum(count["original"] for count in counts),
                    )
                )
    return scores
