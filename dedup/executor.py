"""What runs the tasks: processes of this machine, or a Ray cluster (`ray_engine.py`).

In: a function, items, a number of workers. Out: results, handed over in the order in which they are
done. A task must be idempotent and leave its output in files: its result is a small summary, so
that the same functions run on other machines.

The decision: locally, one pipe per process instead of `concurrent.futures`, whose pool cannot say
which task its dead worker had and fails all the others with it. Here a worker that dies (killed, out
of memory) is replaced and its task tried once more; a second death stops the run with the task's
name. It costs this file.

Processes are started by a fork server (or spawned where there is none), never forked from the caller:
its threads (numba, torch, Arrow) would not survive. Ctrl-C reaches only the caller, which ends the
workers before KeyboardInterrupt goes on; a worker whose caller was killed ends by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from configs.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

Tell = Callable[[float], None]
"""What a task calls with the amount of work it has done since the last call."""

_PRELOAD = "dedup.publish"
"""Imports everything a task needs: once, in the fork server, not in every process of every pass."""

_TICK = 0.5  # seconds between two calls of on_tick while nothing happens
_PATIENCE = 2.0  # seconds a worker has to end before it is killed


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: its address (auto: the one of this machine, or a new one on it) and the most
    tasks to have out at a time (None: what its cores take). section: of the config, for errors."""

    address: str = "auto"
    tasks: int | None = None
    section: str = "dedup"


def run_tasks(
    function: Callable[[Item, Tell], Result],
    items: Sequence[Item],
    workers: int,
    *,
    cluster: Cluster | None = None,
    on_done: Callable[[Item, Result], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_tick: Callable[[], None] | None = None,
) -> None:
    """Call function(item, tell) for every item, on `workers` processes; here, where one is enough;
    on a cluster, where one is given, which then says itself how many.

    function and items must be picklable. on_done is called in this process, once per item, as soon
    as its task is done. on_progress sums what tasks tell; on_tick comes at least twice a second.

    Raises what a task raised (the first; the others are stopped), with the worker's traceback as its
    cause, and InputError where a worker died twice over the same item.
    """
    if cluster is not None:
        from dedup.ray_engine import run_on

        run_on(cluster, function, items, on_done=on_done, on_progress=on_progress, on_tick=on_tick)
        return
    if min(workers, len(items)) <= 1:
        for item in items:
            result = function(item, on_progress or _nothing)
            if on_done is not None:
                on_done(item, result)
        return
    _Pool(function, items, min(workers, len(items)), on_done, on_progress, on_tick).run()


class WorkerError(Exception):
    """The traceback of an error in a worker, as text."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


def attempt(
    function: Callable[[Item, Tell], Result], item: Item, tell: Tell
) -> tuple[str, Result | tuple[Exception, str]]:
    """("result", what the task returned) or ("error", (what it raised, the traceback as text))."""
    try:
        return "result", function(item, tell)
    except Exception as error:
        return "error", (error, traceback.format_exc())


def _nothing(amount: float) -> None:
    """For a caller that does not follow the progress."""


class _Pool(Generic[Item, Result]):
    """The processes of one `run_tasks`, their pipes, and which item each of them has."""

    def __init__(
        self,
        function: Callable[[Item, Tell], Result],
        items: Sequence[Item],
        workers: int,
        on_done: Callable[[Item, Result], None] | None,
        on_progress: Callable[[float], None] | None,
        on_tick: Callable[[], None] | None,
    ) -> None:
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        self.context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload([_PRELOAD])
        self.function = function
        self.items = items
        self.workers = workers
        self.on_done = on_done
        self.on_progress = on_progress
        self.on_tick = on_tick
        self.waiting = list(range(len(items)))[::-1]
        self.deaths = [0] * len(items)
        self.told = [0.0] * len(items)
        self.busy: dict[Connection, tuple[BaseProcess, int]] = {}

    def run(self) -> None:
        try:
            for _ in range(self.workers):
                self._start()
            while self.busy:
                ready = wait(list(self.busy), timeout=_TICK)
                for pipe in ready:
                    assert isinstance(pipe, Connection)
                    self._hear(pipe)
                if self.on_tick is not None:
                    self.on_tick()
        finally:
            self._end()

    def _start(self) -> None:
        if not self.waiting:
            return
        here, there = self.context.Pipe()
        process = self.context.Process(target=_work, args=(there, self.function), daemon=True)
        process.start()
        there.close()
        self._give(here, process)

    def _give(self, pipe: Connection, process: BaseProcess) -> None:
        """Hand the next item to a worker, or let it go."""
        if not self.waiting:
            self.busy.pop(pipe, None)
            pipe.close()
            process.join(_PATIENCE)
            return
        index = self.waiting.pop()
        self.busy[pipe] = (process, index)
        try:
            pipe.send(self.items[index])
        except OSError:  # it is dead already: the pipe is readable, and says so when it is read
            return

    def _hear(self, pipe: Connection) -> None:
        process, index = self.busy[pipe]
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError):
            self._bury(pipe)
            return
        if kind == "progress":
            self._tell(index, content)
        elif kind == "error":
            error, text = content
            raise error from WorkerError(text)
        else:
            if self.on_done is not None:
                self.on_done(self.items[index], content)
            self._give(pipe, process)

    def _tell(self, index: int, amount: float) -> None:
        self.told[index] += amount
        if self.on_progress is not None:
            self.on_progress(amount)

    def _bury(self, pipe: Connection) -> None:
        """A worker is gone: try its item once more, in a new one."""
        process, index = self.busy.pop(pipe)
        pipe.close()
        process.join(_PATIENCE)
        self._tell(index, -self.told[index])
        self.deaths[index] += 1
        if self.deaths[index] > 1:
            raise InputError(
                f"{self.items[index]}: its worker died twice ({_cause(process.exitcode)}); free "
                "memory, or set fewer workers. Finished tasks are kept: the same command goes on"
            )
        self.waiting.append(index)
        self._start()

    def _end(self) -> None:
        """Leave no process behind, whatever happened."""
        processes = [process for process, _ in self.busy.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.busy:
            pipe.close()
        self.busy.clear()


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}, most often out of memory" if name == "SIGKILL" else name
    return f"exit status {exitcode}"


def _work(pipe: Connection, function: Callable[[Any, Tell], Any]) -> None:
    """A worker's life: items in, results out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_caller, daemon=True).start()

    def tell(amount: float) -> None:
        pipe.send(("progress", amount))

    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        message = attempt(function, item, tell)
        try:
            pipe.send(message)
        except OSError:  # the caller is gone
            return
        except Exception as error:  # a result or an error that cannot be pickled
            text = message[1][1] if message[0] == "error" else traceback.format_exc()
            pipe.send(("error", (RuntimeError(f"{type(error).__name__}: {error}"), text)))


def _end_with_caller() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
