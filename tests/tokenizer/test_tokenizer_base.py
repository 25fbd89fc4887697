"""Loading the tokenizer that is extended."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from configs.errors import InputError
from tokenizer import samples
from tokenizer.base import (
    LLAMA3_PATTERN,
    LLAMA3_SPECIALS,
    Base,
    byte_level,
    load_base,
    token_bytes,
)


def packaged_ranks() -> Path:
    spec = importlib.util.find_spec("llama_models")
    if spec is None or spec.origin is None:
        pytest.skip("needs malmoi[llama3]")
    return Path(spec.origin).parent / "llama3" / "tokenizer.model"


def test_bytes_and_their_printable_form_are_one_to_one() -> None:
    assert token_bytes(byte_level(bytes(range(256)))) == bytes(range(256))


def test_llama3_has_the_ids_of_tiktoken_on_every_script(llama3: Base) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(packaged_ranks()))
    oracle = tiktoken.Encoding(
        "llama3",
        pat_str=LLAMA3_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={token: 128_000 + i for i, token in enumerate(LLAMA3_SPECIALS)},
    )
    texts = [*samples.with_hangul(), *samples.without_hangul(count=600)]
    # The two regex engines have different Unicode tables; compare where both know the characters.
    texts = [text for text in texts if max(map(ord, text), default=0) < 0x870 or is_korean(text)]
    assert len(texts) > 700
    for text in texts:
        ids = llama3.tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == oracle.encode(text, allowed_special="all"), text


def is_korean(text: str) -> bool:
    return all(
        ord(c) < 0x370 or 0xAC00 <= ord(c) < 0xD7A4 or 0x3131 <= ord(c) < 0x318F for c in text
    )


def test_llama3_has_its_256_control_tokens_where_the_official_one_has_them(llama3: Base) -> None:
    vocab = llama3.definition["model"]["vocab"]
    assert llama3.vocab_size == 128_256
    assert [vocab[token] for token in LLAMA3_SPECIALS] == list(range(128_000, 128_256))
    assert llama3.tokenizer.token_to_id("<|begin_of_text|>") == 128_000
    assert llama3.tokenizer.token_to_id("<|eot_id|>") == 128_009
    assert llama3.definition["model"]["ignore_merges"] is True


def test_llama3_missing_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'malmoi\[llama3\]'"):
        load_base("llama3")


def test_a_folder_puts_its_added_tokens_into_the_vocabulary(small_base: Base) -> None:
    vocab = small_base.definition["model"]["vocab"]
    for token in small_base.definition["added_tokens"]:
        assert vocab[token["content"]] == token["id"]
    assert small_base.special_tokens["bos_token"] == "<|begin_of_text|>"
    assert small_base.pattern == LLAMA3_PATTERN


def test_a_folder_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"{tmp_path} holds no tokenizer.json"):
        load_base(str(tmp_path))


def test_a_path_that_is_nothing_is_named() -> None:
    with pytest.raises(InputError, match=r"\./no/such/place is no file or folder"):
        load_base("./no/such/place")


def test_a_damaged_tokenizer_model_is_named_with_its_line_or_digest(tmp_path: Path) -> None:
    data = packaged_ranks().read_bytes()
    damaged = {
        "cut": (data[: len(data) // 2], "tokenizer.model"),
        "line": (data[:5000] + b"\xff\xff" + data[5002:], r"tokenizer.model:\d+: not a line"),
        "content": (data.replace(b"IGdyb3Vw ", b"IGdyb3Vx ", 1), "damaged: as large as Llama-3"),
        "sentencepiece": (b"\n\x0e\n\x05<unk>\x15\x00\x00", "SentencePiece"),
    }
    for name, (content, message) in damaged.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tokenizer.model").write_bytes(content)
        if name == "cut":
            # A prefix of whole lines would be a smaller tokenizer; a cut line is not.
            (folder / "tokenizer.model").write_bytes(content.rsplit(b"\n", 1)[0] + b"\nIGdy")
        with pytest.raises(InputError, match=message):
            load_base(str(folder))


def test_a_damaged_tokenizer_json_is_named(tmp_path: Path, small_folder: Path) -> None:
    whole = (small_folder / "tokenizer.json").read_text()
    for content in (whole[:500], "[]", json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}}})):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match=r"tokenizer\.json"):
            load_base(str(tmp_path))


def test_a_tokenizer_that_is_not_byte_level_bpe_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="WordPiece tokenizer, not a byte-level BPE"):
        load_base(str(tmp_path))


def test_a_pre_tokenizer_that_is_not_understood_is_refused(
    tmp_path: Path, small_folder: Path
) -> None:
    definition = json.loads((small_folder / "tokenizer.json").read_text())
    definition["pre_tokenizer"] = {"type": "BertPreTokenizer"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(InputError, match="its pre-tokenizer is not one regex"):
        load_base(str(tmp_path))
