"""Base + learned merges → a Hugging Face tokenizer folder.

In: the base and what was learned. Out: tokenizer.json, tokenizer_config.json (with the chat
template), special_tokens_map.json and new_tokens.tsv, in an empty folder; beside them the form that
the base came in, where it has one (`ranks.py`: tiktoken's, `pieces.py`: SentencePiece's). `stage.py`
renames them into place when the gates have passed. The same input gives the same bytes.

The decision: subwords are vocabulary and merges, never AddedTokens (slow to load, lost by GGUF
converters, and matched before the regex cuts). The config names `PreTrainedTokenizerFast`, which
every version of transformers and vLLM knows, and the files are written here, because what
`save_pretrained` writes differs between versions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.files import sync, write_json, write_text
from tokenizer.base import Base
from tokenizer.bpe import Learned
from tokenizer.chat import CHAT_TEMPLATE, END, END_HEADER, HEADER
from tokenizer.pieces import MODEL_FILE, write_model
from tokenizer.ranks import RANKS_FILES, has_ranks, write_ranks

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "new_tokens.tsv",
)
"""What a tokenizer folder holds besides report.json; the first three belong into a model folder."""

OTHER_FORMS = (*RANKS_FILES, MODEL_FILE)
"""What it holds besides where the base allows: tiktoken's form or SentencePiece's."""


def extend(base: Base, learned: Learned) -> dict[str, Any]:
    """`tokenizer.json` as a mapping: the base's, with the new tokens and merges at its end."""
    model = base.definition["model"]
    vocab = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    vocab.update(
        (base.spelled(data), learned.first_id + index) for index, data in enumerate(learned.tokens)
    )
    text = {index: token for token, index in vocab.items()}
    merges = model["merges"] + [[text[left], text[right]] for left, right, _ in learned.merges]
    return {**base.definition, "model": {**model, "vocab": vocab, "merges": merges}}


def chat_template(base: Base) -> str | None:
    """Llama-3's template where the base has its control tokens; else the base's own."""
    vocab = base.definition["model"]["vocab"]
    if all(token in vocab for token in (HEADER, END_HEADER, END)):
        return CHAT_TEMPLATE
    return base.chat_template


def write_folder(folder: Path, base: Base, learned: Learned) -> None:
    """Write the tokenizer's four files (FILES) into `folder`, and OTHER_FORMS that it has."""
    definition = extend(base, learned)
    folder.mkdir(parents=True, exist_ok=True)
    compact = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    write_text(folder / "tokenizer.json", compact)
    config: dict[str, Any] = {
        **base.settings,
        **base.special_tokens,
        "clean_up_tokenization_spaces": False,  # true would change decoded text (" ." → ".")
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    template = chat_template(base)
    if template is not None:
        config["chat_template"] = template
    write_json(folder / "tokenizer_config.json", dict(sorted(config.items())))
    write_json(folder / "special_tokens_map.json", base.special_tokens)
    write_text(folder / "new_tokens.tsv", _table(base, learned))
    if has_ranks(base, learned):
        write_ranks(folder, base, learned)
    if base.piece_model is not None:
        write_model(folder, base, learned)
    sync(folder)


def _table(base: Base, learned: Learned) -> str:
    """One line a token: id, token, text, count (weight of its pair when it merged), base_ids."""
    lines = ["id\ttoken\ttext\tcount\tbase_ids"]
    cut = base.tokenizer.model.tokenize
    for index, (data, weight) in enumerate(zip(learned.tokens, learned.weights, strict=True)):
        token = base.spelled(data)
        base_ids = " ".join(str(piece.id) for piece in cut(token))
        lines.append(f"{learned.first_id + index}\t{token}\t{_escaped(data)}\t{weight}\t{base_ids}")
    return "\n".join(lines) + "\n"


def _escaped(data: bytes) -> str:
    text = data.decode("utf-8", "replace").replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
