"""One training rank, as torchrun starts it: `python -m launch.rank RUNFOLDER`.

Output goes to logs/pretrain-<host>-<rank>.log. Rank 0 writes its progress and the outcome to files
that the launcher reads. A crash leaves with its own status (and is restarted); a stop on request
and a person's mistake leave with 0 and say so in the outcome.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from configs.errors import InputError, Stopped, is_no_space, no_space
from configs.files import write_json
from configs.load import load
from configs.progress import Progress


def main(folder: Path) -> int:
    rank = int(os.environ.get("RANK", "0"))
    _to_log(folder / "logs" / f"pretrain-{platform.node()}-{rank}.log")
    progress = (folder / "pretrain" / ".progress.jsonl").open("a") if rank == 0 else None

    def log(report: Progress) -> None:
        if progress is not None:
            progress.write(json.dumps(asdict(report)) + "\n")
            progress.flush()

    outcome: dict[str, object]
    try:
        from pretrain.stage import run

        run(load(str(folder / "config.yaml")), folder, log=log)
        outcome = {"status": "done"}
    except InputError as error:
        outcome = {"status": "error", "lines": list(error.lines)}
    except OSError as error:
        if not is_no_space(error):
            traceback.print_exc()
            return 1
        outcome = {"status": "error", "lines": [no_space(error, folder)]}
    except (Stopped, KeyboardInterrupt):
        outcome = {"status": "stopped"}
    except Exception:
        traceback.print_exc()
        return 1
    if rank == 0 or outcome["status"] == "error":
        write_json(folder / "pretrain" / ".outcome.json", outcome)
    return 0


def _to_log(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status) if status else sys.exit(0)
