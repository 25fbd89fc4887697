"""`malmoi compare-tokenizers A B [TEXT]`: two tokenizers on one text, for a reader."""

from __future__ import annotations

from pathlib import Path

from configs.errors import InputError
from launch.console import table

TEXT = "말모이는 흩어진 우리말을 한데 모아 엮은 첫 사전의 이름입니다. 도서관에서 함께 읽어 볼까요?"


def side_by_side(a: str, b: str, text: str | None) -> str:
    """Vocabulary, tokens and tokens per eojeol of both, and the text as each of them cuts it.

    a, b: llama3, a tokenizer's folder (or a run's), a tiktoken file, or a hub id. Raises InputError
    where one cannot be loaded.
    """
    name_a, name_b = _folder(a), _folder(b)
    if text is not None and not text.strip():
        raise InputError("compare-tokenizers: the text is empty; leave it out for a Korean one")
    from tokenizer.report import compare

    found = compare(name_a, name_b, [text or TEXT])
    one = found.texts[0]
    rows = [
        [letter, name, f"{size:,}", f"{len(cut):,}", "–" if rate is None else f"{rate:.2f}"]
        for letter, name, size, cut, rate in (
            ("A", name_a, found.vocab_size_a, one.a, found.fertility_a),
            ("B", name_b, found.vocab_size_b, one.b, found.fertility_b),
        )
    ]
    share = found.saved or 0.0
    said = f"{100 * abs(share):.1f} % {'fewer' if share > 0 else 'more'} tokens than A"
    if not share:
        said = "as many tokens as A"
    header = ["", "tokenizer", "vocabulary", "tokens", "tokens per eojeol"]
    cuts = [f"  {letter}  {_cut(cut)}" for letter, cut in (("A", one.a), ("B", one.b))]
    return "\n".join([table(header, rows), "", f"  B spends {said}", "", *cuts])


def _cut(pieces: list[str]) -> str:
    """Pieces with a bar between them; a piece that opens a word keeps its space as ␣."""
    shown = (piece.replace("\n", "\\n").replace("\t", "\\t") for piece in pieces)
    return "|".join(piece.replace(" ", "␣") for piece in shown)


def _folder(name: str) -> str:
    """A run folder stands for its tokenizer; what looks like a path has to be one."""
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "tokenizer.json").is_file():
        inside = [path / "tokenizer", path / "model"]
        return next((str(one) for one in inside if (one / "tokenizer.json").is_file()), str(path))
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise InputError(
            f"{name}: no such file or folder; give llama3, a tokenizer's folder or a hub id"
        )
    return str(path) if path.exists() else name
