"""The memory that `malmoi plan` reckons beside what training takes: growth of a rank above its imports.

    python tests/benchmarks/plan_memory.py [--only NAME …]

Each case is a real training of four steps in a process of its own (two for two ranks), in which a
thread looks at the anonymous memory of the process every 2 ms; what stands after the imports and the
process group is taken off. glibc is told to give back at once what is freed: what it keeps otherwise,
up to 0.4 of all this in small models, is no part of what a training needs. Mapped files (token shards,
weights that are read) are none either. Beside it stands the sum of pretrain/memory.py without its
margins, piece by piece, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training_speed import VOCABULARY, write_run

SHAPE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
LENGTH = 512
CASES: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "ZeRO 0": {"zero_stage": 0},
    "recomputed": {"zero_stage": 2, "activation_checkpointing": True},
    "logits": {"zero_stage": 2, "loss": "logits"},
    "untied": {"zero_stage": 2, "base": {"tie_word_embeddings": False}},
    "bf16": {"zero_stage": 2, "dtype": "bf16"},
    "norms only": {"zero_stage": 2, "train": ["norms"]},
    "half learns": {"zero_stage": 2, "train": ["layers.last-4"]},
    "four rows": {"zero_stage": 2, "micro_batch": 4},
    "wider": {"zero_stage": 1, "base": {"hidden_size": 768, "num_hidden_layers": 4}},
    "two ranks, 1": {"zero_stage": 1, "ranks": 2},
    "two ranks, 2": {"zero_stage": 2, "ranks": 2},
    "two ranks, 3": {"zero_stage": 3, "ranks": 2},
}


def config(folder: Path, case: dict[str, Any]) -> Any:
    from training_speed import COMMON

    from configs.schema import Config

    case = dict(case)
    ranks, train = case.pop("ranks", 1), case.pop("train", "all")
    base = COMMON | SHAPE | case.pop("base", {})
    pretrain = {
        "base": base,
        "documents": [str(folder / "documents")],
        "tokenizer": str(folder / "tokenizer"),
        "sequence_length": LENGTH,
        "global_batch_tokens": 4 * LENGTH * ranks,
        "micro_batch": 2,
        "threads": 1,
        "dtype": "fp32",
        "checkpoint": {"every_steps": 10_000},
        "evaluate": {"every_steps": 10_000},
        "phases": [
            {
                "name": "memory",
                "train": train,
                "tokens": 4 * 4 * LENGTH * ranks,
                "lr": 1e-4,
                "mixture": {"d": 1.0},
            }
        ],
    }
    return Config.model_validate({"name": "memory", "pretrain": pretrain | case})


class Peak(threading.Thread):
    """Largest anonymous memory of this process in bytes, while it is watched."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.peak, self.going = anonymous(), 0, True
        self.start()

    def run(self) -> None:
        while self.going:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.002)


def anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0


def import_all() -> None:
    """What a training imports when it first needs it: a step of a model of a few weights."""
    import torch
    import transformers.integrations.deepspeed  # noqa: F401
    from training_speed import COMMON
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = COMMON | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, vocab_size=16))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.zeros(1, 4, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        AutoModelForCausalLM.from_pretrained(place)


def one(folder: Path, name: str) -> None:
    """In a process of its own, or one of two ranks: train, and print the growth."""
    import torch

    torch.set_num_threads(1)
    from pretrain import stage
    from pretrain.train import Trainer

    import_all()
    watched: list[Peak] = []
    run = Trainer.run

    def watch(self: Trainer) -> Any:
        watched.append(Peak())
        try:
            return run(self)
        finally:
            watched[0].going = False

    Trainer.run = watch  # type: ignore[method-assign]
    stage.run(config(folder, CASES[name]), folder)
    growth = watched[0].peak - watched[0].before
    if os.environ.get("RANK", "0") == "0":
        print("\n" + json.dumps({"growth": growth}), flush=True)


def measure(name: str) -> float:
    """Bytes of growth of rank 0."""
    ranks = CASES[name].get("ranks", 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_run(folder, lambda where: config(where, CASES[name]))
        command = [sys.executable, __file__, "--one", name, "--folder", str(folder)]
        if ranks > 1:
            command = [
                *[sys.executable, "-m", "torch.distributed.run", "--standalone"],
                *["--nproc-per-node", str(ranks), *command[1:]],
            ]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"growth"')]
    return float(json.loads(lines[-1])["growth"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    if options.one:
        one(options.folder, options.one)
        return
    from pretrain.memory import memory
    from pretrain.shape import read_shape

    print(f"{'case':14}{'measured':>10}{'planned':>10}{'ratio':>7}   MB; planned piece by piece")
    for name in options.only:
        settings = config(Path(), CASES[name]).pretrain
        planned = memory(
            read_shape(settings.base, VOCABULARY, settings.new_rows.multiple),
            settings,
            settings.phases[0],
            zero_stage=settings.zero_stage,
            ranks=CASES[name].get("ranks", 1),
            width=2 if settings.dtype == "bf16" else 4,
            on_gpu=False,
        )
        grown, reckoned = measure(name), planned.total - planned.margin
        parts = {k: round(v / 1e6) for k, v in asdict(planned).items() if k != "margin"}
        print(
            f"{name:14}{grown / 1e6:10,.0f}{reckoned / 1e6:10,.0f}{grown / reckoned:7.2f}   {parts}",
            flush=True,
        )


if __name__ == "__main__":
    main()
