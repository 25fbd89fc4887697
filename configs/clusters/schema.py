"""Every key of a cluster: which machines there are, and how a stage gets onto them.

In: a YAML file of `configs/clusters/`, or one's own (`malmoi launch cluster.yaml run config.yaml`). What
is trained stands in the other file: a cluster never changes what a stage writes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from configs.clusters.hostfile import parse_host
from configs.schema import AtLeastOne, Auto, PathGlob, Section

Environment = dict[str, str]


def _host(text: str) -> str:
    parse_host(text)
    return text


HostLine = Annotated[str, AfterValidator(_host)]


class Local(Section):
    """Processes on this machine."""

    kind: Literal["local"] = Field(description="this machine")
    processes: AtLeastOne | Auto = Field("auto", description="ranks; auto: one per GPU, 1 without")
    threads: AtLeastOne | Auto = Field("auto", description="CPU threads per rank")
    environment: Environment = Field(default_factory=dict, description="variables for every rank")


class Hosts(Section):
    """Machines that ssh reaches."""

    kind: Literal["hosts"] = Field(description="a list of machines, over ssh")
    hosts: list[HostLine] = Field(
        default_factory=list,
        description="machines as in a DeepSpeed hostfile: `node0 slots=8`; without slots one rank per GPU",
    )
    hostfile: PathGlob | None = Field(
        None, description="a file with such lines, instead of the list"
    )
    user: str | None = Field(None, description="name to log in with; default: ssh's own")
    ssh: list[str] = Field(
        default_factory=list, description="words behind `ssh`, for example [-F, my_ssh_config]"
    )
    folder: str | None = Field(
        None, description="the working tree on the machines; default: this one's path"
    )
    python: str | None = Field(None, description="their Python; default: this one's path")
    min_nodes: int = Field(
        1, ge=1, description="fewest machines to go on with when others stay away"
    )
    port: int = Field(29400, ge=1, le=65535, description="of the rendezvous, on the first machine")
    interface: str | None = Field(
        None, description="network card for gloo and NCCL, for example ib0"
    )
    wait_seconds: float = Field(
        30.0, gt=0, description="how long a lost machine is waited for before the rest goes on"
    )
    threads: AtLeastOne | Auto = Field("auto", description="CPU threads per rank")
    environment: Environment = Field(default_factory=dict, description="variables for every rank")

    @model_validator(mode="after")
    def _machines(self) -> Hosts:
        if bool(self.hosts) == bool(self.hostfile):
            raise ValueError("give the machines once: as hosts, or as a hostfile")
        names = [parse_host(line).name for line in self.hosts]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            said = ", ".join(sorted(twice))
            raise ValueError(
                f"hosts: names {said} twice; name each machine once, with all its slots"
            )
        if self.hosts and self.min_nodes > len(self.hosts):
            said = f"{self.min_nodes} of {len(self.hosts)} machines"
            raise ValueError(f"min_nodes: asks for {said}; give fewer, or more machines")
        return self


class Slurm(Section):
    """A Slurm cluster, from a machine that has sbatch."""

    kind: Literal["slurm"] = Field(description="jobs by sbatch")
    nodes: int = Field(1, ge=1, description="machines of a training job")
    min_nodes: int | None = Field(
        None, ge=1, description="fewest to start and go on with, needs cpus; default: all"
    )
    gpus: int = Field(0, ge=0, description="GPUs of each machine; 0 trains on CPUs")
    ranks: AtLeastOne | Auto = Field("auto", description="ranks of a machine; auto: its GPUs, or 1")
    cpus: int | None = Field(None, ge=1, description="processors of each machine for the job")
    memory: str | None = Field(None, description="of each machine, as sbatch takes it (0: all)")
    partition: str | None = Field(None, description="--partition")
    account: str | None = Field(None, description="--account")
    qos: str | None = Field(None, description="--qos")
    time: str = Field("24:00:00", description="--time")
    signal_seconds: int = Field(
        600, ge=60, le=65535, description="how long before the limit the job is told to save"
    )
    requeue: bool = Field(True, description="put the job back into the queue when time was up")
    array: AtLeastOne = Field(
        1, description="tasks of a data stage that run side by side as an array"
    )
    extra: list[str] = Field(
        default_factory=list, description="more #SBATCH options, as they stand"
    )
    setup: list[str] = Field(
        default_factory=list, description="shell lines before anything else: module load cuda, …"
    )
    container: str | None = Field(None, description="an Apptainer image to run in")
    python: str | None = Field(None, description="its Python; default: this one's path")
    port: int = Field(29400, ge=1, le=65535, description="of the rendezvous, on the first machine")
    interface: str | None = Field(None, description="network card for gloo and NCCL")
    threads: AtLeastOne | Auto = Field("auto", description="CPU threads per rank")
    environment: Environment = Field(default_factory=dict, description="variables for every rank")


class Kubernetes(Section):
    """Pods of a Kubernetes cluster, from a machine that has kubectl."""

    kind: Literal["kubernetes"] = Field(description="an indexed Job; a RayJob for data stages")
    image: str = Field(description="container image with malmoi in it")
    nodes: int = Field(1, ge=1, description="pods")
    gpus: int = Field(0, ge=0, description="GPUs of each pod")
    cpus: int = Field(8, ge=1, description="processors of each pod")
    memory: str = Field("64Gi", description="memory of each pod")
    shared_memory: str = Field("16Gi", description="size of /dev/shm, which NCCL uses")
    namespace: str = Field("default", description="where the Job is made")
    volume: str = Field(description="PersistentVolumeClaim (ReadWriteMany) that holds run and data")
    mount: str = Field(
        "/malmoi", description="where the volume appears; paths of the config are there"
    )
    service_account: str | None = Field(None, description="of the pods")
    node_selector: Environment = Field(
        default_factory=dict, description="labels the machines must have"
    )
    tolerations: list[dict[str, str]] = Field(
        default_factory=list, description="as Kubernetes has them"
    )
    image_pull_secrets: list[str] = Field(default_factory=list, description="names of secrets")
    port: int = Field(29400, ge=1, le=65535, description="of the rendezvous")
    threads: AtLeastOne | Auto = Field("auto", description="CPU threads per rank")
    environment: Environment = Field(default_factory=dict, description="variables for every rank")


Cluster = Annotated[Local | Hosts | Slurm | Kubernetes, Field(discriminator="kind")]
