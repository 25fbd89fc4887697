"""A small run of every stage, in a folder of its own: shared by the tests that need a finished one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

River = tuple[Path, subprocess.CompletedProcess[str]]
"""The run's folder, and what the command printed."""

CONFIG = """
name: river
dir: {folder}
dedup:
  sources:
    - {{name: board, paths: [{sample}/ko/board.jsonl.zst]}}
    - {{name: essays, paths: [{sample}/ko/essays.jsonl.gz]}}
    - {{name: dialogue, paths: [{sample}/dialogues.jsonl], format: chat}}
  heldout: 0.1
  workers: 2
tokenizer: {{base: llama3, new_tokens: 300}}
pretrain:
  base: {{model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2,
         num_attention_heads: 2, num_key_value_heads: 1, tie_word_embeddings: true,
         max_position_embeddings: 512}}
  sequence_length: 128
  global_batch_tokens: 512
  processes: 2
  threads: 1
  checkpoint: {{every_steps: 4, keep: 2}}
  evaluate: {{every_steps: 6, sequences: 2}}
  phases:
    - {{name: pretrain, tokens: {tokens}, lr: 1e-3, mixture: {{board: 0.6, essays: 0.4}}}}
    - {{name: chat, objective: chat, tokens: 2K, lr: 1e-3, mixture: {{dialogue: 1.0}}}}
chat: {{prompts: [안녕하세요], max_new_tokens: 8, temperature: 0}}
"""


def write_config(folder: Path, tokens: str = "5K") -> Path:
    path = folder / "river.yaml"
    sample = ROOT / "configs" / "sample"
    path.write_text(
        CONFIG.format(folder=folder / "run", sample=sample, tokens=tokens), encoding="utf-8"
    )
    return path


def malmoi(*arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
