"""HTML extraction on real pages: share of the prose kept, of the navigation dropped, pages a second.

    python tests/benchmarks/extract_html.py [--every N] [--worst N] [--show PAGE …] [--against OTHER.jsonl]

The pages are those of ../shared/data/html_ko (LibreOffice's help in Korean, 2,561 pages; the Debian
handbook, 127). What is prose and what is navigation is taken from their own structure, which the
extractor does not know: prose are the headings, paragraphs, list items, cells and listings inside
`#DisplayArea` of the help (without its "related topics") and outside the banner, title bar, `.docnav`
and table of contents of the handbook; navigation is all the other text. What the page itself marks as
`hidden` (the help's variants for other programs and systems, of which a script shows one) is neither.

A block's share kept is the share of its ten-character shingles, white space left out, that stand in
what was extracted. Of navigation every line that is no line of the prose too is looked up. Both are
weighted by characters, over all pages and as the median of pages. `--against` scores the output of
another extractor the same way: JSONL of {"page", "text"}. `--worst` names the pages with least kept,
with the blocks that were lost.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard
from real_data import DATA
from resiliparse.parse.html import HTMLTree, NodeType

from dedup.extract import extract

SIZE = 10
BLOCKS = frozenset("h1 h2 h3 h4 h5 h6 p li dt dd td th pre caption figcaption".split())  # noqa: SIM905
NO_TEXT = frozenset(["script", "style", "head", "noscript", "template", "title"])
NAVIGATION = {
    "libreoffice-help-ko": "header, aside, footer, nav, #SearchFrame, #DonationFrame, .relatedtopics",
    "debian-handbook-ko": "#banner, #title, .docnav, .toc",
}


class Score(NamedTuple):
    """Characters of prose, those kept; of navigation, those kept; and the blocks with least kept."""

    prose: int
    kept: float
    navigation: int
    leaked: int
    lost: list[str]
    leaks: list[str]


def pages() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every page, in the archive's order."""
    packed = (DATA / "html_ko" / "pages_utf8.tar.zst").read_bytes()
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".html") else None
            if file is not None:
                yield member.name.removeprefix("./"), file.read()


def squeezed(text: str) -> str:
    return re.sub(r"[\s`|•◦]+", "", text)


def reference(page: str, data: bytes) -> tuple[list[str], list[str]]:
    """Blocks of prose and pieces of navigation, white space left out."""
    body = HTMLTree.parse(data.decode("utf-8")).body
    assert body is not None
    outside = set(body.query_selector_all(NAVIGATION[page.split("/")[0]]))
    prose: dict[int, list[str]] = {}
    navigation: list[str] = []
    blocks_begun = 0
    waiting = [(body, -1, False)]
    while waiting:
        node, block, off = waiting.pop()
        if node.type == NodeType.TEXT:
            piece = squeezed(node.value or "")
            if piece and off:
                navigation.append(piece)
            elif piece and block >= 0:
                prose.setdefault(block, []).append(piece)
            continue
        if node.tag in NO_TEXT or node.hasattr("hidden"):
            continue
        off = off or node in outside
        if node.tag in BLOCKS or (node.tag == "div" and "para" in (node.class_name or "").split()):
            blocks_begun += 1
            block = blocks_begun
        waiting += [(child, block, off) for child in reversed(node.child_nodes)]
    blocks = ["".join(pieces) for pieces in prose.values()]
    known = "\n".join(blocks)
    return blocks, [piece for piece in navigation if len(piece) >= 2 and piece not in known]


def score(page: str, data: bytes, text: str) -> Score:
    blocks, navigation = reference(page, data)
    found = squeezed(text)
    shingles: set[str] = set()
    kept = 0.0
    lost: list[tuple[float, str]] = []
    for block in blocks:
        there = float(block in found)
        own = [block[at : at + SIZE] for at in range(len(block) - SIZE + 1)]
        if not there and own:
            shingles = shingles or {found[at : at + SIZE] for at in range(len(found) - SIZE + 1)}
            there = sum(part in shingles for part in own) / len(own)
        kept += there * len(block)
        if there < 0.9:
            lost.append(((1 - there) * len(block), block))
    leaks = [piece for piece in navigation if piece in found]
    return Score(
        sum(map(len, blocks)), kept, sum(map(len, navigation)), sum(map(len, leaks)),
        [block for _, block in sorted(lost, reverse=True)], leaks,
    )  # fmt: skip


def told(name: str, scores: dict[str, Score]) -> None:
    for family in ("", *NAVIGATION):
        those = [one for page, one in scores.items() if page.startswith(family) and one.prose]
        prose, navigation = sum(s.prose for s in those), sum(s.navigation for s in those)
        shares = [one.kept / one.prose for one in those]
        kept = sum(s.kept for s in those) / prose
        leaked = sum(s.leaked for s in those) / max(1, navigation)
        print(
            f"{name} {family or 'all':20} {len(those):5} pages: prose kept {100 * kept:.2f} % "
            f"(median {100 * statistics.median(shares):.1f} %, below 90 % on "
            f"{sum(share < 0.9 for share in shares)}), navigation dropped {100 - 100 * leaked:.2f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="one page in so many")
    parser.add_argument("--worst", type=int, default=0)
    parser.add_argument("--show", nargs="*", default=[])
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    those = [item for at, item in enumerate(pages()) if at % options.every == 0]
    begin = time.process_time()
    texts = {page: extract(data).document for page, data in those}
    seconds = time.process_time() - begin
    print(f"{len(those)} pages in {seconds:.1f} s: {len(those) / seconds:.0f} pages/s on one core")
    scores = {page: score(page, data, texts[page]) for page, data in those}
    told("malmoi", scores)
    if options.against is not None:
        other = {
            row["page"]: row["text"]
            for row in map(json.loads, options.against.open(encoding="utf-8"))
        }
        told("other ", {page: score(page, data, other.get(page) or "") for page, data in those})
    full = [page for page in scores if scores[page].prose]
    for page in sorted(full, key=lambda page: scores[page].kept - scores[page].prose)[
        : options.worst
    ]:
        one = scores[page]
        print(f"\n{page}: kept {one.kept:.0f} of {one.prose}, leaked {one.leaked} {one.leaks[:5]}")
        for block in one.lost[:4]:
            print("  lost:", block[:160])
    for page in options.show:
        print(f"\n──── {page}\n{texts[page]}")


if __name__ == "__main__":
    main()
