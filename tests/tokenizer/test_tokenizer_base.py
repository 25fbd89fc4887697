"""Loading the tokenizer that is extended."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from configs.errors import InputError
from configs.schema import Config
from tokenizer import samples, stage
from tokenizer.added import cut_at_added
from tokenizer.base import (
    LLAMA3_PATTERN,
    LLAMA3_SPECIALS,
    MOST_IDS,
    Base,
    byte_level,
    check_room,
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


def changed(folder: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The tokenizer.json of `folder`, changed, in `target`."""
    definition = json.loads((folder / "tokenizer.json").read_text())
    change(definition)
    (target / "tokenizer.json").write_text(json.dumps(definition))
    return target


def two_tokens_with_one_id(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"]["qzqz"] = 300


def two_ids_for_one_token(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"]["<|eot_id|>"] = 2


def an_id_out_of_reach(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"]["qzqz"] = MOST_IDS + 1


def a_negative_id(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"]["qzqz"] = -1


def no_merges(definition: dict[str, Any]) -> None:
    del definition["model"]["merges"]


def a_merge_of_nothing(definition: dict[str, Any]) -> None:
    definition["model"]["merges"].append(["nowhere", "tobefound"])


def dropout(definition: dict[str, Any]) -> None:
    definition["model"]["dropout"] = 0.1


def a_suffix(definition: dict[str, Any]) -> None:
    definition["model"]["end_of_word_suffix"] = "</w>"


def a_nameless_added_token(definition: dict[str, Any]) -> None:
    del definition["added_tokens"][0]["content"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (two_tokens_with_one_id, "1 ids belong to two tokens"),
        (two_ids_for_one_token, r"'<\|eot_id\|>' is \d+ in added_tokens and 2 in model\.vocab"),
        (an_id_out_of_reach, "below 16,777,216"),
        (a_negative_id, "ids from -1"),
        (no_merges, r"model\.merges is damaged"),
        (a_merge_of_nothing, "tokenizers cannot load it"),
        (dropout, r"model\.dropout is 0\.1"),
        (a_suffix, r"model\.end_of_word_suffix is '</w>'"),
        (a_nameless_added_token, "damaged vocabulary"),
    ],
)
def test_a_tokenizer_json_whose_ids_or_merges_do_not_hold_is_named(
    small_folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_base(str(changed(small_folder, tmp_path, change)))


def test_a_string_in_the_vocabulary_that_is_no_bytes_is_left_alone(
    small_folder: Path, tmp_path: Path
) -> None:
    def change(definition: dict[str, Any]) -> None:
        definition["model"]["vocab"]["버스"] = definition["added_tokens"][-1]["id"] + 1

    base = load_base(str(changed(small_folder, tmp_path, change)))
    assert base.tokens()[-1] == b""


def test_a_base_that_was_extended_before_goes_on_where_it_was(
    run_folder: Path, tmp_path: Path, config: Callable[..., Config]
) -> None:
    first = stage.run(config(new_tokens=80), run_folder)
    documents = [str(run_folder / "dedup" / "documents")]
    again = config(base=str(run_folder / "tokenizer"), new_tokens=40, documents=documents)
    second = stage.run(again, tmp_path / "second")
    whole = stage.run(config(new_tokens=120, documents=documents), tmp_path / "whole")
    assert second.base_vocab_size == first.vocab_size
    assert second.vocab_size == whole.vocab_size
    vocabs = [
        json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
        for folder in (run_folder, tmp_path / "second", tmp_path / "whole")
    ]
    assert vocabs[0].items() <= vocabs[1].items()
    assert vocabs[1] == vocabs[2]


def test_words_that_a_base_has_as_added_tokens_are_not_learned_again(
    small_folder: Path, run_folder: Path, tmp_path: Path, config: Callable[..., Config]
) -> None:
    """As models made with `add_tokens` have them: they are cut out before the regex runs."""
    added = ["도서관", "강아지", "도서관에서"]

    def change(definition: dict[str, Any]) -> None:
        token = {**definition["added_tokens"][0], "special": False}
        free = definition["added_tokens"][-1]["id"] + 1
        for index, word in enumerate(added):
            definition["added_tokens"].append({**token, "content": word, "id": free + index})

    base = load_base(str(changed(small_folder, tmp_path, change)))
    words, weights = cut_at_added(
        base, [" 강아지는", " 도서관에서만", "버스"], np.array([3, 4, 5], np.int64)
    )
    assert dict(zip(words, weights.tolist(), strict=True)) == {"는": 3, "만": 4, "버스": 5}
    stage.run(config(base=str(tmp_path)), run_folder)
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "tokenizer")
    assert tokenizer.convert_tokens_to_ids("도서관") == base.tokenizer.token_to_id("도서관")
    new = [tokenizer.decode([index]) for index in range(base.vocab_size, len(tokenizer))]
    assert any("골목" in token for token in new)
    assert not any(word in token for word in added for token in new)


def test_more_tokens_than_there_are_ids_are_refused(
    small_folder: Path,
    tmp_path: Path,
    run_folder: Path,
    config: Callable[..., Config],
    small_base: Base,
) -> None:
    check_room(small_base, 1_000_000)
    with pytest.raises(
        InputError, match=r"tokenizer\.new_tokens: 16,777,216 on top of \d+ are more"
    ):
        check_room(small_base, MOST_IDS)

    def change(definition: dict[str, Any]) -> None:
        definition["model"]["vocab"]["qzqz"] = MOST_IDS - 100

    folder = changed(small_folder, tmp_path, change)
    with pytest.raises(InputError, match="ask for 99 at most"):
        stage.run(config(base=str(folder), new_tokens=120), run_folder)


def test_control_tokens_in_the_corpus_are_ordinary_text_there(
    run_folder: Path, config: Callable[..., Config], small_base: Base
) -> None:
    """One document of the corpus holds the text of `<|eot_id|>`."""
    stage.run(config(), run_folder)
    tokenizer = AutoTokenizer.from_pretrained(run_folder / "tokenizer")
    end = small_base.tokenizer.token_to_id("<|eot_id|>")
    assert tokenizer.encode("<|eot_id|>", add_special_tokens=False) == [end]
    plain = tokenizer.encode("<|eot_id|>", add_special_tokens=False, split_special_tokens=True)
    assert end not in plain and tokenizer.decode(plain) == "<|eot_id|>"
    new = [tokenizer.decode([index]) for index in range(small_base.vocab_size, len(tokenizer))]
    assert not any("eot" in token or "|" in token for token in new)
