"""What a Kubernetes cluster is told: an indexed Job with a headless service, or a RayJob, as plain data.

In: a `Job` for a `Kubernetes` cluster. Out: manifests, ready for YAML; nothing is contacted. Every pod
mounts one volume (ReadWriteMany) for run and data, and finds the config, overrides applied, in a
ConfigMap. Paths that lie beside the config here lie beside `mount` there.

The decision: a pod that ends is replaced by Kubernetes, and what is counted is told by its exit status.
75 (told to stop: an eviction, a drain) costs nothing and the pod comes back; 2 (a person's mistake)
fails the Job at once; anything else counts against `pretrain.max_restarts`. This needs restartPolicy
Never and Kubernetes 1.31 (podFailurePolicy). Training is over when pod 0, which drives it, is done
(successPolicy, 1.33); on 1.31–1.32 switch on the JobSuccessPolicy gate if it is off.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from configs.clusters.schema import Kubernetes
from configs.load import dump
from configs.yaml12 import emit
from launch.clusters.job import Job
from launch.clusters.torchrun import seconds_to_stop
from launch.clusters.volume import config_of_pods, data_stages, name_of, run_folder
from launch.holder import ASKED

Manifest = dict[str, Any]

CONFIG = "/etc/malmoi/config.yaml"
DATA = "/etc/malmoi/data.yaml"  # the same without the training
STORE = "200000000"  # bytes of Ray's object store: what tasks hold travels in files
LEAVE = 30  # seconds beside those that a save takes: the signal's way, and the last log lines
KEEP_FINISHED = 7 * 24 * 3600  # seconds for which a finished Job, and so its logs, can be looked at
USER = 1000  # the image's; also the group of the volume


def manifests(job: Job) -> list[Manifest]:
    """All that is created for a job, in the order in which it is."""
    made = [config_map(job)]
    if data_stages(job):
        made.append(ray_job(job))
    if "pretrain" in job.stages:
        made += [service(job), indexed_job(job)]
    return made


def as_yaml(made: list[Manifest]) -> str:
    """Manifests as one YAML stream, as `kubectl apply -f -` takes it."""
    return "---\n".join(emit(manifest) for manifest in made)


def config_map(job: Job) -> Manifest:
    config = config_of_pods(job)
    text = dump(config)
    files = {"config.yaml": text}
    if len(data_stages(job)) > 1:
        files["data.yaml"] = dump(config.model_copy(update={"pretrain": None}))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**_named(job), "annotations": {"malmoi/digest": digest(text)}},
        "data": files,
    }


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# ── training ────────────────────────────────────────────────────────────────────────────────────


def service(job: Job) -> Manifest:
    """A headless service: pod 0 keeps its name, and so does the rendezvous, whatever its address."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _named(job),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # ranks look for each other before they are ready
            "selector": {"malmoi/job": name_of(job)},
            "ports": [{"name": "rendezvous", "port": _cluster(job).port}],
        },
    }


def indexed_job(job: Job) -> Manifest:
    """One pod per machine, numbered; pod 0 drives the stage, all of them hold ranks."""
    cluster, name = _cluster(job), name_of(job)
    assert job.config.pretrain is not None
    pod = _pod(job, _training_command(job))
    pod["spec"] |= {
        "restartPolicy": "Never",
        "subdomain": name,
        "terminationGracePeriodSeconds": _grace(job),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**_named(job), "annotations": {"malmoi/digest": _digest(job)}},
        "spec": {
            "completionMode": "Indexed",
            "completions": cluster.nodes,
            "parallelism": cluster.nodes,
            "backoffLimit": cluster.nodes * (job.config.pretrain.max_restarts + 1),
            "ttlSecondsAfterFinished": KEEP_FINISHED,
            "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": pod,
        },
    }


def _failure_rules() -> list[Manifest]:
    """What an end of a pod means; the first rule that fits."""

    def exits(status: int) -> Manifest:
        return {"containerName": "malmoi", "operator": "In", "values": [status]}

    return [
        {"action": "FailJob", "onExitCodes": exits(2)},
        {"action": "Ignore", "onExitCodes": exits(75)},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]


def _training_command(job: Job) -> list[str]:
    cluster, name = _cluster(job), name_of(job)
    given = [job.cluster_source, "pretrain", job.source, *job.overrides]
    return [
        "tini", "--", "python", "-m", "launch.clusters.inside", "pod",
        "--config", CONFIG,
        "--run", _literal(run_folder(job)),
        "--allocation", "$(MALMOI_JOB)",
        "--rendezvous", f"{name}-0.{name}:{cluster.port}",
        "--port", str(cluster.port),
        "--nodes", f"{cluster.nodes}:{cluster.nodes}",
        "--ranks", str(max(1, cluster.gpus)),
        "--threads", str(cluster.threads),
        "--", *map(_literal, given),
    ]  # fmt: skip


def _literal(word: str) -> str:
    """A word in which Kubernetes would see a variable, so that it does not."""
    return word.replace("$(", "$$(")


def _grace(job: Job) -> int:
    """Seconds between SIGTERM and SIGKILL: a save's, as measured where the volume is mounted here too."""
    return int(seconds_to_stop(job.folder / "pretrain")) + LEAVE


# ── data ────────────────────────────────────────────────────────────────────────────────────────


def ray_job(job: Job) -> Manifest:
    """A RayJob (KubeRay, ray.io/v1): the cluster comes up, the stages run on its head, it goes down.

    The entrypoint has no word that needs quotes: `ray job submit` and KubeRay each quote in their own
    way.
    """
    cluster = _cluster(job)
    stages = data_stages(job)
    command = f"malmoi {stages[0]} {CONFIG}" if len(stages) == 1 else f"malmoi run {DATA}"
    store = {"num-cpus": str(cluster.cpus), "object-store-memory": STORE}
    worker = {
        "groupName": "workers",
        "replicas": cluster.nodes - 1,
        "minReplicas": 0,
        "maxReplicas": cluster.nodes - 1,
        "rayStartParams": dict(store),
        "template": _pod(job, None, container="ray-worker", gpus=0),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            **_named(job, "data"),
            "annotations": {"malmoi/digest": _digest(job)},
        },
        "spec": {
            "entrypoint": command,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "submitterConfig": {"backoffLimit": 0},  # a mistake is not tried again
            "submitterPodTemplate": _submitter(job),
            "rayClusterSpec": {
                "headGroupSpec": {
                    "rayStartParams": {**store, "dashboard-host": "0.0.0.0"},
                    "template": _pod(job, None, container="ray-head", gpus=0),
                },
                "workerGroupSpecs": [worker] if cluster.nodes > 1 else [],
            },
        },
    }


def _submitter(job: Job) -> Manifest:
    """The pod that hands the stages to Ray; what they print is its log."""
    cluster = _cluster(job)
    little = {"cpu": "500m", "memory": "1Gi"}
    spec: Manifest = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "ray-job-submitter",
                "image": cluster.image,
                "resources": {"requests": dict(little), "limits": dict(little)},
                "securityContext": {"allowPrivilegeEscalation": False},
                "terminationMessagePolicy": "FallbackToLogsOnError",
            }
        ],
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER},
        "automountServiceAccountToken": False,
        **_placed(cluster),
    }
    labels = {"malmoi/job": name_of(job, "data"), "malmoi/part": "lines"}
    return {"metadata": {"labels": labels}, "spec": spec}


# ── pods ────────────────────────────────────────────────────────────────────────────────────────


def _pod(
    job: Job, command: list[str] | None, *, container: str = "malmoi", gpus: int | None = None
) -> Manifest:
    """A pod template. command: None where KubeRay gives its own (`ray start …`)."""
    cluster = _cluster(job)
    amount: Manifest = {"cpu": str(cluster.cpus), "memory": cluster.memory}
    gpus = cluster.gpus if gpus is None else gpus
    if gpus:
        amount["nvidia.com/gpu"] = str(gpus)
    main: Manifest = {
        "name": container,
        "image": cluster.image,
        "workingDir": cluster.mount,
        "env": _environment(job, training=command is not None),
        "resources": {"requests": dict(amount), "limits": dict(amount)},
        "securityContext": {"allowPrivilegeEscalation": False},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "malmoi", "mountPath": cluster.mount},
            {"name": "config", "mountPath": str(Path(CONFIG).parent), "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    if command is not None:
        main["command"] = command
        main["ports"] = [{"name": "rendezvous", "containerPort": cluster.port}]
    spec: Manifest = {
        "containers": [main],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # else every start walks the whole volume
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "malmoi", "persistentVolumeClaim": {"claimName": cluster.volume}},
            {"name": "config", "configMap": {"name": name_of(job)}},
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shared_memory},
            },
        ],
    }
    if cluster.service_account is None:
        spec["automountServiceAccountToken"] = False
    else:
        spec["serviceAccountName"] = cluster.service_account
    spec |= _placed(cluster)
    part = "data" if command is None else ""
    return {"metadata": {"labels": {"malmoi/job": name_of(job, part)}}, "spec": spec}


def _placed(cluster: Kubernetes) -> Manifest:
    """Where pods may run, and what they may pull with."""
    placed: Manifest = {}
    if cluster.node_selector:
        placed["nodeSelector"] = dict(cluster.node_selector)
    if cluster.tolerations:
        placed["tolerations"] = [dict(toleration) for toleration in cluster.tolerations]
    if cluster.image_pull_secrets:
        placed["imagePullSecrets"] = [{"name": secret} for secret in cluster.image_pull_secrets]
    return placed


def _environment(job: Job, *, training: bool) -> list[Manifest]:
    def field(name: str, path: str) -> Manifest:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    uid = "metadata.labels['batch.kubernetes.io/controller-uid']"
    own = [
        field("MALMOI_POD_IP", "status.podIP"),
        field("MALMOI_JOB", uid),  # another for every Job, also of the same name
    ]
    told = {ASKED: job.command} | _cluster(job).environment  # what `malmoi status` says goes on
    return [
        *(own if training else []),
        *({"name": name, "value": _literal(value)} for name, value in sorted(told.items())),
    ]


def _named(job: Job, part: str = "") -> Manifest:
    cluster = _cluster(job)
    return {
        "name": name_of(job, part),
        "namespace": cluster.namespace,
        "labels": {"app.kubernetes.io/name": "malmoi", "malmoi/job": name_of(job)},
    }


def _digest(job: Job) -> str:
    """Of config and cluster: whether a Job that is there already is this one."""
    return digest(dump(config_of_pods(job)) + _cluster(job).model_dump_json())


def _cluster(job: Job) -> Kubernetes:
    assert isinstance(job.cluster, Kubernetes)
    return job.cluster
