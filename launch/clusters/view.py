"""One live view of a training, wherever its ranks are: what rank 0 tells, and what all heartbeats say.

In: `pretrain/.progress.jsonl` (rank 0's `Progress`) and the heartbeats of all ranks. Out: the same
reports to the launcher's log, those of steps with the ranks, the slowest of them and the last heartbeat
beside loss and tokens/s; and a line of its own for what happens only now and then (a straggler, a host
that is lost), which is kept in `logs/events.log`: a screen is gone when somebody asks why it was slow.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from configs.progress import Log, Progress
from launch.clusters.beats import Watch, named
from launch.console import EVENT

AGAIN = 300.0  # seconds until the same straggler is named again


class View:
    """Passes on what a training in `stage` says, since the view was made."""

    def __init__(self, stage: Path, watch: Watch, log: Log) -> None:
        self._progress, self._watch, self._log = stage / ".progress.jsonl", watch, log
        self._events = stage.parent / "logs" / "events.log"
        self._position = 0
        self._named: dict[tuple[int, str], float] = {}

    def tick(self) -> None:
        """Pass on whole lines that are new; name a straggler."""
        try:
            with self._progress.open("rb") as handle:
                handle.seek(self._position)
                content = handle.read()
        except OSError:  # a network file system that is away for a moment
            return
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            report = Progress(**json.loads(line))
            if report.unit == "steps" and (ranks := self._watch.line()):
                report = replace(report, message=f"{report.message}, {ranks}")
            self._log(report)
        self._position += whole
        slow = self._watch.straggler()
        if slow is not None:
            key = (slow[0].rank, slow[0].host)
            now = time.monotonic()
            if now - self._named.get(key, float("-inf")) > AGAIN:
                self._named[key] = now
                self.say(named(slow))

    def say(self, line: str) -> None:
        """A line of its own, said once and kept; a disk that has no room for it loses it."""
        self._log(Progress("pretrain", "event", unit=EVENT, message=line))
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        with suppress(OSError):
            self._events.parent.mkdir(parents=True, exist_ok=True)
            with self._events.open("a", encoding="utf-8") as handle:
                handle.write(f"{stamp} {line}\n")
