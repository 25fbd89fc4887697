"""Two tokenizers on one text: where each cuts, and tokens per eojeol.

In: names of any two tokenizers and texts. Out: `Comparison`. Any tokenizer.json, any folder or hub id
that transformers can load, and every base that can be extended will do; what its maker set for a
model's inputs (truncation, padding) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from tokenizers import Tokenizer

from configs.errors import InputError
from tokenizer.base import load_base, without_prefix
from tokenizer.load import load_tokenizer
from tokenizer.report import count_tokens, eojeols_of, segments, share_saved


@dataclass(frozen=True)
class Compared:
    """One text under two tokenizers: its segments."""

    text: str
    a: list[str]
    b: list[str]


@dataclass(frozen=True)
class Comparison:
    """Two tokenizers side by side; `texts` in the order given.

    fertility_*: tokens per eojeol with Hangul, over all texts; None where there is none.
    """

    vocab_size_a: int
    vocab_size_b: int
    tokens_a: int
    tokens_b: int
    fertility_a: float | None
    fertility_b: float | None
    texts: list[Compared]

    @property
    def saved(self) -> float | None:
        """Share of a's tokens that b does without."""
        return share_saved(self.tokens_a, self.tokens_b)


def compare(a: str, b: str, texts: Sequence[str]) -> Comparison:
    """Cut texts with two tokenizers, each `llama3`, a folder, a tokenizer.json, a tiktoken or
    SentencePiece file, or a hub id.

    Lone surrogates (a terminal's broken input) become U+FFFD. Raises InputError where a tokenizer
    cannot be loaded.
    """
    tokenizers = [_any_tokenizer(name) for name in (a, b)]
    compared = []
    for text in texts:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        compared.append(Compared(whole, *(segments(tokenizer, whole) for tokenizer in tokenizers)))
    eojeols = eojeols_of(piece for one in compared for piece in one.text.split())
    number = eojeols.total()
    fertility = [
        round(count_tokens(without_prefix(tokenizer), eojeols) / number, 4) if number else None
        for tokenizer in tokenizers
    ]
    return Comparison(
        vocab_size_a=tokenizers[0].get_vocab_size(),
        vocab_size_b=tokenizers[1].get_vocab_size(),
        tokens_a=sum(len(one.a) for one in compared),
        tokens_b=sum(len(one.b) for one in compared),
        fertility_a=fertility[0],
        fertility_b=fertility[1],
        texts=compared,
    )


def _any_tokenizer(name: str) -> Tokenizer:
    """Any tokenizer.json, any folder or hub id that transformers can load, and any base."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises a bare Exception for every defect
            raise InputError(
                f"{path}: no tokenizer can be read from it ({error}); give a tokenizer.json"
            ) from None
    elif (path / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(name).backend_tokenizer
    elif name == "llama3" or path.is_file() or _has_model(path):
        tokenizer = load_base(name).tokenizer
    else:
        if not path.exists():
            _look_up(name)
        tokenizer = load_tokenizer(name).backend_tokenizer
    # What a model's maker set for its inputs would cut or lengthen the text that is compared.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _look_up(name: str) -> None:
    """Ask the hub once whether it has `name`: loading asks for each file, six times, for a minute."""
    if isinstance(try_to_load_from_cache(name, "tokenizer.json"), str):
        return
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # whatever stands between here and the hub
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name}: no file or folder, and could not be had from the hub ({why}); check the name "
            "and the network, log in with `hf auth login` where it is gated, or give a folder"
        ) from None


def _has_model(path: Path) -> bool:
    names = ("tokenizer.model", "original/tokenizer.model")
    return any((path / name).is_file() for name in names)
