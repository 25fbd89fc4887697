"""MLflow as a mirror: one parent run for the pipeline, a child run for each stage.

metrics.jsonl, the reports and lineage.json are the truth and are on disk before this file reads
them. Everything that talks to MLflow happens on one background thread behind a queue, so a slow or
absent server costs the run nothing; what could not be sent is said once and is still in the files.
The store is the run folder's mlflow.db (sqlite) unless MLFLOW_TRACKING_URI names another.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from configs.files import read_json
from configs.load import output_keys
from configs.schema import Config
from launch.console import Console
from launch.lineage import Lineage

TAIL_EVERY = 5.0  # seconds between two looks at metrics.jsonl
FLUSH_SECONDS = 60.0  # longest wait for the queue when a run ends
BATCH = 500  # metrics in one request


class Tracker:
    """Mirrors a run. Use as a context manager around its stages."""

    def __init__(self, config: Config, folder: Path, console: Console) -> None:
        self.config, self.folder, self.console = config, folder, console
        self.enabled = config.tracking.mlflow
        self._work: queue.Queue[Callable[[_Mirror], None] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._training = threading.Event()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._thread is None:
            return
        self._training.clear()
        status = "FINISHED" if kind is None else "KILLED" if _asked(kind) else "FAILED"
        self._work.put(lambda mirror: mirror.close(status))
        self._work.put(None)
        self._thread.join(FLUSH_SECONDS if kind is None else 5.0)
        if self._thread.is_alive():
            self.console.say("    MLflow did not answer in time; the run folder has every figure")

    def begin(self, stage: str) -> None:
        """A stage starts: open its child run."""
        if not self.enabled:
            return
        if self._thread is None:  # a run in which every stage is skipped never imports MLflow
            self._thread = threading.Thread(target=self._mirror, name="mlflow", daemon=True)
            self._thread.start()
        keys = output_keys(self.config, stage)
        self._work.put(lambda mirror: mirror.begin(stage, keys))
        if stage == "pretrain":
            self._training.set()

    def end(self, stage: str, lineage: Lineage) -> None:
        """A stage is done: its report, its metrics to the last step, its inputs."""
        if not self.enabled:
            return
        self._training.clear()
        entry = dict(lineage.stage(stage) or {})
        self._work.put(lambda mirror: mirror.end(stage, entry))

    def _mirror(self) -> None:
        try:
            mirror = _Mirror(self.config, self.folder)
        except Exception as error:
            self._complain(error)
            return
        while True:
            try:
                work = self._work.get(timeout=TAIL_EVERY)
            except queue.Empty:
                work = (lambda mirror: mirror.metrics()) if self._training.is_set() else _nothing
            if work is None:
                return
            try:
                work(mirror)
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        if self.enabled:
            self.enabled = False
            self.console.say(
                f"    MLflow: {type(error).__name__}: {str(error).splitlines()[0][:160]}; "
                "the run goes on, its figures are in the run folder"
            )


def _nothing(mirror: _Mirror) -> None:
    return


def _asked(kind: type[BaseException]) -> bool:
    return issubclass(kind, KeyboardInterrupt) or kind.__name__ == "Stopped"


class _Mirror:
    """The MLflow side: lives on the background thread alone."""

    def __init__(self, config: Config, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        from mlflow import MlflowClient

        self.folder = folder
        uri = (
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        )
        self.client = MlflowClient(tracking_uri=uri)
        known = self.client.get_experiment_by_name(config.tracking.experiment)
        self.experiment = (
            known.experiment_id
            if known
            else self.client.create_experiment(
                config.tracking.experiment,
                artifact_location=None
                if os.environ.get("MLFLOW_TRACKING_URI")
                else (folder / "mlartifacts").resolve().as_uri(),
            )
        )
        self.parent = self._start(config.name, {}).info.run_id
        self.child: str | None = None
        self.position = 0

    def _start(self, name: str, tags: dict[str, str]) -> Any:
        return self.client.create_run(
            self.experiment, run_name=name, tags=tags | {"malmoi.folder": str(self.folder)}
        )

    def begin(self, stage: str, keys: dict[str, Any]) -> None:
        from mlflow.entities import Param

        self.child = self._start(stage, {"mlflow.parentRunId": self.parent}).info.run_id
        self.position = 0
        flat = list(flatten(keys))
        for at in range(0, len(flat), 100):
            params = [Param(key, str(value)[:5000]) for key, value in flat[at : at + 100]]
            self.client.log_batch(self.child, params=params)

    def metrics(self) -> None:
        """Send what metrics.jsonl gained since the last look."""
        from mlflow.entities import Metric

        path = self.folder / "pretrain" / "metrics.jsonl"
        if self.child is None or not path.exists():
            return
        size = path.stat().st_size
        if size < self.position:  # a resume truncated it
            self.position = 0
        with path.open("rb") as handle:
            handle.seek(self.position)
            content = handle.read()
        whole = content.rfind(b"\n") + 1
        self.position += whole
        stamp = int(time.time() * 1000)
        batch = [
            Metric(key, float(value), stamp, int(record["step"]))
            for record in map(json.loads, content[:whole].splitlines())
            for key, value in flatten(record)
            if isinstance(value, int | float) and key != "step"
        ]
        for at in range(0, len(batch), BATCH):
            self.client.log_batch(self.child, metrics=batch[at : at + BATCH])

    def end(self, stage: str, entry: dict[str, Any]) -> None:
        from mlflow.entities import Dataset as DatasetEntity
        from mlflow.entities import DatasetInput, InputTag, Metric

        assert self.child is not None
        if stage == "pretrain":
            self.metrics()
        report = read_json(self.folder / stage / "report.json")
        stamp = int(time.time() * 1000)
        figures = [
            Metric(f"report/{key}"[:250].replace(" ", "_"), float(value), stamp, 0)
            for key, value in flatten(report)
            if isinstance(value, int | float) and _loggable(key)
        ]
        for at in range(0, len(figures), BATCH):
            self.client.log_batch(self.child, metrics=figures[at : at + BATCH])
        inputs = [
            DatasetInput(
                DatasetEntity(
                    name=Path(item["path"]).name,
                    digest=item["sha256"][:36],
                    source_type="local",
                    source=json.dumps({"uri": item["path"]}),
                ),
                [InputTag("mlflow.data.context", stage)],
            )
            for item in entry.get("inputs", {}).get("files", [])[:200]
        ]
        if inputs:
            self.client.log_inputs(self.child, inputs)
        self.client.log_artifact(self.child, str(self.folder / stage / "report.json"))
        self.client.set_tag(self.child, "malmoi.digest", entry.get("digest", ""))
        self.client.set_terminated(self.child, "FINISHED")
        self.child = None

    def close(self, status: str) -> None:
        if self.child is not None:
            self.metrics()
            self.client.set_terminated(self.child, status)
        for name in ("config.yaml", "lineage.json", "report.html"):
            if (self.folder / name).exists():
                self.client.log_artifact(self.parent, str(self.folder / name))
        self.client.set_terminated(self.parent, status)


def mirror_scores(config: Config, folder: Path, scores: dict[str, float]) -> str | None:
    """An MLflow run of its own for the scores of a finished model; what went wrong, or None.

    Only where the run is tracked already: nobody waits for MLflow who never used it.
    """
    tracked = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlflow.db").is_file()
    if not config.tracking.mlflow or not tracked or not scores:
        return None
    try:
        from mlflow.entities import Metric

        mirror = _Mirror(config, folder)
        stamp = int(time.time() * 1000)
        batch = [
            Metric(key[:250], value, stamp, 0) for key, value in scores.items() if _loggable(key)
        ]
        for at in range(0, len(batch), BATCH):
            mirror.client.log_batch(mirror.parent, metrics=batch[at : at + BATCH])
        mirror.client.set_tag(mirror.parent, "malmoi.stage", "evaluate")
        mirror.close("FINISHED")
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        return f"MLflow: {type(error).__name__}: {first}; the figures are in the run folder"
    return None


def _loggable(key: str) -> bool:
    return all(letter.isalnum() or letter in "_-. :/" for letter in key)


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} → ("a.b", 1); lists by index."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from flatten(item, f"{prefix}.{index}")
    else:
        yield prefix, value
