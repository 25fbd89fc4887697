"""The journal of a run → MLflow: one parent run for the pipeline, a child run for each stage.

In: `tracking.jsonl` and the files it speaks of. Out: runs, parameters, metrics by step, system metrics,
dataset inputs with digests, reports and config as artifacts, the model as an external one (its weights
stay where they are). How far the journal was sent is kept in `.tracking.json`, for each store apart.

Every line is applied at least once: a line whose sending was cut off is sent again, and everything in
it may be (the same run, the same parameter, a metric of the same time and step). A training that was
resumed writes the end of metrics.jsonl anew; then MLflow is asked what it has, and gets the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.files import read_json, write_json
from configs.hub import no_telemetry
from configs.schema import Config
from launch.tracking import JOURNAL, flatten, loggable

STATE = ".tracking.json"
BATCH = 500  # metrics in one request
SAVE_EVERY = 1.0  # seconds between two notes of how far the journal was sent
ANSWER_SECONDS = "10"  # that a server may take over a request
RETRIES = "1"  # of a request, by MLflow itself; the sender tries again later
LATER = {401, 403, 407, 408, 409, 423, 425, 429}  # refusals that may be mended: sent again

Entry = dict[str, Any]


def tracking_uri(folder: Path) -> str:
    """The store: MLFLOW_TRACKING_URI, or the run folder's own mlflow.db."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def import_mlflow() -> None:
    """Import MLflow, which takes seconds; it reports nothing home, and waits for no server for long."""
    no_telemetry()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", ANSWER_SECONDS)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    import mlflow  # noqa: F401


def sent_to(folder: Path, uri: str) -> int:
    """Bytes of the journal that a store has got."""
    return int(_states(folder).get(_key(folder, uri), {}).get("position", 0))


def _key(folder: Path, uri: str) -> str:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return "mlflow.db"  # wherever the folder is moved to
    return hashlib.sha256(uri.encode()).hexdigest()[:16]  # it may hold a password


def _states(folder: Path) -> Entry:
    try:
        found = read_json(folder / STATE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Mirror:
    """One run folder in one MLflow store. Raises whatever MLflow does; call `catch_up` again then."""

    def __init__(self, config: Config, folder: Path) -> None:
        import_mlflow()
        from mlflow import MlflowClient

        self.config, self.folder = config, folder
        uri = tracking_uri(folder)
        self._key = _key(folder, uri)
        self._own = own = not os.environ.get("MLFLOW_TRACKING_URI")
        self.refused: list[str] = []
        if own and not (folder / "mlflow.db").is_file():
            self._forget()
        self.state: Entry = {"position": 0, "children": {}, **_states(folder).get(self._key, {})}
        self.client = MlflowClient(tracking_uri=uri)
        known = self.client.get_experiment_by_name(config.tracking.experiment)
        self.experiment = (
            known.experiment_id
            if known
            else self.client.create_experiment(
                config.tracking.experiment,
                artifact_location=(folder / "mlartifacts").resolve().as_uri() if own else None,
            )
        )

    def _forget(self) -> None:
        states = _states(self.folder)
        if states.pop(self._key, None) is not None:
            write_json(self.folder / STATE, states)

    def _save(self) -> None:
        write_json(self.folder / STATE, {**_states(self.folder), self._key: self.state})

    # ── the journal ─────────────────────────────────────────────────────────────────────────────

    def catch_up(self) -> Iterator[Entry]:
        """Send every whole line that was not sent; yields each one that was."""
        path, saved = self.folder / JOURNAL, time.monotonic()
        if not path.is_file():
            return
        with (self.folder / ".tracking.lock").open("ab") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)  # another command may be sending, too
            self.state |= _states(self.folder).get(self._key, {})
            yield from self._send(path, saved)

    def _send(self, path: Path, saved: float) -> Iterator[Entry]:
        try:
            with path.open("rb") as handle:
                if handle.seek(0, 2) < self.state["position"]:
                    self.state["position"] = 0  # the journal was removed and begun anew
                handle.seek(self.state["position"])
                while (line := handle.readline()).endswith(b"\n"):
                    entry = _entry(line)
                    if entry is not None:
                        self._try(entry)
                    self.state["position"] = handle.tell()
                    if time.monotonic() - saved > SAVE_EVERY:
                        saved = time.monotonic()
                        self._save()
                    if entry is not None:
                        yield entry
        finally:
            self._save()

    def _try(self, entry: Entry) -> None:
        """Apply a line; one that MLflow will never take must not keep those behind it back."""
        from mlflow.exceptions import MlflowException, RestException

        try:
            self._apply(entry)
        except MlflowException as error:
            said_so = self._own or isinstance(error, RestException)  # it, and not a proxy before it
            status = error.get_http_status_code()
            if not said_so or not 400 <= status < 500 or status in LATER:
                raise
            self.refused.append(str(error).strip().splitlines()[0][:160])

    def _apply(self, entry: Entry) -> None:
        do, stage, at = entry["do"], entry.get("stage", ""), int(entry["at"])
        if do == "begin":
            self._begin(stage, entry["keys"], resumed=bool(entry.get("resumed")))
        elif do == "mark":
            self._metrics(stage, at, entry["bytes"])
        elif do == "system" and stage in self.state["children"]:
            self._log(self._child(stage), entry["figures"], at, entry["number"])
        elif do == "end":
            self._end(stage, entry, at)
        elif do == "scores":
            self._scores(entry["figures"], at)
        elif do == "close":
            self._close(entry["status"], at)

    # ── runs ────────────────────────────────────────────────────────────────────────────────────

    def _parent(self) -> str:
        """The pipeline's run, made when it is first needed."""
        if "parent" not in self.state:
            self.state["parent"] = self._start(self.config.name, {})
            self._save()
        return str(self.state["parent"])

    def _child(self, stage: str) -> str:
        return str(self.state["children"][stage]["id"])

    def _start(self, name: str, tags: dict[str, str]) -> str:
        tags = tags | {"malmoi.folder": str(self.folder.resolve())}
        run = self.client.create_run(self.experiment, run_name=name, tags=tags)
        return str(run.info.run_id)

    def _begin(self, stage: str, keys: Entry, *, resumed: bool) -> None:
        from mlflow.entities import Param

        parent = self._parent()
        self.client.update_run(parent, status="RUNNING")
        if resumed and stage in self.state["children"]:
            self.client.update_run(self._child(stage), status="RUNNING")
        else:
            tags = {"mlflow.parentRunId": parent, "malmoi.stage": stage}
            self.state["children"][stage] = {
                "id": self._start(stage, tags),
                "offset": 0,
                "line": "",
            }
            self._save()
        flat = [(key, value) for key, value in flatten(keys) if loggable(key)]
        for at in range(0, len(flat), 100):
            params = [Param(key[:250], str(value)[:5000]) for key, value in flat[at : at + 100]]
            self.client.log_batch(self._child(stage), params=params)

    def _log(self, run: str, figures: Entry, at: int, step: int) -> None:
        from mlflow.entities import Metric

        batch = [
            Metric(key[:250].replace(" ", "_"), float(value), at, step)
            for key, value in figures.items()
            if isinstance(value, int | float) and loggable(key)
        ]
        for first in range(0, len(batch), BATCH):
            self.client.log_batch(run, metrics=batch[first : first + BATCH])

    # ── metrics.jsonl ───────────────────────────────────────────────────────────────────────────

    def _metrics(self, stage: str, at: int, size: int | None) -> None:
        """Send what metrics.jsonl gained up to `size` bytes (None: all of it)."""
        from mlflow.entities import Metric

        path, child = self.folder / "pretrain" / "metrics.jsonl", self.state["children"].get(stage)
        if stage != "pretrain" or child is None or not path.is_file():
            return
        with path.open("rb") as handle:
            again = not _ends_with(handle, child["offset"], child["line"])
            if again:  # a resume cut the file off and wrote on
                child["offset"], child["line"] = 0, ""
            handle.seek(child["offset"])
            content = handle.read() if size is None else handle.read(max(0, size - child["offset"]))
        whole = content.rfind(b"\n") + 1
        if not whole:
            return
        known: dict[str, set[tuple[int, float]]] = {}
        batch: list[Metric] = []
        for line in content[:whole].splitlines():
            record = _entry(line, needs="step")
            if record is None:
                continue
            figures = [
                (key, float(value))
                for key, value in flatten(record)
                if isinstance(value, int | float) and key != "step" and loggable(key)
            ]
            step = int(record["step"])
            if again and figures and self._has(child["id"], *_told_by(figures), step, known):
                continue
            batch += [Metric(key, value, at, step) for key, value in figures]
        for first in range(0, len(batch), BATCH):
            self.client.log_batch(child["id"], metrics=batch[first : first + BATCH])
        child["offset"] += whole
        child["line"] = _digest(content[:whole].splitlines()[-1])

    def _preference(self, stage: str, at: int) -> None:
        """The steps of preference phases, once they are all done; sent again they are the same."""
        if stage != "pretrain":
            return
        from mlflow.entities import Metric

        batch: list[Metric] = []
        for path in sorted((self.folder / "pretrain" / "preference").glob("*/metrics.jsonl")):
            for line in path.read_bytes().splitlines():
                record = _entry(line, needs="loss") or {}
                batch += [
                    Metric(f"{record['phase']}/{key}", float(value), at, int(record["step"]))
                    for key, value in record.items()
                    if key not in ("step", "phase")
                ]
        for first in range(0, len(batch), BATCH):
            self.client.log_batch(self._child(stage), metrics=batch[first : first + BATCH])

    def _has(
        self, run: str, key: str, value: float, step: int, known: dict[str, set[tuple[int, float]]]
    ) -> bool:
        """Whether MLflow has this figure of this step already."""
        if key not in known:
            history = self.client.get_metric_history(run, key)
            known[key] = {(metric.step, metric.value) for metric in history}
        return (step, value) in known[key]

    # ── ends ────────────────────────────────────────────────────────────────────────────────────

    def _end(self, stage: str, entry: Entry, at: int) -> None:
        if stage not in self.state["children"]:
            return
        child = self._child(stage)
        self._metrics(stage, at, None)
        self._preference(stage, at)
        self._inputs(child, stage, entry["inputs"])
        if (
            _digest_now(self.folder, stage) == entry["digest"]
        ):  # else another run's output lies there
            report = self.folder / stage / "report.json"
            figures = {f"report/{key}": value for key, value in flatten(read_json(report))}
            self._log(child, figures, at, 0)
            self.client.log_artifact(child, str(report))
            if stage == "pretrain":
                self._try_model(child, entry["digest"], read_json(report), at)
        self.client.set_tag(child, "malmoi.digest", entry["digest"])
        self.client.set_terminated(child, "FINISHED", end_time=at)

    def _inputs(self, run: str, stage: str, files: list[Entry]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=Path(item["path"]).name,
                    digest=item["sha256"][:36],
                    source_type="local",
                    source=json.dumps({"uri": item["path"]}),
                ),
                [InputTag("mlflow.data.context", stage)],
            )
            for item in files
        ]
        if inputs:
            self.client.log_inputs(run, inputs)

    def _try_model(self, run: str, digest: str, report: Entry, at: int) -> None:
        """The model where the server knows of such (MLflow 3); a tag with its place anywhere."""
        from mlflow.exceptions import MlflowException

        self.client.set_tag(run, "malmoi.model", str((self.folder / "model").resolve()))
        try:
            self._model(run, digest, report, at)
        except MlflowException as error:
            if error.get_http_status_code() not in (404, 405, 501):
                raise

    def _model(self, run: str, digest: str, report: Entry, at: int) -> None:
        """The model as one that lies outside MLflow: where it is, and what it scored."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

        child = self.state["children"]["pretrain"]
        folder = (self.folder / "model").resolve()
        steps = sum(phase["steps"] for phase in report["phases"])
        if "model" not in child:
            made = self.client.create_logged_model(
                self.experiment,
                name=self.config.name.replace(".", "-"),
                source_run_id=run,
                tags={
                    "mlflow.model.isExternal": "true",
                    "malmoi.folder": str(folder),
                    "malmoi.digest": digest,
                    "malmoi.identity": str(report["identity"]),
                },
                params={name: str(report[name]) for name in ("parameters", "vocab_size", "dtype")},
                model_type="causal-lm",
            )
            child["model"] = made.model_id
            self._save()
        model = child["model"]
        self.client.finalize_logged_model(model, LoggedModelStatus.READY)
        self.client.log_outputs(run, [LoggedModelOutput(model, steps)])
        metrics = [
            Metric(f"bits_per_byte.{name}", float(value), at, steps, model_id=model)
            for name, value in report["bits_per_byte"]["after"].items()
            if loggable(name)
        ]
        if metrics:
            self.client.log_batch(run, metrics=metrics)

    def _scores(self, figures: Entry, at: int) -> None:
        tags = {"mlflow.parentRunId": self._parent(), "malmoi.stage": "evaluate"}
        run = self._start("evaluate", tags)
        self._log(run, figures, at, 0)
        self.client.set_terminated(run, "FINISHED", end_time=at)

    def _close(self, status: str, at: int) -> None:
        parent = self._parent()
        for child in self.state["children"].values():
            run = self.client.get_run(child["id"])
            if run.info.status == "RUNNING":
                self._metrics("pretrain", at, None)
                self.client.set_terminated(child["id"], status, end_time=at)
        for name in ("config.yaml", "lineage.json", "report.html", "command.json"):
            if (self.folder / name).is_file():
                self.client.log_artifact(parent, str(self.folder / name))
        self.client.set_terminated(parent, status, end_time=at)


def _entry(line: bytes, needs: str = "do") -> Entry | None:
    """A line as an object, None where it is none (half-written before a kill)."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and needs in found else None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def _ends_with(handle: Any, offset: int, line: str) -> bool:
    """Whether the line that ends at `offset` of a file is still the one with this digest."""
    if offset == 0:
        return True
    if handle.seek(0, 2) < offset:
        return False
    start = max(0, offset - (1 << 20))
    handle.seek(start)
    lines = handle.read(offset - start).splitlines()
    return bool(lines) and _digest(lines[-1]) == line


def _told_by(figures: list[tuple[str, float]]) -> tuple[str, float]:
    """The figure that tells whether a record is known: what training computes, not the clock."""
    return next((one for one in figures if one[0] in ("loss", "grad_norm")), figures[0])


def _digest_now(folder: Path, stage: str) -> str | None:
    try:
        return str(read_json(folder / "lineage.json")["stages"][stage]["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
