"""The tokenizer that is extended: Llama-3, or another byte-level BPE.

In: `llama3` (the ranks file that the `llama-models` package carries), a tiktoken ranks file, a
Hugging Face folder or `tokenizer.json`, or a hub id. Out: a `Base`, with the definition
(`tokenizer.json` as a mapping) that `write.py` appends to.

The decision: every added token (Llama-3's 256 specials) is put into `model.vocab` as well, with its
id. A token that is only in `added_tokens` is renumbered from `len(model.vocab)` when the file is
loaded, so the first appended piece would move `<|eot_id|>`.

A ranks file has no merges, only tokens in the order of their ranks. Every way to split a token into
two others becomes a merge, in rank order, which is the conversion transformers uses; 588 tokens of
Llama-3 are still out of reach of merges, so `ignore_merges` (a pre-token that is in the vocabulary
is taken whole) must stay true. Measured equal to tiktoken id for id.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from configs.errors import InputError, missing_extra

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_RANKS = 128_000
LLAMA3_SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"

_NAMED_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
LLAMA3_SPECIALS = (
    *_NAMED_SPECIALS,
    *(f"<|reserved_special_token_{2 + i}|>" for i in range(256 - len(_NAMED_SPECIALS))),
)
_NAMED_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
_HUB_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
]


@functools.cache
def _alphabet() -> tuple[str, ...]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters.update({byte: chr(256 + index) for index, byte in enumerate(hidden)})
    return tuple(letters[byte] for byte in range(256))


@functools.cache
def _bytes_of_letters() -> dict[str, int]:
    return {letter: byte for byte, letter in enumerate(_alphabet())}


def byte_level(data: bytes) -> str:
    """Bytes → the string that stands for them in a byte-level vocabulary."""
    alphabet = _alphabet()
    return "".join(alphabet[byte] for byte in data)


def token_bytes(token: str) -> bytes:
    """A token of a byte-level vocabulary → its bytes. Raises KeyError on any other string."""
    letters = _bytes_of_letters()
    return bytes(letters[letter] for letter in token)


@dataclass(frozen=True)
class Base:
    """A byte-level BPE tokenizer that can be extended.

    name: as in the config. definition: `tokenizer.json` as a mapping, added tokens also in
    `model.vocab`. pattern: the regex that cuts text into pre-tokens. special_tokens: bos_token,
    eos_token, pad_token, unk_token where known. settings: what else its tokenizer_config.json says
    that is worth keeping. chat_template: its own, or None.
    """

    name: str
    definition: dict[str, Any]
    tokenizer: Tokenizer
    pattern: str
    special_tokens: dict[str, str]
    settings: dict[str, Any]
    chat_template: str | None

    @property
    def vocab_size(self) -> int:
        """The first free id: one more than the largest."""
        return max(self.definition["model"]["vocab"].values()) + 1

    def tokens(self) -> list[bytes]:
        """Bytes of every id, [vocab_size]; empty for added tokens, which no merge may touch."""
        added = {token["id"] for token in self.definition["added_tokens"]}
        content = [b""] * self.vocab_size
        for token, index in self.definition["model"]["vocab"].items():
            if index not in added:
                content[index] = token_bytes(token)
        return content


def load_base(name: str) -> Base:
    """Load the tokenizer that `tokenizer.base` names.

    Raises InputError, naming the file, for whatever is not a byte-level BPE tokenizer, is damaged or
    cannot be had.
    """
    if name == "llama3":
        return _from_ranks(name, _packaged_llama3())
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(name, path)
    if path.is_file():
        if path.suffix == ".json":
            return _from_json(name, path, path.parent)
        return _from_ranks(name, path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _from_folder(name, _download(name))
    raise InputError(
        f"tokenizer.base: {name} is no file or folder; give llama3, a folder with tokenizer.json, "
        "a tiktoken ranks file or a hub id (organisation/name)"
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
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"tokenizer.base: {name} is no file or folder, and could not be had from the hub "
            f"({why}); check the name and the network, log in with `hf auth login` where it is "
            "gated, or give a folder"
        ) from None


def _from_folder(name: str, folder: Path) -> Base:
    if (folder / "tokenizer.json").is_file():
        return _from_json(name, folder / "tokenizer.json", folder)
    for ranks in (folder / "tokenizer.model", folder / "original" / "tokenizer.model"):
        if ranks.is_file():
            return _from_ranks(name, ranks)
    raise InputError(
        f"tokenizer.base: {folder} holds no tokenizer.json and no tokenizer.model; "
        "give the folder of a tokenizer, or llama3"
    )


# ── tiktoken ranks ──────────────────────────────────────────────────────────────────────────────


def _read_ranks(path: Path) -> dict[bytes, int]:
    data = path.read_bytes()
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            kind = "a SentencePiece model, or damaged" if b"\x00" in data[:4096] else "damaged"
            raise InputError(
                f"{path}:{number}: not a line of a tiktoken ranks file (base64, space, rank): "
                f"{kind}; fetch the file again"
            ) from None
    lacking = sum(bytes([byte]) not in ranks for byte in range(256))
    if lacking or list(ranks.values()) != list(range(len(ranks))):
        what = f"{lacking} of the 256 single bytes are missing" if lacking else "ranks out of order"
        raise InputError(f"{path}: {what}: not a whole tiktoken ranks file; fetch it again")
    digest = hashlib.sha256(data).hexdigest()
    if len(ranks) == LLAMA3_RANKS and digest != LLAMA3_SHA256:
        raise InputError(
            f"{path}: damaged: as large as Llama-3's vocabulary but its sha256 is {digest[:12]}…, "
            f"not {LLAMA3_SHA256[:12]}…; fetch it again"
        )
    return ranks


def _splits(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every split of every token into two tokens, by rank of the token, then of the parts."""
    merges: list[tuple[str, str]] = []
    for token in vocab:
        splits = [
            (token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in vocab and token[cut:] in vocab
        ]
        if len(splits) > 1:
            splits.sort(key=lambda split: (vocab[split[0]], vocab[split[1]]))
        merges += splits
    return merges


def _from_ranks(name: str, path: Path) -> Base:
    """A ranks file, with Llama-3's regex and its 256 specials after the last rank."""
    ranks = _read_ranks(path)
    vocab = {byte_level(token): rank for token, rank in ranks.items()}
    merges = _splits(vocab)
    vocab.update({token: len(ranks) + index for index, token in enumerate(LLAMA3_SPECIALS)})
    tokenizer = Tokenizer(models.BPE(vocab, merges, fuse_unk=False, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bos = LLAMA3_SPECIALS[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, len(ranks))],
            ),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in LLAMA3_SPECIALS]
    )
    special_tokens = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|finetune_right_pad_id|>",
    }
    definition = json.loads(tokenizer.to_str())
    return Base(name, definition, tokenizer, LLAMA3_PATTERN, special_tokens, {}, None)


# ── tokenizer.json ──────────────────────────────────────────────────────────────────────────────


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); fetch the file again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object; fetch the file again")
    return value


def _content(token: object) -> str | None:
    """A special token as the configs write it: a string, or a mapping with `content`."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _from_json(name: str, path: Path, folder: Path) -> Base:
    definition = _read_mapping(path)
    config: dict[str, Any] = {}
    for companion in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / companion).is_file():
            config.update(_read_mapping(folder / companion))
    special_tokens = {
        role: content
        for role in _NAMED_ROLES
        if (content := _content(config.get(role))) is not None
    }
    template = config.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    kept = ("model_max_length", "padding_side", "clean_up_tokenization_spaces")
    settings = {key: config[key] for key in kept if key in config}
    tokenizer = _load(path, definition)
    pattern = _pattern(path, definition.get("pre_tokenizer"))
    return Base(name, definition, tokenizer, pattern, special_tokens, settings, template or None)


def _load(path: Path, definition: dict[str, Any]) -> Tokenizer:
    """Check that it is a byte-level BPE and load it; its added tokens go into the vocabulary."""
    model = definition.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise InputError(
            f"{path}: not the tokenizer.json of a BPE (no model.vocab mapping); "
            "give a byte-level BPE tokenizer such as Llama-3's"
        )
    kind = model.get("type", "BPE")
    lacking = sum(letter not in model["vocab"] for letter in _alphabet())
    if kind != "BPE" or model.get("byte_fallback") or lacking:
        raise InputError(
            f"{path}: {kind} tokenizer, not a byte-level BPE "
            f"({lacking} of 256 bytes have no token); give one such as Llama-3's"
        )
    for token in definition.setdefault("added_tokens", []):
        model["vocab"][token["content"]] = token["id"]
    # Old files write a merge as "left right"; a byte-level token holds no space.
    model["merges"] = [
        merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]
    ]
    try:
        return Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # tokenizers raises a bare Exception for every defect of the file
        raise InputError(f"{path}: tokenizers cannot load it ({error}); fetch it again") from None


def _pattern(path: Path, pre_tokenizer: dict[str, Any] | None) -> str:
    """The regex of `Split(regex) + ByteLevel`, or of a ByteLevel that brings GPT-2's."""
    steps = [pre_tokenizer] if pre_tokenizer else []
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        steps = pre_tokenizer["pretokenizers"]
    match steps:
        case [{"type": "ByteLevel", "use_regex": True, "add_prefix_space": False}]:
            return GPT2_PATTERN
        case [
            {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": regex}},
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
        ]:
            return str(regex)
    raise InputError(
        f"{path}: its pre-tokenizer is not one regex followed by bytes (as in GPT-2, Llama-3 and "
        "Qwen), so words cannot be counted as it cuts them; give another base"
    )
