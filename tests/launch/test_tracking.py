"""MLflow as a mirror: against the sqlite of a finished run, and real servers that die and hang."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_run import River, malmoi
from tiny_run import make_config

from configs.files import write_json
from configs.load import dump
from configs.schema import Config
from launch.console import Console
from launch.lineage import Lineage
from launch.tracking import JOURNAL, Journal, Tracker


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(mlflow: Any, experiment: str = "malmoi") -> tuple[Any, dict[str, Any]]:
    """The one parent run, and its children by name."""
    known = mlflow.get_experiment_by_name(experiment)
    runs = mlflow.search_runs([known.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert all(r.data.tags["mlflow.parentRunId"] == parent.info.run_id for r in children.values())
    return parent, children


def values(mlflow: Any, run: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in mlflow.get_metric_history(run, key)]


def test_a_run_is_one_parent_with_a_child_for_each_stage(river: River) -> None:
    run = river[0] / "run"
    mlflow = client(f"sqlite:///{run / 'mlflow.db'}")
    parent, children = runs_of(mlflow)
    assert parent.info.status == "FINISHED" and parent.info.run_name == "river"
    children.pop("evaluate", None)
    assert set(children) == {"dedup", "tokenizer", "pretrain"}
    assert all(child.info.status == "FINISHED" for child in children.values())
    trained = children["pretrain"]
    assert trained.data.params["pretrain.sequence_length"] == "128"
    lines = (run / "pretrain/metrics.jsonl").read_text().splitlines()
    losses = [(r["step"], r["loss"]) for r in map(json.loads, lines) if "loss" in r]
    assert sorted(values(mlflow, trained.info.run_id, "loss")) == losses
    assert "system/cpu_utilization_percentage" in trained.data.metrics
    lineage = json.loads((run / "lineage.json").read_text())["stages"]
    given = {d.dataset.name: d.dataset.digest for d in children["dedup"].inputs.dataset_inputs}
    files = lineage["dedup"]["inputs"]["files"]
    assert given == {Path(f["path"]).name: f["sha256"][:36] for f in files}
    (read,) = trained.inputs.dataset_inputs
    assert read.dataset.name == "documents"
    assert read.dataset.digest == lineage["dedup"]["digest"][:36]
    assert trained.data.tags["malmoi.digest"] == lineage["pretrain"]["digest"]
    artifacts = {path.path for path in mlflow.list_artifacts(parent.info.run_id)}
    assert {"config.yaml", "lineage.json", "report.html", "command.json"} <= artifacts
    assert [path.path for path in mlflow.list_artifacts(trained.info.run_id)] == ["report.json"]
    # the model is known by its place and digest; its weights were not copied
    (output,) = trained.outputs.model_outputs
    model = mlflow.get_logged_model(output.model_id)
    assert model.tags["malmoi.folder"] == str((run / "model").resolve())
    assert model.tags["mlflow.model.isExternal"] == "true" and str(model.status) == "READY"
    assert {metric.key for metric in model.metrics or []} >= {"bits_per_byte.board"}
    assert not [p for p in (run / "mlartifacts").rglob("*") if p.suffix == ".safetensors"]


class Training:
    """A tracked training whose steps a test writes itself, as the ranks would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: Config = make_config()
        (folder / "pretrain").mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump(self.config))
        self.metrics = folder / "pretrain" / "metrics.jsonl"
        self.lineage = Lineage(folder)

    def step(self, *numbers: int, shift: float = 0.0) -> None:
        with self.metrics.open("a") as handle:
            for number in numbers:
                record = {"step": number, "loss": 10.0 - number + shift, "tokens_per_second": 1.0}
                handle.write(json.dumps(record) + "\n")

    def losses(self) -> list[tuple[int, float]]:
        records = map(json.loads, self.metrics.read_text().splitlines())
        return [(record["step"], record["loss"]) for record in records]

    def finish(self, tracker: Tracker) -> None:
        report = {
            "parameters": 7, "vocab_size": 8, "dtype": "float32", "identity": "i",
            "phases": [{"steps": len(self.losses())}], "bits_per_byte": {"after": {"ko": 2.5}},
        }  # fmt: skip
        write_json(self.folder / "pretrain" / "report.json", report)
        self.lineage.begin("pretrain", {}, {})
        self.lineage.finish("pretrain", [self.folder / "config.yaml"])
        tracker.end("pretrain", self.lineage)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_resumed_training_is_sent_once_and_a_rolled_back_one_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("launch.tracking.STALLED", 60.0)  # the first is to be sent before the cut
    training = Training(tmp_path)
    with Console(interactive=False) as console:
        with pytest.raises(KeyboardInterrupt), Tracker(training.config, tmp_path, console) as one:
            one.begin("pretrain")
            training.step(1, 2, 3, 4, 5, 6)
            raise KeyboardInterrupt
        # the checkpoint was at step 4: the trainer cuts the file off there and goes on
        whole = training.metrics.read_text().splitlines(keepends=True)
        training.metrics.write_text("".join(whole[:4]))
        with Tracker(training.config, tmp_path, console) as two:
            two.begin("pretrain", resumed=True)
            training.step(5)
            training.step(6, shift=0.5)  # after a rollback a step has another loss
            training.step(7)
            training.finish(two)
    mlflow = client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent, children = runs_of(mlflow)
    assert set(children) == {"pretrain"} and parent.info.status == "FINISHED"
    sent = values(mlflow, children["pretrain"].info.run_id, "loss")
    assert sorted(sent) == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0), (5, 5.0), (6, 4.0), (6, 4.5), (7, 3.0)]  # fmt: skip


def test_a_line_that_a_kill_left_half_written_costs_nothing_but_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("mark", bytes=1)
    with journal.path.open("a") as handle:
        handle.write('{"at": 12, "do": "ma')
    journal.add("mark", bytes=2)
    lines = journal.path.read_text().splitlines()
    assert [json.loads(lines[n])["bytes"] for n in (0, 2)] == [1, 2] and len(lines) == 3


# ── real servers ────────────────────────────────────────────────────────────────────────────────


class Server:
    """`mlflow server` on a port of its own, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1",
        ]  # fmt: skip
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    break
            except OSError:
                told = (self.folder / "server.log").read_text(errors="replace")
                assert self.process.poll() is None and time.monotonic() < deadline, told[-2000:]
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.mark.thorough
@pytest.mark.slow
def test_what_a_dead_server_missed_is_sent_when_it_is_back_or_by_the_next_command(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr("launch.tracking.MARK_EVERY", 0.5)
    monkeypatch.setattr("launch.tracking.RETRY_MOST", 2.0)
    training = Training(tmp_path / "run")
    experiment, said = training.config.tracking.experiment, ""

    def wait_for_step(step: int) -> None:
        mlflow, deadline = client(server.uri), time.monotonic() + 60
        while time.monotonic() < deadline:
            known = mlflow.get_experiment_by_name(experiment)
            runs = mlflow.search_runs([known.experiment_id]) if known else []
            kids = [r.info.run_id for r in runs if r.info.run_name == "pretrain"]
            if kids and step in dict(values(mlflow, kids[0], "loss")):
                return
            time.sleep(0.3)
        raise AssertionError(f"step {step} did not arrive")

    with Console(interactive=False) as console:
        with Tracker(training.config, training.folder, console) as tracker:
            tracker.begin("pretrain")
            training.step(1, 2)
            wait_for_step(2)
            server.kill()
            begun = time.monotonic()
            for number in range(3, 200):
                training.step(number)
            assert time.monotonic() - begun < 1.0  # nothing waits for it
            time.sleep(4)
            server.start()
            wait_for_step(199)
            deadline = time.monotonic() + 60
            while "answers again" not in (said := said + capsys.readouterr().err):
                assert time.monotonic() < deadline, said
                time.sleep(0.2)
            server.kill()
            training.step(200, 201)
            begun = time.monotonic()
            training.finish(tracker)
        assert time.monotonic() - begun < 30
        said += capsys.readouterr().err
        assert "the run goes on" in said and "malmoi track" in said
    server.start()
    done = malmoi("track", str(training.folder))
    assert done.returncode == 0 and "sent" in done.stderr, done.stderr
    mlflow = client(server.uri)
    parent, children = runs_of(mlflow, experiment)
    trained = children["pretrain"].info.run_id
    assert sorted(values(mlflow, trained, "loss")) == training.losses()
    assert parent.info.status == "FINISHED"
    assert {path.path for path in mlflow.list_artifacts(parent.info.run_id)} >= {"config.yaml"}
    (output,) = mlflow.get_run(trained).outputs.model_outputs
    assert output.step == 201
    again = malmoi("track", str(training.folder))
    assert again.returncode == 0 and "sent 0 records" in again.stderr


@pytest.mark.thorough
@pytest.mark.slow
def test_a_server_that_hangs_costs_a_run_its_last_seconds_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over, held = threading.Event(), []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.settimeout(0.2)

        def swallow() -> None:  # takes every connection and never says a word
            while not over.is_set():
                try:
                    held.append(listener.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=swallow)
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
        training = Training(tmp_path)
        try:
            with Console(interactive=False) as console:
                with Tracker(training.config, tmp_path, console) as tracker:
                    tracker.begin("pretrain")
                    begun = time.monotonic()
                    for number in range(1, 500):
                        training.step(number)
                    training.finish(tracker)
                    assert time.monotonic() - begun < 2.0
                    time.sleep(8)  # while it is asked in vain
                    begun = time.monotonic()
                assert time.monotonic() - begun < 25
            assert "malmoi track" in capsys.readouterr().err
        finally:
            over.set()
            thread.join()
            for connection in held:
                connection.close()
    # and a store that answers gets it all from the journal
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert (tmp_path / JOURNAL).is_file()
    assert malmoi("track", str(tmp_path)).returncode == 0
    mlflow = client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    _, children = runs_of(mlflow)
    trained = children["pretrain"].info.run_id
    assert sorted(values(mlflow, trained, "loss")) == training.losses()
