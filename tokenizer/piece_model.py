"""A SentencePiece `.model` file ↔ the `tokenizer.json` that cuts text as it does.

In: a BPE model with byte fallback and no normalisation, as of the Llama-2 family. Out: its
definition (vocabulary, merges, normalizer, decoder as a mapping), its special tokens, and, the other
way, the same file with pieces appended.

The decision: pieces are appended to the file as bytes. In protobuf's wire format a repeated field may
be continued at the end of a message, so the base's own bytes stay the first part of the new file, and
no field that this version of SentencePiece does not know is lost.

SentencePiece merges the neighbours that make the piece of the highest score, however that piece is
split; a list of merges says the same when it holds every split of every piece, in the order of
scores. A new piece must rank below all old ones, so its score is lower than any of theirs.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_BPE = 2
_NAMED_ROLES = ("bos", "eos", "pad", "unk")


def looks_like_a_model(data: bytes) -> bool:
    """Whether the first bytes are those of a SentencePiece model (a message of pieces)."""
    return data[:1] == b"\n" and len(data) > 2 and data[2:3] == b"\n"


def byte_pieces() -> list[str]:
    """`<0x00>` … `<0xFF>`."""
    return [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass(frozen=True)
class PieceModel:
    """What a `.model` file says.

    data: the file. pieces: (text, score, type) by id. dummy_prefix: whether a space is put before the
    text. special_tokens: bos_token, eos_token, pad_token, unk_token where the model has them.
    """

    data: bytes
    pieces: list[tuple[str, float, int]]
    dummy_prefix: bool
    special_tokens: dict[str, str]


def read_model(path: Path) -> PieceModel:
    """Read a `.model` file. Raises InputError for one that is damaged or cannot be extended."""
    proto = _parsed(path)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    pieces = [(piece.piece, float(piece.score), int(piece.type)) for piece in proto.pieces]
    texts = {text for text, _, _ in pieces}
    lacking = sum(byte not in texts for byte in byte_pieces())
    unfit = {
        "a unigram model": trainer.model_type != _BPE,
        f"a model without byte fallback ({lacking} of 256 byte pieces are missing)": bool(lacking),
        "a model that normalises text": bool(normalizer.precompiled_charsmap),
        "a model that drops repeated spaces": normalizer.remove_extra_whitespaces,
        "a model that does not write spaces as ▁": not normalizer.escape_whitespaces,
        "a model with the space after the word": trainer.treat_whitespace_as_suffix,
        "a model with unused pieces": any(kind == UNUSED for _, _, kind in pieces),
    }
    for what, is_so in unfit.items():
        if is_so:
            raise InputError(
                f"{path}: {what}; a SentencePiece base must be BPE with byte fallback and without "
                "normalisation, as Llama-2's is: give another base"
            )
    if len(texts) != len(pieces):
        raise InputError(f"{path}: damaged: a piece occurs twice; fetch the file again")
    special_tokens = {
        f"{role}_token": pieces[index][0]
        for role in _NAMED_ROLES
        if 0 <= (index := int(getattr(trainer, f"{role}_id"))) < len(pieces)
    }
    data = path.read_bytes()
    return PieceModel(data, pieces, normalizer.add_dummy_prefix, special_tokens)


def _parsed(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's errors differ between its implementations
        raise InputError(f"{path}: damaged SentencePiece model ({error}); fetch it again") from None
    if not proto.pieces or not proto.IsInitialized():
        raise InputError(f"{path}: a SentencePiece model without pieces; fetch the file again")
    return proto


def every_split(token: str, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, by their ids."""
    splits = [
        (token[:cut], token[cut:])
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    if len(splits) > 1:
        splits.sort(key=lambda split: (vocab[split[0]], vocab[split[1]]))
    return splits


def definition(model: PieceModel) -> dict[str, Any]:
    """The model as a `tokenizer.json`, in the form in which Llama-2's is published."""
    vocab = {text: index for index, (text, _, _) in enumerate(model.pieces)}
    normal = {text: vocab[text] for text, _, kind in model.pieces if kind == NORMAL}
    ranked = sorted(normal, key=lambda text: (-model.pieces[vocab[text]][1], vocab[text]))
    merges = [list(split) for text in ranked for split in every_split(text, normal)]
    unknown = model.special_tokens.get("unk_token")
    steps: list[dict[str, Any]] = []
    if model.dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    decode: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        decode.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    added = [
        {
            "id": vocab[text],
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind in (UNKNOWN, CONTROL),
        }
        for text, _, kind in model.pieces
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": _opening(model, vocab),
        "decoder": {"type": "Sequence", "decoders": decode},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _opening(model: PieceModel, vocab: dict[str, int]) -> dict[str, Any] | None:
    """`<s>` before the text, as every model of the family has it."""
    bos = model.special_tokens.get("bos_token")
    if bos is None:
        return None

    def opened(*names: str) -> list[dict[str, Any]]:
        return [
            part
            for index, name in enumerate(names)
            for part in (
                {"SpecialToken": {"id": bos, "type_id": index}},
                {"Sequence": {"id": name, "type_id": index}},
            )
        ]

    return {
        "type": "TemplateProcessing",
        "single": opened("A"),
        "pair": opened("A", "B"),
        "special_tokens": {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}},
    }


# ── the file with more pieces ───────────────────────────────────────────────────────────────────


def with_pieces(model: PieceModel, added: Iterable[tuple[str, int]], texts: Sequence[str]) -> bytes:
    """The file with pieces at its end.

    added: (text, type) of tokens that only `tokenizer.json` had. texts: the new pieces, in the order
    in which they rank; their scores go down by one from the lowest score of the base.
    """
    lowest = min((score for _, score, _ in model.pieces), default=0.0)
    data = bytearray(model.data)
    extra = list(added)
    for text, kind in extra:
        data += _field(1, _piece(text, 0.0, kind))
    for index, text in enumerate(texts, 1):
        data += _field(1, _piece(text, lowest - index, NORMAL))
    size = len(model.pieces) + len(extra) + len(texts)
    # A message field that occurs twice is merged: this sets trainer_spec.vocab_size and no more.
    return bytes(data + _field(2, b"\x20" + _varint(size)))


def _piece(text: str, score: float, kind: int) -> bytes:
    body = _field(1, text.encode()) + b"\x15" + struct.pack("<f", score)
    return body if kind == NORMAL else body + b"\x18" + _varint(kind)


def _field(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(body)) + body


@functools.lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
