"""Model FLOP utilisation of the trainer: an 8B-shaped model, cut to the layers that fit, on one device.

    python tests/benchmarks/utilisation.py [--layers 8] [--length 8192] [--micro-batch 1] [--steps 12]
        [--no-checkpointing] [--peer]

Utilisation = tokens a second × FLOPs a token / FLOPs a second of a bare matrix product on the same device.
FLOPs a token: 6 for every parameter that multiplies (the embedding only looks up), and 6 × layers × heads
× head size × attended length: half of Chowdhery et al. 2022 (appendix B), for half of the scores are
masked, and over the document that a token lies in, not over the sequence, for no other is looked at.
Recomputed activations are no model FLOPs and lower the figure. The rate of matrix products is measured first: bf16 (fp32 where the device has
none), 8,192 cubed on a GPU.

Documents of log-normal length are packed into sequences, positions restart with each, activations are
recomputed, attention is FlashAttention where it is installed. `--peer` trains the same model and data
through the HF Trainer and DeepSpeed. Random weights of Llama-3's shape: --layers 32 is the 8B itself.
On a CPU the same command runs with a small shape, to show that it does.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from configs.schema import Config
from dedup.documents import SCHEMA
from pretrain.data.packing import open_plan
from pretrain.data.tokens import open_tokens
from pretrain.shape import read_shape
from pretrain.stage import prepare
from pretrain.zero import choose_dtype

LLAMA3 = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500_000.0,
    "vocab_size": 128_256,
}
SMALL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WORDS = 8_000
WARM_UP = 3


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a square matrix product, the best of five."""
    size = 8_192 if device.type == "cuda" else 1_024
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(10):
            one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begun) / 10)
    return 2 * size**3 / best


def attended(settings: Config, folder: Path) -> float:
    """Mean over tokens of the length of the piece they lie in: what attention looks back over, twice."""
    plan = open_plan(
        open_tokens(folder / "pretrain" / "tokens"), "d", length_of(settings), "pretrain"
    )
    lengths = plan.pieces["length"].astype(float)
    return float((lengths**2).sum() / lengths.sum())


def length_of(settings: Config) -> int:
    assert settings.pretrain is not None
    return settings.pretrain.sequence_length


def write_inputs(folder: Path, tokens: int) -> None:
    """Documents of words drawn at random, and a tokenizer with a token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    chance = random.Random(3)
    controls = ["<|begin_of_text|>", "<|end_of_text|>"]
    words = [f"w{number}" for number in range(WORDS)]
    tokenizer = Tokenizer(
        models.WordLevel({w: n for n, w in enumerate([*words, *controls])}, unk_token="w0")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(controls)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=controls[0], eos_token=controls[1]
    ).save_pretrained(str(folder / "tokenizer"))
    rows, made = [], 0
    while made < 1.1 * tokens:
        length = max(2, int(chance.lognormvariate(6.5, 1.0)))
        made += length
        row = dict.fromkeys(SCHEMA.names) | {"id": f"d/{made}", "kind": "text", "source": "d"}
        row |= {"text": " ".join(chance.choices(words, k=length)), "split": "train"}
        row |= {"language": "en", "quality": 1.0, "cluster_id": f"d/{made}", "cluster_size": 1}
        rows.append(row)
    (folder / "documents").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "documents" / "0.parquet")


def config(folder: Path, options: argparse.Namespace, on_gpu: bool) -> Config:
    base = (LLAMA3 if on_gpu else SMALL) | {
        "num_hidden_layers": options.layers,
        "max_position_embeddings": options.length,
    }
    return Config.model_validate(
        {
            "name": "utilisation",
            "pretrain": {
                "base": base,
                "documents": [str(folder / "documents")],
                "tokenizer": str(folder / "tokenizer"),
                "sequence_length": options.length,
                "global_batch_tokens": options.length * options.micro_batch,
                "micro_batch": options.micro_batch,
                "threads": 1,
                "zero_stage": 1,
                "activation_checkpointing": not options.no_checkpointing,
                "checkpoint": {"every_steps": 10_000},
                "evaluate": {"every_steps": 10_000},
                "phases": [
                    {
                        "name": "speed",
                        "tokens": options.length * options.micro_batch * options.steps,
                        "lr": 1e-5,
                        "mixture": {"d": 1.0},
                    }
                ],
            },
        }
    )


def ours(folder: Path, settings: Config) -> float:
    """Tokens a second: the median of metrics.jsonl after the first steps."""
    from pretrain.stage import run

    run(settings, folder)
    lines = (folder / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    rates = [entry["tokens_per_second"] for entry in entries if "loss" in entry]
    return float(statistics.median(rates[WARM_UP:]))


def peer(folder: Path, settings: Config, options: argparse.Namespace) -> float:
    """Tokens a second of the HF Trainer with the same DeepSpeed settings, model and sequences."""
    from training_speed import trainer

    found = trainer(folder, settings, options.steps)
    return options.length * options.micro_batch / statistics.median(s[1] for s in found["steps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # on a CPU: matrix products and training alike
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        print("no GPU: a small shape, to show that the command runs", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_inputs(folder, options.length * options.micro_batch * options.steps)
        settings = config(folder, options, on_gpu)
        assert settings.pretrain is not None and isinstance(settings.pretrain.base, dict)
        dtype = choose_dtype(settings.pretrain.dtype, device)
        rate = matmul_rate(device, dtype)
        shape = read_shape(
            settings.pretrain.base, settings.pretrain.base.get("vocab_size", WORDS + 2), 64
        )
        prepare(settings, folder)
        per_token = shape.flops(round(attended(settings, folder)))
        print(
            f"{device}: {rate / 1e12:.2f} TFLOP/s in {dtype} matrix products; {shape.total / 1e9:.2f} B "
            f"parameters, {per_token / 1e9:.1f} GFLOPs a token",
            flush=True,
        )
        run_one = {"ours": lambda: ours(folder, settings)}
        if options.peer:
            run_one["HF Trainer"] = lambda: peer(folder, settings, options)
        for name, go in run_one.items():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            speed = go()
            line = f"{name:12}{speed:10,.0f} tokens/s, utilisation {speed * per_token / rate:.1%}"
            if on_gpu:
                line += f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
            print(line, flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
