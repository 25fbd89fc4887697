"""What a run tells MLflow, written down first: the journal `tracking.jsonl`, and who sends it.

metrics.jsonl, the reports and lineage.json are the truth. Beside them the journal keeps what they do
not say: when a stage began, when a step was reached, how busy the machine was. Writing a line of it is
all that a run ever waits for. A background thread sends the journal to MLflow (mlflow_mirror.py), which
remembers how far it came; a server that is down, slow or dead costs the run nothing, and gets the rest
when it is back, from the next command in the folder or from `malmoi track RUN`.

The cost is a file that grows by about 40 MB in a month of training. The store is the run folder's
mlflow.db (sqlite) unless MLFLOW_TRACKING_URI names another; one that is named later gets it all.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import InputError
from configs.load import load, output_keys
from configs.schema import Config
from launch.console import Console
from launch.lineage import Lineage
from launch.system_metrics import Usage

if TYPE_CHECKING:
    from launch.mlflow_mirror import Mirror

JOURNAL = "tracking.jsonl"
MARK_EVERY = 10.0  # seconds between two notes of how far a training is
HOLD = 60.0  # longest that the sender waits for a training's first step
SYSTEM_EVERY = 30.0  # seconds between two looks at the machine
SEND_EVERY = 5.0  # seconds between two looks of the sender
RETRY_MOST = 60.0  # longest wait before a server that failed is tried again
FLUSH_SECONDS = 60.0  # longest wait for the sender when a run ends, …
STALLED = 8.0  # … and how long a server may take over one line then


class Tracker:
    """Writes the journal of a run and has it sent. Use as a context manager around its stages."""

    def __init__(self, config: Config, folder: Path, console: Console) -> None:
        self.config, self.folder, self.console = config, folder, console
        self.enabled = config.tracking.mlflow
        self.journal = Journal(folder)
        self._sender: _Sender | None = None
        self._watch: _Watch | None = None

    def __enter__(self) -> Tracker:
        if self.enabled and self.journal.path.is_file() and _pending(self.folder):
            self._send()  # what an earlier command could not
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        if self._sender is None:
            return
        status = "FINISHED" if kind is None else "KILLED" if _asked(kind) else "FAILED"
        self.journal.add("close", status=status)
        problem = self._sender.finish(FLUSH_SECONDS if kind is None else STALLED)
        if problem is not None:
            self.console.say(
                f"    MLflow: {problem}; every figure is in the run folder, and the next command there "
                f"sends them (or: malmoi track {self.folder})"
            )

    def begin(self, stage: str, *, resumed: bool = False) -> None:
        """A stage starts, or goes on: its child run is opened."""
        if not self.enabled:
            return
        self.journal.add(
            "begin", stage=stage, resumed=resumed, keys=output_keys(self.config, stage)
        )
        sender = self._send()
        self._watch = _Watch(self.journal, self.folder, stage, sender.release)

    def end(self, stage: str, lineage: Lineage) -> None:
        """A stage is done: its report, its metrics to the last step, its inputs."""
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        if not self.enabled:
            return
        entry = lineage.stage(stage) or {}
        files = entry.get("inputs", {}).get("files", [])[:200]
        inputs = [{name: item[name] for name in ("path", "sha256")} for item in files]
        if (read := entry.get("inputs", {}).get("dedup")) is not None:
            inputs.append({"path": str(self.folder / "dedup" / "documents"), "sha256": read})
        self.journal.add("end", stage=stage, digest=entry.get("digest", ""), inputs=inputs)

    def _send(self) -> _Sender:
        if self._sender is None:
            self._sender = _Sender(self.config, self.folder, self.console)
            self._sender.start()
        return self._sender


class Journal:
    """`tracking.jsonl`: a line for each thing that happened. at: milliseconds since 1970."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self._one = threading.Lock()

    def add(self, do: str, **what: Any) -> None:
        """Append a line; a disk that is full loses it, for the run must not end over it."""
        line = json.dumps({"at": int(time.time() * 1000), "do": do, **what}, ensure_ascii=False)
        with self._one, suppress(OSError), self.path.open("a+b") as handle:
            size = handle.seek(0, 2)
            if size and (handle.seek(size - 1), handle.read(1))[1] != b"\n":
                handle.write(b"\n")  # half a line that a kill left: it stays alone
            handle.write(line.encode() + b"\n")

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def _pending(folder: Path) -> bool:
    """Whether the journal holds lines that the present store has not got."""
    from launch.mlflow_mirror import sent_to, tracking_uri

    return sent_to(folder, tracking_uri(folder)) < Journal(folder).size()


def _asked(kind: type[BaseException]) -> bool:
    return issubclass(kind, KeyboardInterrupt) or kind.__name__ == "Stopped"


class _Watch:
    """Notes, while a stage runs, how far training is and how busy the machine is.

    release: called when MLflow may have the processor: at once, or after a training's first step, for
    importing it and making its tables take ten seconds that the start of the ranks would wait for.
    """

    def __init__(
        self, journal: Journal, folder: Path, stage: str, release: Callable[[], None]
    ) -> None:
        self._journal, self._stage, self._release = journal, stage, release
        self._metrics = folder / "pretrain" / "metrics.jsonl" if stage == "pretrain" else None
        self._before = self._written()
        self._usage, self._marked, self._looked = Usage(folder), 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join(5.0)
        self._look()
        self._mark()

    def _run(self) -> None:
        looked = marked = begun = time.monotonic()
        while not self._over.wait(0.5):
            now = time.monotonic()
            if self._written() != self._before or now - begun > HOLD or self._metrics is None:
                self._release()
            if self._metrics is not None and now - marked >= MARK_EVERY:
                marked = now
                self._mark()
            if now - looked >= SYSTEM_EVERY:
                looked = now
                self._look()

    def _written(self) -> int:
        """Bytes of metrics.jsonl; 0 where there is none."""
        try:
            return self._metrics.stat().st_size if self._metrics is not None else 0
        except OSError:
            return 0

    def _mark(self) -> None:
        """Note that metrics.jsonl has grown to so many bytes."""
        if self._metrics is None:
            return
        with suppress(OSError):
            size = self._metrics.stat().st_size
            if size != self._marked:
                self._marked = size
                self._journal.add("mark", stage=self._stage, bytes=size)

    def _look(self) -> None:
        with suppress(Exception):  # a driver that answers nonsense is not the run's business
            self._looked += 1
            figures = self._usage.figures()
            self._journal.add("system", stage=self._stage, number=self._looked, figures=figures)


class _Sender(threading.Thread):
    """Sends the journal, line by line, in a thread that nobody waits for."""

    def __init__(self, config: Config, folder: Path, console: Console) -> None:
        super().__init__(name="mlflow", daemon=True)
        from launch.mlflow_mirror import tracking_uri

        self._config, self._folder, self._console = config, folder, console
        self._mirror: Mirror | None = None
        self._imported = False  # which takes seconds that are not the server's
        self._own = tracking_uri(folder).startswith("sqlite")  # one's own disk is waited for
        self._stalled = FLUSH_SECONDS if self._own else STALLED
        self._may, self._last = threading.Event(), threading.Event()
        self.problem: str | None = None
        self.progress = time.monotonic()

    def release(self) -> None:
        """Let it begin."""
        self._may.set()

    def finish(self, seconds: float) -> str | None:
        """Wait until all is sent, as long as anything moves; what stands in the way, if it is not.

        seconds: given to the server, from when MLflow is imported; one's own disk gets FLUSH_SECONDS.
        """
        self._last.set()
        self.release()
        seconds = FLUSH_SECONDS if self._own else seconds
        begun = self.progress = time.monotonic()
        imported = self._imported
        while self.is_alive():
            self.join(0.1)
            now = time.monotonic()
            if self._imported and not imported:
                begun, imported = now, True
            if now - begun > (seconds if imported else FLUSH_SECONDS):
                break
            if imported and now - self.progress > self._stalled:
                break
        if self.is_alive():
            return self.problem or "the server did not answer in time"
        return self.problem

    def run(self) -> None:
        self._may.wait()
        wait, told = 1.0, False
        while True:
            last = self._last.is_set()  # asked before sending: what is written until then is sent
            try:
                self._send()
                self.problem, wait = self._refusal(), SEND_EVERY
                if told:
                    told = False
                    self._console.say("    MLflow answers again; what it missed was sent")
            except Exception as error:
                self.problem = _short(error)
                if not told and not last:
                    told = True
                    self._console.say(
                        f"    MLflow: {self.problem}; the run goes on, its figures are kept and sent later"
                    )
                wait = min(RETRY_MOST, 2 * wait)
            if last:
                return
            self._last.wait(wait)

    def _refusal(self) -> str | None:
        refused = self._mirror.refused if self._mirror is not None else []
        return f"it refused {len(refused)} records ({refused[0]})" if refused else None

    def _send(self) -> None:
        if self._mirror is None:
            from launch.mlflow_mirror import Mirror, import_mlflow

            if not self._imported:
                import_mlflow()
                self.progress, self._imported = time.monotonic(), True
            self._mirror = Mirror(self._config, self._folder)
        for _ in self._mirror.catch_up():
            self.progress = time.monotonic()


def _short(error: BaseException) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return f"{type(error).__name__}: {said}"


def send(folder: Path) -> None:
    """`malmoi track RUN`: send what the store has not got yet, and say how much that was."""
    if not (folder / JOURNAL).is_file():
        raise InputError(f"{folder}: has no {JOURNAL}; give a run folder that was tracked")
    from launch.mlflow_mirror import Mirror, tracking_uri

    config = load(str(folder / "config.yaml"))
    try:
        count = sum(1 for _ in Mirror(config, folder).catch_up())
    except Exception as error:
        raise InputError(
            f"MLflow: {_short(error)}; give the command again when it answers"
        ) from None
    print(f"sent {count:,} records to {_without_password(tracking_uri(folder))}", file=sys.stderr)


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def mirror_scores(config: Config, folder: Path, scores: dict[str, float]) -> str | None:
    """Have the scores of a finished model sent, as a child run; what went wrong, or None.

    Only where the run is tracked already: nobody waits for MLflow who never used it.
    """
    tracked = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlflow.db").is_file()
    if not config.tracking.mlflow or not tracked or not scores:
        return None
    Journal(folder).add("scores", figures=scores)
    with Console(interactive=False) as console:
        sender = _Sender(config, folder, console)
        sender._last.set()
        sender.start()
        problem = sender.finish(FLUSH_SECONDS)
    return None if problem is None else f"MLflow: {problem}; the figures are in the run folder"


def loggable(key: str) -> bool:
    """Whether MLflow takes it as a name."""
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
