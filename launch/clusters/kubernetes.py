"""`malmoi launch` on Kubernetes: apply the manifests, show pod 0's lines, end as the Job ends.

In: a `Job` for a `Kubernetes` cluster, on a machine whose kubectl is logged in. Out: nothing where the
job is done; Stopped, InputError with the pod's own lines, or RuntimeError as it ended. Only kubectl
speaks to the cluster, so its context, its login and its proxies are the person's own.

The decision: Ctrl-C deletes the Job. Kubernetes then sends SIGTERM, waits as long as a save was measured
to take, and the same command makes a new Job that goes on from the checkpoint on the volume. When this
process is killed instead, the Job runs on, and the same command follows it again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.clusters.schema import Kubernetes
from configs.errors import InputError, Stopped
from configs.progress import Log, Progress
from launch.clusters.job import Job
from launch.clusters.manifests import Manifest, as_yaml, manifests

LOOK = 2.0  # seconds between two looks
PATIENCE = 120.0  # seconds in which kubectl has to answer
LAST_LINES = 12
KINDS = {"Job": "job.batch", "RayJob": "rayjob.ray.io"}


@dataclass(frozen=True)
class Ended:
    """How a Job or RayJob ended: done, or the exit status of what failed and the words on it."""

    done: bool
    status: int = 0
    why: str = ""


def dry_run(job: Job) -> str:
    """The manifests as YAML."""
    return as_yaml(manifests(job)).rstrip("\n")


def launch(job: Job, log: Log) -> None:
    """Apply and follow, the data stages' RayJob first; see the module."""
    if shutil.which("kubectl") is None:
        raise InputError(
            "kubectl: is not on this machine; install it and log in to the cluster, or print the "
            "manifests with --dry-run and apply them where it is"
        )
    beside: list[Manifest] = []
    for manifest in manifests(job):
        if manifest["kind"] not in KINDS:
            beside.append(manifest)
            continue
        watched = _Watched(job, manifest, log)
        if not watched.is_there():
            watched.apply(beside)
        beside = []
        watched.follow()


class _Watched:
    """A Job or RayJob of this launch."""

    def __init__(self, job: Job, manifest: Manifest, log: Log) -> None:
        assert isinstance(job.cluster, Kubernetes)
        self.manifest, self.log = manifest, log
        self.name: str = manifest["metadata"]["name"]
        self.kind = KINDS[manifest["kind"]]
        self.kubectl = ["kubectl", "--namespace", job.cluster.namespace]
        self._lines: subprocess.Popen[bytes] | None = None
        self._told = ""

    def is_there(self) -> bool:
        """Whether this very job already runs; one that has ended is deleted, to make room.

        Raises InputError where one runs that was launched with other keys.
        """
        found = self._get(self.kind, self.name)
        if found is None:
            return False
        if ended(found) is not None or found["metadata"].get("deletionTimestamp"):
            self._delete()
            return False
        mark = "malmoi/digest"
        own = self.manifest["metadata"]["annotations"][mark]
        if found["metadata"].get("annotations", {}).get(mark) != own:
            raise InputError(
                f"{self.name}: runs on the cluster already, with other keys; wait for it, or end it "
                f"({' '.join([*self.kubectl, 'delete', self.kind, self.name])}) and give the same "
                "command again"
            )
        self._say("is there already: followed")
        return True

    def apply(self, beside: Sequence[Manifest]) -> None:
        done = self._run("apply", "-f", "-", text=as_yaml([*beside, self.manifest]))
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            if "RayJob" in done.stderr and "no matches for kind" in done.stderr:
                said.append(
                    "RayJob: the cluster has no KubeRay; install its operator (v1.1 or newer)"
                )
            raise InputError([f"kubectl: {line}" for line in said])
        self._say("applied")

    def follow(self) -> None:
        """Show state and lines until the end; raise as it ended."""
        asked: type[BaseException] | None = None
        while True:
            try:
                found = self._get(self.kind, self.name)
                if found is None:
                    self._end_lines()
                    if asked is not None:
                        raise asked
                    raise RuntimeError(f"{self.name}: was deleted; the same command goes on")
                end = ended(found)
                if end is not None:
                    break
                self._look()
                time.sleep(LOOK)
            except (KeyboardInterrupt, Stopped) as stop:
                if asked is not None:
                    self._end_lines()
                    raise
                asked = type(stop)
                self._say("asked to save and stop")
                self._delete(wait=False)
        self._end_lines()
        if not end.done:
            raise self._failure(end)
        self._say("done")

    def _failure(self, end: Ended) -> BaseException:
        pods = self._pods()
        failed = [pod for pod in map(failure_of, pods) if pod is not None]
        status = end.status or next((status for status, _ in failed), 0)
        words = [line for _, text in failed for line in text.splitlines()]
        if status == 2:
            mistakes = [
                line.removeprefix("error: ") for line in words if line.startswith("error: ")
            ]
            return InputError(mistakes or [f"{self.name}: {end.why}"])
        if status == 75:
            return Stopped()
        tail = "\n".join(dict.fromkeys(words[-LAST_LINES:]))
        return RuntimeError(f"{self.name}: {end.why} (status {status})\n{tail}".rstrip())

    # ── what is seen ────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        """Say how many pods are in which state, and why one waits; show the first pod's lines."""
        pods = self._pods()
        states: dict[str, int] = {}
        for pod in pods:
            state = waiting_for(pod)
            states[state] = states.get(state, 0) + 1
        words = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if words and words != self._told:
            self._told = words
            self._say(words)
        if self._lines is not None and self._lines.poll() is not None:
            self._lines = None  # the pod was replaced
        speaker = next((pod for pod in pods if speaks(pod)), None)
        if self._lines is None and speaker is not None:
            self._lines = subprocess.Popen(
                [*self.kubectl, "logs", "--follow", "--tail=200", speaker["metadata"]["name"]],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _end_lines(self) -> None:
        if self._lines is not None:
            try:
                self._lines.wait(timeout=5)  # the last of them
            except subprocess.TimeoutExpired:
                self._lines.kill()
                self._lines.wait()
            self._lines = None

    def _pods(self) -> list[Manifest]:
        done = self._run("get", "pods", "--selector", f"malmoi/job={self.name}", "--output=json")
        if done.returncode != 0:
            return []
        items: list[Manifest] = json.loads(done.stdout)["items"]
        return sorted(items, key=lambda pod: str(pod["metadata"]["name"]))

    def _get(self, kind: str, name: str) -> Manifest | None:
        """A resource; None where it is not there. Raises InputError where the cluster says no."""
        done = self._run("get", kind, name, "--output=json", "--ignore-not-found")
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise InputError(f"kubectl: {said[-1]}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def _delete(self, *, wait: bool = True) -> None:
        self._run(
            "delete", self.kind, self.name, "--cascade=foreground", f"--wait={str(wait).lower()}",
            "--ignore-not-found", seconds=3600.0,
        )  # fmt: skip

    def _run(
        self, *words: str, text: str | None = None, seconds: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        command = [*self.kubectl, *words]
        try:
            return subprocess.run(
                command,
                input=text if text is not None else "",
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                start_new_session=True,  # a Ctrl-C is this process's
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", "kubectl gave no answer in time")

    def _say(self, words: str) -> None:
        self.log(Progress("launch", self.name, message=words))


def ended(found: Manifest) -> Ended | None:
    """How a Job or a RayJob, as kubectl shows it, has ended; None while it goes on."""
    status: dict[str, Any] = found.get("status", {})
    if found["kind"] == "RayJob":
        return _ray_ended(status)
    for condition in status.get("conditions", []):
        if condition.get("status") != "True":
            continue
        if condition["type"] == "Complete":
            return Ended(done=True)
        if condition["type"] == "Failed":
            why = condition.get("message") or condition.get("reason") or "failed"
            return Ended(done=False, why=str(why))
    return None


def _ray_ended(status: dict[str, Any]) -> Ended | None:
    if status.get("jobStatus") == "SUCCEEDED":
        return Ended(done=True)
    if status.get("jobDeploymentStatus") != "Failed" and status.get("jobStatus") not in (
        "FAILED",
        "STOPPED",
    ):
        return None
    why = str(status.get("message") or status.get("reason") or "failed")
    _, _, after = why.partition("exit code ")  # Ray: "… failed with exit code 2, last … logs: …"
    digits = after[: len(after) - len(after.lstrip("0123456789"))]
    stopped = status.get("jobStatus") == "STOPPED"
    return Ended(done=False, status=75 if stopped else int(digits or 1), why=why)


def waiting_for(pod: Manifest) -> str:
    """A pod's state in words: running, pending (and why), succeeded, failed."""
    status = pod.get("status", {})
    phase = str(status.get("phase", "unknown")).lower()
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{phase} ({condition.get('message') or condition.get('reason', '')})"
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") != "ContainerCreating":
            return f"{phase} ({waiting.get('reason', '')}: {waiting.get('message', '')})"
    return phase


def speaks(pod: Manifest) -> bool:
    """Whether a pod's lines are those to show: pod 0's of a Job, the submitter's of a RayJob."""
    labels, phase = pod["metadata"].get("labels", {}), pod.get("status", {}).get("phase")
    index = labels.get("batch.kubernetes.io/job-completion-index")
    first = index == "0" or labels.get("malmoi/part") == "lines"
    return first and phase in ("Running", "Succeeded", "Failed")


def failure_of(pod: Manifest) -> tuple[int, str] | None:
    """(exit status, last words) of a pod's container that failed."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        over = container.get("state", {}).get("terminated")
        if over and over.get("exitCode"):
            return int(over["exitCode"]), str(over.get("message", ""))
    return None
