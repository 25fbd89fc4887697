"""What the run writes is read by the libraries it is for, with the same ids."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_file import llama_cpp_ids, write_gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer

from configs.errors import InputError
from configs.schema import Config
from tokenizer import samples, stage
from tokenizer.base import LLAMA3_PATTERN, LLAMA3_SPECIALS, Base, load_base
from tokenizer.bpe import Learned, encode_words, learn
from tokenizer.checks import Candidate, GateFailed, pass_gates
from tokenizer.forms import check_forms
from tokenizer.load import load_tokenizer
from tokenizer.pre_tokens import splitter
from tokenizer.ranks import RANKS_FILES, in_rank_order, load_encoding
from tokenizer.ranks_file import read_ranks
from tokenizer.weights import balanced
from tokenizer.words import count_words
from tokenizer.write import FILES, OTHER_FORMS, write_folder

NEW = 150
CHECK_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis "
    "concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 "
    "កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български "
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure "
    "I'll make it, 'D you like some tea? We'Ve a'lL"
)
"""llama.cpp's converter knows a byte-level tokenizer by the ids of this text. It holds no Hangul."""
CHECK_HASH_OF_LLAMA3 = "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5"


def check_hash(tokenizer: Any) -> str:
    return hashlib.sha256(str(tokenizer.encode(CHECK_TEXT)).encode()).hexdigest()


@pytest.fixture(scope="module")
def ranks_file(small_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base in the form of Llama-3's own: a ranks file and nothing beside it."""
    tokens = [data for data in small_base.tokens() if data]
    lines = [base64.b64encode(data) + f" {rank}\n".encode() for rank, data in enumerate(tokens)]
    path = tmp_path_factory.mktemp("ranks") / "tokenizer.model"
    path.write_bytes(b"".join(lines))
    return path


@pytest.fixture(scope="module")
def ranks_run(
    ranks_file: Path, shared_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tokenizer folder of a run that adds tokens to it."""
    settings = {"base": str(ranks_file), "new_tokens": NEW, "workers": 1}
    settings["documents"] = [str(shared_documents)]
    run = tmp_path_factory.mktemp("ranks-run")
    report = stage.run(Config.model_validate({"name": "formats", "tokenizer": settings}), run)
    assert "texts_compared" in report.tokens or not importlib.util.find_spec("tiktoken")
    return run / "tokenizer"


@pytest.fixture(scope="module")
def llama3_folder(
    llama3: Base, shared_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Llama-3 with new tokens, written without the gates."""
    folder = tmp_path_factory.mktemp("llama3")
    files = sorted(shared_documents.glob("*.parquet"))
    words, weights = balanced(count_words(files, llama3, folder / "counts", workers=1), 0.5, 2)
    ids, ends = encode_words(llama3, words)
    learned = in_rank_order(llama3, learn(ids, ends, weights, llama3.tokens(), NEW))
    write_folder(folder, llama3, learned)
    return folder


@pytest.fixture(scope="module")
def small_run(
    small_folder: Path, shared_documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    settings = {"base": str(small_folder), "new_tokens": 120, "workers": 1}
    settings["documents"] = [str(shared_documents)]
    run = tmp_path_factory.mktemp("small")
    stage.run(Config.model_validate({"name": "formats", "tokenizer": settings}), run)
    return run / "tokenizer"


# ── Hugging Face ────────────────────────────────────────────────────────────────────────────────


def test_a_tokenizer_saved_again_by_transformers_gives_the_same_ids(
    small_run: Path, tmp_path: Path, corpus_texts: list[str]
) -> None:
    first = AutoTokenizer.from_pretrained(small_run)
    assert first.is_fast and first.chat_template
    first.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.is_fast and again.chat_template == first.chat_template
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in tmp_path.iterdir()}
    for text in [*corpus_texts, *samples.with_hangul(count=100), "<|eot_id|> 가"]:
        assert again.encode(text) == first.encode(text)
    turns = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "네."}]
    assert again.apply_chat_template(turns) == first.apply_chat_template(turns)
    assert again.get_vocab() == first.get_vocab()


def test_the_folder_holds_what_a_hub_repository_holds(small_run: Path) -> None:
    assert set(FILES) <= {path.name for path in small_run.iterdir()}
    config = json.loads((small_run / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "auto_map" not in config  # nothing that would ask for trust_remote_code
    assert not any((small_run / name).exists() for name in OTHER_FORMS)


# ── tiktoken ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("folder", ["ranks_run", "llama3_folder"])
def test_the_ranks_file_gives_the_ids_of_tokenizer_json(
    folder: str, request: pytest.FixtureRequest, corpus_texts: list[str]
) -> None:
    pytest.importorskip("tiktoken")
    path = request.getfixturevalue(folder)
    encoding = load_encoding(path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    assert encoding.n_vocab == tokenizer.get_vocab_size()
    used: set[int] = set()
    for text in [*corpus_texts, *samples.with_hangul(count=200)]:
        if max(map(ord, text)) > 0xFFFF:
            continue  # younger characters: the two regex engines do not know the same ones
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert encoding.encode(text, allowed_special="all") == ids, text
        assert encoding.decode(ids) == text
        used.update(ids)
    assert len([index for index in used if index >= encoding.n_vocab - NEW]) > 0.6 * NEW


def test_the_ranks_file_keeps_the_bases_lines_and_control_tokens(
    ranks_run: Path, ranks_file: Path
) -> None:
    pytest.importorskip("tiktoken")
    before, after = ranks_file.read_bytes(), (ranks_run / RANKS_FILES[0]).read_bytes()
    assert after.startswith(before)
    first = before.count(b"\n")
    encoding = load_encoding(ranks_run)
    for index, token in enumerate(LLAMA3_SPECIALS):
        assert encoding.encode(token, allowed_special="all") == [first + index]
    new = [int(line.split()[1]) for line in after[len(before) :].splitlines()]
    assert new == list(range(first + 256, first + 256 + NEW))


def test_an_extended_ranks_file_is_a_base_like_any_other(ranks_run: Path, tmp_path: Path) -> None:
    written = json.loads((ranks_run / "tokenizer.json").read_text())["model"]
    again = load_base(str(ranks_run / RANKS_FILES[0]))
    assert again.definition["model"]["vocab"] == written["vocab"]
    shutil.copy(ranks_run / RANKS_FILES[0], tmp_path)  # without tiktoken.json
    alone = load_base(str(tmp_path))
    assert alone.definition["model"]["vocab"] == written["vocab"]
    assert alone.pattern == LLAMA3_PATTERN


def test_a_damaged_extended_ranks_file_is_named(
    ranks_run: Path, llama3_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.model"
    whole, llama3 = ((run / RANKS_FILES[0]).read_bytes() for run in (ranks_run, llama3_folder))
    last = whole.splitlines(keepends=True)[-1]
    damaged = {
        "its sha256 is": llama3.replace(b"IGdyb3Vw ", b"IGdyb3Vx ", 1),
        "gaps that no control token fills": whole + b"AAAAAAA= 999999\n",
        "ranks out of order": whole + b"AAAAAAA= 3\n",
        r"tokenizer\.model:\d+: not a line": whole + b"AAAAAAA=\n",
        "not a whole tiktoken ranks file": whole + last,
    }
    for what, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=what):
            read_ranks(path)


def test_a_ranks_file_that_cuts_otherwise_stops_the_stage(
    ranks_run: Path, ranks_file: Path, tmp_path: Path, corpus_texts: list[str]
) -> None:
    pytest.importorskip("tiktoken")
    shutil.copytree(ranks_run / "original", tmp_path / "original")
    lines = (ranks_run / RANKS_FILES[0]).read_bytes().splitlines()
    kept, new = lines[:-NEW], lines[-NEW:]
    tokens = [line.split()[0] for line in new][::-1]
    swapped = [b" ".join([data, line.split()[1]]) for data, line in zip(tokens, new, strict=True)]
    (tmp_path / RANKS_FILES[0]).write_bytes(b"\n".join([*kept, *swapped, b""]))
    base = load_base(str(ranks_file))
    nothing = Learned(base.vocab_size, [], [], [], False)
    candidate = Candidate(base, load_tokenizer(ranks_run), nothing, 0, corpus_texts)
    with pytest.raises(GateFailed, match=r"other_forms failed.*tiktoken cuts"):
        check_forms(tmp_path, candidate)


def test_a_base_that_came_from_no_ranks_has_no_ranks_file(small_run: Path) -> None:
    pytest.importorskip("tiktoken")
    with pytest.raises(InputError, match="no tiktoken form there"):
        load_encoding(small_run)


# ── llama.cpp ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.thorough
def test_llama_cpps_converter_takes_the_extended_llama3_for_llama3(
    llama3_folder: Path,
) -> None:
    assert check_hash(load_tokenizer(llama3_folder)) == CHECK_HASH_OF_LLAMA3


@pytest.mark.thorough
def test_llama_cpp_gives_the_same_ids(
    llama3_folder: Path, tmp_path: Path, corpus_texts: list[str]
) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "vocabulary.gguf"
    write_gguf(gguf, llama3_folder, path)
    tokenizer = Tokenizer.from_file(str(llama3_folder / "tokenizer.json"))
    texts = [*corpus_texts, *samples.with_hangul(count=100)[:300]]
    size, ids = llama_cpp_ids(path, texts, special=True)
    assert size == tokenizer.get_vocab_size()
    for text, own in zip(texts, ids, strict=True):
        assert own == tokenizer.encode(text, add_special_tokens=False).ids, text


def test_what_the_gguf_package_reads_is_what_was_written(small_run: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    written = json.loads((small_run / "tokenizer.json").read_text())
    vocabulary = gguf.BpeVocab(small_run)
    tokens = [token for token, _, _ in vocabulary.all_tokens()]
    assert vocabulary.added_tokens_list == []  # none that would be lost: all are in the vocabulary
    assert dict(zip(tokens, range(len(tokens)), strict=True)) == written["model"]["vocab"]
    path = tmp_path / "vocabulary.gguf"
    write_gguf(gguf, small_run, path)
    fields = gguf.GGUFReader(path).fields
    merges = fields["tokenizer.ggml.merges"].contents()
    assert [merge.split(" ") for merge in merges] == written["model"]["merges"]
    assert fields["tokenizer.ggml.pre"].contents() == "llama-bpe"
    assert fields["tokenizer.chat_template"].contents()
    ids = {token["content"]: token["id"] for token in written["added_tokens"]}
    assert fields["tokenizer.ggml.bos_token_id"].contents() == ids["<|begin_of_text|>"]
    assert fields["tokenizer.ggml.eos_token_id"].contents() == ids["<|end_of_text|>"]


# ── other byte-level bases ──────────────────────────────────────────────────────────────────────

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"{_ENDING}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre.Split(Regex(pattern), behavior=behavior, invert=invert)


def as_bytes(use_regex: bool = False) -> Any:
    return pre.ByteLevel(add_prefix_space=False, use_regex=use_regex)


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: as_bytes(use_regex=True),
    "qwen": lambda: pre.Sequence([split(LLAMA3_PATTERN.replace("{1,3}", "")), as_bytes()]),
    "llama4": lambda: pre.Sequence([split(O200K), as_bytes()]),
    "gpt4": lambda: pre.Sequence([split(O200K, "removed", invert=True), as_bytes()]),
    "deepseek": lambda: pre.Sequence(
        [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), as_bytes()]
    ),
    "starcoder": lambda: pre.Sequence(
        [pre.Digits(individual_digits=True), as_bytes(use_regex=True)]
    ),
}


def family(name: str, folder: Path, corpus_texts: list[str]) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = FAMILIES[name]()
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(
        [text for text in corpus_texts if text.isascii()] + corpus_texts[:2], trainer
    )
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_byte_level_bases_is_extended_by_the_same_code(
    name: str, tmp_path: Path, shared_documents: Path, corpus_texts: list[str]
) -> None:
    base = load_base(str(family(name, tmp_path, corpus_texts)))
    files = sorted(shared_documents.glob("*.parquet"))
    words, weights = balanced(count_words(files, base, tmp_path / "counts", workers=1), 0.5, 2)
    ids, ends = encode_words(base, words)
    learned = in_rank_order(base, learn(ids, ends, weights, base.tokens(), 100))
    write_folder(tmp_path / "new", base, learned)
    saved = load_tokenizer(tmp_path / "new")
    pass_gates(Candidate(base, saved, learned, 100, corpus_texts))
    before = sum(len(base.tokenizer.encode(text).ids) for text in corpus_texts)
    after = sum(len(saved.backend_tokenizer.encode(text).ids) for text in corpus_texts)
    assert after < 0.8 * before


@pytest.mark.parametrize("name", FAMILIES)
def test_words_are_cut_as_each_family_cuts_them(
    name: str, tmp_path: Path, corpus_texts: list[str]
) -> None:
    base = load_base(str(family(name, tmp_path, corpus_texts)))
    cut = splitter(base.pattern)
    alphabet = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in [*samples.with_hangul(count=60)[-700:], *corpus_texts[:5]]:
        if base.tokenizer.normalizer:
            text = base.tokenizer.normalizer.normalize_str(text)
        own = [alphabet.pre_tokenize_str(word)[0][0] for word, _ in cut.pre_tokenize_str(text)]
        assert own == [word for word, _ in base.tokenizer.pre_tokenizer.pre_tokenize_str(text)]
