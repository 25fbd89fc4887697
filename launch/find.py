"""`malmoi find RUN TEXT`: what a corpus has of a text, an id or an address, for a reader or as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from configs.errors import InputError


def answer(
    run: Path,
    text: str | None,
    *,
    file: Path | None,
    id: str | None,
    url: str | None,
    at_least: float | None,
    most: int,
    as_json: bool,
) -> bool:
    """Print what was found; returns whether anything was. `text` "-" reads standard input.

    Raises InputError unless exactly one of text, file, id and url is given.
    """
    given = [value for value in (text, file, id, url) if value is not None]
    if len(given) != 1:
        raise InputError("find: give one of TEXT, - (standard input), --file, --id or --url")
    from dedup.copies.find import find_id, find_text, find_url

    if id is not None:
        found = find_id(run, id)
    elif url is not None:
        found = find_url(run, url)
    else:
        found = find_text(run, _read(text, file), at_least=at_least, most=most)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return bool(found.answers)
    for each in found.answers:
        alike = f"{each.similarity:.4f} alike" if each.similarity is not None else ""
        what = {"same text": "the same text", "near": alike}.get(each.how, f"by {each.how}")
        print(f"{each.id}  {what}  of source {each.source}" + (f"  {each.url}" if each.url else ""))
        if each.step:
            because = f", because of {each.kept_id} ({alike})" if each.kept_id else ""
            print(f"  not in the corpus: went at step {each.step}: {each.reason}{because}")
        print(f"  {' '.join(each.excerpt.split())}\n")
    if not found.answers:
        print("not found")
    searched = f"searched {found.searched:,} documents in {found.seconds:.2f} s"
    if text is not None or file is not None:
        searched += f", from a similarity of {found.threshold:g}"
        if found.compared < found.candidates:
            searched += (
                f"; of {found.candidates:,} candidates the {found.compared:,} likeliest were "
                "compared (--most)"
            )
    print(searched)
    return bool(found.answers)


def _read(text: str | None, file: Path | None) -> str:
    if text == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    if text is not None:
        return text
    assert file is not None
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a text file in UTF-8")
    return file.read_bytes().decode("utf-8", "replace")
