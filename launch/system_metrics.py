"""How busy the machine is: processor, memory, disk, network, GPUs.

In: a folder on the disk that counts. Out: figures under the names that MLflow's own monitor uses
(`system/…`), so that its page shows them under "System metrics". GPUs are asked through nvidia-smi,
which is there wherever their driver is; no package is needed. Of a run on many machines these are the
figures of the one that the command was given on.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

ASKED = "index,utilization.gpu,memory.used,memory.total,power.draw"
MB = 1e6


class Usage:
    """Figures since the last call of `figures`, or since this was made."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._network = folder, psutil.net_io_counters()
        self._smi = shutil.which("nvidia-smi")
        psutil.cpu_percent(None)

    def figures(self) -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self._folder)
        found = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(None),
            "system/system_memory_usage_megabytes": memory.used / MB,
            "system/system_memory_usage_percentage": memory.percent,
            "system/disk_usage_megabytes": disk.used / MB,
            "system/disk_available_megabytes": disk.free / MB,
        }
        now = psutil.net_io_counters()
        if now is not None and self._network is not None:
            sent, got = now.bytes_sent, now.bytes_recv
            found["system/network_transmit_megabytes"] = (sent - self._network.bytes_sent) / MB
            found["system/network_receive_megabytes"] = (got - self._network.bytes_recv) / MB
        self._network = now
        return found | self._gpus()

    def _gpus(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for index, used, memory, total, power in gpu_rows(self._smi, ASKED):
            for name, value in (
                ("utilization_percentage", used),
                ("memory_usage_megabytes", memory),
                ("power_usage_watts", power),
            ):
                with suppress(ValueError):  # "[N/A]"
                    found[f"system/gpu_{index}_{name}"] = float(value)
            with suppress(ValueError, ZeroDivisionError):
                share = 100 * float(memory) / float(total)
                found[f"system/gpu_{index}_memory_usage_percentage"] = round(share, 2)
        return found


def gpu_rows(smi: str | None, fields: str) -> list[list[str]]:
    """What nvidia-smi says of each GPU, a list of the fields as text; [] where there is none."""
    if smi is None:
        return []
    try:
        done = subprocess.run(
            [smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == fields.count(",") + 1]
