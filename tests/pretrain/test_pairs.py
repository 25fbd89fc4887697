"""Korean–English pairs: both orders, translated both ways, as text and as dialogues."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_run import SCHEMA, document, make_config

from configs.errors import InputError
from pretrain.data.batches import IGNORED
from pretrain.data.pairs import PairForms, asked, plain
from pretrain.data.token_shards import write_tokens
from pretrain.data.tokens import Tokens, open_tokens
from pretrain.evaluation.evaluate import heldout
from pretrain.phases import make_work, pair_forms
from pretrain.stage import run
from tokenizer.load import load_tokenizer

COUNT = 60


def sides_of(number: int) -> tuple[str, str]:
    return f"봄 바람이 {number} 분다", f"wind {number} blows"


def pair(number: int, **fields: Any) -> dict[str, Any]:
    ko, en = sides_of(number)
    segments = [{"role": "ko", "text": ko}, {"role": "en", "text": en}]
    return document(
        number, "ko_en", f"{ko}\n{en}", kind="parallel", segments=segments, language=None, **fields
    )


def write_pairs(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [pair(number) for number in range(COUNT)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "pairs.parquet")
    return folder


def write(documents: Path, tokenizer: Path, folder: Path, **forms: Any) -> Tokens:
    write_tokens(
        [documents],
        load_tokenizer(tokenizer),
        tokenizer / "tokenizer.json",
        folder,
        pairs=PairForms(**forms),
    )
    return open_tokens(folder, verify=True)


def texts(tokens: Tokens, tokenizer: Path, split: str) -> list[str]:
    stored, loaded = tokens.sets["ko_en", split], load_tokenizer(tokenizer)
    return [loaded.decode(stored.ids(n)[1:-1].tolist()) for n in range(stored.documents)]


def test_a_pair_is_read_in_one_order_in_one_epoch_and_in_the_other_in_the_next() -> None:
    forms = PairForms(seed=3)
    directions: Counter[bool] = Counter()
    translated = 0
    for number in range(400):
        ko, en = sides_of(number)
        first = plain(forms, f"p{number}", (ko, en), turned=False)
        second = plain(forms, f"p{number}", (ko, en), turned=True)
        korean_first = first.index(ko) < first.index(en)
        assert korean_first == (second.index(en) < second.index(ko))
        directions[korean_first] += 1
        translated += first not in (f"{ko}\n{en}", f"{en}\n{ko}")
        assert plain(forms, f"p{number}", (ko, en), turned=False) == first
    assert min(directions.values()) > 150
    assert 150 < translated < 250


def test_the_share_of_translations_is_that_of_the_config() -> None:
    for share, wanted in ((0.0, 0), (1.0, 300)):
        forms = PairForms(seed=3, translate=share)
        made = [plain(forms, str(n), sides_of(n), turned=False) for n in range(300)]
        joined = [{"\n".join(sides_of(n)), "\n".join(sides_of(n)[::-1])} for n in range(300)]
        assert sum(text not in both for text, both in zip(made, joined, strict=True)) == wanted


def test_braces_in_a_text_are_text() -> None:
    made = plain(PairForms(translate=1.0), "x", ("{source} {0}", "{target}"), turned=False)
    assert "{source} {0}" in made and "{target}" in made


def test_pairs_are_stored_in_both_renderings_and_held_out_ones_as_they_are(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    documents = write_pairs(tmp_path / "documents")
    tokens = write(documents, tiny_tokenizer, tmp_path / "tokens")
    numbers = [n for n in range(COUNT) if n % 10 != 9]
    forms = PairForms()
    for split, turned in (("train", False), ("train-turned", True)):
        wanted = [plain(forms, f"ko_en/{n}", sides_of(n), turned=turned) for n in numbers]
        assert texts(tokens, tiny_tokenizer, split) == wanted
        sizes = tokens.sets["ko_en", split].byte_counts().tolist()
        assert sizes == [len(text.encode()) for text in wanted]
    held = [n for n in range(COUNT) if n % 10 == 9]
    assert texts(tokens, tiny_tokenizer, "heldout") == ["\n".join(sides_of(n)) for n in held]
    judged = heldout(tokens, "ko_en", 10_000)
    assert sorted(d.bytes for d in judged) == sorted(
        len("\n".join(sides_of(n)).encode()) for n in held
    )
    assert ("ko_en", "chat") not in tokens.sets


def test_another_share_of_translations_encodes_the_pairs_again_and_nothing_else(
    tiny_tokenizer: Path, tiny_documents: Path, tmp_path: Path
) -> None:
    documents = write_pairs(tmp_path / "documents")
    for file in tiny_documents.iterdir():
        (documents / file.name).symlink_to(file)
    write(documents, tiny_tokenizer, tmp_path / "tokens")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "tokens").rglob("shard.json")}
    write(documents, tiny_tokenizer, tmp_path / "tokens", translate=0.9)
    after = {f: f.stat().st_mtime_ns for f in (tmp_path / "tokens").rglob("shard.json")}
    assert before.items() <= after.items()
    (new,) = after.keys() - before.keys()
    assert {d["source"] for d in json.loads(new.read_text())["sets"]} == {"ko_en"}


def test_in_a_chat_phase_a_user_asks_and_the_assistant_translates(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    documents = write_pairs(tmp_path / "documents")
    phases = [
        {
            "name": "chat",
            "objective": "chat",
            "epochs": 2,
            "lr": 1e-3,
            "mixture": {"ko_en": 1.0},
            "global_batch_tokens": 256,
        }
    ]
    config = make_config(phases=phases, sequence_length=128)
    forms = pair_forms(config)
    assert forms.chat_sources == {"ko_en"}
    tokenizer = load_tokenizer(tiny_tokenizer)
    file = tiny_tokenizer / "tokenizer.json"
    write_tokens([documents], tokenizer, file, tmp_path / "tokens", pairs=forms)
    tokens = open_tokens(tmp_path / "tokens")
    work = make_work(config, tokens, 0, 1)
    assert work.epochs["ko_en"] == pytest.approx(2.0, abs=0.01)
    learned: Counter[str] = Counter()
    for i in range(work.total):
        targets = work.sequences.batch([i]).targets.flatten().tolist()
        said = tokenizer.decode([t for t in targets if t != IGNORED])
        learned.update(said.split("<|eot_id|>")[:-1])
    numbers = [n for n in range(COUNT) if n % 10 != 9]
    both = Counter(text for n in numbers for text in sides_of(n))
    assert learned == both  # in two epochs each pair is translated once into each language
    turns = asked(forms, "ko_en/0", sides_of(0), turned=False)
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[1]["text"] in sides_of(0)


def test_a_pair_without_one_of_its_texts_is_refused_by_its_id(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    row = pair(3) | {"segments": [{"role": "ko", "text": "봄"}]}
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), tmp_path / "pairs.parquet")
    with pytest.raises(InputError, match=r"the pair ko_en/3 lacks its Korean or its English text"):
        write(tmp_path / "pairs.parquet", tiny_tokenizer, tmp_path / "tokens")


@pytest.mark.slow
def test_pairs_train_in_a_mixture_and_are_judged_by_bits_per_byte(run_folder: Path) -> None:
    source = (run_folder / "dedup" / "documents").resolve()
    pairs = write_pairs(run_folder / "pairs")
    phases = [
        {"name": "text", "tokens": 4096, "lr": 3e-3, "mixture": {"ko": 0.5, "ko_en": 0.5}},
        {"name": "chat", "objective": "chat", "tokens": 1024, "lr": 1e-3, "mixture": {"ko_en": 1}},
    ]
    report = run(make_config(documents=[str(source), str(pairs)], phases=phases), run_folder)
    assert report.bits_per_byte["after"]["ko_en"] < report.bits_per_byte["before"]["ko_en"]
    assert report.phases[0].epochs["ko_en"] > 0
