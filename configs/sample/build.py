"""Readable sources → the sample as users meet text, and the truth about what is planted in it.

    python -m configs.sample.build [FOLDER]

Writes `ko/`, `en/`, `dialogues.jsonl` and `truth.jsonl` beside this file (or into FOLDER), with the
same bytes every time: nothing is drawn without a seed, and no time stamp enters an archive.

truth.jsonl has one object a document (or, for what cannot be read, a file or line):
  source    file, relative to this folder
  key       how the output names it: an id, or the end of one; "line 12" of a file; "" for a whole file
  expect    kept, removed, failed, masked (kept without `absent`) or cut (kept without the boilerplate
            lines in `absent`)
  step      of a removal, where it is certain: filter, exact or near
  reason    of a removal, where it is certain
  of        id of the text that it is a copy of
  text      id of its text in `source/` ("repost-…" for copies)
  jaccard   of a near copy, with that text
  absent    phrases that must not be in what is kept: personal data, menus, adverts, comments
  present   phrases that must be
  note      what is special about it
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from configs.sample import pages, texts
from configs.sample.planted import plant
from configs.sample.texts import Text

Entry = dict[str, Any]

_CHARSETS_CP949 = ("http-equiv:euc-kr", "ms949", None, "euc-kr", "http-equiv:ks_c_5601-1987")
_CHARSETS_UTF8 = ("utf-8", "UTF-8", "http-equiv:utf-8", "utf-8", None)
_LIES = {"notice-013": ("cp949", "utf-8"), "news-014": ("utf-8", "euc-kr")}
"""Pages whose meta tag names another charset than the one they are in."""

_CP949_PAGES = {"notice": range(1, 13), "news": range(13, 21), "howto": range(15, 18), "encyclopedia": range(7, 9)}  # fmt: skip
_BOILERPLATE = ("무단 전재", "무단전재", "저작권자")


class Sample:
    """The files of the sample and the entries of its truth, as they come to be."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.truth: list[Entry] = []

    def state(self, source: str, key: str, expect: str, **more: Any) -> None:
        entry: Entry = {"source": source, "key": key, "expect": expect, "step": None, "reason": None, "of": None}  # fmt: skip
        self.truth.append(entry | more)

    def planted(self, source: str, key: str, text: Text, absent: Sequence[str] = ()) -> None:
        """The entry of a text whose head says what is to become of it."""
        head = text.head
        if "expect" in head:
            listed = {k: head[k].split(" | ") for k in ("absent", "present") if k in head}
            listed["absent"] = listed.get("absent", []) + list(absent)
            more: Entry = {
                "text": text.id,
                "step": head.get("step"),
                "reason": head.get("reason"),
                "of": head.get("of"),
                "note": head.get("note", ""),
            }
            if "jaccard" in head:
                more["jaccard"] = float(head["jaccard"])
            self.state(
                source, key, head["expect"], **more, **{k: v for k, v in listed.items() if v}
            )
            return
        lines = [line for line in text.body.split("\n") if any(b in line for b in _BOILERPLATE)]
        more = {"text": text.id}
        if lines or absent:
            more["absent"] = [*lines, *absent]
        self.state(source, key, "cut" if lines else "kept", **more)


# ── forms ───────────────────────────────────────────────────────────────────────────────────────


def _spread(originals: list[Text], planted: list[Text]) -> list[Text]:
    """Planted texts at even distances among the originals."""
    mixed = list(originals)
    for number, text in enumerate(planted, 1):
        mixed.insert(number * len(mixed) // (len(planted) + 1), text)
    return mixed


def _record(text: Text, site: str) -> Entry:
    return {
        "id": text.id, "title": text.title, "text": text.body, "author": text.author,
        "date": text.date, "url": f"https://{site}.example/{text.id}",
    }  # fmt: skip


def _jsonl(records: Sequence[Entry]) -> bytes:
    return b"".join(json.dumps(r, ensure_ascii=False).encode("utf-8") + b"\n" for r in records)


def _zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19, write_checksum=True).compress(data)


def _gz(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def _board(sample: Sample, originals: list[Text], planted: list[Text]) -> None:
    """JSONL in zstd: forum threads and recipes, with broken lines among them."""
    source = "ko/board.jsonl.zst"
    lines: list[bytes] = []
    for text in _spread(originals, planted):
        lines.append(_jsonl([_record(text, "board.saebyeol")]))
        sample.planted(source, text.id, text)
    whole = lines[5]
    broken = {
        9: (whole[: len(whole) // 2].decode("utf-8", "ignore").encode() + b"\n", "cut in the middle: not JSON"),
        17: (b'{"id": "board-no-text", "title": "\xec\x82\xad\xec\xa0\x9c\xeb\x90\x9c \xea\xb8\x80", "author": "admin"}\n', "no field text"),
        23: (whole.replace(b'"forum', b'"board-bad-utf8-forum', 1)[:-4] + b'\xed\x95"}\n', "invalid UTF-8: a character cut off after two of its three bytes"),
    }  # fmt: skip
    for number, (line, note) in broken.items():
        lines.insert(number - 1, line)
        sample.state(source, f"line {number}", "failed", note=note)
    sample.files[source] = _zst(b"".join(lines))
    cut = _zst(_jsonl([_record(o, "board.saebyeol") for o in originals[:4]]))
    sample.files["ko/board-2.jsonl.zst"] = cut[: len(cut) * 2 // 3]
    sample.state("ko/board-2.jsonl.zst", "", "failed", note="truncated zstd")


def _essays(sample: Sample, originals: list[Text], planted: list[Text]) -> None:
    """JSONL in gzip."""
    source = "ko/essays.jsonl.gz"
    mixed = _spread(originals, planted)
    for text in mixed:
        sample.planted(source, text.id, text)
    sample.files[source] = _gz(_jsonl([_record(text, "essay.saebyeol") for text in mixed]))
    cut = _gz(_jsonl([_record(originals[0], "essay.saebyeol")]))
    sample.files["ko/essays-2.jsonl.gz"] = cut[: len(cut) * 2 // 3]
    sample.state("ko/essays-2.jsonl.gz", "", "failed", note="truncated gzip")


def _reviews(sample: Sample, originals: list[Text], planted: list[Text]) -> None:
    """Parquet."""
    source = "ko/reviews.parquet"
    mixed = _spread(originals, planted)
    records = [_record(text, "review.saebyeol") for text in mixed]
    for number, record in enumerate(records):
        record["stars"] = 1 + (number * 7) % 5
    for text in mixed:
        sample.planted(source, text.id, text)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), buffer, compression="zstd", compression_level=9)
    sample.files[source] = buffer.getvalue()


def _text_files(sample: Sample, originals: list[Text], planted: list[Text]) -> None:
    """Plain text files, one of them in CP949 and one empty."""
    for text in [*originals, *planted]:
        name = f"{text.id}.txt"
        charset = "cp949" if text.id == "review-018" else "utf-8"
        sample.files[f"ko/text/{name}"] = text.body.encode(charset) + b"\n"
        sample.planted(f"ko/text/{name}", f"{name}#1", text)
    sample.files["ko/text/empty.txt"] = b""
    sample.state("ko/text/empty.txt", "", "failed", note="empty file")


def _layout(text: Text) -> Callable[[Text], pages.Page]:
    kind = (text.head.get("of") or text.id).split("-")[0]
    return pages.LAYOUTS.get(kind, pages.newspaper if kind in ("trap", "spam") else pages.office)


def _html(sample: Sample, originals: list[Text], planted: list[Text]) -> None:
    """HTML pages: two thirds UTF-8, the rest CP949."""
    for number, text in enumerate([*originals, *planted]):
        page = _layout(text)(text)
        kind, _, rest = text.id.partition("-")
        old = rest.isdigit() and int(rest) in _CP949_PAGES.get(kind, ())
        charset = "cp949" if old else "utf-8"
        declared = (_CHARSETS_CP949 if old else _CHARSETS_UTF8)[number % 5]
        charset, declared = _LIES.get(text.id, (charset, declared))
        name = f"{text.id}.html"
        sample.files[f"ko/pages/{name}"] = pages.encode(page.markup, charset, declared)
        sample.planted(f"ko/pages/{name}", f"{name}#1", text, page.absent)
        sample.truth[-1] |= {"charset": charset, "declared": declared}
    sample.files["ko/pages/portal.html"] = pages.encode(pages.NAVIGATION_ONLY, "utf-8", "utf-8")
    sample.state(
        "ko/pages/portal.html", "portal.html#1", "removed", note="a page of links, without text"
    )


# ── WARC ────────────────────────────────────────────────────────────────────────────────────────


def _warc_record(kind: str, url: str, content_type: str, content: bytes) -> bytes:
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {url}")
    head = [
        "WARC/1.0", f"WARC-Type: {kind}", f"WARC-Record-ID: <urn:uuid:{name}>",
        "WARC-Date: 2025-11-20T09:00:00Z", *([f"WARC-Target-URI: {url}"] if url else []),
        f"Content-Type: {content_type}", f"Content-Length: {len(content)}",
    ]  # fmt: skip
    return _gz("\r\n".join(head).encode() + b"\r\n\r\n" + content + b"\r\n\r\n")


def _response(url: str, body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Server: nuri/1.0", *headers]
    http = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return _warc_record("response", url, "application/http; msgtype=response", http)


_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360"
    "606060000000050001a5f645400000000049454e44ae426082"
)


def _crawl(sample: Sample, originals: list[Text], planted: list[Text]) -> None:
    """A small WARC: pages of an encyclopaedia and what else a crawler brings home."""
    source, site = "ko/crawl.warc.gz", "https://wiki.saebyeol.example"
    plain = "Content-Type: text/html; charset=utf-8"
    records = [
        _warc_record("warcinfo", "", "application/warc-fields", b"software: malmoi sample\r\n")
    ]

    def other(name: str, body: bytes, status: str = "200 OK", *headers: str) -> None:
        records.append(_response(f"{site}/{name}", body, status, *headers))

    for text in [*originals, *planted]:
        page = _layout(text)(text)
        headers, body = [plain], pages.encode(page.markup, "utf-8", "utf-8")
        if text.id == "encyclopedia-012":
            headers, body = [plain, "Content-Encoding: gzip"], _gz(body)
        elif text.id == "encyclopedia-016":
            headers.append("Transfer-Encoding: chunked")
            half = len(body) // 2
            body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:half], body[half:], b""))
        elif text.id == "encyclopedia-018":
            headers, body = (
                ["Content-Type: text/html"],
                pages.encode(page.markup, "cp949", "euc-kr"),
            )
        other(f"w/{text.id}", body, "200 OK", *headers)
        sample.planted(source, f"crawl.warc.gz#{len(records)}", text, page.absent)
        if text.id == "encyclopedia-015":
            missing = "<html><body><h1>없는 문서</h1><p>찾으시는 문서가 이 백과에는 아직 없습니다. 새로 써 보시겠습니까?</p></body></html>"
            other("w/none", missing.encode(), "404 Not Found", plain)
            other("logo.png", _PIXEL, "200 OK", "Content-Type: image/png")
            records.append(
                _warc_record("request", f"{site}/w/none", "application/http; msgtype=request", b"GET /w/none HTTP/1.1\r\n\r\n")
            )  # fmt: skip
    other("w/moved", b"", "301 Moved Permanently", f"Location: {site}/w/encyclopedia-009")
    other("w/blank", b"", "200 OK", plain)
    other("robots.txt", b"User-agent: *\nAllow: /\n", "200 OK", "Content-Type: text/plain")
    other("", pages.encode(pages.NAVIGATION_ONLY, "utf-8", None), "200 OK", plain)
    sample.state(
        source, f"crawl.warc.gz#{len(records)}", "removed", note="a page of links, without text"
    )
    sample.files[source] = b"".join(records)


# ── the whole ───────────────────────────────────────────────────────────────────────────────────


def build() -> Sample:
    """Everything in memory: file name → bytes, and the truth."""
    sample = Sample()
    korean = {text.id: text for name in texts.KOREAN for text in texts.read(name)}
    planted = plant(korean)

    def take(kind: str, first: int = 1, last: int = 999) -> list[Text]:
        return [
            t for t in korean.values() if t.id.startswith(kind) and first <= int(t.id[-3:]) <= last
        ]

    _html(
        sample,
        [*take("notice"), *take("news"), *take("howto"), *take("encyclopedia", 1, 8)],
        planted["pages"],
    )
    _board(sample, _spread(take("forum"), take("recipe")), planted["board"])
    _essays(sample, _spread(take("essay"), take("encyclopedia", 21)), planted["essays"])
    _reviews(sample, take("review", 1, 16), planted["reviews"])
    _crawl(sample, take("encyclopedia", 9, 20), planted["crawl"])
    _text_files(sample, take("review", 17), planted["text"])
    english = texts.read("english")
    sample.files["en/docs.jsonl"] = _jsonl([_record(text, "docs") for text in english])
    for text in english:
        sample.planted("en/docs.jsonl", text.id, text)
    sample.files["dialogues.jsonl"] = texts.dialogues().encode("utf-8")
    for line in texts.dialogues().splitlines():
        sample.state("dialogues.jsonl", json.loads(line)["id"], "kept")
    sample.files["truth.jsonl"] = _jsonl(sample.truth)
    return sample


def write(folder: Path) -> Sample:
    """Build and write below `folder`."""
    sample = build()
    for name, data in sample.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return sample


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else texts.SOURCE.parent
    made = write(target)
    size = sum(map(len, made.files.values()))
    print(
        f"{len(made.files)} files, {size / 1e6:.2f} MB, {len(made.truth)} entries of truth in {target}"
    )
