"""What this machine has: read once, in one place, by every stage that divides work over it."""

from __future__ import annotations

import os


def cores() -> int:
    """CPU cores this process may use: those it is bound to where the system tells, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
