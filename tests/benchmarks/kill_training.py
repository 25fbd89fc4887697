"""SIGKILL at random moments of a training, many of them inside a save: what was left, every time.

    python tests/benchmarks/kill_training.py [--kills 100] [--ranks 1] [--stage 2] [--seconds 3600]

A tiny model saves after every step. All its ranks are killed, again and again: every other time a moment
after a save has begun, else anywhere between the first step and the next second. After each kill the newest
checkpoint is compared with its manifest as a resume would; then the run goes on, and in the end its losses
are compared with those of a run that was never killed. After every tenth kill one byte of the newest
checkpoint is flipped as well, and the resume must take the one before.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import forked_ranks
from tiny_run import make_config, make_documents, make_tokenizer

from configs.schema import Config
from pretrain.checkpoints import checkpoint


def config_of(steps: int, stage: int, every_steps: int = 1) -> Config:
    phases = [{"name": "text", "tokens": steps * 512, "lr": 1e-3, "mixture": {"ko": 1.0}}]
    return make_config(
        zero_stage=stage,
        phases=phases,
        checkpoint={"every_steps": every_steps, "keep": 3},
        evaluate={"every_steps": 1000, "sequences": 1},
    )


def run_folder(place: Path, name: str) -> Path:
    if not (place / "made").exists():
        make_tokenizer(place / "made" / "tokenizer")
        make_documents(place / "made" / "documents")
    folder = place / name
    (folder / "dedup").mkdir(parents=True)
    (folder / "dedup" / "documents").symlink_to(place / "made" / "documents")
    (folder / "tokenizer").symlink_to(place / "made" / "tokenizer")
    return folder


def kill_once(
    folder: Path, config: Config, ranks: int, chance: random.Random, in_save: bool
) -> str:
    """Start, wait for progress, kill; where the kill came."""
    checkpoints = folder / "pretrain" / "checkpoints"
    known = {path.name for path in checkpoint.found(checkpoints)}
    processes = forked_ranks.start(config, folder, ranks)
    try:
        deadline = time.monotonic() + 120
        while not {path.name for path in checkpoint.found(checkpoints)} - known:
            if not all(process.is_alive() for process in processes):
                said = (folder / "ranks" / "0.log").read_text()[-2000:]
                raise SystemExit(f"a rank ended by itself:\n{said}")
            if time.monotonic() > deadline:
                raise SystemExit("no step was taken in two minutes")
            time.sleep(0.005)
        if in_save:
            while not list(checkpoints.glob("step-*.tmp")) and processes[0].is_alive():
                time.sleep(0.0002)
            time.sleep(chance.uniform(0, 0.06))
        else:
            time.sleep(chance.uniform(0, 1))
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    names = [path.name for path in checkpoints.glob("*.tmp")]
    if any(name.endswith(".old.tmp") for name in names):
        return "while an old one was removed"
    half = next(iter(checkpoints.glob("step-*.tmp")), None)
    if half is None:
        return "between two saves"
    if (half / "manifest.json").exists():
        return "before the rename"
    if (half / "state.json").exists():
        return "while it was flushed and digested"
    return "while DeepSpeed wrote"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--stage", type=int, default=2, choices=[0, 1, 2, 3])
    parser.add_argument("--seconds", type=float, default=3600, help="stop killing after so long")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance, begun = random.Random(asked.seed), time.monotonic()
    config = config_of(asked.kills * 40 + 400, asked.stage)
    seen: Counter[str] = Counter()
    problems: list[Any] = []
    with tempfile.TemporaryDirectory() as place:
        folder = run_folder(Path(place), "killed")
        checkpoints = folder / "pretrain" / "checkpoints"
        for number in range(1, asked.kills + 1):
            seen[kill_once(folder, config, asked.ranks, chance, in_save=number % 2 == 0)] += 1
            newest = checkpoint.found(checkpoints)[0]
            if (bad := checkpoint.damage(newest)) is not None:
                problems.append(
                    f"kill {number}: {newest.name} has its name, and {bad} is not whole"
                )
            if number % 10 == 0:
                files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
                file = chance.choice(files)
                content = bytearray(file.read_bytes())
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                file.write_bytes(content)
                if checkpoint.damage(newest) is None:
                    problems.append(f"kill {number}: a flipped bit of {file.name} was not seen")
                seen["(and a bit of the newest checkpoint flipped)"] += 1
            step = checkpoint.step_of(newest)
            if number % 10 == 0 or number == asked.kills:
                told = ", ".join(f"{count} {what}" for what, count in seen.most_common())
                print(
                    f"{number} kills, step {step}, {time.monotonic() - begun:.0f} s: {told}",
                    *problems,
                    sep="\n",
                    flush=True,
                )
            if time.monotonic() - begun > asked.seconds:
                break
        kills = number
        # to the end with a stop some steps on, and once more from the start without a kill
        stop = checkpoint.step_of(checkpoint.found(checkpoints)[0]) + 3
        forked_ranks.train(config, folder, asked.ranks, stop)
        whole = run_folder(Path(place), "whole")
        quiet = config_of(asked.kills * 40 + 400, asked.stage, every_steps=10**6)
        forked_ranks.train(quiet, whole, asked.ranks, stop)
        one, two = forked_ranks.steps(folder), forked_ranks.steps(whole)
        length = min(len(one), len(two))
        if length < stop or one[:length] != two[:length]:
            problems.append(
                f"the losses differ from those of a run without a kill ({length} steps)"
            )
    print(f"\n{kills} kills of {asked.ranks} rank(s) at ZeRO {asked.stage}, {length} steps")
    for what, count in seen.most_common():
        print(f"  {count:4d}  {what}")
    print("\n".join(problems) if problems else "every run went on, bitwise; no checkpoint was half")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
