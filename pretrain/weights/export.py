"""The final checkpoint: a Hugging Face folder that transformers, vLLM and llama.cpp can load.

In: the weights of the last phase, the tokenizer, what training reports. Out: `model/` (safetensors,
config, generation config, tokenizer files, chat template, README.md, provenance.json, and what the
licence of its base wants beside them), under a temporary name until it is whole.

Two things that go wrong elsewhere are settled here by content, not by number: a reply ends at
`<|end_of_text|>` or `<|eot_id|>` (with only the first, chats never end), and rows that merely pad the
vocabulary are suppressed in generation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from configs.files import read_json, sync, write_json, write_text
from configs.schema import Config
from pretrain.data.encode import begin_id, end_id
from pretrain.data.tokens import Tokens
from pretrain.weights.duties import base_licence, duties, licence_files
from pretrain.weights.embeddings import Rows
from pretrain.weights.provenance import FILE, facts
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
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write `folder`, which appears whole or not at all; weights are linked where the disk allows.

    beside: more files by name (`legal_files`): a Path is copied, text written, anything else is JSON.
    """
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
    for name, content in (beside or {}).items():
        if isinstance(content, Path):
            shutil.copyfile(content, partial / name)
        elif isinstance(content, str):
            write_text(partial / name, content)
        else:
            write_json(partial / name, content)
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
    """README.md of the model: base and its duties, data and licences, recipe, scores, lineage."""
    pretrain = config.pretrain
    assert pretrain is not None
    known = facts(run, config, asdict(report))
    data = {row["source"]: row for row in known["data"]}
    base = pretrain.base
    front, about, name = [], [], config.name
    if isinstance(base, dict):
        started = f"random weights ({base.get('model_type')}, {report.parameters:,} parameters)"
    else:
        on_hub = not Path(base).exists()
        started = f"[{base}](https://huggingface.co/{base})" if on_hub else f"`{Path(base).name}`"
        licence = base_licence(base)
        front = [f"base_model: {base}"] if on_hub else []
        front += [f"license: {licence}"] if licence else []
        about = [f"Licence of the base: {licence or 'see the base itself'}.", ""]
        if asked := duties(licence, base):
            name = asked.name(config.name)
            about += [
                f"**{asked.built_with}.** {asked.notice} Who hands this model on gives a copy of the "
                f'{asked.title} with it, shows "{asked.built_with}" where people see it, and keeps '
                f'"{asked.name_begins}" at the beginning of its name ({asked.section} of the licence).',
                "",
            ]
    lines = [
        "---",
        "language: [ko, en]",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [malmoi, korean]",
        *front,
        "---",
        "",
        f"# {name}",
        "",
        f"Made with Malmoi from {started}: {report.tokens:,} tokens in {len(report.phases)} "
        f"phase{'s' if len(report.phases) != 1 else ''}, vocabulary {report.vocab_size:,}.",
        "",
        *about,
        "## Data",
        "",
        "| source | kind | documents | tokens | passes | removed | licence | sha256 of its files |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for source in tokens.sources:
        documents, row = tokens.sets[source, "train"], data.get(source, {})
        lines.append(
            f"| {source} | {documents.kind} | {documents.documents:,} | {documents.tokens:,} "
            f"| {_or_dash(row.get('passes'), '{:.2f}')} | {_or_dash(row.get('removed'), '{:.1%}')} "
            f"| {row.get('licence') or 'not stated'} | {(row.get('sha256') or '–')[:16]} |"
        )
    for name, row in data.items():
        if row.get("kind") == "preference":
            lines.append(
                f"| {name} | preference | {row['documents']:,} | – | {_or_dash(row.get('passes'), '{:.2f}')} "
                f"| {_or_dash(row.get('removed'), '{:.1%}')} | {row.get('licence') or 'not stated'} "
                f"| {(row.get('sha256') or '–')[:16]} |"
            )
    lines += _cleaned(known["cleaning"])
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
    lines += _preferences(report)
    lines += ["", "## Lineage", "", *_lineage(run, report.identity), *_made_by(known)]
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


def _preferences(report: Report) -> list[str]:
    """What the preference phases did to pairs that were held out."""
    if not report.preference:
        return []
    lines = [
        "",
        "## Preferences",
        "",
        "The bits per byte above were measured before. Held-out pairs of answers: share whose chosen "
        "answer is likelier than the rejected one, share that moved the right way, and the mean margin.",
        "",
        "| phase | pairs | left out, too long | beta | held out | likelier before | after | moved | margin |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in report.preference:
        judged = ["–"] * 5
        if one.before is not None and one.after is not None:
            judged = [
                f"{one.after.pairs:,}",
                f"{one.before.ranking_accuracy:.1%}",
                f"{one.after.ranking_accuracy:.1%}",
                _or_dash(one.after.reward_accuracy, "{:.1%}"),
                f"{one.after.margin:.3f}",
            ]
        cells = [one.name, f"{one.pairs:,}", f"{one.too_long:,}", f"{one.beta:g}", *judged]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"Tuned with TRL {report.preference[0].trl} (DPO, Rafailov et al. 2023)."]


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


def legal_files(config: Config, run: Path, report: Report) -> dict[str, Any]:
    """What lies in the model's folder beside its README: its facts, and what its base's licence wants.

    A copy of the licence is there where the base's folder, or the hub's cache, has one.
    """
    assert config.pretrain is not None
    files: dict[str, Any] = {FILE: facts(run, config, asdict(report))}
    base = config.pretrain.base
    if isinstance(base, str):
        files |= licence_files(base)
        if (asked := duties(base_licence(base), base)) and not {"Notice", "NOTICE"} & files.keys():
            files["Notice"] = asked.notice + "\n"
    return files


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _cleaned(cleaning: dict[str, Any] | None) -> list[str]:
    """What the data stage removed."""
    if not cleaning or not cleaning["documents_in"]:
        return []
    gone = ", ".join(f"{step} {count:,}" for step, count in cleaning["removed"].items() if count)
    return [
        "",
        f"Of {cleaning['documents_in']:,} documents read {cleaning['removed_share']:.1%} were removed "
        f"({gone or 'none'}); {cleaning['heldout'] or 0:,} are held out and were never trained on.",
    ]


def _made_by(known: dict[str, Any]) -> list[str]:
    """Tokenizer, code, machines and hours, as lines of the card."""
    lines = []
    words = known["tokenizer"] or {}
    if words.get("base"):
        lines.append(
            f"- tokenizer: {words['base']} and {words['new_tokens']:,} new tokens, "
            f"sha256 `{words['tokenizer_sha256']}`"
        )
    versions = {
        f"{code['version']} {code.get('commit') or ''}".strip()
        for code in known["code"].values()
        if code
    }
    if versions:
        lines.append(f"- code: malmoi {', '.join(sorted(versions))}")
    hosts = sorted({str(m.get("host")) for found in known["machines"].values() for m in found})
    if hosts:
        hours = known["training"].get("hours") or 0.0
        lines.append(f"- machines: {', '.join(hosts)}; {hours:.2f} hours of training")
    return lines
