"""NIKL 모두의 말뭉치 → documents: written corpora by paragraph, spoken ones by speaker.

In: a JSON file of the National Institute of Korean Language: `document[]`, each with `metadata` and
either `paragraph[].form` or `utterance[].form` with `speaker_id`. Out: a text document per written
document. A conversation of two people becomes a dialogue (the first to speak is the user, the other
the assistant, what one says in a row is one turn); one of more people, or of one, a text with a line
a turn. Files of several gigabytes are streamed, document by document.

The decision: names of speakers are no text. A dialogue has roles, and a text of many voices has
dashes; who spoke is in the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from configs.schema import Source
from dedup.containers import File
from dedup.formats.json_values import values
from dedup.records import (
    RAW_BYTES,
    Document,
    Failure,
    Kind,
    Unusable,
    clean,
    get,
    given_id,
    meta_of,
)


def read(file: File, source: Source) -> Iterator[Document | Failure]:
    """Documents and failures of a NIKL file. Raises Damaged."""
    number = 0
    for number, value in enumerate(values(file, "document[]", source), 1):
        if isinstance(value, Failure):
            yield value
            continue
        record, raw = value
        try:
            yield _document(record, f"{source.name}/{file.name}#{number}", len(raw))
        except Unusable as error:
            yield Failure(file.path, str(error), number, None, raw[:RAW_BYTES], len(raw))
    if number == 0:
        yield Failure(file.path, "has no list `document`; is it of 모두의 말뭉치?")


def _document(record: Any, id: str, size: int) -> Document:
    if not isinstance(record, dict):
        raise Unusable("document is not a JSON object")
    kind: Kind = "text"
    segments: list[tuple[str, str]] | None = None
    if isinstance(record.get("utterance"), list):
        turns = _turns(record["utterance"])
        speakers = list(dict.fromkeys(speaker for speaker, _ in turns))
        if len(speakers) == 2:
            kind = "chat"
            roles = dict(zip(speakers, ("user", "assistant"), strict=True))
            segments = [(roles[speaker], text) for speaker, text in turns]
            text = "\n".join(text for _, text in turns)
        else:
            dash = "- " if len(speakers) > 1 else ""
            text = "\n".join(f"{dash}{text}" for _, text in turns)
    else:
        text = clean(get(record, "paragraph[].form") or get(record, "sentence[].form") or "")
    if not text:
        there = ", ".join(list(record)[:8])
        raise Unusable(f"has no paragraph[].form and no utterance[].form (it has: {there})")
    meta = meta_of(record.get("metadata") or {}, set())
    return Document(given_id(record.get("id")) or id, kind, text, segments, None, meta, size)


def _turns(utterances: list[Any]) -> list[tuple[str, str]]:
    """(speaker, what they said in a row) in order."""
    turns: list[tuple[str, str]] = []
    for utterance in utterances:
        form = utterance.get("form") if isinstance(utterance, dict) else None
        if not isinstance(form, str) or not clean(form):
            continue
        speaker = str(utterance.get("speaker_id", ""))
        if turns and turns[-1][0] == speaker:
            turns[-1] = (speaker, f"{turns[-1][1]} {clean(form)}")
        else:
            turns.append((speaker, clean(form)))
    return turns
