"""A checkpoint for other ranks than those that wrote it, or for another ZeRO stage.

In: a sound checkpoint and the ranks that resume. Out: the same in DeepSpeed's universal form
(`universal.tmp/`: one file per parameter and moment, whole), which any number of ranks loads. It is made
by DeepSpeed's own converter, in a process of its own, and deleted once it was loaded. The cost is the
checkpoint's size on disk for that long, and about ten seconds for a small one.

Stages 1 and 2 lay out their files alike and may follow one another. Stage 0 shards nothing: its files
load at any number of ranks as they are. The universal form of stage 3 lacks what the others read, and
theirs what it reads, so these changes are refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from configs.errors import InputError
from configs.files import write_text
from pretrain.checkpoints.state import State
from pretrain.zero import Ranks


def needs_conversion(checkpoint: Path, saved: State, world_size: int, zero_stage: int) -> bool:
    """Whether ranks of this number and stage cannot read the checkpoint's files as they are.

    Raises InputError where another form would not help: between stages of different layouts.
    """
    if saved.zero_stage != zero_stage and {saved.zero_stage, zero_stage} != {1, 2}:
        raise InputError(
            f"pretrain.zero_stage: {checkpoint} was saved with stage {saved.zero_stage}, the config "
            f"says {zero_stage}, and only 1 and 2 can follow one another; finish with "
            f"zero_stage={saved.zero_stage}, or move pretrain/ aside to start anew"
        )
    same = (saved.world_size, saved.zero_stage) == (world_size, zero_stage)
    return saved.zero_stage > 0 and not same


def convert(checkpoint: Path, ranks: Ranks, saved: State, zero_stage: int) -> Path:
    """The checkpoint in universal form; every rank calls it.

    Raises InputError where DeepSpeed's converter fails.
    """
    root = checkpoint.parent / "universal.tmp"
    problem = None
    if ranks.first:
        shutil.rmtree(root, ignore_errors=True)
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
        command += ["--input_folder", str(checkpoint)]
        command += ["--output_folder", str(root / checkpoint.name), "--inject_missing_state"]
        done = subprocess.run(
            command,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            problem = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
        else:
            write_text(root / "latest", checkpoint.name)
            write_text(root / "latest_universal", checkpoint.name)
    problem = ranks.broadcast(problem)
    if problem:
        raise InputError(
            f"{checkpoint}: was saved by {saved.world_size} ranks with ZeRO {saved.zero_stage} and "
            f"cannot be converted for {ranks.world_size} with ZeRO {zero_stage} ({problem}); resume with "
            "the ranks and the stage that saved it"
        )
    return root / checkpoint.name
