"""The loss over 160,000 rows: memory and speed of a training step, by how the loss is formed.

    python tests/benchmarks/large_vocabulary.py [--types fp32,bf16,autocast] [--rounds 3] [--tokens 1024]
        [--ways logits,torch,chunked]

`logits` is Hugging Face's own loss, `torch` is torch.nn.functional.linear_cross_entropy in chunks (torch
2.13), `chunked` is pretrain/loss.py. The model is a Llama of 25 M parameters beside its tied matrix of
160,000 × 384; fp32 and bf16 are the type of the weights, autocast computes in bf16 from fp32 weights. Every way
is a process of its own with one thread: forward, backward, no optimizer. Rounds go through all ways
before the next begins. Printed: seconds of processor a step (median), peak memory above the imports,
and the ratios to `logits`.
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

VOCABULARY, HIDDEN, LAYERS = 160_000, 384, 8
WAYS = ("logits", "torch", "chunked")


def peak() -> float:
    """Largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loss_of(way: str, model: Any) -> Any:
    """A function (ids, targets) → the summed loss."""
    from torch.nn import functional

    from pretrain.loss import SummedLoss

    if way == "logits":

        def plain(ids: Any, positions: Any, targets: Any) -> Any:
            # the labels are shifted by the model itself, so they are the ids
            return model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False).loss

        return plain
    if way == "torch":
        from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

        options = LinearCrossEntropyOptions()

        def fused(ids: Any, positions: Any, targets: Any) -> Any:
            hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False)[0]
            flat = hidden.reshape(-1, HIDDEN)
            return functional.linear_cross_entropy(
                flat, model.lm_head.weight, targets.reshape(-1), reduction="sum", options=options
            )

        return fused
    return SummedLoss(model, "chunked")


def measure(way: str, kind: str, tokens: int, steps: int) -> dict[str, float]:
    """Seconds of processor a step, and the peak above the imports in MB."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import pretrain.loss  # noqa: F401 (imported before memory is counted)

    torch.set_num_threads(1)
    before = peak()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=1024,
        num_hidden_layers=LAYERS, num_attention_heads=6, num_key_value_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    loss = loss_of(way, model)
    ids = torch.randint(0, VOCABULARY, (2, tokens // 2))
    positions = torch.arange(tokens // 2).repeat(2, 1)
    targets = ids.roll(-1, 1)
    targets[:, -1] = -100
    seconds = []
    for _ in range(steps + 1):
        begun = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            value = loss(ids, positions, targets)
        value.backward()
        seconds.append(time.process_time() - begun)
        model.zero_grad()  # gradients are let go of, as DeepSpeed does with its own buffers
    return {"seconds": statistics.median(seconds[1:]), "peak": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--types", default="fp32,bf16,autocast")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "TYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.tokens, arguments.steps)))
        return
    for kind in arguments.types.split(","):
        ways = arguments.ways.split(",")
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way in ways:
                command = [sys.executable, __file__, "--one", way, kind]
                command += ["--tokens", str(arguments.tokens), "--steps", str(arguments.steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
        for way, rounds in found.items():
            speeds = [
                base["seconds"] / own["seconds"]
                for base, own in zip(found[ways[0]], rounds, strict=True)
            ]
            size = statistics.median(own["peak"] for own in rounds)
            least = statistics.median(own["peak"] for own in found[ways[0]])
            seconds = statistics.median(own["seconds"] for own in rounds)
            print(
                f"{kind:9}{way:9}{seconds:7.2f} s  {arguments.tokens / seconds:6.0f} tokens/s  "
                f"× {statistics.median(speeds):.2f} ({min(speeds):.2f} to {max(speeds):.2f})  "
                f"{size:7,.0f} MB  × {size / least:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
