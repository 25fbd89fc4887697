"""What Slurm is told: the batch script of a job, as text.

In: a `Job` for a `Slurm` cluster. Out: the script, the same for the same job; nothing is contacted. The
first machine of the allocation runs the stages (`launch.clusters.inside drive`, a child of the script),
one step on all others follows it (`inside follow`), so that Slurm sees one job, one log and one status.

A job that may go on with fewer machines (`min_nodes`) outlives one that fails (`--no-kill`): its ranks are
started again on those that are left. Where Slurm puts it back into the queue, since the first machine
failed or time was up, it starts with as many as are free then (`--nodes=MIN-MAX`).

The decision: the time limit's signal goes to the script alone (`--signal=B:`), which passes it on to the
driver as a request to stop: Ray's and torchrun's own processes would die of it. Status 75 after it puts
the job back into the queue.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from configs.clusters.schema import Slurm
from configs.errors import InputError
from launch.clusters.job import Job
from launch.clusters.torchrun import seconds_to_stop
from launch.holder import ASKED

ROOT = Path(__file__).resolve().parents[2]
LEAVE = 60  # seconds beside a save: the last evaluation's report, lineage, MLflow

_PLAIN = re.compile(r"[A-Za-z0-9_.,:;=@%+/\[\]()&|*!?<>~^-]+")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def script(job: Job, stages: list[str] | None = None) -> str:
    """The batch script for `stages` of the job, all by default.

    An array where only data stages are asked for and the cluster file says so. Raises InputError for
    values that cannot stand in a #SBATCH line, and a limit that is over before the signal.
    """
    cluster, stages = _cluster(job), stages or job.stages
    asked = job.stage if stages == job.stages else stages[0] if len(stages) == 1 else "run"
    fewest = 1 if _tasks(cluster, stages) > 1 else _fewest(cluster)
    container = _container(cluster, job)
    inside = [*container, *_python(cluster), "-m", "launch.clusters.inside"]
    lines = [
        "#!/bin/bash",
        f"# {_comment(job.command)}",
        *_options(job, stages),
        *(f"#SBATCH {line}" for line in map(_one_line, cluster.extra)),
        "",
        f"cd -- {shlex.quote(str(Path.cwd()))} || exit 2",
        *map(_one_line, cluster.setup),
        *_exports(cluster),
        f"export {ASKED}={shlex.quote(job.command)}",  # what `malmoi status` says goes on
        _NAMES,
        f"inside=({shlex.join(inside)})",
        f"common=({shlex.join(_common(job))})",
        f"words=({shlex.join([job.cluster_source, asked, job.source, *job.overrides])})",
        _BODY.replace("STEP", " ".join(_step(cluster, stages))).replace("FEWEST", str(fewest)),
        _again(cluster),
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"


_NAMES = """\
allocation=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}}
mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")"""

_BODY = """\
common+=(--nodes "FEWEST:${#names[@]}")  # how many there are this time
common+=(--allocation "$allocation" --peers "${names[*]}" --array "${SLURM_ARRAY_TASK_COUNT:-1}")
why=
driver=
tell() { why=$1; woken=1; [ -z "$driver" ] || kill -TERM "$driver"; }
trap 'tell time' USR1
trap 'tell asked' TERM INT
others=
if [ "${#names[@]}" -gt 1 ]; then
  srun --nodes=$((${#names[@]} - 1)) --ntasks=$((${#names[@]} - 1)) STEP \\
    "${inside[@]}" follow "${common[@]}" &
  others=$!
fi
if [ "${SLURM_ARRAY_TASK_ID:-0}" = 0 ]; then
  "${inside[@]}" drive "${common[@]}" -- "${words[@]}" &
else
  "${inside[@]}" follow "${common[@]}" &
fi
driver=$!
[ -z "$why" ] || kill -TERM "$driver"
status=1
while :; do
  woken=
  wait "$driver"
  ended=$?
  [ "$ended" = 127 ] || status=$ended
  [ -n "$woken" ] || break
done
for _ in {1..30}; do  # the others leave by themselves; Slurm ends those that do not
  if [ -z "$others" ] || ! kill -0 "$others" 2> /dev/null; then break; fi
  sleep 1
done"""


def _again(cluster: Slurm) -> str:
    if not cluster.requeue:
        return "# requeue: false"
    return (
        'if [ "$status" = 75 ] && [ "$why" = time ]; then scontrol requeue "$SLURM_JOB_ID"; fi'
        "  # saved, and time was up"
    )


def _options(job: Job, stages: list[str]) -> list[str]:
    """The #SBATCH lines that the cluster file's keys make."""
    cluster = _cluster(job)
    data_only, array = "pretrain" not in stages, _tasks(cluster, stages)
    fewest = _fewest(cluster)
    if fewest < cluster.nodes and cluster.cpus is None and array == 1:
        raise InputError(
            f"{job.cluster_source}: min_nodes: needs cpus beside it (processors of each machine); "
            "without them Slurm gives the fewest machines, however many are free"
        )
    nodes = f"{fewest}-{cluster.nodes}" if fewest < cluster.nodes else str(cluster.nodes)
    given: list[tuple[str, object]] = [
        ("job-name", name_of(job)),
        ("nodes", 1 if array > 1 else nodes),
        # with it, Slurm counts tasks for the fewest machines of a range and gives no more
        ("ntasks-per-node", 1 if nodes == str(cluster.nodes) or array > 1 else None),
        ("array", f"0-{array - 1}" if array > 1 else None),
        ("gpus-per-node", cluster.gpus if cluster.gpus and not data_only else None),
        ("cpus-per-task", cluster.cpus),
        ("mem", cluster.memory),
        ("partition", cluster.partition),
        ("account", cluster.account),
        ("qos", cluster.qos),
        ("time", cluster.time),
        ("signal", f"B:USR1@{_signal_seconds(job)}"),
        ("open-mode", "append"),  # one log over requeues
    ]
    lines = []
    for name, value in given:
        if value is None:
            continue
        if not _PLAIN.fullmatch(str(value)):
            raise InputError(
                f"{job.cluster_source}: {name}: {value!r} cannot stand in a #SBATCH line; write it "
                "without spaces and quotes"
            )
        lines.append(f"#SBATCH --{name}={value}")
    lines.append("#SBATCH --requeue" if cluster.requeue else "#SBATCH --no-requeue")
    if fewest < cluster.nodes and array == 1:
        lines.append("#SBATCH --no-kill")  # the job outlives a machine
    return lines


def _step(cluster: Slurm, stages: list[str]) -> list[str]:
    """Options of the step on the other machines."""
    words = ["--relative=1", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=0"]
    if cluster.cpus is not None:
        words.append(f"--cpus-per-task={cluster.cpus}")  # not inherited from sbatch since 22.05
    if cluster.gpus and "pretrain" in stages:
        words.append(f"--gpus-per-node={cluster.gpus}")
    if _fewest(cluster) < cluster.nodes:
        words.append("--no-kill")
    return words


def _fewest(cluster: Slurm) -> int:
    """The fewest machines that the job goes on with."""
    return min(cluster.min_nodes or cluster.nodes, cluster.nodes)


def _tasks(cluster: Slurm, stages: list[str]) -> int:
    """Jobs of an array; 1 where the stages are one job."""
    return cluster.array if "pretrain" not in stages else 1


def _signal_seconds(job: Job) -> int:
    """How long before the limit: what the file says, or longer where saves were measured to be slow."""
    cluster, stage = _cluster(job), job.folder / "pretrain"
    seconds = cluster.signal_seconds
    if (stage / "saves.json").is_file():
        seconds = max(seconds, math.ceil(seconds_to_stop(stage)) + LEAVE)
    limit = limit_seconds(cluster.time)
    if limit is not None and limit <= seconds:
        raise InputError(
            f"{job.cluster_source}: time: {cluster.time} is over before the signal to save, which comes "
            f"{seconds} s ahead; give more time, or lower signal_seconds"
        )
    return min(seconds, 65_535)


def limit_seconds(text: str) -> int | None:
    """A time limit as sbatch reads it (`30`, `30:00`, `24:00:00`, `7-0`, `7-12:30`), None for no limit."""
    if text.lower() in ("infinite", "unlimited"):
        return None
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"time: {text!r} is no time limit; write minutes, hours:minutes:seconds or days-hours"
        )
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] is not None:
        return ((24 * days + first) * 60 + second) * 60 + third
    if match[4] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second


def name_of(job: Job) -> str:
    """The job's name in the queue: of the run, in ASCII."""
    return "malmoi-" + (re.sub(r"[^A-Za-z0-9_.-]+", "-", job.folder.name).strip("-") or "run")


def _common(job: Job) -> list[str]:
    """What `inside` is told on every machine alike."""
    cluster = _cluster(job)
    ranks = max(1, cluster.gpus) if cluster.ranks == "auto" else cluster.ranks
    words = [
        "--run", str(job.folder),
        "--ranks", str(ranks),
        "--threads", str(cluster.threads),
        "--port", str(cluster.port),
    ]  # fmt: skip
    if cluster.interface is not None:
        words += ["--interface", cluster.interface]
    return words


def _exports(cluster: Slurm) -> list[str]:
    """Variables of the cluster file; and outside a container, where this working tree is."""
    lines = []
    for name, value in cluster.environment.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise InputError(f"environment: {name!r} is no name of a variable")
        lines.append(f"export {name}={shlex.quote(value)}")
    if cluster.container is None:
        lines += [
            f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export PYTHONSAFEPATH=1",
        ]
    return lines


def _python(cluster: Slurm) -> list[str]:
    if cluster.python is not None:
        return [cluster.python]
    return ["python" if cluster.container is not None else sys.executable]


def _container(cluster: Slurm, job: Job) -> list[str]:
    """`apptainer exec …`, with every folder that run and config name; nothing without a container."""
    if cluster.container is None:
        return []
    words = ["apptainer", "exec"]
    if cluster.gpus:
        words.append("--nv")
    for folder in _bound(job):
        if set(":,") & set(folder):
            raise InputError(
                f"{folder}: a folder whose name has ':' or ',' cannot be bound into a container; "
                "rename it, or leave container out"
            )
        words += ["--bind", folder]
    return [*words, "--pwd", str(Path.cwd()), cluster.container]


def _bound(job: Job) -> list[str]:
    """Folders for the container: this one, the run's, and those of the files that the config names."""
    found = {Path.cwd(), job.folder.parent}
    for text in _texts(job.config.model_dump(mode="json")):
        if text.startswith("/"):
            path = Path(re.split(r"[*?\[]", text)[0])
            while not path.is_dir() and path != path.parent:
                path = path.parent
            if path != path.parent:
                found.add(path)
    file = Path(job.source).expanduser()
    if file.is_file():
        found.add(file.absolute().parent)
    outer = [path for path in found if not any(other in path.parents for other in found)]
    return sorted(os.path.normpath(path) for path in outer)


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise InputError(f"{text!r}: is more than one line; write each as an item of its own")
    return text


def _comment(text: str) -> str:
    return text.replace("\n", " ").replace("\r", " ")


def _cluster(job: Job) -> Slurm:
    assert isinstance(job.cluster, Slurm)
    return job.cluster
