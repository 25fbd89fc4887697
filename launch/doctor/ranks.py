"""The ranks of `malmoi doctor --train`: several trainings and measurements in processes that import once.

    python -m torch.distributed.run … -m launch.doctor.ranks FOLDER PART …

In: a folder with a config `PART.yaml` for each training. Out: what a part found, `PART.found.json`, as soon
as it is over, or `PART.problem`, the last words of a rank for which it failed: then all ranks end, and who
started them starts them again with the parts that are left. Importing torch, transformers and DeepSpeed
costs more than all twelve steps do, so that three trainings in one start take half of their time.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.files import write_json
from configs.load import load
from launch.rank import die_with_parent

ALL_REDUCE, PACKING = "all-reduce", "packing"
SECONDS = 2.0  # of all-reduce


def main(folder: Path, parts: Sequence[str]) -> None:
    """Take part in each of `parts`, one after the other; see the module."""
    from pretrain.zero import process_group

    die_with_parent(signal.SIGKILL)
    with process_group() as ranks:
        for part in parts:
            try:
                found = _do(part, folder, ranks)
            except BaseException as error:
                words = (str(error).strip() or type(error).__name__).splitlines()[0]
                with suppress(FileExistsError):  # the first one has the cause, the others lost it
                    (folder / f"{part}.problem").open("x", encoding="utf-8").write(words)
                raise
            if ranks.first:
                write_json(folder / f"{part}.found.json", found)
            ranks.barrier()


def _do(part: str, folder: Path, ranks: Any) -> dict[str, Any]:
    if part == ALL_REDUCE:
        from launch.doctor.bandwidth import timed

        return timed(ranks.device, seconds=SECONDS)
    if part == PACKING:
        from launch.doctor.isolation import measure

        return measure() if ranks.first else {}
    from pretrain.stage import run

    run(load(str(folder / f"{part}.yaml")), folder / part)
    return {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
