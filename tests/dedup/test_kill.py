"""SIGKILL at random moments: whatever was going on, the same command ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

import psutil
import pytest
from stage_corpus import ROOT, config, corpus, digests

from configs.schema import Config

KILLS = 30

SETTINGS = """
import json
from pathlib import Path
from configs.schema import Config

def settings(**runtime):
    values = json.loads(Path(__file__).with_name("config.json").read_text())
    values["dedup"] |= runtime
    return Config.model_validate(values)
"""

WARM = """
import tempfile
from pathlib import Path
from dedup.stage import run
from settings import settings
with tempfile.TemporaryDirectory() as folder:
    run(settings(workers=1), Path(folder))
"""

SERVER = """
import json, multiprocessing, os, sys
from multiprocessing import forkserver
from pathlib import Path

def stage(folder, runtime):
    from dedup.stage import run
    from settings import settings
    said = Path(folder).with_suffix(".log").open("a", buffering=1)
    run(settings(**runtime), Path(folder), log=lambda progress: said.write(progress.step + "\\n"))

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["warm"])
    forkserver.ensure_running()
    import warm
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.close(0)
            forkserver._forkserver.ensure_running = lambda: None  # it runs, though no child of this
            status = 1
            try:
                stage(**json.loads(line))
                status = 0
            finally:
                os._exit(status)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


class Server:
    """A process that has everything loaded and runs the stage in children forked from it: starting
    Python and loading compiled kernels would take most of this test's time thirty times."""

    def __init__(self, base: Path, settings: Config) -> None:
        (base / "config.json").write_text(settings.model_dump_json())
        for name, code in (("settings", SETTINGS), ("warm", WARM), ("server", SERVER)):
            (base / f"{name}.py").write_text(code)
        self.process = subprocess.Popen(
            [sys.executable, str(base / "server.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(base)])},
        )  # fmt: skip
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, **runtime: object) -> psutil.Process:
        assert self.process.stdin is not None
        line = json.dumps({"folder": str(folder), "runtime": runtime})
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return psutil.Process(int(self._line()))

    def status(self) -> int:
        """Waits for the run that was started last."""
        return int(self._line())

    def can_fork(self) -> bool:
        """Whether the fork server lives. Python's ends when a caller is killed in the middle of asking
        it for a worker; a run outside this test has one of its own."""
        deadline = time.monotonic() + 5  # it may be about to end
        while time.monotonic() < deadline:
            children = psutil.Process(self.process.pid).children()
            living = [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
            if not any("forkserver" in " ".join(one.cmdline()) for one in living):
                return False
            time.sleep(0.1)
        return True

    def workers(self) -> list[psutil.Process]:
        """What the fork server has made."""
        server = psutil.Process(self.process.pid)
        return [one for child in server.children() for one in child.children()]

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=20)
        self.process.stdout.close()


@pytest.mark.thorough
@pytest.mark.slow
def test_after_sigkill_at_thirty_random_moments_the_bytes_are_those_of_a_run_left_alone(
    tmp_path: Path,
) -> None:
    """The run that was killed goes on with one worker or two, in memory or in mapped files, as it
    comes; one that gets to its end is compared, and the next one begins."""
    corpus(tmp_path / "in", files=6, each=40)
    server = Server(tmp_path, config(tmp_path / "in", shard=60_000))
    begin = time.monotonic()
    server.start(tmp_path / "alone")
    assert server.status() == 0
    duration = time.monotonic() - begin
    expected = digests(tmp_path / "alone")
    rng = random.Random(30)
    killed: Counter[str] = Counter()
    whole = 0
    while killed.total() < KILLS:
        folder = tmp_path / f"run-{whole}"
        caller = server.start(folder, workers=rng.choice([1, 2]), on_disk=rng.random() < 0.3)
        time.sleep(rng.uniform(0, duration))
        victims = [caller, *(server.workers() if rng.random() < 0.5 else [])]
        for victim in victims:  # its workers end when they see it, or at the same moment
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(SIGKILL)
        if (status := server.status()) == SIGKILL:
            log = folder.with_suffix(".log")
            steps = log.read_text().split() if log.exists() else []
            killed[steps[-1] if steps else "start"] += 1
        elif status and not server.can_fork():
            server.close()
            server = Server(tmp_path, config(tmp_path / "in", shard=60_000))
        else:
            assert status == 0
            assert digests(folder) == expected
            whole += 1
    server.start(tmp_path / f"run-{whole}")
    assert server.status() == 0
    assert digests(tmp_path / f"run-{whole}") == expected
    assert len(killed) >= 4, f"killed only in {dict(killed)}"
    print(f"killed in {dict(killed)}; {whole + 1} runs; one alone took {duration:.2f} s")
    server.close()
