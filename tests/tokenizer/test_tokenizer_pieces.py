"""Bases of SentencePiece's kind: Llama-2's family."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_file import finish, llama_cpp_ids
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from configs.errors import InputError
from configs.schema import Config
from tokenizer import samples, stage
from tokenizer.base import Base, load_base
from tokenizer.checks import Candidate, GateFailed
from tokenizer.forms import check_forms
from tokenizer.load import load_tokenizer
from tokenizer.piece_model import read_model
from tokenizer.pieces import learn_pieces
from tokenizer.write import write_folder

BASE, NEW = 560, 120
LLAMA2 = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 0.999,
    "num_threads": 1,
    "minloglevel": 2,
}
"""How Llama-2's tokenizer was trained."""


def train(folder: Path, texts: list[str], **options: object) -> Path:
    settings = {**LLAMA2, "vocab_size": BASE, **options}
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "tokenizer"), **settings
    )
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"


def some_text(corpus_texts: list[str]) -> list[str]:
    """English, and the Korean of a base that saw a little of it."""
    return [text for text in corpus_texts if text.isascii()] * 5 + [
        "\n".join(f"int a{i} = f(x, {i}); // naïve façade" for i in range(50)),
        corpus_texts[0][:150],
    ]


@pytest.fixture(scope="session")
def piece_folder(tmp_path_factory: pytest.TempPathFactory, corpus_texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    train(folder, some_text(corpus_texts))
    return folder


@pytest.fixture(scope="session")
def piece_base(piece_folder: Path) -> Base:
    return load_base(str(piece_folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def piece_config(piece_folder: Path, shared_documents: Path) -> Callable[..., Config]:
    def make(**keys: object) -> Config:
        settings: dict[str, object] = {"base": str(piece_folder), "new_tokens": NEW, "workers": 1}
        settings["documents"] = [str(shared_documents)]
        return Config.model_validate({"name": "pieces", "tokenizer": {**settings, **keys}})

    return make


@pytest.fixture(scope="module")
def extended(
    piece_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, stage.Report]:
    run = tmp_path_factory.mktemp("extended")
    report = stage.run(piece_config(), run)
    return run / "tokenizer", report


def test_a_sentencepiece_base_is_cut_by_tokenizers_as_sentencepiece_cuts_it(
    piece_base: Base, piece_folder: Path, corpus_texts: list[str]
) -> None:
    oracle = SentencePieceProcessor(model_file=str(piece_folder / "tokenizer.model"))
    assert piece_base.by_pieces and piece_base.vocab_size == oracle.vocab_size() == BASE
    assert piece_base.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    for text in [*corpus_texts, *samples.with_hangul(count=100), *samples.without_hangul()]:
        if "<" in text:
            continue  # control tokens: only tokenizer.json knows them in text
        ids = piece_base.tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == oracle.encode(text), text


def test_the_stage_extends_it_through_all_gates(extended: tuple[Path, stage.Report]) -> None:
    folder, report = extended
    assert report.new_tokens == NEW and report.vocab_size == BASE + NEW
    assert set(report.gates.values()) == {"passed"} and len(report.gates) >= 11
    assert report.tokens_saved is not None and report.tokens_saved > 0.3
    assert report.tokens["texts_compared"] > 1000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast and len(tokenizer) == BASE + NEW
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id == 1
    text = "도서관에서 친구를 기다렸다. The bus was late."
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text and max(ids) >= BASE


def test_sentencepiece_reads_the_same_ids_from_the_new_model(
    extended: tuple[Path, stage.Report], piece_folder: Path, corpus_texts: list[str]
) -> None:
    folder, _ = extended
    old = SentencePieceProcessor(model_file=str(piece_folder / "tokenizer.model"))
    new = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = load_tokenizer(folder).backend_tokenizer
    assert new.vocab_size() == BASE + NEW
    for text in [*corpus_texts, *samples.with_hangul(count=200)]:
        if "<" not in text:
            ids = new.encode(text)
            assert ids == tokenizer.encode(text, add_special_tokens=False).ids
            assert new.decode(ids) == text.replace("▁", " ")
    for text in samples.without_hangul():
        assert new.encode(text) == old.encode(text)


def test_old_pieces_keep_their_bytes_and_new_ones_rank_below_them(
    extended: tuple[Path, stage.Report], piece_folder: Path
) -> None:
    folder, _ = extended
    before = (piece_folder / "tokenizer.model").read_bytes()
    after = (folder / "tokenizer.model").read_bytes()
    assert after[: len(before)] == before
    pieces = read_model(folder / "tokenizer.model").pieces
    assert pieces[:BASE] == read_model(piece_folder / "tokenizer.model").pieces
    scores = [score for _, score, _ in pieces]
    assert max(scores[BASE:]) < min(scores[:BASE])
    assert scores[BASE:] == sorted(scores[BASE:], reverse=True)
    new = [text for text, _, _ in pieces[BASE:]]
    assert any(text.startswith("▁") and len(text) > 2 for text in new)
    # Syllables that the base wrote in three bytes come first, and are no merges.
    assert len(new[0]) == 1


def test_a_base_without_the_model_file_is_extended_from_its_tokenizer_json(
    piece_base: Base, tmp_path: Path, corpus_texts: list[str]
) -> None:
    """As transformers saves it now: spaces are written by the pre-tokenizer, not the normalizer."""
    definition = json.loads(json.dumps(piece_base.definition))
    definition["normalizer"] = None
    definition["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    base = load_base(str(tmp_path))
    assert base.by_pieces and base.piece_model is None
    words = sorted({" 도서관에서", " 친구를", "기다렸다"})
    learned = learn_pieces(base, words, np.array([9, 7, 5], np.int64), 12)
    write_folder(tmp_path / "new", base, learned)
    assert not (tmp_path / "new" / "tokenizer.model").exists()
    saved = load_tokenizer(tmp_path / "new")
    text = "나는 도서관에서 친구를 기다렸다"
    ids = saved.encode(text, add_special_tokens=False)
    assert saved.decode(ids) == text
    assert len(ids) < len(base.tokenizer.encode(text, add_special_tokens=False).ids)


def test_tokens_that_only_tokenizer_json_had_keep_their_ids_in_the_model(
    piece_base: Base, piece_folder: Path, tmp_path: Path
) -> None:
    definition = json.loads(json.dumps(piece_base.definition))
    token = {**definition["added_tokens"][0], "content": "<|chat|>", "id": BASE}
    definition["added_tokens"].append(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    shutil.copy(piece_folder / "tokenizer.model", tmp_path)
    base = load_base(str(tmp_path))
    learned = learn_pieces(base, ["▁도서관"], np.array([5], np.int64), 6)
    write_folder(tmp_path / "new", base, learned)
    new = SentencePieceProcessor(model_file=str(tmp_path / "new" / "tokenizer.model"))
    assert new.id_to_piece(BASE) == "<|chat|>" and new.is_control(BASE)
    assert new.id_to_piece(BASE + 1) == learned.tokens[0].decode()


def test_a_model_that_is_not_the_tokenizer_json_beside_it_is_named(
    piece_base: Base, piece_folder: Path, tmp_path: Path
) -> None:
    definition = json.loads(json.dumps(piece_base.definition))
    vocab = definition["model"]["vocab"]
    first, second = list(vocab)[400:402]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    shutil.copy(piece_folder / "tokenizer.model", tmp_path)
    with pytest.raises(InputError, match=r"in tokenizer\.model beside it"):
        load_base(str(tmp_path))
    vocab[first], vocab[second] = vocab[second], vocab[first]
    vocab["▁lost"] = BASE
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(InputError, match="1 ids from 560 on are not in tokenizer"):
        load_base(str(tmp_path))


def test_a_model_that_cuts_otherwise_stops_the_stage(
    extended: tuple[Path, stage.Report], piece_base: Base, tmp_path: Path, corpus_texts: list[str]
) -> None:
    folder, _ = extended
    shutil.copytree(folder, tmp_path / "broken")
    path = tmp_path / "broken" / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace("도서관".encode(), "도서간".encode()))
    learned = learn_pieces(piece_base, ["▁도서관"], np.array([5], np.int64), 6)
    candidate = Candidate(piece_base, load_tokenizer(folder), learned, 6, corpus_texts)
    with pytest.raises(GateFailed, match="sentencepiece cuts"):
        check_forms(tmp_path / "broken", candidate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram"}, "a unigram model"),
        ({"byte_fallback": False}, "without byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "a model that normalises text"),
        ({"remove_extra_whitespaces": True}, "drops repeated spaces"),
    ],
)
def test_a_model_that_would_lose_text_is_refused(
    tmp_path: Path, corpus_texts: list[str], options: dict[str, Any], message: str
) -> None:
    size = 100 if options.get("byte_fallback") is False else 380
    path = train(tmp_path, some_text(corpus_texts), vocab_size=size, **options)
    with pytest.raises(InputError, match=message):
        load_base(str(path))


def test_a_damaged_model_is_named(piece_folder: Path, tmp_path: Path) -> None:
    whole = (piece_folder / "tokenizer.model").read_bytes()
    draw = random.Random(1)
    path = tmp_path / "tokenizer.model"
    for content in (whole[:2000], whole[:9], b"\n\n", b"\n\x0b\n" + draw.randbytes(3000)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=str(path)):
            load_base(str(tmp_path))


def test_the_best_size_is_not_guessed_for_pieces(
    piece_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="auto compares sizes of byte-level bases only"):
        stage.run(piece_config(new_tokens="auto"), tmp_path)


def test_no_new_tokens_write_the_base_as_it_is(
    piece_config: Callable[..., Config], piece_folder: Path, tmp_path: Path
) -> None:
    stage.run(piece_config(new_tokens=0), tmp_path)
    old = SentencePieceProcessor(model_file=str(piece_folder / "tokenizer.model"))
    new = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer" / "tokenizer.model"))
    assert new.vocab_size() == old.vocab_size()
    assert new.encode("도서관 the bus") == old.encode("도서관 the bus")


def test_llama_cpp_gives_the_same_ids_from_the_new_pieces(
    extended: tuple[Path, stage.Report], tmp_path: Path, corpus_texts: list[str]
) -> None:
    gguf = pytest.importorskip("gguf")
    folder, _ = extended
    vocabulary = gguf.SentencePieceVocab(folder)
    rows = list(vocabulary.all_tokens())
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _, _ in rows])
    writer.add_token_scores([score for _, score, _ in rows])
    writer.add_token_types([kind for _, _, kind in rows])
    gguf.SpecialVocab(folder).add_to_gguf(writer, quiet=True)
    finish(writer, len(rows))
    texts = [text for text in corpus_texts if "<" not in text]
    _, ids = llama_cpp_ids(tmp_path / "vocabulary.gguf", texts, special=False)
    tokenizer = load_tokenizer(folder).backend_tokenizer
    for text, own in zip(texts, ids, strict=True):
        assert own == tokenizer.encode(text, add_special_tokens=False).ids
