"""The request to stop a run, as a file that every machine of the run sees.

In: a run folder. Out: `.stop` with who asks, written by `malmoi stop`; the holder of the folder
(holder.py) and rank 0 of a training (rank.py) look for it and then take it for a SIGTERM of their own:
the step is finished, a checkpoint saved, exit 75. The next holder of the folder removes it.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

from configs.files import write_json

STOP = ".stop"
LOOK = 1.0  # seconds between two looks of a rank


def request(folder: Path, who: str, at: str) -> None:
    """Ask whoever runs in the folder to stop."""
    write_json(folder / STOP, {"by": who, "at": at})


def requested(folder: Path) -> str | None:
    """Who asks the run to stop, None where nobody does."""
    try:
        content = (folder / STOP).read_bytes()
    except OSError:
        return None
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(content)["by"])
    return "somebody"  # an empty file, made by hand: `touch .stop`


def clear(folder: Path) -> None:
    """Forget a request: it was for an earlier holder."""
    with suppress(OSError):
        (folder / STOP).unlink(missing_ok=True)


def obey() -> None:
    """Stop this process as SIGTERM would; as Ctrl-C where nobody handles that signal (a notebook)."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def watch(folder: Path) -> None:
    """From now on, in a thread that dies with this process, obey the first request."""

    def look() -> None:
        while requested(folder) is None:
            over.wait(LOOK)
        obey()

    over = threading.Event()
    threading.Thread(target=look, name="stop", daemon=True).start()
