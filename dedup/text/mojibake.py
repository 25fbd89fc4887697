"""Characters that were decoded with the wrong charset somewhere on the way.

Four marks, each proved by undoing it where that is possible: U+FFFD; 占쏙옙, which is UTF-8's U+FFFD
read as CP949; runs of accented Latin letters that, turned back to bytes, are Hangul in CP949
(¾È³ç → 안녕) or UTF-8 (ì•ˆë…• → 안녕); and Hanja mixed with rare syllables that are Hangul when turned
back from CP949 to UTF-8.

A text is repaired where the round trip proves it: every stretch of it that looks like this turns back
into Hangul without a byte left over, and from there into the same stretch again. Where one does not
(bytes 0x80 to 0x9F are often gone), nothing of the text is touched, and the filter drops it.
"""

from __future__ import annotations

import re

_REPLACED_TWICE = re.compile("(?:占쏙옙|占쏙|쏙옙|占싸|占쌕|占쏘)")
_HIGH = bytes(range(0x80, 0x100)).decode("cp1252", "ignore")
_LATIN_RUN = re.compile(f"[{re.escape(_HIGH)}]{{4,}}")
_LATIN_STRETCH = re.compile(f"[{re.escape(_HIGH)}]{{2,}}")
_HANGUL = re.compile("[가-힣]")
_NOT_ASCII_RUN = re.compile("[^\\x00-\\x7f]{6,}")


def broken_characters(text: str, replaced: bool, high_latin: int, hanja: int) -> int:
    """How many characters of a text are mojibake.

    The counts (from `measures`) say where looking closer is worth it: U+FFFD present, letters of
    Latin-1's upper half, Hanja.
    """
    broken = text.count("\ufffd") if replaced else 0
    if hanja and "占" in text:
        broken += sum(len(match[0]) for match in _REPLACED_TWICE.finditer(text))
    if high_latin >= 4:
        broken += sum(len(run[0]) for run in _LATIN_RUN.finditer(text) if _is_korean(run[0]))
    if hanja >= 3:
        broken += sum(len(run[0]) for run in _NOT_ASCII_RUN.finditer(text) if _was_utf8(run[0]))
    return broken


def _is_korean(run: str) -> bool:
    """Latin letters that are Hangul once turned back to the bytes they came from."""
    data = run.encode("cp1252", "ignore")
    for charset, bytes_each in (("utf-8", 3), ("cp949", 2)):
        hangul = len(_HANGUL.findall(data.decode(charset, "ignore")))
        if hangul >= 2 and hangul * bytes_each >= 0.6 * len(data):
            return True
    return False


def _was_utf8(run: str) -> bool:
    """Hanja and syllables that are the bytes of UTF-8 Hangul, read as CP949."""
    data = run.encode("cp949", "ignore")
    hangul = len(_HANGUL.findall(data.decode("utf-8", "ignore")))
    return hangul >= 2 and hangul * 3 >= 0.6 * len(data)


def repaired(text: str) -> str | None:
    """The text as it was meant, None where the round trip does not prove what that is."""
    if "\ufffd" in text or _REPLACED_TWICE.search(text):
        return None
    for pattern, wrong, rights in (
        (_LATIN_STRETCH, "cp1252", ("utf-8", "cp949")),
        (_NOT_ASCII_RUN, "cp949", ("utf-8",)),
    ):
        lost = False

        def mended(
            match: re.Match[str], wrong: str = wrong, rights: tuple[str, ...] = rights
        ) -> str:
            nonlocal lost
            for right in rights:
                try:
                    new = match[0].encode(wrong).decode(right)
                except UnicodeError:
                    continue
                hangul = len(_HANGUL.findall(new))
                if (
                    hangul * 2 >= len(new.replace(" ", ""))
                    and new.encode(right).decode(wrong) == match[0]
                ):
                    return new
            lost = True
            return match[0]

        looked_at = pattern.sub(mended, text)
        if looked_at != text:
            return None if lost else looked_at
    return None
