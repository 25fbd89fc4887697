"""`malmoi compare-tokenizers A B [TEXT]`: two tokenizers on one text, for a reader.

TEXT is the text itself, `-` for standard input, or two Korean sentences where it is left out. Figures
are over the whole text; of a long one the first tokens are shown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configs.errors import InputError
from launch.console import table
from launch.segments import colours_wanted, line

TEXT = "말모이는 흩어진 우리말을 한데 모아 엮은 첫 사전의 이름입니다. 도서관에서 함께 읽어 볼까요?"
SHOWN = 400  # tokens of each tokenizer


def side_by_side(a: str, b: str, text: str | None, *, colour: bool | None = None) -> str:
    """Vocabulary, tokens and tokens per eojeol of both, and the text as each of them cuts it.

    a, b: llama3, a tokenizer's folder (or a run's, or a hub cache's), a tokenizer.json, a tiktoken or
    SentencePiece file, or a hub id. Raises InputError where one cannot be loaded, or there is no text.
    """
    name_a, name_b = _place(a), _place(b)
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\n")
        if not text.strip():
            raise InputError(
                "compare-tokenizers: no text came on standard input; pipe some into it"
            )
    elif text is not None and not text.strip():
        raise InputError("compare-tokenizers: the text is empty; leave it out for a Korean one")
    from tokenizer.compare import compare

    found = compare(name_a, name_b, [text or TEXT])
    one = found.texts[0]
    rows = [
        [letter, name, f"{size:,}", f"{len(cut):,}", "–" if rate is None else f"{rate:.2f}"]
        for letter, name, size, cut, rate in (
            ("A", a, found.vocab_size_a, one.a, found.fertility_a),
            ("B", b, found.vocab_size_b, one.b, found.fertility_b),
        )
    ]
    share = found.saved or 0.0
    said = f"B spends {100 * abs(share):.1f} % {'fewer' if share > 0 else 'more'} tokens than A"
    if not share:
        said = "B spends as many tokens as A"
        said += " and cuts the text alike" if one.a == one.b else ", and cuts the text otherwise"
    header = ["", "tokenizer", "vocabulary", "tokens", "tokens per eojeol"]
    drawn = colours_wanted() if colour is None else colour
    cuts = [f"  {letter}  {_cut(cut, drawn)}" for letter, cut in (("A", one.a), ("B", one.b))]
    return "\n".join([table(header, rows), "", f"  {said}", "", *cuts])


def _cut(pieces: Sequence[str], colour: bool) -> str:
    left = len(pieces) - SHOWN
    shown = line(pieces[:SHOWN], colour=colour)
    return f"{shown} … and {left:,} more" if left > 0 else shown


def _place(name: str) -> str:
    """What `name` stands for: a run folder for its tokenizer, a folder of the hub's cache
    (models--organisation--name) for its newest snapshot. What looks like a path has to be one.
    """
    path = Path(name).expanduser()
    if path.is_dir() and name:
        if (path / "tokenizer.json").is_file():
            return str(path)
        inside = [path / "tokenizer", path / "model", *_snapshots(path)]
        return next((str(one) for one in inside if (one / "tokenizer.json").is_file()), str(path))
    looks_like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    looks_like_a_path = looks_like_a_path or path.suffix in {".json", ".model"}
    if not name or (looks_like_a_path and not path.exists()):
        raise InputError(
            f"{name or 'compare-tokenizers'}: no such file or folder; give llama3, a tokenizer's "
            "folder or file, or a hub id"
        )
    return str(path) if path.exists() else name


def _snapshots(path: Path) -> list[Path]:
    folder, main = path / "snapshots", path / "refs" / "main"
    if not folder.is_dir():
        return []
    found = sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: one.name)
    if main.is_file():
        found.insert(0, folder / main.read_text(encoding="utf-8").strip())
    return found
