"""Compound files (OLE 2): what kind of document one is, by the streams in it.

In: an open file. Out: words for a person. HWP 5 is the only kind that is read; the others come here
under a wrong suffix or, as password-protected workbooks do, under a right one.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from configs.errors import missing_extra
from dedup.containers import Damaged


def streams_of(file: BinaryIO) -> Any:
    """The compound file as olefile's object; to be closed. Raises InputError, Damaged."""
    try:
        import olefile
    except ImportError:
        raise missing_extra("olefile", "office") from None
    try:
        return olefile.OleFileIO(file)
    except Exception as error:  # olefile raises whatever a broken sector makes it stumble over
        raise Damaged(f"is no whole compound file ({error or type(error).__name__})") from None


def kind(file: BinaryIO) -> str:
    """What a compound file is: "is a password-protected Office document", and the like."""
    with streams_of(file) as streams:
        for names, words in (
            (("EncryptedPackage",), "is protected by a password; save it without one"),
            (("Workbook", "Book"), "is an Excel 97–2003 workbook (.xls); save it as .xlsx"),
            (("WordDocument",), "is a Word 97–2003 document (.doc)"),
            (("PowerPoint Document",), "is a PowerPoint 97–2003 presentation (.ppt)"),
            (("FileHeader",), "is an HWP 5 document; set the source's format to hwp"),
        ):
            if any(streams.exists(name) for name in names):
                return words
    return "is a compound file of an unknown kind"
