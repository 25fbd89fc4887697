"""Where new rows should start, measured; and what growing an 8B checkpoint takes.

    python tests/benchmarks/new_rows.py methods --base-dir DIR [--seeds 3] [--steps 200] [--only NAME …]
    python tests/benchmarks/new_rows.py shape [--layers 32] [--folder DIR] [--load]

`methods` takes the small base of small_base.py (made in DIR where it is not there: 45 minutes), grows it
by 4,096 Korean tokens with each method of `pretrain.new_rows`, and trains every parameter on Korean that
the base has not read: 200 steps of 256 tokens, in an order that is the seed's. It prints bits per byte
on held-out text (mean over sources, mean ± standard deviation over the seeds):

    ko at once      right after extension      ko 200   after the steps
    ko old path     right after, text cut into the base's tokens: what new rows take from old ones
    en              held-out English: at once, and after 200 steps of Korean only

and, as the floor, the base itself trained the same way without new tokens. Each run is a line of
DIR/new_rows.jsonl and is not run again. One thread, fp32, a minute a run.

`shape` writes a checkpoint of Llama-3-8B's shape (sparse files of zeros with real rows here and there,
four shards as on the hub), grows it by 32,000 tokens in a process of its own, and prints its peak memory,
the time, and whether the old rows are the same bytes; `--load` does it by loading the model too.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from small_base import LENGTH, judged, loss_of, make, optimizer_of, score, sequences, texts
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from configs.schema import NewRows
from pretrain.loss import SummedLoss
from pretrain.weights.embeddings import Rows, grow, grown_rows
from pretrain.weights.model import write_base
from pretrain.weights.shards import open_checkpoint, write_grown
from tokenizer.load import load_tokenizer

METHODS = (
    ("subtokens", "mean"),
    ("subtokens", "first"),
    ("subtokens", "subtokens"),
    ("mean", "mean"),
    ("random", "random"),
    ("subtokens", "random"),
    ("random", "mean"),
    ("first", "first"),
)
NO_NEW_TOKENS = "no new tokens"
STEP_SEQUENCES = 1
RATE = 3e-4
JUDGED_BYTES = 8_000  # of each source
SHOWN = (
    ("ko_0", "ko at once"),
    ("old_path", "ko old path"),
    ("ko_200", "ko 200"),
    ("en_0", "en at once"),
    ("en_200", "en 200"),
)


@functools.cache
def korean(folder: Path, tokenizer_folder: Path) -> torch.Tensor:
    """Sequences to train on, [3,200, LENGTH + 1], in the tokens of a tokenizer."""
    wanted = 3_200 * (LENGTH + 1)
    return sequences(
        texts(folder, "korean", "train", "ko"), load_tokenizer(tokenizer_folder), wanted
    )


@functools.cache
def heldout(folder: Path, tokenizer_folder: Path, language: str) -> dict[str, list[Any]]:
    return judged(folder, load_tokenizer(tokenizer_folder), language, JUDGED_BYTES)


def run_one(folder: Path, name: str, seed: int, steps: int) -> dict[str, Any]:
    """Grow, judge, train, judge: {name, seed, ko_0, ko_200, …}."""
    tokenizer = folder / "base" if name == NO_NEW_TOKENS else folder / "grown" / "tokenizer"
    with tempfile.TemporaryDirectory() as place:
        start = folder / "base"
        if name != NO_NEW_TOKENS:
            start = Path(place) / "start"
            side_in, side_out = name.split("/")
            method = NewRows(input=side_in, output=side_out)  # type: ignore[arg-type]
            loaded = load_tokenizer(tokenizer)
            write_base(str(folder / "base"), loaded, tokenizer, method, seed, start)
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    documents = {language: heldout(folder, tokenizer, language) for language in ("ko", "en")}
    found: dict[str, Any] = {"name": name, "seed": seed, "steps": steps}
    if seed == 0 or "random" in name:  # else it is the same for every seed
        found |= {f"{language}_0": score(model, own) for language, own in documents.items()}
        found["old_path"] = score(model, heldout(folder, folder / "base", "ko"))
    wanted = steps * STEP_SEQUENCES
    data = korean(folder, tokenizer)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:wanted]
    optimizer, loss = optimizer_of(model, RATE), SummedLoss(model, "chunked")
    for step, batch in enumerate(data[order].split(STEP_SEQUENCES), start=1):
        rate = RATE * min(1.0, step / 20) * (1 - 0.9 * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        (loss_of(loss, batch) / (len(batch) * LENGTH)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    found |= {f"{language}_200": score(model, own) for language, own in documents.items()}
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds of every figure, a line for each method."""
    lines = [f"{'input / output':24}" + "".join(f"{title:>16}" for _, title in SHOWN)]
    for name in dict.fromkeys(one["name"] for one in results):
        cells = []
        for key, _ in SHOWN:
            values = [one[key] for one in results if one["name"] == name and key in one]
            spread = f" ±{statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
        lines.append(f"{name:24}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def methods(options: argparse.Namespace) -> None:
    folder = options.base_dir.resolve()
    make(folder)
    log = folder / "new_rows.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    names = [f"{one}/{other}" for one, other in METHODS]
    names.insert(4, NO_NEW_TOKENS)
    for name in options.only or names:
        for seed in range(options.seeds):
            if any(
                (one["name"], one["seed"], one["steps"]) == (name, seed, options.steps)
                for one in results
            ):
                continue
            started = time.monotonic()
            results.append(run_one(folder, name, seed, options.steps))
            with log.open("a") as out:
                out.write(json.dumps(results[-1]) + "\n")
            seconds = time.monotonic() - started
            shown = {k: round(v, 3) for k, v in results[-1].items() if isinstance(v, float)}
            print(f"{name} seed {seed}: {shown} in {seconds:.0f} s", flush=True)
    print(table([one for one in results if one["steps"] == options.steps]))


# ── the 8B shape ────────────────────────────────────────────────────────────────────────────────

BASE_TOKENS, ADDED, HIDDEN, INNER, HEADS, PAIRS = 128_256, 32_000, 4096, 14_336, 32, 8


def write_shape(folder: Path, layers: int) -> None:
    """A Llama-3-8B of sparse files: zeros, but for every 64th old row of both matrices."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    config |= {"vocab_size": BASE_TOKENS, "hidden_size": HIDDEN, "intermediate_size": INNER}
    config |= {"num_hidden_layers": layers, "num_attention_heads": HEADS}
    config |= {"num_key_value_heads": PAIRS, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    width = HIDDEN // HEADS * PAIRS
    block = {
        "input_layernorm": [HIDDEN],
        "mlp.down_proj": [HIDDEN, INNER],
        "mlp.gate_proj": [INNER, HIDDEN],
        "mlp.up_proj": [INNER, HIDDEN],
        "post_attention_layernorm": [HIDDEN],
        "self_attn.k_proj": [width, HIDDEN],
        "self_attn.o_proj": [HIDDEN, HIDDEN],
        "self_attn.q_proj": [HIDDEN, HIDDEN],
        "self_attn.v_proj": [width, HIDDEN],
    }
    shards: list[dict[str, list[int]]] = [
        {},
        {},
        {},
        {},
    ]  # as the hub's: the matrices first and last
    shards[0]["model.embed_tokens.weight"] = [BASE_TOKENS, HIDDEN]
    for layer in range(layers):
        shard = shards[min(layer * 4 // layers, 2)]
        shard |= {f"model.layers.{layer}.{n}.weight": shape for n, shape in block.items()}
    shards[3] = {"lm_head.weight": [BASE_TOKENS, HIDDEN], "model.norm.weight": [HIDDEN]}
    weight_map = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-00004.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor, shape in tensors.items():
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            weight_map[tensor] = name
            at += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / name).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            start = out.tell()
            out.truncate(start + at)
            if number in (1, 4):
                generator = torch.Generator().manual_seed(number)
                for row in range(0, BASE_TOKENS, 64):
                    values = torch.randn(HIDDEN, generator=generator).bfloat16() * 0.02
                    out.seek(start + row * HIDDEN * 2)
                    out.write(values.view(torch.uint8).numpy())
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def new_tokens() -> dict[int, list[int]]:
    """Each new token made of two to six base tokens."""
    generator = torch.Generator().manual_seed(3)
    counts = torch.randint(2, 7, (ADDED,), generator=generator).tolist()
    parts = torch.randint(0, BASE_TOKENS, (sum(counts),), generator=generator).split(counts)
    return {BASE_TOKENS + n: own.tolist() for n, own in enumerate(parts)}


class AnonymousPeak(threading.Thread):
    """Largest anonymous memory of this process (RssAnon), looked at every 5 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]))
            time.sleep(0.005)


def grow_shape(base: Path, out: Path, load: bool) -> None:
    """In a process of its own: grow, and print a JSON line of what it took."""
    watched = AnonymousPeak()
    before, started = watched.peak, time.monotonic()
    rows = Rows.of(BASE_TOKENS, BASE_TOKENS + ADDED, 64, BASE_TOKENS)
    if load:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        grow(model, rows, new_tokens(), NewRows(), 17)
        model.save_pretrained(out)
    else:
        checkpoint = open_checkpoint(str(base))
        assert checkpoint is not None and checkpoint.head is not None
        blocks = {
            name: grown_rows(
                checkpoint.tensors[name].take(), rows, new_tokens(), NewRows(), side, 17
            )
            for name, side in ((checkpoint.embed[0], "input"), (checkpoint.head, "output"))
        }
        write_grown(checkpoint, rows, blocks, out)
    seconds = time.monotonic() - started
    time.sleep(0.02)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps({"before": before, "anonymous": watched.peak, "peak": peak, "seconds": seconds})
    )


def same_old_rows(base: Path, out: Path) -> bool:
    """Whether every old row of both matrices is the same bytes, read from the files."""
    one, other = open_checkpoint(str(base)), open_checkpoint(str(out))
    assert one is not None and other is not None and one.head is not None
    for name in (one.embed[0], one.head):
        before, after = one.tensors[name], other.tensors[name]
        with before.file.open("rb") as left, after.file.open("rb") as right:
            left.seek(before.begin)
            right.seek(after.begin)
            remaining = before.end - before.begin
            while remaining:
                size = min(1 << 24, remaining)
                if left.read(size) != right.read(size):
                    return False
                remaining -= size
    return True


def shape(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        base = Path(place) / "base"
        write_shape(base, options.layers)
        size = sum(path.stat().st_size for path in base.iterdir())
        print(f"base: {options.layers} layers, {size / 1e9:.1f} GB in files (sparse)", flush=True)
        for load in (False, True) if options.load else (False,):
            out = Path(place) / "out"
            command = [sys.executable, __file__, "grow", str(base), str(out), *["--load"] * load]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            linked = sum(path.stat().st_nlink > 1 for path in out.iterdir())
            print(
                f"{'loaded' if load else 'by file'}: peak {found['anonymous'] / 1e6:.2f} GB anonymous "
                f"({found['before'] / 1e6:.2f} before it began), {found['peak'] / 1e6:.2f} GB resident, "
                f"{found['seconds']:.0f} s, {linked} shards linked, "
                f"old rows the same bytes: {same_old_rows(base, out)}",
                flush=True,
            )
            shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("methods")
    one.add_argument("--base-dir", type=Path, required=True)
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--steps", type=int, default=200)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--only", nargs="+", help="methods as input/output, or 'no new tokens'")
    two = commands.add_parser("shape")
    two.add_argument("--layers", type=int, default=32)
    two.add_argument("--folder", type=Path, help="where there is room for 7 GB")
    two.add_argument("--load", action="store_true", help="by loading the model too (needs 40 GB)")
    three = commands.add_parser("grow")
    three.add_argument("base", type=Path)
    three.add_argument("out", type=Path)
    three.add_argument("--load", action="store_true")
    options = parser.parse_args()
    disable_progress_bar()
    if options.command == "methods":
        torch.set_num_threads(options.threads)
        methods(options)
    elif options.command == "shape":
        shape(options)
    else:
        grow_shape(options.base, options.out, options.load)


if __name__ == "__main__":
    main()
