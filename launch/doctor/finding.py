"""What a check found, and the table a person reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from launch.console import table

Verdict = Literal["ok", "note", "wrong"]
_MARK = {"ok": "ok", "note": "note", "wrong": "FIX"}


@dataclass(frozen=True)
class Finding:
    """One line of the table. verdict: wrong makes the exit status 1; a note is worth reading.

    fix: what to do, "" where there is nothing. host: where, "" for the cluster as a whole.
    """

    what: str
    found: str
    verdict: Verdict = "ok"
    fix: str = ""
    host: str = ""


def rows(findings: Iterable[Finding]) -> str:
    """The findings as a table, in the order given; the host is shown where there are several."""
    listed = list(findings)
    hosts = {finding.host for finding in listed}
    header = ["", *(["host"] if len(hosts) > 1 else []), "what", "found", "to do"]
    cells = [
        [
            _MARK[one.verdict],
            *([one.host or "all"] if len(hosts) > 1 else []),
            one.what,
            one.found,
            one.fix,
        ]
        for one in listed
    ]
    return table(header, cells)
