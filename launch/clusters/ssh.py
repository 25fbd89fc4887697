"""A program on another machine, over ssh: started, spoken to, heard, noticed when it is gone.

In: a cluster of hosts, one of them, and the words of `launch.clusters.node`. Out: `Remote`, whose
`lines()` are what the program has said, and whose `status()` is its exit status, or LOST where ssh itself
ended: nobody answers, the connection broke, or the machine's shell could not start it.

ssh asks nothing (BatchMode) and notices a machine that is gone within 12 seconds. The words of the person
(`ssh:` in the cluster file) come first, so theirs win.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from configs.clusters.hostfile import Host
from configs.clusters.schema import Hosts
from launch.clusters.identity import ROOT

LOST = 255  # ssh's own exit status
ALIVE_EVERY = 2.0  # seconds between two words to the program
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "3",
    "ServerAliveCountMax": "4",
}
REMEMBERED = 200  # lines


def ssh_words(cluster: Hosts, host: Host, words: Sequence[str]) -> list[str]:
    """The command line that runs `python -m launch.clusters.node WORDS` on a machine."""
    folder = cluster.folder or str(ROOT)
    python = cluster.python or sys.executable
    variables = {"PYTHONPATH": folder, **cluster.environment}
    settings = [f"{name}={value}" for name, value in variables.items()]
    program = ["env", *settings, python, "-m", "launch.clusters.node", *words]
    remote = f"cd {shlex.quote(folder)} && exec {shlex.join(program)}"
    options = [word for key, value in OPTIONS.items() for word in ("-o", f"{key}={value}")]
    user = ["-l", cluster.user] if cluster.user is not None and "@" not in host.name else []
    return ["ssh", *cluster.ssh, *options, "-T", *user, "--", host.name, remote]


class Remote:
    """A running program on a host. log: where all it says is kept."""

    def __init__(self, cluster: Hosts, host: Host, words: Sequence[str], log: Path) -> None:
        self.host = host
        self.said: list[str] = []
        self._rest = b""
        self._closed = False
        self._spoken = time.monotonic()
        self._log = log
        self._process = subprocess.Popen(
            ssh_words(cluster, host, words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for the launcher alone
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    def tell(self, word: str) -> None:
        """A line to the program; lost where nobody reads."""
        with suppress(OSError):
            os.write(self._in, f"{word}\n".encode())

    def lines(self) -> list[str]:
        """What it has said since the last call; it is told by the way that it is still followed."""
        if self._closed:
            return []
        if time.monotonic() - self._spoken > ALIVE_EVERY:
            self._spoken = time.monotonic()
            self.tell("alive")
        content = b""
        while select.select([self._out], [], [], 0)[0]:
            try:
                part = os.read(self._out, 65536)
            except BlockingIOError:
                break
            if not part:
                break
            content += part
        if content:
            with suppress(OSError), self._log.open("ab") as handle:
                handle.write(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        told = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
        self.said = [*self.said, *told][-REMEMBERED:]
        return told

    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of what it said, for a person."""
        self.lines()
        said = [*self.said, self._rest.decode("utf-8", "replace")]
        return "\n".join(line for line in said if line.strip() and not line.startswith("note: "))

    def close(self) -> None:
        """End the connection: the program sees its input end, and ends itself."""
        self._closed = True
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
