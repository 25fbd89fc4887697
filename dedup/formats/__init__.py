"""File formats that need a reader of their own: what each is called, recognised by and read with.

In: a format's name (`READERS`), a file's suffix (`SUFFIXES`) or its first bytes (`SNIFF`). Out: the
function that reads it: (path or `File`, name as ids carry it, source) → documents and failures in
file order.

The decision: a reader's module, and the library behind it, is imported when the first file of its
format is read. Looking at a config, or reading JSONL, needs neither openpyxl nor olefile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import Source
    from dedup.containers import File
    from dedup.records import Document, Failure

Reader = Callable[["File | str", str, "Source"], "Iterator[Document | Failure]"]

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ZIP = b"PK\x03\x04"


def _later(module: str) -> Reader:
    """`read(file, source)` of `dedup.formats.<module>`, imported when it is first called."""

    def read(path: File | str, name: str, source: Source) -> Iterator[Document | Failure]:
        from dedup.containers import local_file

        file = local_file(path, name) if isinstance(path, str) else replace(path, name=name)
        reader: Any = import_module(f"dedup.formats.{module}").read
        yield from reader(file, source)

    return read


def _is_kakao(head: bytes) -> bool:
    from dedup.formats.kakao_lines import recognised

    return recognised(head)


def _is_hwpx(head: bytes) -> bool:
    return head.startswith(ZIP) and b"application/hwp+zip" in head[:128]


def _is_xlsx(head: bytes) -> bool:
    return head.startswith(ZIP) and b"xl/" in head


def _is_hwp(head: bytes) -> bool:
    # Any compound file: the reader says by name what it is when it is not HWP 5.
    return head.startswith((OLE, b"HWP Document File"))


READERS: dict[str, Reader] = {
    "csv": _later("delimited"),
    "xlsx": _later("xlsx"),
    "hwp": _later("hwp"),
    "hwpx": _later("hwpx"),
    "kakao": _later("kakao"),
}

SUFFIXES: dict[str, tuple[str, ...]] = {
    "csv": (".csv", ".tsv"),
    "xlsx": (".xlsx", ".xlsm", ".xls"),
    "hwp": (".hwp",),
    "hwpx": (".hwpx",),
    "kakao": (),  # .txt and .csv: only its first bytes tell
}

SNIFF: list[tuple[str, Callable[[bytes], bool]]] = [
    ("hwpx", _is_hwpx),
    ("xlsx", _is_xlsx),
    ("hwp", _is_hwp),
    ("kakao", _is_kakao),
]
"""(format, whether a file's first 4 kB are of it), the first that fits wins. For .txt and .csv ask
`kakao` before going by the suffix; for other suffixes ask only where the suffix is unknown."""
