"""New rows alone learn: a block of their own (what the trainer does) against a hook on the whole matrix.

    python tests/benchmarks/row_block.py [--stages 1,2,3] [--rounds 2] [--rows 160000] [--new 30000]
        [--hidden 512] [--tokens 256] [--dtype fp32|bf16] [--tied]

The hook zeroes the gradient of all other rows, so DeepSpeed keeps gradient, moments and a float32 copy
of the whole matrix. Two layers stand between embedding and head. Every arm is a process of its own,
one rank, one thread. Printed: tokens a second of processor time (median), peak memory above the imports,
by how much the block is faster and smaller, and how far frozen rows moved.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

WAYS = ("hook", "block")


def peak() -> float:
    """Largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def only_new_rows(model: Any, rows: Any, *, tied: bool) -> list[Any]:
    """What the trainer did before: whole matrices learn, a hook zeroes all rows but the new ones."""
    import torch

    def hook(gradient: Any) -> Any:
        kept = torch.zeros_like(gradient)
        kept[rows.base : rows.vocabulary] = gradient[rows.base : rows.vocabulary]
        return kept

    model.requires_grad_(False)
    tables = [model.get_input_embeddings().weight]
    if not tied:
        tables.append(model.get_output_embeddings().weight)
    for table in tables:
        table.requires_grad_(True)
        table.register_hook(hook)
    return tables


def measure(way: str, stage: int, arguments: argparse.Namespace) -> dict[str, float]:
    import deepspeed
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from configs.schema import Optimizer, Pretrain
    from pretrain.loss import SummedLoss
    from pretrain.weights.embeddings import Rows
    from pretrain.weights.row_block import gathered
    from pretrain.weights.trainable import choose_trainable
    from pretrain.zero import adamw, deepspeed_config, process_group

    torch.set_num_threads(1)
    rows = Rows(arguments.rows - arguments.new, arguments.rows, arguments.rows)
    dtype = torch.bfloat16 if arguments.dtype == "bf16" else torch.float32
    with process_group() as ranks:
        before = peak()
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            "llama", vocab_size=rows.total, hidden_size=arguments.hidden,
            intermediate_size=2 * arguments.hidden, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=arguments.tied,
        )  # fmt: skip
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        old = model.get_input_embeddings().weight[: rows.base : 997].detach().clone()
        if way == "hook":
            learned = only_new_rows(model, rows, tied=arguments.tied)
        else:
            learned = choose_trainable(model, ["embed.new_rows", "head.new_rows"], rows)
        settings = Pretrain.model_validate(
            {
                "base": {},
                "zero_stage": stage,
                "phases": [{"name": "p", "tokens": 1, "mixture": {"a": 1}}],
            }
        )
        engine, *_ = deepspeed.initialize(
            model=SummedLoss(model, "chunked"),
            optimizer=adamw(learned, model, Optimizer(), 1e-3),
            config=deepspeed_config(
                settings, micro_batch=1, accumulation=1, world_size=1, dtype=dtype
            ),
        )
        ids = torch.randint(0, rows.total, (1, arguments.tokens))
        positions, targets = torch.arange(arguments.tokens)[None], ids.roll(-1, 1)
        seconds = []
        for _ in range(4):
            begun = time.process_time()
            engine.backward(engine(ids, positions, targets) / arguments.tokens)
            engine.step()
            seconds.append(time.process_time() - begun)
        table = model.get_input_embeddings().weight
        with gathered(table):
            moved = float((table[: rows.base : 997].float() - old.float()).abs().max())
        found = {"seconds": statistics.median(seconds[1:]), "peak": peak() - before, "moved": moved}
        engine.destroy()
        del ranks
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stages", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--new", type=int, default=30_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "STAGE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]), arguments)))
        return
    passed = sys.argv[1:]
    for stage in arguments.stages.split(","):
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, *passed, "--one", way, stage]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
        middle = {
            way: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
            for way, rounds in found.items()
        }
        for way, own in middle.items():
            print(
                f"ZeRO {stage}  {way:6}{arguments.tokens / own['seconds']:7.0f} tokens/s"
                f"{own['peak']:8,.0f} MB  old rows moved {own['moved']:g}"
            )
        print(
            f"        block: × {middle['hook']['seconds'] / middle['block']['seconds']:.2f} the speed, "
            f"× {middle['block']['peak'] / middle['hook']['peak']:.2f} the memory",
            flush=True,
        )


if __name__ == "__main__":
    main()
