"""What kubectl can tell of a Kubernetes cluster without starting a pod: rights, volume, GPUs.

In: a Kubernetes cluster. Out: `Finding`s, and how a pod's own machine is looked at.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess

from configs.clusters.schema import Kubernetes
from launch.doctor.finding import Finding, Verdict

RIGHTS = ("create jobs.batch", "get pods", "create services", "create configmaps")


def by_kubectl(cluster: Kubernetes) -> list[Finding]:
    """One's rights, the volume, and whether enough machines have the GPUs."""
    if shutil.which("kubectl") is None:
        return [Finding("kubectl", "is missing", "wrong", "install it, and a kubeconfig")]
    found = []
    for what in (*RIGHTS, "create rayjobs.ray.io"):
        verb, kind = what.split()
        done = _kubectl(cluster, "auth", "can-i", verb, kind)
        may = done.stdout.strip() == "yes"
        told = "may" if may else (done.stderr.strip() or "may not").splitlines()[-1][:120]
        needed = what in RIGHTS  # a RayJob only for data stages, where KubeRay is installed
        fix = "" if may else f"ask for the right to {what} in namespace {cluster.namespace}"
        verdict: Verdict = "ok" if may else "wrong" if needed else "note"
        found.append(Finding(f"kubectl {what}", told, verdict, fix))
    found.append(_volume(cluster))
    if cluster.gpus:
        found.append(_gpu_nodes(cluster))
    inside = ["kubectl", "--namespace", cluster.namespace, "run", "malmoi-doctor", "--rm", "-it"]
    inside += ["--restart=Never", f"--image={cluster.image}", "--", "malmoi", "doctor"]
    found.append(Finding("pods", "are looked at from inside one", "note", shlex.join(inside)))
    return found


def _kubectl(cluster: Kubernetes, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--namespace", cluster.namespace, *words]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "kubectl gave no answer in 30 s")


def _volume(cluster: Kubernetes) -> Finding:
    """Whether the claim is there, and may be mounted on as many machines as there are pods."""
    what = f"volume {cluster.volume}"
    done = _kubectl(cluster, "get", "persistentvolumeclaim", cluster.volume, "--output=json")
    try:
        claim = json.loads(done.stdout)
        phase = str(claim["status"].get("phase", "Unknown"))
        modes = list(claim["spec"]["accessModes"])
    except (ValueError, KeyError, TypeError, AttributeError):
        last = (done.stderr.strip() or "no answer").splitlines()[-1][:120]
        return Finding(what, last, "wrong", f"make a claim of this name in {cluster.namespace}")
    told = f"{phase}, {', '.join(modes)}"
    if cluster.nodes > 1 and "ReadWriteMany" not in modes:
        return Finding(what, told, "wrong", "pods on several machines need ReadWriteMany")
    return Finding(what, told, "ok" if phase == "Bound" else "note")


def _gpu_nodes(cluster: Kubernetes) -> Finding:
    """How many machines have as many GPUs as a pod asks for."""
    done = _kubectl(cluster, "get", "nodes", "--output=json")
    try:
        nodes = json.loads(done.stdout)["items"]
        gpus = [int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in nodes]
    except (ValueError, KeyError, TypeError, AttributeError):
        last = (done.stderr.strip() or "no answer").splitlines()[-1][:120]
        return Finding("GPUs", f"machines cannot be listed: {last}", "note")
    enough = sum(count >= cluster.gpus for count in gpus)
    told = f"{enough} of {len(gpus)} machines have {cluster.gpus} or more"
    fix = "fewer nodes or gpus; is the device plugin installed?" if enough < cluster.nodes else ""
    return Finding("GPUs", told, "note" if fix else "ok", fix)
