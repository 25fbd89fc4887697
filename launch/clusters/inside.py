"""Inside an allocation that is there already: the first machine drives the stages, the others follow it.

`python -m launch.clusters.inside drive|follow …` is what Slurm's batch script starts, `… pod` what a pod
of a Kubernetes Job does, which drives where its number is 0. In: the run folder, which all machines see,
who is there, and for the driver the words of the launch. Out: exit status as `malmoi`'s: 0 done, 2 a
person's mistake, 75 stopped and resumable, 1 else.

The driver is `malmoi`'s own pipeline with `Allocation` for machines, so lock, lineage, tracking and
report are the same as on one machine. What the others do is written in orders.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from configs.errors import InputError, Stopped
from configs.load import load, run_folder
from launch.clusters import orders
from launch.clusters.allocation import RAY_TOKEN, Allocation, mistakes_in, ray_token
from launch.clusters.child import end, start
from launch.clusters.orders import Order
from launch.clusters.place import Place
from launch.clusters.torchrun import Outcome, seconds_to_stop
from launch.rank import write_outcome
from launch.stop_request import requested

AGAIN = 2.0  # seconds until a machine that could not join Ray, or lost it, tries again


class _Asked:
    """Whether this process was asked to stop, by a signal."""

    def __init__(self) -> None:
        self.stop = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.stop = True


def follow(place: Place) -> int:
    """Obey the first machine's orders until they are over; exit status 0, or 75 after a stop."""
    asked = _Asked()
    child: subprocess.Popen[bytes] | None = None
    holds: Order | None = None
    output = place.folder / "logs" / f"node-{platform.node()}.log"
    try:
        while not asked.stop:
            order = orders.order_for(place.folder, place.allocation)
            if order is not None and order != holds:
                if child is not None:
                    end(child, seconds_to_stop(place.folder / "pretrain"))
                    child = None
                holds = order
                if order.do == "over":
                    return 0
                child = _start(place, order, output)
            if child is not None and child.poll() is not None:
                if child.returncode == 2 and holds is not None and holds.do == "train":
                    _report(place, output)
                child = None  # done, or failed: what follows is the first machine's to say
                if holds is not None and holds.do == "ray":
                    time.sleep(AGAIN)
                    holds = None
            time.sleep(orders.LOOK)
        return 75
    finally:
        if child is not None:
            end(child, seconds_to_stop(place.folder / "pretrain"))


def _start(place: Place, order: Order, output: Path) -> subprocess.Popen[bytes] | None:
    if order.do == "train":
        return start(place.training(order.address, order.same_as), output)
    if order.do == "ray":
        return start(place.ray("--join", order.address), output, ray_token(place.folder))
    return None


def _report(place: Place, output: Path) -> None:
    """Tell the first machine of a mistake that was found here before any rank could."""
    outcome = place.folder / "pretrain" / ".outcome.json"
    if Outcome.read(outcome.parent).status == "crashed":
        write_outcome(outcome, {"status": "error", "lines": mistakes_in(output)})


def drive(place: Place, launched: Sequence[str], source: str, overrides: Sequence[str]) -> None:
    """Run the stages on this machine, the first, with the others; never returns.

    launched: `CLUSTER STAGE CONFIG …` as the person gave it, for messages and lineage. source,
    overrides: where the config is on this machine.
    """
    from launch.cli import main
    from launch.pipeline import run_command

    sys.argv = ["malmoi", "launch", *launched]

    def run() -> None:
        over = True  # else the others wait for the first machine to come back
        try:
            config = load(source, overrides)
            if Path.cwd() / run_folder(config) != place.folder:
                raise InputError(
                    f"{place.folder}: is not the run folder of {source} any more; give the command "
                    "again, so that what was changed since is submitted"
                )
            only = None if launched[1] == "run" else launched[1]
            given: Any = (config, place.folder, source, list(overrides), only)
            run_command(*given, dry_run=False, machines=Allocation(place))
        except InputError:
            raise
        except Stopped as stop:
            over = place.tasks == 1 and not place.replaced
            by = requested(place.folder)
            if place.replaced and by is not None:  # a pod that stops for that must not come back
                raise InputError(
                    f"{place.folder}: stopped on request of {by}; launched again it goes on"
                ) from stop
            raise
        except Exception:
            over = not place.replaced
            raise
        finally:
            orders.give(place.folder, place.allocation, "over" if over else "wait")
            (place.folder / RAY_TOKEN).unlink(missing_ok=True)

    main(run)


def _arguments(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and behind `--` CLUSTER STAGE CONFIG [KEY=VALUE]… as they were given."""
    parser = argparse.ArgumentParser(prog="python -m launch.clusters.inside")
    parser.add_argument("role", choices=["drive", "follow", "pod"])
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("--allocation", required=True)
    parser.add_argument("--peers", default="", help="names of the machines, the first one's first")
    parser.add_argument("--array", type=int, default=1)
    parser.add_argument("--nodes", default="1:1", help="fewest:most")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--threads", default="auto")
    parser.add_argument("--port", type=int, default=29400)
    parser.add_argument("--interface")
    parser.add_argument(
        "--rendezvous", help="host:port; default: this machine's address and --port"
    )
    parser.add_argument("--config", help="default: the CONFIG of the words")
    own, launched = list(words), []
    if "--" in own:  # what follows may look like anything
        own, launched = own[: own.index("--")], own[own.index("--") + 1 :]
    return parser.parse_args(own), launched


def main(words: Sequence[str]) -> int:
    given, launched = _arguments(words)
    fewest, _, most = given.nodes.partition(":")
    place = Place(
        folder=given.run,
        allocation=given.allocation,
        peers=tuple(given.peers.split()),
        fewest=int(fewest),
        most=int(most or fewest),
        ranks=given.ranks,
        threads=given.threads,
        port=given.port,
        interface=given.interface,
        tasks=given.array,
        rendezvous=given.rendezvous,
        replaced=given.role == "pod",
    )
    role = given.role
    if role == "pod":
        role = "drive" if os.environ.get("JOB_COMPLETION_INDEX", "0") == "0" else "follow"
    if role == "follow":
        return follow(place)
    _, _, source, *overrides = launched
    if given.config is not None:  # a ConfigMap, overrides applied
        source, overrides = given.config, []
    drive(place, launched, source, overrides)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
