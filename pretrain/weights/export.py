"""The final checkpoint: a Hugging Face folder that transformers, vLLM and llama.cpp can load.

In: the weights of the last phase, the tokenizer, what training reports. Out: `model/` (safetensors,
config, generation config, tokenizer files, chat template, README.md), under a temporary name until it
is whole.

Two things that go wrong elsewhere are settled here by content, not by number: a reply ends at
`<|end_of_text|>` or `<|eot_id|>` (with only the first, chats never end), and rows that merely pad the
vocabulary are suppressed in generation.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from configs.files import read_json, sync, write_text
from configs.schema import Config
from pretrain.data.encode import begin_id, end_id
from pretrain.data.tokens import Tokens
from pretrain.weights.embeddings import Rows
from tokenizer.write import OTHER_FORMS

if TYPE_CHECKING:
    from pretrain.stage import Report

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    *OTHER_FORMS,
)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def generation_config(tokenizer: PreTrainedTokenizerFast, rows: Rows) -> GenerationConfig:
    """Where generation begins, where it ends, and the rows it never produces."""
    ids: dict[str, int] = tokenizer.get_vocab()
    end = end_id(tokenizer)
    turn = ids.get("<|eot_id|>")
    return GenerationConfig(
        bos_token_id=begin_id(tokenizer),
        eos_token_id=[end] if turn is None else [end, turn],
        pad_token_id=end,
        suppress_tokens=list(range(rows.vocabulary, rows.total)) or None,
    )


def export_model(
    weights: Path,
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_folder: Path,
    rows: Rows,
    card: str,
    folder: Path,
) -> None:
    """Write `folder`, which appears whole or not at all; weights are linked where the disk allows."""
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for pattern in WEIGHTS:
        for path in weights.glob(pattern):
            _link(path, partial / path.name)
    model_config = AutoConfig.from_pretrained(str(weights))
    generation = generation_config(tokenizer, rows)
    model_config.bos_token_id = generation.bos_token_id
    model_config.eos_token_id = generation.eos_token_id
    model_config.pad_token_id = generation.pad_token_id
    model_config.use_cache = True
    model_config.save_pretrained(partial)
    generation.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    # the tokenizer's own bytes: what transformers writes again may differ from what was checked
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).is_file():
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(tokenizer_folder / name, partial / name)
    write_text(partial / "README.md", card)
    for path in partial.rglob("*"):
        sync(path)
    if folder.exists():
        old = folder.with_name(folder.name + ".old.tmp")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)
    sync(folder.parent)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def model_card(config: Config, run: Path, tokens: Tokens, report: Report) -> str:
    """README.md of the model: base, data and licences, tokens, recipe, bits per byte."""
    pretrain = config.pretrain
    assert pretrain is not None
    sources = config.dedup.sources if config.dedup else []
    licences = {source.name: source.licence for source in sources}
    base = pretrain.base
    front, about = [], []
    if isinstance(base, dict):
        started = f"random weights ({base.get('model_type')}, {report.parameters:,} parameters)"
    else:
        on_hub = not Path(base).exists()
        started = f"[{base}](https://huggingface.co/{base})" if on_hub else f"`{Path(base).name}`"
        licence = base_licence(base)
        front = [f"base_model: {base}"] if on_hub else []
        front += [f"license: {licence}"] if licence else []
        about = [f"Licence of the base: {licence or 'see the base itself'}.", ""]
    lines = [
        "---",
        "language: [ko, en]",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [malmoi, korean]",
        *front,
        "---",
        "",
        f"# {config.name}",
        "",
        f"Made with Malmoi from {started}: {report.tokens:,} tokens in {len(report.phases)} "
        f"phase{'s' if len(report.phases) != 1 else ''}, vocabulary {report.vocab_size:,}.",
        "",
        *about,
        "## Data",
        "",
        "| source | kind | documents | tokens | licence |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for source in tokens.sources:
        documents = tokens.sets[source, "train"]
        lines.append(
            f"| {source} | {documents.kind} | {documents.documents:,} | {documents.tokens:,} "
            f"| {licences.get(source) or 'not stated'} |"
        )
    lines += ["", "## Recipe", "", "| phase | objective | tokens | steps | lr | learns | mixture |"]
    lines += ["| --- | --- | ---: | ---: | ---: | --- | --- |"]
    for phase, done in zip(pretrain.phases, report.phases, strict=True):
        learns = phase.train if isinstance(phase.train, str) else ", ".join(phase.train)
        mixture = ", ".join(f"{name} {share:g}" for name, share in phase.mixture.items())
        lines.append(
            f"| {phase.name} | {phase.objective} | {done.tokens:,} | {done.steps:,} | {phase.lr:g} "
            f"| {learns} | {mixture} |"
        )
    lines += [
        "",
        f"Seed {config.seed}, ZeRO stage {report.zero_stage}, {report.world_size} ranks, {report.dtype}.",
        "",
        "## Bits per byte on held-out text",
        "",
        "| | before | after |",
        "| --- | ---: | ---: |",
    ]
    before, after = report.bits_per_byte["before"], report.bits_per_byte["after"]
    lines += [f"| {name} | {before[name]:.3f} | {after[name]:.3f} |" for name in after]
    lines += ["", "## Lineage", "", *_lineage(run, report.identity)]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'chat = pipeline("text-generation", model="PATH")',
        'print(chat([{"role": "user", "content": "안녕하세요?"}], max_new_tokens=64))',
        "```",
        "",
    ]
    return "\n".join(lines)


def base_licence(base: str) -> str | None:
    """The licence that a base's README.md names in its front matter; nothing is downloaded."""
    readme: Any = Path(base) / "README.md"
    if not Path(base).exists():
        readme = try_to_load_from_cache(base, "README.md")
    if not isinstance(readme, str | Path) or not Path(readme).is_file():
        return None
    text = Path(readme).read_text(encoding="utf-8", errors="replace")
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None


def _lineage(run: Path, identity: str) -> list[str]:
    """What this model was made of, as digests that stand in the run's own files."""
    path = run / "lineage.json"
    stages: dict[str, Any] = read_json(path).get("stages", {}) if path.is_file() else {}
    lines = [
        f"- {stage}: `{stages[stage]['digest']}` (`stages.{stage}.digest` in the run's lineage.json)"
        for stage in ("dedup", "tokenizer")
        if stages.get(stage, {}).get("status") == "done"
    ]
    return [*lines, f"- pretrain: `{identity}` (`identity` in the run's pretrain/report.json)"]
