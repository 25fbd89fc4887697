"""The tokenizer that is extended: Llama-3, another byte-level BPE, or one of Llama-2's family.

In: `llama3` (the ranks file that the `llama-models` package carries), a tiktoken ranks file, a
SentencePiece model, a Hugging Face folder or `tokenizer.json`, or a hub id. Out: a `Base`, with the
definition (`tokenizer.json` as a mapping) that `write.py` appends to.

The decision: every added token (Llama-3's 256 specials) is put into `model.vocab` as well, with its
id. A token that is only in `added_tokens` is renumbered from `len(model.vocab)` when the file is
loaded, so the first appended piece would move `<|eot_id|>`.

A ranks file has no merges, only tokens in the order of their ranks. Every way to split a token into
two others becomes a merge, in rank order, which is the conversion transformers uses; 588 tokens of
Llama-3 are still out of reach of merges, so `ignore_merges` (a pre-token that is in the vocabulary
is taken whole) must stay true. Measured equal to tiktoken id for id.
"""

from __future__ import annotations

import importlib.util
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from configs.errors import InputError, missing_extra
from configs.hub import cannot_be_had
from tokenizer.byte_letters import byte_level as byte_level
from tokenizer.byte_letters import token_bytes as token_bytes
from tokenizer.piece_model import (
    SPACE,
    PieceModel,
    byte_pieces,
    definition,
    every_split,
    looks_like_a_model,
    read_model,
)
from tokenizer.pre_tokens import GPT2_PATTERN as GPT2_PATTERN
from tokenizer.pre_tokens import PIECE_PATTERN, pattern_of
from tokenizer.ranks_file import LLAMA3_PATTERN as LLAMA3_PATTERN
from tokenizer.ranks_file import LLAMA3_RANKS as LLAMA3_RANKS
from tokenizer.ranks_file import LLAMA3_SPECIALS as LLAMA3_SPECIALS
from tokenizer.ranks_file import read_ranks
from tokenizer.tokenizer_json import MOST_IDS as MOST_IDS
from tokenizer.tokenizer_json import load_definition, loaded, named, read_mapping

_NAMED_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
_LLAMA3_ROLES = {
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|end_of_text|>",
    "pad_token": "<|finetune_right_pad_id|>",
}
_KEPT = ("model_max_length", "padding_side", "clean_up_tokenization_spaces")
_HUB_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
]


@dataclass(frozen=True)
class Base:
    """A BPE tokenizer that can be extended: byte-level, or of SentencePiece's kind with byte fallback.

    name: as in the config. definition: `tokenizer.json` as a mapping, added tokens also in
    `model.vocab`. pattern: the regex that cuts text into pre-tokens (`pre_tokens.splitter`).
    special_tokens: bos_token, eos_token, pad_token, unk_token where known. settings: what else its
    tokenizer_config.json says that is worth keeping. chat_template: its own, or None. piece_model: the
    SentencePiece file, where it came with one. from_ranks: whether it was read from a ranks file.
    """

    name: str
    definition: dict[str, Any]
    tokenizer: Tokenizer
    pattern: str
    special_tokens: dict[str, str]
    settings: dict[str, Any]
    chat_template: str | None
    piece_model: PieceModel | None = None
    from_ranks: bool = False

    @property
    def vocab_size(self) -> int:
        """The first free id: one more than the largest."""
        return max(self.definition["model"]["vocab"].values()) + 1

    @property
    def by_pieces(self) -> bool:
        """Whether symbols are characters, as SentencePiece's, and not bytes."""
        return bool(self.definition["model"].get("byte_fallback"))

    def tokens(self) -> list[bytes]:
        """Bytes of every id, [vocab_size]; empty where no merge may touch it: added tokens, bytes that
        stand in for a character, and strings that are no bytes at all."""
        return list(self._tokens)

    @cached_property
    def _tokens(self) -> list[bytes]:
        no_merge = {token["content"] for token in self.definition["added_tokens"]}
        if self.by_pieces:
            no_merge.update(byte_pieces())
        content = [b""] * self.vocab_size
        for token, index in self.definition["model"]["vocab"].items():
            if token not in no_merge:
                with suppress(KeyError):
                    content[index] = token.encode() if self.by_pieces else token_bytes(token)
        return content

    def spelled(self, data: bytes) -> str:
        """Bytes of a word, or of a token, as the vocabulary spells them."""
        return data.decode().replace(" ", SPACE) if self.by_pieces else byte_level(data)

    def cut(self, word: str) -> list[int]:
        """Ids of a pre-token."""
        return [token.id for token in self.tokenizer.model.tokenize(self.spelled(word.encode()))]

    def shown(self, data: bytes) -> str:
        """What ids decode to whose tokens have these bytes."""
        text = data.decode("utf-8", "replace")
        if not self.by_pieces:
            return text
        steps = self.definition["decoder"].get("decoders", [])
        text = text.replace(SPACE, " ")
        return text.removeprefix(" ") if any(step["type"] == "Strip" for step in steps) else text

    def comes_back(self, text: str) -> str:
        """What decoding the ids of a text gives: the text, as the base's normalizer leaves it."""
        if not self.by_pieces:
            normalizer = self.tokenizer.normalizer
            return str(normalizer.normalize_str(text)) if normalizer else text
        if any(token["content"] in text for token in self.definition["added_tokens"]):
            # Each section after a control token gets the space that belongs to the beginning of a text.
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            return str(self.tokenizer.decode(ids, skip_special_tokens=False))
        return text.replace(SPACE, " ")

    @cached_property
    def merges_are_all_splits(self) -> bool:
        """Whether the merges are every split of every token, in the order of ids (see `ranks.py`)."""
        if self.from_ranks:
            return True
        content = self.tokens()
        vocab = {
            token: index
            for token, index in self.definition["model"]["vocab"].items()
            if content[index]
        }
        order = sorted(vocab, key=lambda token: vocab[token])
        merges = [list(split) for token in order for split in every_split(token, vocab)]
        return bool(merges == self.definition["model"]["merges"])


def load_base(name: str) -> Base:
    """Load the tokenizer that `tokenizer.base` names.

    Raises InputError, naming the file, for whatever is not a BPE tokenizer with a token for every byte,
    is damaged or cannot be had.
    """
    if name == "llama3":
        return _from_ranks(name, _packaged_llama3())
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(name, path)
    if path.is_file():
        if path.suffix == ".json":
            return _from_json(name, path, path.parent)
        return _from_model(name, path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _from_folder(name, _download(name))
    raise InputError(
        f"tokenizer.base: {name} is no file or folder; give llama3, a folder with tokenizer.json, "
        "a tiktoken ranks file, a SentencePiece model or a hub id (organisation/name)"
    )


def _packaged_llama3() -> Path:
    package = importlib.util.find_spec("llama_models")
    if package is None or package.origin is None:
        raise missing_extra("llama-models", "llama3")
    path = Path(package.origin).parent / "llama3" / "tokenizer.model"
    if not path.is_file():
        raise InputError(
            f"{path}: missing from the installed llama-models; reinstall it with: "
            "pip install --force-reinstall 'malmoi[llama3]'"
        )
    return path


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(cannot_be_had("tokenizer.base", name, error)) from None


def _from_folder(name: str, folder: Path) -> Base:
    if (folder / "tokenizer.json").is_file():
        return _from_json(name, folder / "tokenizer.json", folder)
    for ranks in (folder / "tokenizer.model", folder / "original" / "tokenizer.model"):
        if ranks.is_file():
            return _from_model(name, ranks)
    raise InputError(
        f"tokenizer.base: {folder} holds no tokenizer.json and no tokenizer.model; "
        "give the folder of a tokenizer, or llama3"
    )


def _from_model(name: str, path: Path) -> Base:
    """A file called tokenizer.model: SentencePiece's in the Llama-2 family, ranks in Llama-3's."""
    with path.open("rb") as handle:
        first = handle.read(16)
    return _from_pieces(name, path) if looks_like_a_model(first) else _from_ranks(name, path)


# ── SentencePiece ───────────────────────────────────────────────────────────────────────────────


def _from_pieces(name: str, path: Path) -> Base:
    model = read_model(path)
    content = definition(model)
    tokenizer = loaded(path, content)
    template, settings = None, {}
    beside = path.with_name("tokenizer_config.json")
    if beside.is_file():
        config = read_mapping(beside)
        template = config.get("chat_template")
        settings = {key: config[key] for key in _KEPT if key in config}
    return Base(
        name,
        content,
        tokenizer,
        PIECE_PATTERN,
        model.special_tokens,
        settings,
        template or None,
        model,
    )


# ── tiktoken ranks ──────────────────────────────────────────────────────────────────────────────


def _from_ranks(name: str, path: Path) -> Base:
    """A ranks file, with its control tokens and regex or Llama-3's."""
    ranks, specials, pattern = read_ranks(path)
    vocab = {byte_level(token): rank for token, rank in ranks.items()}
    merges = [split for token in vocab for split in every_split(token, vocab)]
    tokenizer = Tokenizer(
        models.BPE({**vocab, **specials}, merges, fuse_unk=False, ignore_merges=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    steps: list[Any] = [processors.ByteLevel(trim_offsets=False)]
    bos = LLAMA3_SPECIALS[0]
    if bos in specials:
        steps.append(
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, specials[bos])],
            )
        )
    tokenizer.post_processor = processors.Sequence(steps)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in specials]
    )
    special_tokens = {role: token for role, token in _LLAMA3_ROLES.items() if token in specials}
    content = json.loads(tokenizer.to_str())
    return Base(name, content, tokenizer, pattern, special_tokens, {}, None, from_ranks=True)


# ── tokenizer.json ──────────────────────────────────────────────────────────────────────────────


def _from_json(name: str, path: Path, folder: Path) -> Base:
    content = read_mapping(path)
    tokenizer = load_definition(path, content)
    config: dict[str, Any] = {}
    for companion in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / companion).is_file():
            config.update(read_mapping(folder / companion))
    special_tokens = {
        role: token for role in _NAMED_ROLES if (token := named(config.get(role))) is not None
    }
    if not config:  # a tokenizer.json alone does not say what its control tokens are for
        vocab = content["model"]["vocab"]
        special_tokens = {role: token for role, token in _LLAMA3_ROLES.items() if token in vocab}
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = {key: config[key] for key in _KEPT if key in config}
    pattern = pattern_of(path, content)
    model = _companion_model(path, content, folder / "tokenizer.model")
    return Base(
        name, content, tokenizer, pattern, special_tokens, settings, template or None, model
    )


def _companion_model(path: Path, content: dict[str, Any], beside: Path) -> PieceModel | None:
    """The SentencePiece model beside a tokenizer.json that came from it."""
    if not content["model"].get("byte_fallback") or not beside.is_file():
        return None
    with beside.open("rb") as handle:
        if not looks_like_a_model(handle.read(16)):
            return None
    model = read_model(beside)
    vocab = content["model"]["vocab"]
    for index, (text, _, _) in enumerate(model.pieces):
        if vocab.get(text) != index:
            raise InputError(
                f"{path}: {text!r} is {vocab.get(text)} here and {index} in {beside.name} beside it; "
                "fetch both again, or remove the one that is not this tokenizer's"
            )
    added = {token["id"] for token in content["added_tokens"]}
    lost = set(range(len(model.pieces), max(vocab.values()) + 1)) - added
    if lost:
        raise InputError(
            f"{path}: {len(lost):,} ids from {min(lost)} on are not in {beside.name} beside it and are "
            "no added tokens; give the model that has them, or remove it"
        )
    return model


def without_prefix(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, but a text gets no space before it: for counting on single words, which have
    theirs. SentencePiece's kind only; any other comes back as it is."""
    if not isinstance(tokenizer.model, models.BPE) or not tokenizer.model.byte_fallback:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    normalizer, step = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    rules = normalizer.get("normalizers", [])
    if not any(rule["type"] == "Prepend" for rule in rules) and step.get("type") != "Metaspace":
        return tokenizer
    if rules:
        normalizer["normalizers"] = [rule for rule in rules if rule["type"] != "Prepend"]
    if step.get("type") == "Metaspace":
        step["prepend_scheme"] = "never"
    return Tokenizer.from_str(json.dumps(content))


def check_room(base: Base, asked: int) -> None:
    """Raise InputError where `asked` more tokens do not fit into the ids a tokenizer may have."""
    room = MOST_IDS - base.vocab_size
    if asked > room:
        raise InputError(
            f"tokenizer.new_tokens: {asked:,} on top of {base.vocab_size:,} are more than the "
            f"{MOST_IDS:,} ids a tokenizer may have here; ask for {max(room, 0):,} at most"
        )
