"""Token ids → text, piece by piece, exact to the byte.

In: the ids a model emits, one at a time. Out: the text that may be shown so far.

A Hangul syllable is three bytes and a byte-level vocabulary may cut it anywhere, so no token can be
decoded alone. Each id's bytes are looked up once, and one incremental UTF-8 decoder per reply keeps
what is not yet a character: the pieces concatenate to exactly what decoding everything at the end
gives, at about a microsecond a token. A stop string may also be cut by tokens: text that could still
become one is held back until it is decided.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from tokenizers import pre_tokenizers

from configs.errors import InputError


def _byte_alphabet() -> dict[str, int]:
    """The 256 printable characters that byte-level BPE (GPT-2) writes bytes with → the bytes.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    return alphabet


def token_bytes(tokenizer: Any) -> list[bytes | None]:
    """The bytes of each id of a byte-level tokenizer; None for control tokens and unused ids.

    Returns a list of len(tokenizer) entries. Raises InputError where the vocabulary is not
    byte-level (a SentencePiece vocabulary has no bytes of its own for most pieces).
    """
    alphabet = _byte_alphabet()
    added = tokenizer.added_tokens_decoder
    pieces: list[bytes | None] = [None] * len(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        if index in added:
            pieces[index] = None if added[index].special else added[index].content.encode()
            continue
        try:
            pieces[index] = bytes(alphabet[character] for character in token)
        except KeyError:
            raise InputError(
                f"{tokenizer.name_or_path}: token {index} ({token!r}) is not byte-level; "
                "chat needs a byte-level BPE vocabulary such as Llama-3's"
            ) from None
    return pieces


class TextStream:
    """The text of one reply, growing token by token.

    `pieces` comes from `token_bytes`. `stop` are strings that end the reply and are not part of it.
    """

    def __init__(self, pieces: Sequence[bytes | None], stop: Sequence[str] = ()) -> None:
        self._pieces = pieces
        self._stop = tuple(stop)
        self._longest = max((len(s) for s in self._stop), default=0)
        self._starts = {s[:length] for s in self._stop for length in range(1, len(s))}
        self._initials = {s[0] for s in self._stop}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False  # a stop string was met; nothing more comes out

    def push(self, token: int) -> str:
        """Take one id, return the text that is certain by now (often one character, may be "")."""
        piece = self._pieces[token] if token < len(self._pieces) else None
        return self._release(self._decoder.decode(piece)) if piece else ""

    def flush(self) -> str:
        """End of the reply: the rest, half a character becoming U+FFFD."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _release(self, text: str) -> str:
        if self.stopped or not self._stop:
            return "" if self.stopped else text
        text = self._held + text
        found = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        hold = self._undecided(text)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that is the start of a stop string."""
        tail = text[-(self._longest - 1) :] if self._longest > 1 else ""
        for at, character in enumerate(tail):
            if character in self._initials and tail[at:] in self._starts:
                return len(tail) - at
        return 0
