"""Bytes ↔ the strings that stand for them in a byte-level vocabulary (GPT-2's printable letters)."""

from __future__ import annotations

import functools


@functools.cache
def alphabet() -> tuple[str, ...]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters.update({byte: chr(256 + index) for index, byte in enumerate(hidden)})
    return tuple(letters[byte] for byte in range(256))


@functools.cache
def _bytes_of_letters() -> dict[int, str]:
    """For str.translate: letter → character of its byte; what is no letter → one beyond the bytes."""
    table = dict.fromkeys(range(256), "\uffff")
    table.update({ord(letter): chr(byte) for byte, letter in enumerate(alphabet())})
    return table


def byte_level(data: bytes) -> str:
    """Bytes → the string that stands for them in a byte-level vocabulary."""
    letters = alphabet()
    return "".join(letters[byte] for byte in data)


def token_bytes(token: str) -> bytes:
    """A token of a byte-level vocabulary → its bytes. Raises KeyError on any other string."""
    try:
        return token.translate(_bytes_of_letters()).encode("latin-1")
    except UnicodeEncodeError:
        raise KeyError(token) from None
