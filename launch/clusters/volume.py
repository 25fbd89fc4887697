"""The config as pods see it: names and paths on the volume that they mount.

In: a `Job` for a `Kubernetes` cluster. Out: the same config with the pods' paths. What lies beside the
config file here, or below the working directory, lies at `mount` there (data/ko/*.jsonl is
/malmoi/data/ko/*.jsonl); a path that begins with the mount is taken as it stands. Whether the files are
on the volume is not looked at: nothing here can see it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.clusters.schema import Kubernetes
from configs.errors import InputError
from configs.load import PACKAGE
from configs.schema import Config
from launch.clusters.job import Job

IN_IMAGE = "/opt/malmoi"
"""Where the Dockerfile puts the working tree; the sample of the quickstart is below it."""

_LONGEST = 52  # a pod's host name is the Job's, a dash and its number, 63 letters at most


def name_of(job: Job, part: str = "") -> str:
    """The Job's name: of the run, and a digest where that is no host name or too long for one.

    part: "data" for the RayJob; the training, its service and the config have the plain name.
    """
    wanted = job.folder.name
    plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    room = _LONGEST - len("malmoi-") - len("-data")
    if plain != wanted or len(plain) > room:
        digest = hashlib.sha256(str(job.folder).encode()).hexdigest()[:6]
        plain = f"{plain[: room - 7].strip('-')}-{digest}".strip("-")
    return "-".join(filter(None, ["malmoi", plain, part]))


def data_stages(job: Job) -> list[str]:
    """The stages of a job that run on Ray."""
    return [stage for stage in job.stages if stage != "pretrain"]


def config_of_pods(job: Job) -> Config:
    """The config with the pods' paths, and the data stages on the Ray cluster they run in.

    Raises InputError where the run folder would lie outside the volume.
    """
    values = _moved(job.config.model_dump(mode="json"), _places(job), _mount(job))
    values["dir"] = run_folder(job)
    for stage in data_stages(job):
        values[stage] |= {"engine": "ray", "address": "auto"}
    return Config.model_validate(values)


def run_folder(job: Job) -> str:
    """The run folder in the pods. Raises InputError where it is not on the volume."""
    mount = _mount(job)
    folder = str(_moved(str(job.folder), _places(job), mount))
    if _below(folder, mount) is None:
        raise InputError(
            f"{job.source}: dir: {folder} is not on the volume, which pods see at {mount}; "
            f"leave dir out, or write a folder below {mount}"
        )
    return folder


def _places(job: Job) -> dict[str, str]:
    """{a folder here: what it is in the pods}, the deepest first."""
    mount = _mount(job)
    places = {str(Path.cwd()): mount}
    file = Path(job.source).expanduser()
    if file.is_file():
        places[os.path.normpath(file.absolute().parent)] = mount
    places[str(PACKAGE)] = f"{IN_IMAGE}/{PACKAGE.name}"
    return dict(sorted(places.items(), key=lambda place: -len(place[0])))


def _moved(value: Any, places: Mapping[str, str], mount: str) -> Any:
    """A value of the config with every path below a place moved with it."""
    if isinstance(value, dict):
        return {key: _moved(item, places, mount) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, places, mount) for item in value]
    if isinstance(value, str) and value.startswith("/") and _below(value, mount) is None:
        for here, there in places.items():
            below = _below(value, here)
            if below is not None:
                return there + below
    return value


def _below(path: str, folder: str) -> str | None:
    """`/a/b/c` below `/a` is `/b/c`; None where it is not."""
    folder = folder.rstrip("/")
    rest = path.removeprefix(folder)
    inside = path.startswith(folder) and rest[:1] in ("", "/")
    return rest if inside else None


def _mount(job: Job) -> str:
    assert isinstance(job.cluster, Kubernetes)
    return job.cluster.mount.rstrip("/") or "/"
