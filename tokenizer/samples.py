"""Generated text for the gates: every script, and everything that breaks tokenizers.

Out: strings, the same in every run. Those of `without_hangul` hold none of the characters
whose UTF-8 begins with a Hangul lead (U+AC00 to U+D7BF); those of `with_hangul` all do, but for what
breaking them leaves. `broken_ids` are sequences of tokens whose bytes are no UTF-8.
"""

from __future__ import annotations

import functools
import random
import re
import unicodedata
from collections.abc import Sequence

from tokenizer.scripts import SCRIPTS

_LEADS = re.compile("[\uac00-\ud7bf\ud800-\udfff]")
_CODE = (
    'def f(x: int) -> str:\n\treturn f"{x!r}"  # done\n',
    "for (int i = 0; i < n; ++i) { a[i] ^= 0xFF; }\r\n\r\n",
    '{"key": [1, 2.5e-3, null], "a\\u00e9": "\\n"}',
    "<p class='x'>&nbsp;&lt;b&gt;</p>\n\n\n<!-- -->",
    "SELECT * FROM t WHERE a='it''s' AND b>=10;",
    "https://example.com/a?b=c&d=%20#e  user@example.com",
    "fn main() -> Result<(), Box<dyn Error>> {\n    let x = 0b1010_u8;\n    Ok(())\n}\n",
    '#!/bin/sh\nset -eu\nfor f in *.txt; do echo "${f%.txt}" >> log 2>&1; done',
    "\\begin{equation} \\sum_{i=1}^{n} \\frac{x_i}{\\sigma^2} \\end{equation}",
    "+++ b/a.c\n@@ -1,2 +1,3 @@\n-\tint a;\n+\tint a = 1;\n \n",
    "| a | b |\n|---|:-:|\n| `x` | **y** |\n\n```py\nprint()\n```\n",
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ== 0xDEADBEEF",
)
_EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "🇰🇷🇺🇸", "👍🏽", "1️⃣", "❤️‍🔥", "🫠🪿", "☺️☺", "🧑🏿‍🚀")
_PICTURES = "😀🤣😭❤☺👍👩👨🧑👧🐻🐶🌈🔥🚀🍜⚽🏳🏴✈☠⚕♂♀🫠🪿🦙🧋"
_SKINS = "".join(map(chr, range(0x1F3FB, 0x1F400)))
_FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_TAGS = "".join(map(chr, range(0xE0061, 0xE007B)))
_JAMO = ("ㅋㅋㅋㅋㅋ", "ㅠㅠ", "ㅎㅎ ㅇㅇ", "ᄒ\u1161\u11ab", "ᆢᆢ", "ㆍ", "ﾡﾢ", "ᄀᄁᄂ", "ㅏㅑㅓ")
_JAMO_BLOCKS = (
    range(0x1100, 0x1200),  # conjoining, old ones too
    range(0x3131, 0x318F),  # compatibility
    range(0xA960, 0xA97D),  # extended A: old initial consonants
    range(0xD7CB, 0xD7FC),  # extended B: old final consonants (its vowels begin like syllables)
    range(0xFFA0, 0xFFDD),  # half width
)
_ODD = (
    "",
    " ",
    "\n",
    "   \t \r\n \n\n  x",
    "\u3000\u00a0\u2003 x",
    "a" * 500,
    " " * 300,
    "1234567890 1,234.56 ١٢٣ ⅷ ½ ²",
    "I'M you'LL 's 'ſ don't",
    "\ufeff\u200b\u200d\u202e abc \ufffd\ufffe",
    "e\u0301\u0323 Å ﬁ ß ẞ İ ı",
    "漢字 日本語 ひらがな カタカナ 中文。、",
    "<|begin of text|> <|eot_id <pad> [MASK] </s>",
)


@functools.cache
def without_hangul(seed: int = 0, count: int = 3000) -> tuple[str, ...]:
    """Strings of every script and block, code, emoji, jamo, control characters, broken bytes."""
    draw = random.Random(seed)
    texts = [*_CODE, *_EMOJI, *_JAMO, *_ODD, *_bytes(draw), *_scripts(draw)]
    texts += [*_emoji(draw), *_jamo(draw)]
    texts += [chr(code) * repeat + " a" for code in range(0xA0) for repeat in (1, 3)]
    blocks = [*range(0, 0x323B0, 0x80), *range(0xE0000, 0xE0200, 0x80), 0xF0000, 0x10FF80]
    for index in range(count):
        # Once every block, then any.
        block = blocks[index] if index < len(blocks) else draw.choice(blocks)
        letters = [chr(block + draw.randrange(0x80)) for _ in range(draw.randrange(4, 40))]
        for _ in range(draw.randrange(4)):
            letters.insert(draw.randrange(len(letters)), draw.choice(" \n.'1a\t-"))
        texts.append("".join(letters))
    return tuple(_LEADS.sub("", text) for text in texts)


@functools.cache
def with_hangul(seed: int = 0, count: int = 1500) -> tuple[str, ...]:
    """Every syllable, random ones among other scripts, decomposed and broken forms."""
    draw = random.Random(seed)
    syllables = [chr(code) for code in range(0xAC00, 0xD7A4)]
    others = without_hangul(seed + 1, 200)
    texts = ["".join(syllables[start : start + 64]) for start in range(0, len(syllables), 64)]
    texts += [" ".join(syllables[start : start + 64]) for start in range(0, len(syllables), 64)]
    for _ in range(count):
        parts = []
        for _ in range(draw.randrange(1, 6)):
            word = "".join(draw.choices(syllables, k=draw.randrange(1, 6)))
            parts += [word, draw.choice([" ", "", "\n", "ㅋㅋ", "!", "(", "ABC", "1", *others])]
        texts.append("".join(parts))
    texts += [unicodedata.normalize("NFD", text) + "가" for text in texts[:100]]
    texts += [text.encode()[1:-1].decode("utf-8", "replace") + "나" for text in texts[:200]]
    # Jamo beside syllables; old vowels (U+D7B0 …), whose first bytes are those of syllables.
    texts += [draw.choice(syllables) + text + draw.choice(syllables) for text in _jamo(draw)]
    texts += [
        chr(code) + "가" + chr(0x1100 + code % 19) + chr(code) for code in range(0xD7B0, 0xD7C7)
    ]
    texts += [f"{text}{draw.choice(syllables)}{text}" for text in _scripts(draw)]
    return tuple(texts)


def broken_ids(
    content: Sequence[bytes], first_new: int, seed: int = 0, count: int = 1500
) -> list[list[int]]:
    """Sequences of ids as a model may produce them: most of their bytes are no UTF-8.

    content: bytes of every id, empty where it is to be left out. Tokens that cut a character come
    first of all, then new ones, then any.
    """
    draw = random.Random(seed)
    known = [index for index, data in enumerate(content) if data]
    new = [index for index in known if index >= first_new] or known
    cut = [index for index in known if _is_cut(content[index])]
    return [
        [draw.choice(draw.choice((cut, cut, new, known))) for _ in range(draw.randrange(1, 12))]
        for _ in range(count)
    ]


def _is_cut(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


def _scripts(draw: random.Random) -> list[str]:
    """Two strings of letters of every script of Unicode, one of them cut by spaces and digits."""
    texts = []
    for first, last in SCRIPTS.values():
        letters = [chr(draw.randint(first, last)) for _ in range(24)]
        texts.append("".join(letters))
        texts.append("".join(letter + draw.choice(["", "", " ", "1", ".\n"]) for letter in letters))
    return texts


def _emoji(draw: random.Random, count: int = 200) -> list[str]:
    """Sequences: skin tones, zero width joiners, flags, keycaps, tags, variation selectors."""
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randrange(1, 6)):
            joined = "\u200d".join(
                draw.choice(_PICTURES) + draw.choice(["", "\ufe0f", "\ufe0e", draw.choice(_SKINS)])
                for _ in range(draw.randrange(1, 5))
            )
            flag = "".join(draw.choices(_FLAGS, k=draw.randrange(1, 4)))
            tags = "🏴" + "".join(draw.choices(_TAGS, k=5)) + "\U000e007f"
            keycap = draw.choice("0123456789#*") + draw.choice(["\ufe0f\u20e3", "\u20e3"])
            parts.append(draw.choice([joined, joined, flag, tags, keycap]) + draw.choice(["", " "]))
        texts.append("".join(parts))
    return texts


def _jamo(draw: random.Random) -> list[str]:
    """Every jamo in order, and drawn ones: letters in the middle of being typed, old Hangul."""
    texts = ["".join(map(chr, block)) for block in _JAMO_BLOCKS]
    for block in _JAMO_BLOCKS:
        texts += ["".join(chr(draw.choice(block)) for _ in range(12)) for _ in range(20)]
    # Old syllables, decomposed: initial, vowel, final, tone mark.
    old = [
        range(0x1113, 0x115F),
        range(0x1176, 0x11A3),
        range(0x11C3, 0x1200),
        range(0x302E, 0x3030),
    ]
    texts += ["".join(chr(draw.choice(part)) for part in old) * 2 for _ in range(40)]
    return texts


def _bytes(draw: random.Random) -> list[str]:
    """What a wrong decoder makes of bytes: replacement characters, and Hangul read as Latin-1."""
    noise = [draw.randbytes(40) for _ in range(100)]
    # Hangul cut inside its characters, and with bytes lost
    whole = "뷁한글은 소리글자다".encode()
    noise += [whole[start : start + 4] for start in range(len(whole) - 4)]
    noise += [bytes(byte for byte in whole if draw.random() < 0.8) for _ in range(20)]
    texts = [data.decode("utf-8", "replace") for data in noise]
    texts += [data.decode("latin-1") for data in noise]
    texts += [data.decode("cp1252", "replace") for data in noise]
    texts += [data.decode("shift-jis", "replace") for data in noise]
    texts += [
        "한글은 소리 글자다".encode().decode("latin-1"),
        "뷁".encode("cp949").decode("latin-1"),
    ]
    return texts
