"""What is planted in the sample, by the form it is delivered in: copies, and the texts of planted.txt.

A planted text carries in its head what the data stage is to do with it: the keys of truth.jsonl.
"""

from __future__ import annotations

from dataclasses import replace

from configs.sample import copies, texts
from configs.sample.texts import Text


def _copy(text: Text, name: str, body: str, **head: str) -> Text:
    return replace(text, id=name, body=body, head={"of": text.id, "expect": "removed"} | head)


def _near(text: Text, rate: float) -> Text:
    """A near copy: goes where its similarity is at or above the threshold, else stays."""
    body, similarity = copies.edited(text.body, rate, text.id, (text.title, text.title))
    goes = similarity >= copies.THRESHOLD
    head = {"expect": "removed", "step": "near"} if goes else {"expect": "kept"}
    return _copy(
        text, f"repost-{text.id}-{round(rate * 100)}", body, **head,
        jaccard=f"{similarity:.4f}", note=f"near copy, {rate:.0%} of the words edited",
    )  # fmt: skip


def plant(originals: dict[str, Text]) -> dict[str, list[Text]]:
    """What is added to each form: the copies, and the texts of planted.txt."""
    o = originals
    forms: dict[str, list[Text]] = {
        "board": [
            _copy(o["forum-003"], "repost-forum-003", o["forum-003"].body, step="exact", note="exact copy in the same file"),
            _copy(o["essay-003"], "repost-essay-003", o["essay-003"].body, step="exact", note="exact copy from another file and form"),
            *(_near(o[name], rate) for name, rate in (("forum-005", 0.02), ("recipe-007", 0.05), ("forum-009", 0.1), ("recipe-010", 0.3))),
            _copy(o["recipe-012"], "repost-recipe-012", copies.decomposed(o["recipe-012"].body), step="exact", note="NFD copy"),
            _copy(o["forum-011"], "repost-forum-011", copies.spaced(o["forum-011"].body, "forum-011"), step="exact", note="white-space copy: CRLF, no-break, ideographic and zero-width spaces"),
        ],
        "essays": [
            *(_near(o[name], rate) for name, rate in (("essay-002", 0.02), ("essay-007", 0.05), ("essay-009", 0.1), ("essay-011", 0.3))),
            _copy(o["essay-013"], "repost-essay-013", copies.shuffled(o["essay-013"].body, "essay-013"), step="near", note="sentences shuffled", jaccard=f"{copies.jaccard(o['essay-013'].body, copies.shuffled(o['essay-013'].body, 'essay-013')):.4f}"),
        ],
        "reviews": [
            _copy(o["recipe-004"], "repost-recipe-004", o["recipe-004"].body, step="exact", note="exact copy from another file and form"),
            *(_near(o[name], rate) for name, rate in (("review-006", 0.02), ("review-009", 0.05), ("review-012", 0.1), ("review-014", 0.3))),
            _copy(o["forum-014"], "repost-forum-014", copies.full_width(o["forum-014"].body), step="exact", note="full-width copy"),
        ],
        "text": [
            _copy(o["review-008"], "repost-review-008", copies.rewrapped(o["review-008"].body), step="exact", note="white-space copy: hard line ends"),
        ],
        "pages": [
            _copy(o["notice-005"], "repost-notice-005", o["notice-005"].body, note="exact copy under another address, with other comments and adverts"),
            _near(o["notice-009"], 0.05),
        ],
        "crawl": [
            _copy(o["encyclopedia-019"], "repost-encyclopedia-019", o["encyclopedia-019"].body, note="exact copy under another address, with other comments and adverts"),
            *(_near(o[name], rate) for name, rate in (("encyclopedia-011", 0.02), ("encyclopedia-014", 0.1), ("encyclopedia-017", 0.3))),
        ],
    }  # fmt: skip
    for text in texts.read("planted"):
        if text.id.startswith("mojibake"):
            text = replace(text, body=copies.garbled(text.body, text.id))
        forms[text.head["form"]].append(text)
    return forms
