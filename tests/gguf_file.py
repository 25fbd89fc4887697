"""A vocabulary as llama.cpp reads it: in a GGUF file, with the smallest model around it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_WIDTH = 32
_READ = """
import json, sys
from cyllama.llama.llama_cpp import LlamaModel, LlamaModelParams
model = LlamaModel(sys.argv[1], LlamaModelParams(), verbose=False)
vocabulary = model.get_vocab()
texts = json.load(sys.stdin)
ids = [vocabulary.tokenize(text, False, sys.argv[2] == "special") for text in texts]
print(json.dumps([vocabulary.n_vocab, ids]))
"""


def llama_cpp_ids(path: Path, texts: list[str], *, special: bool) -> tuple[int, list[list[int]]]:
    """Number of tokens, and ids of the texts, by llama.cpp in a process of its own: it aborts where
    another library would raise."""
    pytest.importorskip("cyllama", reason="llama.cpp's bindings: pip install 'malmoi[dev]'")
    command = [sys.executable, "-c", _READ, str(path), "special" if special else "text"]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    size, ids = json.loads(done.stdout.splitlines()[-1])
    return size, ids


def write_gguf(gguf: Any, folder: Path, path: Path) -> None:
    """The vocabulary as llama.cpp's converter writes it for a model of this folder."""
    definition = json.loads((folder / "tokenizer.json").read_text())
    control = {token["id"] for token in definition["added_tokens"] if token["special"]}
    ordered = sorted(definition["model"]["vocab"].items(), key=lambda entry: entry[1])
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([token for token, _ in ordered])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if i in control else kinds.NORMAL for _, i in ordered])
    gguf.SpecialVocab(folder, load_merges=True).add_to_gguf(writer, quiet=True)
    finish(writer, len(ordered))


def finish(writer: Any, size: int) -> None:
    """Put a model of one layer and `size` rows into the file, and close it."""
    writer.add_context_length(128)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((size, _WIDTH), np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((_WIDTH, _WIDTH), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
