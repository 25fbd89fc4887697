"""A cluster's YAML file → `Local`, `Hosts`, `Slurm` or `Kubernetes`, or every mistake at once.

In: a path, or the name of an example in this folder. Out: a frozen section, relative paths taken from
the file's folder. Mistakes look as those of a config (`file:line:column: key: what; what was meant`):
`kind` is read first, and the section it names does the rest, so that a wrong key is compared with the
keys of that kind alone.
"""

from __future__ import annotations

from pathlib import Path

from configs.clusters.schema import Cluster, Hosts, Kubernetes, Local, Slurm
from configs.errors import InputError
from configs.keys import nearest, written
from configs.load import checked, find_file, parse
from configs.yaml12 import position

FOLDER = Path(__file__).resolve().parent
KINDS: dict[str, type[Local | Hosts | Slurm | Kubernetes]] = {
    "local": Local,
    "hosts": Hosts,
    "slurm": Slurm,
    "kubernetes": Kubernetes,
}


def examples() -> dict[str, Path]:
    """Name → file of every example in the package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_cluster(source: str) -> Cluster:
    """The cluster in the file `source`, or in the bundled example of that name.

    Raises InputError with one line per mistake; no machine is looked at.
    """
    file, label = find_file(
        source, examples(), what="cluster file", one="example", hint=f", in {FOLDER}"
    )
    node, data, problems = parse(file, label)
    kinds = ", ".join(KINDS)
    if not isinstance(data, dict):
        raise InputError(f"{label}:1:1: is no cluster; write kind: and one of {kinds}")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        line, column = position(node, ("kind",)) or (1, 1)
        if kind is None:
            raise InputError(f"{label}:{line}:{column}: kind: missing; write one of {kinds}")
        near = nearest(kind, list(KINDS))
        meant = f"did you mean {near}?" if near else f"write one of {kinds}"
        raise InputError(f"{label}:{line}:{column}: kind: '{written(kind)}' is no kind; {meant}")
    return checked(KINDS[kind], data, node, problems, file, label)
