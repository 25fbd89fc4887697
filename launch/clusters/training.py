"""A training over several machines, followed from the launcher.

In: machines that were checked, a run folder that all see and that is prepared. Out: a finished run, or the
reason why it is none. On each machine an agent is held by ssh; who belongs to the training, torchrun's
rendezvous decides, on the first machine. What is done here: one live view, one stop for all, and hosts
that are lost: the others are told, so that they need not wait for a step that will never end, and the
lost one is called again until it comes back, when it is taken in.

The first machine, where the ranks meet, is the one that cannot be lost: then all stop, and the same
command goes on, from the last checkpoint, with whichever machine answers first.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from configs.clusters.hostfile import Host
from configs.clusters.schema import Hosts
from configs.errors import Stopped
from configs.progress import Log, Progress
from configs.schema import Config
from launch.clusters.beats import Watch
from launch.clusters.checks import Machine
from launch.clusters.identity import digest
from launch.clusters.ssh import LOST, Remote
from launch.clusters.torchrun import Outcome, prepare_folder, seconds_to_stop, training_lock
from launch.clusters.view import View

CALL_AGAIN = 5.0  # seconds between two calls of a machine that is lost
LOOK = 0.5  # seconds between two looks at the heartbeats
OTHERS = 30.0  # seconds for the other agents to end when one has
TO_SAVE = 30.0  # seconds beyond what the ranks may take to stop
HOPELESS = 10.0  # seconds for ranks that cannot save any more


class Training:
    """One training over ssh, from start to end; `run` does it."""

    def __init__(
        self,
        cluster: Hosts,
        machines: Sequence[Machine],
        away: Sequence[Host],
        config: Config,
        folder: Path,
        log: Log,
    ) -> None:
        assert config.pretrain is not None
        self.cluster, self.machines, self.folder = cluster, list(machines), folder
        self.stage, self._log = folder / "pretrain", log
        hang = config.pretrain.hang_seconds
        self.watch = Watch(self.stage, None if hang == "auto" else hang)
        self._config = config.pretrain
        self._job = f"{config.name}-{secrets.token_hex(4)}"
        self._agents: dict[Host, Remote] = {}
        self._ended: dict[Host, int] = {}
        self._reasons: list[str] = []  # the words of those that ended resumably
        self._lost: dict[Host, float] = {}
        self._away = dict.fromkeys(away, 0.0)  # and when they were called last
        self._most = len(self.machines) + len(away)
        self._first = self.machines[0].host
        self._hopeless = False  # whether the ranks that are left can no longer save

    def run(self) -> None:
        """Train until the run is done.

        Raises InputError for a mistake a rank found, NoSpace for a full disk, Stopped or
        KeyboardInterrupt after a stop, RuntimeError when restarts are used up.
        """
        with training_lock(self.folder):  # nobody of an earlier start is left
            prepare_folder(self.folder)
        view = View(self.stage, self.watch, self._log)
        try:
            for machine in self.machines:
                self._call(machine.host, machine.address)
            self._follow(view)
        except (KeyboardInterrupt, Stopped):
            self._stop(view)
            raise
        finally:
            for agent in self._agents.values():
                agent.close()
        view.tick()
        self._conclude()

    def _call(self, host: Host, address: str) -> None:
        """Start the agent of a machine."""
        meet = f"{self.machines[0].address}:{self.cluster.port}"
        words = ["train", "--run", str(self.folder), "--rendezvous", meet, "--job", self._job]
        words += ["--nodes", f"{self.cluster.min_nodes}:{self._most}", "--address", address]
        words += ["--wait", str(self.cluster.wait_seconds), "--attached"]
        words += ["--ranks", "auto" if host.slots is None else str(host.slots)]
        words += ["--threads", str(self.cluster.threads), "--same-as", digest()]
        if self.cluster.interface is not None:
            words += ["--interface", self.cluster.interface]
        log = self.folder / "logs" / f"node-{host.name}.log"
        self._agents[host] = Remote(self.cluster, host, words, log)

    # ── following ───────────────────────────────────────────────────────────────────────────────

    def _follow(self, view: View) -> None:
        """Until every agent that is left has ended."""
        looked, end = 0.0, float("inf")
        while self._agents:
            now = time.monotonic()
            if now - looked > LOOK:
                looked = now
                self.watch.look()
            view.tick()
            for host, agent in list(self._agents.items()):
                self._hear(host, agent, view)
            if self._ended and end == float("inf"):
                end = now + (HOPELESS if self._hopeless else OTHERS)
                self._drop_lost()
            if now > end:
                self._say_all("kill" if now > end + HOPELESS else "stop")
            if not self._ended:
                self._call_again(view)
                self._check_count()
            time.sleep(0.1)

    def _hear(self, host: Host, agent: Remote, view: View) -> None:
        """What a machine says, and whether it is still there."""
        for line in agent.lines():
            if line.startswith("note: ") and host not in self._lost:
                view.say(f"{host.name}: {line.removeprefix('note: ')}")
            elif line.startswith("note: ") and "ranks on" in line:
                view.say(f"{host.name}: is back and is taken in")
                del self._lost[host]
        status = agent.status()
        if status is None:
            return
        del self._agents[host]
        agent.lines()
        agent.close()
        if status != LOST and host in self._lost:
            del self._away[host]
            said = agent.last_words().splitlines() or [f"status {status}"]
            view.say(f"{host.name}: cannot be taken in again: {said[-1]}")
            return
        if status != LOST:
            self._ended[host] = status
            self._hopeless |= host == self._first and status != 0
            if status == 75:
                self._reasons += agent.last_words().splitlines()
            if status not in (0, 75):
                view.say(f"{host.name}: its ranks ended with status {status}")
            return
        if self._ended:
            return
        if host not in self._lost:
            self._lose(host, agent, view)

    def _lose(self, host: Host, agent: Remote, view: View) -> None:
        said = agent.last_words().splitlines()
        why = f" ({said[-1].strip()})" if said else ""
        if host == self._first:
            self._hopeless = True
            raise Stopped(f"{host.name}, where the ranks meet, is lost{why}")
        self._lost[host] = time.monotonic()
        self._away[host] = time.monotonic()
        view.say(f"{host.name}: is lost{why}; the others go on from the last checkpoint")
        self._say_all(f"lost {host.name}")

    def _call_again(self, view: View) -> None:
        """Call machines that are away: those that were lost, and those that never came."""
        for host, called in list(self._away.items()):
            if host in self._agents:
                continue
            if time.monotonic() - called < CALL_AGAIN:
                continue
            self._away[host] = time.monotonic()
            self._lost.setdefault(host, time.monotonic())
            known = {machine.host: machine.address for machine in self.machines}
            self._call(host, known.get(host, "auto"))

    def _check_count(self) -> None:
        """Fewer than min_nodes, for longer than machines are waited for."""
        here = [host for host in self._agents if host not in self._lost]
        if len(here) >= self.cluster.min_nodes or not self._lost:
            return
        if time.monotonic() - min(self._lost.values()) > self.cluster.wait_seconds:
            away = ", ".join(host.name for host in self._lost)
            self._hopeless = True
            raise Stopped(
                f"{away}: lost, and min_nodes asks for {self.cluster.min_nodes} machines, of which "
                f"{len(here)} are there"
            )

    # ── ending ──────────────────────────────────────────────────────────────────────────────────

    def _say_all(self, word: str) -> None:
        for agent in self._agents.values():
            agent.tell(word)

    def _drop_lost(self) -> None:
        """Machines that are being called again are no longer wanted."""
        for host in self._lost:
            if (agent := self._agents.pop(host, None)) is not None:
                agent.close()

    def _stop(self, view: View) -> None:
        """The ranks finish their step, save and leave. A second Ctrl-C ends them at once."""
        self._log(Progress("pretrain", "stopping", message="finishing the step and saving"))
        self._say_all("stop")
        patience = HOPELESS if self._hopeless else seconds_to_stop(self.stage) + TO_SAVE
        deadline = time.monotonic() + patience
        self._drop_lost()
        while self._agents:
            try:
                for host, agent in list(self._agents.items()):
                    agent.lines()
                    if agent.status() is not None:
                        del self._agents[host]
                        agent.close()
                view.tick()
                if time.monotonic() > deadline:
                    self._say_all("kill")
                time.sleep(0.1)
            except Stopped:
                continue
            except KeyboardInterrupt:
                self._say_all("kill")
                deadline = float("inf")

    def _conclude(self) -> None:
        if Outcome.read(self.stage).done():
            return
        if 75 in self._ended.values():
            raise Stopped(self._reasons[0] if self._reasons else "the ranks were ended")
        lines = []
        for host, status in self._ended.items():
            path = self.folder / "logs" / f"node-{host.name}.log"
            said = path.read_text(errors="replace").splitlines() if path.is_file() else []
            lines += [f"── {host.name} ended with status {status}; {path}", *said[-30:]]
        raise RuntimeError("\n".join(["training ended on the machines:", *lines]))
