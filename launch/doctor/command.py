"""`malmoi doctor [CLUSTER] [--train]`: the table, with what to mend; exit status 1 where something is.

In: nothing (this machine), or a cluster file. Out: a table on stdout, or JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from launch.doctor.finding import Finding, rows


def doctor(cluster: str | None, *, folder: Path, train: bool, as_json: bool) -> bool:
    """Print what was found. Whether nothing needs mending. Raises InputError for a wrong cluster."""
    findings: list[Finding] = []
    if train:
        from launch.doctor.train import try_training

        findings = try_training(lambda line: print(line, file=sys.stderr, flush=True))
    elif cluster is None:
        from launch.doctor.machine import look

        findings = look(folder)
    else:
        from configs.clusters.load import load_cluster
        from launch.doctor.cluster import look_at

        findings = look_at(load_cluster(cluster), folder)
    fit = all(finding.verdict != "wrong" for finding in findings)
    if as_json:
        print(
            json.dumps(
                {"fit": fit, "findings": [asdict(one) for one in findings]}, ensure_ascii=False
            )
        )
    else:
        print(rows(findings))
        wrong = sum(finding.verdict == "wrong" for finding in findings)
        print("\nnothing to mend" if fit else f"\n{wrong} to mend, marked FIX")
    return fit
