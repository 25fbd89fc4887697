"""Machines as a DeepSpeed hostfile names them: `node0 slots=8`, one a line.

In: a line, or a file of lines. Out: `Host`s in the order in which they stand: the first one is where
the ranks meet. A name goes to ssh as it stands, so nothing that ssh could take for an option is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from configs.errors import InputError
from configs.load import read_text

_LINE = re.compile(r"(?P<name>(?:[\w.-]+@)?[A-Za-z0-9_][\w.:-]*)(?:\s+slots\s*=\s*(?P<slots>\d+))?")


@dataclass(frozen=True)
class Host:
    """A machine. name: what ssh is given. slots: ranks on it; None: one per GPU, 1 without."""

    name: str
    slots: int | None = None


def parse_host(text: str) -> Host:
    """One line of a hostfile, without its comment. Raises ValueError, in words that follow a value."""
    match = _LINE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            "is not a machine; write its name as ssh knows it, and slots: node0 slots=8"
        )
    slots = None if match["slots"] is None else int(match["slots"])
    if slots == 0:
        raise ValueError("is a machine without slots; give it some, or leave it out")
    return Host(match["name"], slots)


def read_hostfile(path: Path) -> list[Host]:
    """The machines in a hostfile. Raises InputError with every wrong line, as file:line."""
    found: dict[str, int] = {}
    hosts: list[Host] = []
    wrong: list[str] = []
    for number, line in enumerate(read_text(path, str(path)).splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            host = parse_host(text)
        except ValueError as error:
            wrong.append(f"{path}:{number}: '{text}' {error}")
            continue
        if host.name in found:
            wrong.append(
                f"{path}:{number}: {host.name} stands in line {found[host.name]} too; "
                "name each machine once, with all its slots"
            )
            continue
        found[host.name] = number
        hosts.append(host)
    if wrong:
        raise InputError(wrong)
    if not hosts:
        raise InputError(f"{path}: names no machine; write one a line: node0 slots=8")
    return hosts
