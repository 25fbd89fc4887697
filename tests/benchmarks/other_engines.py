"""Do vLLM and llama.cpp read what a run writes? Their own code loads it, on real and on made text.

    python tests/benchmarks/other_engines.py MODEL [TEXT.jsonl.zst …] [--texts 2000] [--vllm PYTHON]

MODEL is a run's `model/`, or a tokenizer folder alone (then no weights are looked at). TEXT are files
with a `text` field, --texts lines of each; to them comes text of every script, made.

llama.cpp (its bindings are in `malmoi[dev]`) reads a GGUF file of the vocabulary and gives its ids.
vLLM pins its own torch, so PYTHON is the interpreter of an environment of its own:

    python -m venv ~/.malmoi/vllm && ~/.malmoi/vllm/bin/pip install vllm

It prints what `vllm.tokenizers` encodes, what `ModelConfig` makes of the folder, and a sum over
each tensor that `get_model`, the loader of `vllm serve`, has put into its model. Neither a GPU nor
vLLM's compiled kernels are needed for that: nothing is generated. All is compared with transformers
and with the safetensors; exit status 1 where anything differs. (Python's
own tables, of Unicode 14 in 3.11, tell which letters are newer than llama.cpp's.)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import gguf
import zstandard
from gguf_file import llama_cpp_ids, write_gguf
from safetensors import safe_open
from tokenizers import Tokenizer

from tokenizer import samples

INSIDE = """
import json, pathlib, socket, sys
import torch

torch.accelerator.empty_cache = lambda: None  # asked for at the end of loading, accelerator or not
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # of a wheel for GPUs
import vllm
from vllm.tokenizers import get_tokenizer

folder, texts = sys.argv[1], json.load(sys.stdin)
tokenizer = get_tokenizer(folder)
turns = [{"role": "user", "content": "안녕하세요?"}]
chat = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
found = {
    "version": vllm.__version__,
    "ids": [tokenizer.encode(text, add_special_tokens=False) for text in texts],
    "chat": tokenizer.encode(chat, add_special_tokens=False),
}
if pathlib.Path(folder, "config.json").is_file():
    from vllm.config import (
        DeviceConfig, LoadConfig, ModelConfig, VllmConfig, set_current_vllm_config
    )
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.model_executor.model_loader import get_model

    made = ModelConfig(model=folder, dtype="float32")
    found["config"] = [made.architecture, made.get_vocab_size(), made.max_model_len]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "tcp://127.0.0.1:%d" % probe.getsockname()[1]
    config = VllmConfig(
        model_config=made, device_config=DeviceConfig(device="cpu"), load_config=LoadConfig()
    )
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, address, 0, "gloo")
        initialize_model_parallel(1, 1)
        model = get_model(vllm_config=config)
    found["weights"] = {
        name: [list(tensor.shape), float(tensor.double().sum()), float(tensor.double().square().sum())]
        for name, tensor in model.named_parameters()
    }
print("FOUND" + json.dumps(found))
"""
# what vLLM keeps as one tensor → the tensors of the checkpoint, one above the other
STACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def read_texts(path: Path, most: int) -> list[str]:
    """The first `most` texts of a JSONL file, compressed or not."""
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file) if path.suffix == ".zst" else file
        lines = stream.read().splitlines()[:most]
    return [json.loads(line)["text"] for line in lines]


def without_new_letters(text: str) -> str:
    """Less the letters of Unicode 15 and newer: llama.cpp's regular expression does not know them
    for letters, in Llama-3's own vocabulary no more than in ours."""
    return "".join(c for c in text if unicodedata.category(c) != "Cn")


def ask_vllm(python: str, model: Path, texts: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", INSIDE, str(model.resolve())],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    if not said:
        raise SystemExit(f"vLLM did not load {model}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(said[0].removeprefix("FOUND"))
    return found


def weights_that_differ(model: Path, loaded: dict[str, Any]) -> list[str]:
    """Names of vLLM's tensors that are not those of the checkpoint: in shape, sum or sum of squares."""
    kept = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            kept |= {name: tensors.get_tensor(name).double() for name in tensors.keys()}  # noqa: SIM118
    different = []
    for name, (shape, total, squares) in loaded.items():
        whole = next((part for part in STACKED if part in name), None)
        parts = [name.replace(whole, part) for part in STACKED[whole]] if whole else [name]
        if not all(part in kept for part in parts):
            different.append(f"{name} (not in the checkpoint)")
            continue
        rows = sum(len(kept[part]) for part in parts)
        sums = [
            sum(float(kept[p].sum()) for p in parts),
            sum(float(kept[p].square().sum()) for p in parts),
        ]
        same = (
            abs(sums[0] - total) <= 1e-6 * (1 + abs(total))
            and abs(sums[1] - squares) <= 1e-6 * squares
        )
        if not same or not rows <= shape[0] < rows + 64:  # vLLM pads a vocabulary to 64 rows
            different.append(name)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, nargs="*")
    parser.add_argument("--texts", type=int, default=2000, help="of each file")
    parser.add_argument("--vllm", metavar="PYTHON")
    given = parser.parse_args()
    own = Tokenizer.from_file(str(given.model / "tokenizer.json"))
    texts = [*samples.with_hangul(), *samples.without_hangul()]
    texts += [text for path in given.text for text in read_texts(path, given.texts)]
    ids = [own.encode(text, add_special_tokens=False).ids for text in texts]
    count = sum(map(len, ids))
    print(
        f"{own.get_vocab_size():,} tokens in the vocabulary; {len(texts):,} texts, {count:,} tokens"
    )
    wrong = []

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_gguf(gguf, given.model, path)
        size, theirs = llama_cpp_ids(path, texts, special=True)
        new = [text for text, a, b in zip(texts, ids, theirs, strict=True) if a != b]
        older = [without_new_letters(text) for text in new]
        _, theirs = llama_cpp_ids(path, older, special=True)
    differ = [
        text
        for text, b in zip(older, theirs, strict=True)
        if b != own.encode(text, add_special_tokens=False).ids
    ]
    print(
        f"llama.cpp: {size:,} tokens, {len(new)} texts with other ids, {len(differ)} of them without "
        "letters newer than its tables of Unicode"
    )
    wrong += [f"llama.cpp: {text[:80]!r}" for text in differ[:5]]

    if given.vllm:
        found = ask_vllm(given.vllm, given.model, texts)
        differ = [text for text, a, b in zip(texts, ids, found["ids"], strict=True) if a != b]
        print(f"vLLM {found['version']}: {len(differ)} texts with other ids; chat {found['chat']}")
        wrong += [f"vLLM: {text[:80]!r}" for text in differ[:5]]
        if "weights" in found:
            architecture, rows, context = found["config"]
            different = weights_that_differ(given.model, found["weights"])
            print(
                f"vLLM: {architecture}, {rows:,} rows, context {context:,}; {len(found['weights'])} tensors loaded, {len(different)} differ from the checkpoint"
            )
            wrong += [f"vLLM: {name}" for name in different]
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
