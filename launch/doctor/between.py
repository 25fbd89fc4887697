"""What only shows between machines: other code, clocks that are apart, a slow link; a line of the table each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launch.doctor.bandwidth import said
from launch.doctor.finding import Finding

SKEW = 1.0  # seconds by which clocks may differ before it is worth mending
SLOW_LINK = 1e9  # bits per second between machines below which training waits for the network

Entry = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a machine said. skew: seconds its clock is ahead of this one's, give or take `about`."""

    name: str
    found: Entry | None
    problem: str = ""
    skew: float = 0.0
    about: float = 0.0


def alike(answers: list[Answer]) -> list[Finding]:
    """Whether all run the same code with the same packages."""
    versions: dict[str, list[str]] = {}
    for answer in answers:
        assert answer.found is not None
        code = answer.found["code"]
        versions.setdefault(f"{code['version']} {code['commit'] or ''}".strip(), []).append(
            answer.name
        )
    if len(versions) < 2:
        return []
    said = "; ".join(f"{version} on {', '.join(hosts)}" for version, hosts in versions.items())
    return [Finding("code", said, "wrong", "bring all machines to the same commit")]


def clock_finding(name: str, skew: float, about: float, than: str) -> Finding:
    """Seconds that a machine's clock is ahead of another's, give or take `about`."""
    far = abs(skew) - about > SKEW
    return Finding(
        "clock",
        f"{1000 * skew:+,.0f} ± {1000 * about:,.0f} ms against {than}",
        "note" if far else "ok",
        "run chrony or ntpd on all machines" if far else "",
        name,
    )


def interconnect(found: Entry) -> Finding:
    """A measured all-reduce as a line of the table."""
    bits, latency = found["bits_per_second"], found["latency_seconds"]
    slow = bits < SLOW_LINK
    return Finding(
        "interconnect",
        f"{said(bits)} ({found['backend']} all-reduce of {found['bytes'] >> 20} MB among "
        f"{found['ranks']}), {1e6 * latency:,.0f} µs",
        "note" if slow else "ok",
        "is `interface` the fast card? gradients are this much: `malmoi plan`" if slow else "",
    )
