"""Who holds a run folder, since when and by which command: `.lock` and `command.json`.

In: a run folder. Out: `lock`, which one process at a time holds; `recorded`, which keeps the command
line, the machine and how it ended, so that `malmoi status` can say what would go on with the run.

The lock is the kernel's (flock), so it dies with its process. File systems without shared flocks (NFS
with local_lock, Lustre with localflock) would let two machines in, so the holder also touches `.lock`
every few seconds, and a start on another machine than the last holder's waits for two of these beats
before it believes that nobody is there. The cost is a thread that sleeps. The same thread looks for the
request of `malmoi stop` (stop.py), which reaches a holder on any machine that sees the folder.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import psutil

from configs.errors import InputError, Stopped
from configs.files import read_json, write_json
from launch.stop_request import clear, obey, requested

COMMAND = "command.json"
LOCK = ".lock"
ASKED = "MALMOI_COMMAND"  # in a job: the command line by which a person asked for it
BEAT = 5.0  # seconds between two touches of the lock
FRESH = 6 * BEAT  # seconds after which a holder on another machine is not waited for any more
LOOK = 0.5  # seconds between two looks for a request to stop
PROBED = 1.0  # seconds for which another's look at the lock (`held`) may stand in a start's way


@dataclass(frozen=True)
class Holder:
    """A process that holds, or held, a run folder.

    born: when the process started (seconds since 1970, as the kernel has it), so that another process
    with a recycled id is not taken for it. since: when it took the folder. argv: the command, empty
    where it was no command line; directory: where it was given.
    """

    user: str
    host: str
    pid: int
    born: float
    since: str
    argv: tuple[str, ...] = ()
    directory: str = ""

    @classmethod
    def here(cls) -> Holder:
        return cls(
            user=_user(),
            host=platform.node(),
            pid=os.getpid(),
            born=psutil.Process().create_time(),
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
            argv=command_line(),
            directory=str(Path.cwd()),
        )

    @classmethod
    def of(cls, values: Any) -> Holder | None:
        """What a file says; None where it says nothing whole (half-written, or an older version)."""
        try:
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            return cls(**known | {"argv": tuple(map(str, known.get("argv", ())))})
        except (TypeError, KeyError, AttributeError):
            return None

    def __str__(self) -> str:
        return (
            f"{self.user}, process {self.pid} on {self.host}, since {self.since.replace('T', ' ')}"
        )

    def lives_here(self) -> bool:
        """Whether it is a process of this machine that is still there."""
        if self.host != platform.node():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.born) < 2.0
        except psutil.Error:
            return False


def command_line() -> tuple[str, ...]:
    """`malmoi …` as the person gave it; () in a notebook or a test, which no command started.

    Where the run is driven by a job (Slurm, Kubernetes), the job was told in MALMOI_COMMAND.
    """
    if given := os.environ.get(ASKED):
        return tuple(shlex.split(given))
    program = Path(sys.argv[0]) if sys.argv else Path()
    own = program.name == "malmoi" or (program.name == "cli.py" and program.parent.name == "launch")
    return ("malmoi", *sys.argv[1:]) if own else ()


def resume_command(argv: Sequence[str], directory: str, run: Path) -> str:
    """The exact command that goes on; with `cd` where it was given in another directory.

    Without a command line (a notebook's run) it is made of the run folder's own config.
    """
    if not argv:
        return shlex.join(["malmoi", "run", str(run / "config.yaml"), f"dir={run}"])
    words = shlex.join(argv)
    elsewhere = directory and Path(directory) != Path.cwd()
    return f"cd {shlex.quote(directory)} && {words}" if elsewhere else words


# ── the lock ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run folder; a second holder is refused with the first one's name.

    Raises InputError where it is held, on this machine or another, and PermissionError where it is
    free but not one's to write in. While it is held a request to stop (stop_request.py) arrives as
    SIGTERM would.
    """
    path = folder / LOCK
    with _opened(path) as handle:
        _take(handle, folder)
        _wait_out(path, handle, folder)
        clear(folder)
        handle.seek(0)
        handle.truncate()
        json.dump(asdict(Holder.here()), handle, ensure_ascii=False)
        handle.flush()
        over = threading.Event()
        beats = threading.Thread(target=_beat, args=(handle, folder, over), daemon=True)
        beats.start()
        try:
            yield
        finally:
            over.set()
            beats.join()
            with suppress(OSError):  # a full disk, a network that is gone
                handle.seek(0)
                handle.truncate()
                handle.flush()


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a+", encoding="utf-8")
    except PermissionError:
        if held(path):
            raise InputError(_in_use(path.parent, holder(path.parent))) from None
        raise


def _take(handle: TextIO, folder: Path) -> None:
    deadline = time.monotonic() + PROBED
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError(_in_use(folder, holder(folder))) from None
            time.sleep(0.1)


def _wait_out(path: Path, handle: TextIO, folder: Path) -> None:
    """Where the last holder was on another machine and did not leave: is it still there?"""
    last = holder(folder)
    if last is None or last.host == platform.node():
        return
    before = path.stat().st_mtime_ns
    os.utime(handle.fileno())  # now, by the clock of whoever keeps the disk
    now = path.stat().st_mtime_ns
    deadline = time.monotonic() + 2 * BEAT + 1
    while (now - before) / 1e9 < FRESH and time.monotonic() < deadline:
        if path.stat().st_mtime_ns != now:
            raise InputError(_in_use(folder, last))
        time.sleep(0.25)


def _beat(handle: TextIO, folder: Path, over: threading.Event) -> None:
    beaten, obeyed = time.monotonic(), False
    while not over.wait(LOOK):
        if time.monotonic() - beaten >= BEAT:
            beaten = time.monotonic()
            with suppress(OSError):
                os.utime(handle.fileno())
        if not obeyed and requested(folder) is not None:
            obeyed = True
            obey()


def _in_use(folder: Path, by: Holder | None) -> str:
    who = str(by) if by is not None else "another process"
    doing = f" ({shlex.join(by.argv)})" if by is not None and by.argv else ""
    return (
        f"{folder}: is in use by {who}{doing}; wait for it, end it (malmoi stop "
        f"{shlex.quote(str(folder))}), or give this run a folder of its own (dir=…)"
    )


def refuse_held(folder: Path) -> None:
    """Raise InputError, with the holder's name, where a process has the run folder; else nothing is taken."""
    if held(folder / LOCK):
        raise InputError(_in_use(folder, holder(folder)))


def held(path: Path) -> bool:
    """Whether any process holds a lock file. Looks for an instant; leaves nothing behind."""
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder(folder: Path) -> Holder | None:
    """Who holds the folder, or held it and was killed; None after a clean end."""
    try:
        return Holder.of(json.loads((folder / LOCK).read_bytes()))
    except (OSError, ValueError):
        return None


def beats(folder: Path, seconds: float = BEAT + 1) -> bool:
    """Whether a holder on another machine shows signs of life within `seconds`."""
    with suppress(OSError):
        first = (folder / LOCK).stat().st_mtime_ns
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (folder / LOCK).stat().st_mtime_ns != first:
                return True
            time.sleep(0.2)
    return False


# ── the command ─────────────────────────────────────────────────────────────────────────────────


@contextmanager
def recorded(folder: Path, stages: Sequence[str]) -> Iterator[None]:
    """Keep who runs what in `command.json`, and at the end how it went.

    outcome: "done", "stopped" (on request) or "failed" with the reason; none of them while it runs
    and after it was killed.
    """
    record: dict[str, Any] = {**asdict(Holder.here()), "stages": list(stages), "outcome": None}
    write_json(folder / COMMAND, record)
    outcome, why = "done", ""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        asked = requested(folder)
        by = "Ctrl-C" if isinstance(stop, KeyboardInterrupt) else "a signal"
        outcome, why = "stopped", f"asked to by {asked or by}"
        raise
    except BaseException as error:
        outcome, why = "failed", _reason(error)
        raise
    finally:
        record |= {"outcome": outcome, "why": why, "ended": datetime.now(UTC).isoformat()}
        with suppress(OSError):  # a full disk: the error that is on its way says more
            write_json(folder / COMMAND, record)


def last_command(folder: Path) -> dict[str, Any]:
    """`command.json`; {} where there is none, or none that can be read."""
    try:
        found = read_json(folder / COMMAND)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(error: BaseException) -> str:
    if isinstance(error, InputError):
        return "\n".join(error.lines)
    return f"{type(error).__name__}: {error}".rstrip(": ")[:2000]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return str(os.getuid())
