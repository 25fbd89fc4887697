"""Every mistake in a config is named with its place and, where there is one, its mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import InputError
from configs.load import load

# A config with one of everything; each case swaps one line of it for a wrong one.
GOOD = """\
name: a
seed: 17
dedup:
  sources:
    - name: ko_web
      paths: [ko.jsonl]
    - {name: dialogue, paths: [chat.jsonl], format: chat}
  filters: korean_web
  pii: mask
  near: {threshold: 0.8, rows: 5}
  heldout: 0.005
tokenizer:
  new_tokens: 32000
pretrain:
  base: llama
  zero_stage: 2
  processes: auto
  checkpoint: {every_steps: 500}
  phases:
    - name: full
      tokens: 1B
      lr: 1e-4
      train: all
      mixture: {ko_web: 1.0}
chat:
  temperature: 0.7
"""

# line that is replaced, by what, line:column and key that are named, what the message must hold
TYPOS = [
    # unknown keys: the nearest at that level
    ("seed: 17", "sede: 17", "2:1", "sede", "no such key; did you mean seed?"),
    ("  pii: mask", "  pi: mask", "9:3", "dedup.pi", "did you mean pii?"),
    ("near: {threshold: 0.8, rows: 5}", "near: {treshold: 0.7}", "10:10", "dedup.near.treshold", "no such key; did you mean threshold?"),
    ("  new_tokens: 32000", "  new-tokens: 32000", "13:3", "tokenizer.new-tokens", "did you mean new_tokens?"),
    ("checkpoint: {every_steps: 500}", "checkpoint: {every_step: 500}", "18:16", "pretrain.checkpoint.every_step", "did you mean every_steps?"),
    ("      tokens: 1B", "      tokns: 1B", "21:7", "pretrain.phases.0.tokns", "did you mean tokens?"),
    ("  temperature: 0.7", "  temprature: 0.7", "26:3", "chat.temprature", "did you mean temperature?"),
    # a key that exists, elsewhere
    ("  heldout: 0.005", "  threshold: 0.7", "11:3", "dedup.threshold", "it belongs under dedup.near"),
    ("  zero_stage: 2", "  lr: 1e-4", "16:3", "pretrain.lr", "it belongs under pretrain.phases"),
    ("  heldout: 0.005", "  treshold: 0.7", "11:3", "dedup.treshold", "did you mean threshold, under dedup.near or dedup.sources.near?"),
    ("seed: 17", "zero_stage: 3", "2:1", "zero_stage", "it belongs under pretrain"),
    # the words of other trainers
    ("      lr: 1e-4", "      learning_rate: 1e-4", "22:7", "pretrain.phases.0.learning_rate", "did you mean lr?"),
    ("seed: 17", "output_dir: out", "2:1", "output_dir", "did you mean dir?"),
    ("  zero_stage: 2", "  batch_size: 64", "16:3", "pretrain.batch_size", "did you mean global_batch_tokens?"),
    # nothing like it anywhere
    ("seed: 17", "qqq: 17", "2:1", "qqq", "the keys here are schema_version, name"),
    # wrong values of a choice
    ("  pii: mask", "  pii: msk", "9:3", "dedup.pii", "'msk' is not mask, drop or keep; did you mean mask?"),
    ("  filters: korean_web", "  filters: korean_wbe", "8:3", "dedup.filters", "did you mean korean_web?"),
    ("  near: {threshold: 0.8, rows: 5}", "  near: nne", "10:3", "dedup.near", "did you mean none?"),
    ("  zero_stage: 2", "  zero_stage: 4", "16:3", "pretrain.zero_stage", "4 is not 0, 1, 2 or 3"),
    ("  zero_stage: 2", "  zero_stage: '2'", "16:3", "pretrain.zero_stage", "did you mean 2?"),
    ("format: chat}", "format: chta}", "7:45", "dedup.sources.1.format", "did you mean chat?"),
    ("      train: all", "      train: [embd]", "23:15", "pretrain.phases.0.train.0", "did you mean embed?"),
    ("      train: all", "      train: embed", "23:7", "pretrain.phases.0.train", "did you mean [embed]?"),
    ("  processes: auto", "  processes: atuo", "17:3", "pretrain.processes", "is not a whole number, 1 or more or auto; did you mean auto?"),
    # wrong types and limits
    ("  processes: auto", "  processes: 0", "17:3", "pretrain.processes", "0 is not a whole number, 1 or more or auto"),
    ("  heldout: 0.005", "  heldout: 2", "11:3", "dedup.heldout", "2 is not a number, 0 or more and below 1"),
    ("      tokens: 1B", "      tokens: 1X", "21:7", "pretrain.phases.0.tokens", "'1X' is not a count"),
    ("      paths: [ko.jsonl]", "      paths: ko.jsonl", "6:7", "dedup.sources.0.paths", "did you mean [ko.jsonl]?"),
    ("      paths: [ko.jsonl]", "      paths: [3]", "6:15", "dedup.sources.0.paths.0", "3 is not a path; put it in quotes"),
    ("name: a", "name: 2026", "1:1", "name", "put it in quotes"),
    ("checkpoint: {every_steps: 500}", "checkpoint: 500", "18:3", "pretrain.checkpoint", "500 is not a mapping (every_steps, keep, keep_every, keep_best, upload)"),
    ("  pii: mask", "  pii:", "9:3", "dedup.pii", "nothing is not mask, drop or keep"),
    ("      lr: 1e-4", "      lr: .nan", "22:7", "pretrain.phases.0.lr", "nan is not a number, above 0"),
    ("  temperature: 0.7", "  7: x", "26:3", "chat.7", "no such key; the keys here are system"),
    # missing keys: the place of what holds them
    ("  base: llama", "  dtype: bf16", "14:1", "pretrain.base", "missing; give a path or name or a mapping"),
    ("    - name: full", "    - objective: chat", "20:7", "pretrain.phases.0.name", "missing"),
    ("  base: llama", "  bse: llama", "15:3", "pretrain.bse", "did you mean base?"),
    # across keys
    ("rows: 5}", "rows: 6}", "10:3", "dedup.near", "bands × rows = 150 is more than permutations = 128"),
    ("      tokens: 1B", "      objective: pretrain", "20:7", "pretrain.phases.0", "give either tokens or epochs"),
    ("mixture: {ko_web: 1.0}", "mixture: {ko_wbe: 1.0}", "24:17", "pretrain.phases.0.mixture.ko_wbe", "no source has this name; dedup.sources has dialogue, ko_web"),
    ("mixture: {ko_web: 1.0}", "mixture: {ko_web: 0.9}", "24:7", "pretrain.phases.0.mixture", "shares sum to 0.9, not to 1"),
    ("{name: dialogue, ", "{name: ko_web, ", "3:1", "dedup", "sources named twice: ko_web"),
    # written twice
    ("seed: 17", "name: b", "2:1", "name", "written twice; the first is in line 1"),
]  # fmt: skip


def mistakes(folder: Path, text: str, *overrides: str) -> list[str]:
    file = folder / "my.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load(str(file), overrides)
    return [line.removeprefix(f"{folder}/") for line in caught.value.lines]


def test_the_config_that_the_cases_start_from_is_right(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(GOOD)
    assert load(str(tmp_path / "my.yaml")).name == "a"


@pytest.mark.parametrize(("right", "wrong", "place", "key", "says"), TYPOS)
def test_a_typo_is_named_with_line_column_key_and_mend(
    tmp_path: Path, right: str, wrong: str, place: str, key: str, says: str
) -> None:
    assert right in GOOD
    lines = mistakes(tmp_path, GOOD.replace(right, wrong, 1))
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"my.yaml:{place}: {key}: "), lines[0]
    assert says in lines[0]


def test_all_mistakes_come_at_once_in_the_order_of_the_file_then_the_overrides(
    tmp_path: Path,
) -> None:
    text = GOOD
    for right, wrong, *_ in (
        ("pii: mask", "pii: msk"),
        ("near: {threshold: 0.8, rows: 5}", "near: {treshold: 0.7}"),
        ("zero_stage: 2", "zero_stage: 7"),
        ("mixture: {ko_web: 1.0}", "mixture: {nowhere: 1.0}"),
        ("seed: 17", "name: b"),
    ):
        text = text.replace(right, wrong)
    lines = mistakes(tmp_path, text, "dedup.heldout=3", "tokeniser.base=x")
    assert [line.split(": ")[:2] for line in lines] == [
        ["my.yaml:2:1", "name"],
        ["my.yaml:9:3", "dedup.pii"],
        ["my.yaml:10:10", "dedup.near.treshold"],
        ["my.yaml:16:3", "pretrain.zero_stage"],
        ["my.yaml:24:17", "pretrain.phases.0.mixture.nowhere"],
        ["override 'dedup.heldout=3'", "dedup.heldout"],
        ["override 'tokeniser.base=x'", "tokeniser"],
    ]


NOT_YAML = [
    ("name: a\ndedup:\n\tpii: mask\n", "3:1", "a tab; indent with spaces"),
    ("name a\nseed: 17\n", "1:1", "no ':' after the key in 'name a'"),
    ("name: a\nseed 17\n", "2:1", "no ':' after the key in 'seed 17'"),
    ("name: a\nseed:17\n", "2:1", "no space after ':' in 'seed:17'"),
    ("seed:17\nname: a\n", "1:1", "no space after ':' in 'seed:17'"),
    ("name: a: b\n", "1:8", "a second ': ' in one line; put the value in quotes"),
    ("dedup:\n  near: {threshold: 0.8\n  pii: mask\n", "3:6", "the { was opened in line 2, column 9"),
    ("dedup:\n  sources: [a, b\nname: x\n", "3:5", "the [ was opened in line 2, column 12"),
    ('name: "a\nseed: 17\n', "1:7", "this quote is never closed"),
    ("name: a\n  seed: 17\n", "2:7", "indent"),
    ("dedup:\n    pii: mask\n  near: none\n", "3:3", "this line is indented unlike the lines it belongs to"),
    ("name: @a\n", "1:7", "'@' cannot begin a value; put the value in quotes"),
    ('name: "a\\q"\n', "1:10", "use single quotes"),
    ("dedup:\n  decontaminate: [*.jsonl]\n", "2:19", "'*' has a meaning of its own"),
    ("dedup: {near: ", "1:15", "the text ends inside { or [; close it"),
    ("name: ]\n", "1:7", "']' where a value should be"),
    ("name: - a\n", "1:7", "a list item ('- ') begins in the line of its key"),
    ("name: *nobody\n", "1:7", "no anchor &nobody stands above this alias"),
    ("name: a\n---\nname: b\n", "2:1", "a second document"),
    ("name: a\x07\n", "1:8", "control character U+0007"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "says"), NOT_YAML)
def test_text_that_is_not_yaml_is_named_in_plain_words(
    tmp_path: Path, text: str, place: str, says: str
) -> None:
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(f"my.yaml:{place}: ")
    assert says in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "1:1: the file is empty; `malmoi init` writes one"),
        ("# nothing yet\n", "1:1: the file is empty"),
        ("- name: a\n", "1:1: 'a list' is not a config"),
        ("just words\n", "1:1: 'just words' is not a config"),
        ("name: !!python/name:os.system a\n", "1:7: name: the tag !!python/name:os.system"),
        ("name: a\ndedup: &x {sources: [*x]}\n", "2:8: dedup.sources.0: contains itself"),
        ("name: a\n{{x}}: 1\n", "a key is a word"),
    ],
)
def test_text_that_is_yaml_but_no_config_is_named(tmp_path: Path, text: str, says: str) -> None:
    assert any(says in line for line in mistakes(tmp_path, text))


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_bytes("name: a\nchat: {system: 안녕}\n".encode("cp949"))
    with pytest.raises(InputError, match=r"my.yaml:2:16: the byte 0xBE is not UTF-8.*CP949"):
        load(str(file))


def test_a_missing_file_names_what_is_like_it(tmp_path: Path) -> None:
    (tmp_path / "corpus.yaml").write_text(GOOD)
    with pytest.raises(
        InputError, match=r"no such file.*did you mean .*corpus\.yaml\?.*malmoi init"
    ):
        load(str(tmp_path / "corpsu.yaml"))
    with pytest.raises(InputError, match="did you mean quickstart"):
        load("quikstart")
    with pytest.raises(InputError, match=r"is a folder.*did you mean .*corpus\.yaml"):
        load(str(tmp_path))
