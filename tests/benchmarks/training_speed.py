"""Training step by step: ours, a bare DeepSpeed loop, the HF Trainer with DeepSpeed, a bare torch loop.

    python tests/benchmarks/training_speed.py [--stages 1,2,3] [--dtypes fp32,bf16] [--rounds 5]
        [--steps 16] [--contenders ours,bare,trainer,torch] [--shape small|25m] [--folder DIR]

Every contender is a process of its own with one rank and one thread, the same weights, the same packed
sequences (token ids and restarting positions; ready in memory for the others, read from token shards
and prefetched by ours) and the same DeepSpeed settings. Rounds go through all contenders before the
next begins; a round's figure is the median of its steps after the first three, in processor time of
the process, all threads counted, which a busy machine disturbs less than a clock does (`--clock`: wall).
Printed: tokens a second, the ratio of ours to each (median over the rounds, with the range that 95 %
of resampled medians lie in), peak memory, and seconds from the start of the process to the end of the
first step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

BEGUN = time.time()
CONTENDERS = ("ours", "bare", "trainer", "torch")
WARM_UP = 3
LENGTH, MICRO_BATCH, TURNS = 256, 4, 2
SHAPES = {
    "small": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6},
    "25m": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8},
}
COMMON = {
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}
VOCABULARY = 16_384


def write_run(folder: Path, settings: Callable[[Path], Any]) -> None:
    """A run folder with token shards and a start: words drawn at random, a tokenizer that has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from dedup.documents import SCHEMA
    from pretrain.stage import prepare

    chance = random.Random(5)
    controls = ["<|begin_of_text|>", "<|end_of_text|>"]
    words = [f"w{number}" for number in range(VOCABULARY - len(controls))]
    vocabulary = {word: number for number, word in enumerate([*words, *controls])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(controls)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=controls[0], eos_token=controls[1]
    )
    wrapped.save_pretrained(str(folder / "tokenizer"))
    rows = []
    for number in range(4_000):
        text = " ".join(chance.choices(words, k=max(2, int(chance.lognormvariate(4.5, 0.8)))))
        row = dict.fromkeys(SCHEMA.names) | {"id": f"d/{number}", "kind": "text", "text": text}
        row |= {"source": "d", "language": "en", "split": "train", "quality": 1.0}
        rows.append(row | {"cluster_id": f"d/{number}", "cluster_size": 1})
    (folder / "documents").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "documents" / "0.parquet")
    prepare(settings(folder), folder)


def config(folder: Path, shape: str, *, stage: int, dtype: str, steps: int) -> Any:
    from configs.schema import Config

    tokens = LENGTH * MICRO_BATCH * TURNS
    return Config.model_validate(
        {
            "name": "speed",
            "pretrain": {
                "base": COMMON | SHAPES[shape],
                "documents": [str(folder / "documents")],
                "tokenizer": str(folder / "tokenizer"),
                "sequence_length": LENGTH,
                "global_batch_tokens": tokens,
                "micro_batch": MICRO_BATCH,
                "zero_stage": stage,
                "threads": 1,
                "dtype": dtype,
                "checkpoint": {"every_steps": 10_000},
                "evaluate": {"every_steps": 10_000},
                "phases": [
                    {"name": "speed", "tokens": tokens * steps, "lr": 1e-4, "mixture": {"d": 1.0}}
                ],
            },
        }
    )


class Clock:
    """Seconds of processor and wall at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.first = 0.0

    def step(self) -> None:
        if not self.ends:
            self.first = time.time() - BEGUN
        self.ends.append((time.process_time(), time.monotonic()))

    def result(self) -> dict[str, Any]:
        ends = self.ends
        steps = [[b - a for a, b in zip(one, other, strict=True)] for one, other in pairwise(ends)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"steps": steps[WARM_UP - 1 :], "first": self.first, "peak": peak}


def ours(folder: Path, settings: Any) -> dict[str, Any]:
    from configs.progress import Progress
    from pretrain.stage import run

    clock = Clock()

    def log(said: Progress) -> None:
        if said.step == "speed":
            clock.step()

    run(settings, folder, log=log)
    return clock.result()


def batches(folder: Path, settings: Any, steps: int) -> list[list[Any]]:
    """Every step's micro-batches, in memory, as the trainer would make them."""
    from pretrain.data.batches import step_data
    from pretrain.data.tokens import open_tokens
    from pretrain.phases import make_work

    work = make_work(settings, open_tokens(folder / "pretrain" / "tokens"), 0, 1)
    size = work.share.sequences
    made = (
        step_data(work.sequences, work.share, 0, step * size, (step + 1) * size, digest=False)
        for step in range(steps)
    )
    return [data.batches for data in made]


def loaded(folder: Path, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "pretrain" / "base", dtype=dtype)
    model.config.use_cache = False
    return model.train()


def labels(batch: Any) -> Any:
    """What HF's loss expects: it shifts by itself, so the target of t stands at t + 1."""
    import torch

    shifted = torch.full_like(batch.targets, -100)
    shifted[:, 1:] = batch.targets[:, :-1]
    return shifted


def bare(folder: Path, settings: Any, steps: int) -> dict[str, Any]:
    """`deepspeed.initialize` and three lines of loop, with HF's own loss."""
    import deepspeed
    import torch

    from pretrain.zero import adamw, choose_dtype, process_group

    with process_group():
        dtype = choose_dtype(settings.pretrain.dtype, torch.device("cpu"))
        made = batches(folder, settings, steps)
        model = sharded(settings, dtype, lambda: loaded(folder, dtype))
        parameters = list(model.parameters())
        optimizer = adamw(parameters, model, settings.pretrain.optimizer, 1e-4)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=json_of(settings, dtype)
        )
        clock = Clock()
        for step in made:
            for batch in step:
                loss = engine(
                    input_ids=batch.input_ids,
                    position_ids=batch.position_ids,
                    labels=labels(batch),
                ).loss
                engine.backward(loss)
                engine.step()
            loss.item()
            clock.step()
        return clock.result()


def json_of(settings: Any, dtype: Any) -> dict[str, Any]:
    """The DeepSpeed JSON that our trainer makes for one rank."""
    from pretrain.data.batches import Share
    from pretrain.zero import deepspeed_config

    pretrain = settings.pretrain
    share = Share.of(
        pretrain.global_batch_tokens // pretrain.sequence_length, 1, pretrain.micro_batch
    )
    return deepspeed_config(
        pretrain,
        micro_batch=share.micro_batch,
        accumulation=share.accumulation,
        world_size=1,
        dtype=dtype,
    )


def sharded(settings: Any, dtype: Any, load: Any) -> Any:
    """The model as ZeRO-3 wants it loaded."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    kept = (
        HfDeepSpeedConfig(json_of(settings, dtype)) if settings.pretrain.zero_stage == 3 else None
    )
    model = load()
    del kept
    return model


def trainer(folder: Path, settings: Any, steps: int) -> dict[str, Any]:
    """The HF Trainer with the same DeepSpeed JSON; it logs every step, as ours does.

    Its loader may shuffle: the sequences are the same, their order is not.
    """
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from pretrain.zero import choose_dtype, process_group

    with process_group():
        on_gpu = torch.cuda.is_available()
        dtype = choose_dtype(settings.pretrain.dtype, torch.device("cuda" if on_gpu else "cpu"))
        deepspeed = json_of(settings, dtype)
        rows = [
            {"input_ids": i, "position_ids": p, "labels": t}
            for step in batches(folder, settings, steps)
            for b in step
            for i, p, t in zip(b.input_ids, b.position_ids, labels(b), strict=True)
        ]
        clock = Clock()

        class Watch(TrainerCallback):
            def on_step_end(self, *args: Any, **rest: Any) -> None:
                clock.step()

        with tempfile.TemporaryDirectory() as place:
            arguments = TrainingArguments(
                output_dir=place,
                deepspeed=deepspeed | {"zero_force_ds_cpu_optimizer": False},
                per_device_train_batch_size=deepspeed["train_micro_batch_size_per_gpu"],
                gradient_accumulation_steps=deepspeed["gradient_accumulation_steps"],
                gradient_checkpointing=settings.pretrain.activation_checkpointing,
                max_steps=steps,
                learning_rate=1e-4,
                weight_decay=0.1,
                max_grad_norm=1.0,
                bf16=dtype == torch.bfloat16,
                optim="adamw_torch_fused",
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                use_cpu=not on_gpu,
                disable_tqdm=True,
                dataloader_num_workers=0,
            )
            model = loaded(folder, dtype)
            Trainer(
                model,
                arguments,
                train_dataset=rows,  # type: ignore[arg-type]
                data_collator=lambda found: {
                    name: torch.stack([row[name] for row in found]) for name in found[0]
                },
                callbacks=[Watch()],
            ).train()
        return clock.result()


def torch_loop(folder: Path, settings: Any, steps: int) -> dict[str, Any]:
    """No DeepSpeed: AdamW on the model as it is (bf16: under autocast)."""
    import torch

    from pretrain.zero import adamw, choose_dtype

    dtype = choose_dtype(settings.pretrain.dtype, torch.device("cpu"))
    made = batches(folder, settings, steps)
    model = loaded(folder, torch.float32)
    optimizer = adamw(list(model.parameters()), model, settings.pretrain.optimizer, 1e-4)
    clock = Clock()
    for step in made:
        for batch in step:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = model(
                    input_ids=batch.input_ids,
                    position_ids=batch.position_ids,
                    labels=labels(batch),
                ).loss
            (loss / TURNS).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        clock.step()
    return clock.result()


def one(options: argparse.Namespace) -> None:
    """In a process of its own: one contender, a JSON line."""
    import torch

    torch.set_num_threads(1)
    settings = config(
        options.folder, options.shape, stage=options.stage, dtype=options.dtype, steps=options.steps
    )
    if options.one == "ours":
        place = Path(tempfile.mkdtemp(dir=options.folder))
        (place / "pretrain").mkdir()
        for name in ("tokens", "base"):
            (place / "pretrain" / name).symlink_to(options.folder / "pretrain" / name)
        found = ours(place, settings)
    else:
        contender = {"bare": bare, "trainer": trainer, "torch": torch_loop}[options.one]
        found = contender(options.folder, settings, options.steps)
    print("\n" + json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's own threads need no farewell


def measure(options: argparse.Namespace, name: str, stage: int, dtype: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--stage", str(stage), "--dtype", dtype]
    command += ["--steps", str(options.steps), "--shape", options.shape]
    command += ["--folder", str(options.folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    which = 1 if options.clock else 0
    found["rate"] = (
        LENGTH * MICRO_BATCH * TURNS / statistics.median(s[which] for s in found["steps"])
    )
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Where 95 % of the medians of resampled values lie."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2_000))
    return medians[50], medians[-51]


def compare(options: argparse.Namespace) -> None:
    names = options.contenders.split(",")
    for dtype in options.dtypes.split(","):
        for stage in map(int, options.stages.split(",")):
            rounds = [
                {name: measure(options, name, stage, dtype) for name in names}
                for _ in range(options.rounds)
            ]
            print(f"ZeRO {stage}, {dtype}")
            for name in names:
                own = [turn[name] for turn in rounds]
                line = (
                    f"  {name:8}{statistics.median(o['rate'] for o in own):8,.0f} tokens/s, "
                    f"peak {max(o['peak'] for o in own):,.0f} MB, "
                    f"first step after {statistics.median(o['first'] for o in own):.1f} s"
                )
                if name != "ours" and "ours" in names:
                    ratios = [turn["ours"]["rate"] / turn[name]["rate"] for turn in rounds]
                    low, high = interval(ratios)
                    start = statistics.median(
                        turn["ours"]["first"] / turn[name]["first"] for turn in rounds
                    )
                    line += (
                        f"; ours {statistics.median(ratios):.3f} × as fast ({low:.3f} to {high:.3f}), "
                        f"start {start:.2f} ×"
                    )
                print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default="1,2,3")
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--clock", action="store_true", help="wall time instead of processor time")
    parser.add_argument("--folder", type=Path, help="where the run folder is kept between calls")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--stage", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="fp32", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.one:
        one(options)
    with tempfile.TemporaryDirectory() as place:
        options.folder = (options.folder or Path(place)).resolve()
        if not (options.folder / "pretrain" / "base").is_dir():
            options.folder.mkdir(parents=True, exist_ok=True)
            write_run(
                options.folder,
                lambda place: config(place, options.shape, stage=1, dtype="fp32", steps=1),
            )
        compare(options)


if __name__ == "__main__":
    main()
