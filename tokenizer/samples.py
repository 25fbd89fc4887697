"""Generated text for the gates: every script, and everything that breaks tokenizers.

Out: lists of strings, the same in every run. Those of `without_hangul` hold none of the characters
whose UTF-8 begins with a Hangul lead (U+AC00 to U+D7BF); those of `with_hangul` all do.
"""

from __future__ import annotations

import random
import unicodedata

_CODE = (
    'def f(x: int) -> str:\n\treturn f"{x!r}"  # done\n',
    "for (int i = 0; i < n; ++i) { a[i] ^= 0xFF; }\r\n\r\n",
    '{"key": [1, 2.5e-3, null], "a\\u00e9": "\\n"}',
    "<p class='x'>&nbsp;&lt;b&gt;</p>\n\n\n<!-- -->",
    "SELECT * FROM t WHERE a='it''s' AND b>=10;",
    "https://example.com/a?b=c&d=%20#e  user@example.com",
)
_EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "🇰🇷🇺🇸", "👍🏽", "1️⃣", "❤️‍🔥", "🫠🪿", "☺️☺", "🧑🏿‍🚀")
_JAMO = ("ㅋㅋㅋㅋㅋ", "ㅠㅠ", "ㅎㅎ ㅇㅇ", "ᄒ\u1161\u11ab", "ᆢᆢ", "ㆍ", "ﾡﾢ", "ᄀᄁᄂ", "ㅏㅑㅓ")
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


def without_hangul(seed: int = 0, count: int = 3000) -> list[str]:
    """Strings of every block of Unicode, code, emoji, jamo, control characters, broken bytes."""
    draw = random.Random(seed)
    texts = [*_CODE, *_EMOJI, *_JAMO, *_ODD, *_bytes(draw)]
    texts += [chr(code) * repeat + " a" for code in range(0xA0) for repeat in (1, 3)]
    blocks = [*range(0, 0x323B0, 0x80), *range(0xE0000, 0xE0200, 0x80), 0xF0000, 0x10FF80]
    for index in range(count):
        # Once every block, then any.
        block = blocks[index] if index < len(blocks) else draw.choice(blocks)
        letters = [chr(block + draw.randrange(0x80)) for _ in range(draw.randrange(4, 40))]
        for _ in range(draw.randrange(4)):
            letters.insert(draw.randrange(len(letters)), draw.choice(" \n.'1a\t-"))
        texts.append("".join(letters))
    return [_cleared(text) for text in texts]


def with_hangul(seed: int = 0, count: int = 1500) -> list[str]:
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
    return texts


def _bytes(draw: random.Random) -> list[str]:
    """What a wrong decoder makes of bytes: replacement characters, and Hangul read as Latin-1."""
    noise = [draw.randbytes(40) for _ in range(100)]
    texts = [data.decode("utf-8", "replace") for data in noise]
    texts += [data.decode("latin-1") for data in noise]
    texts += [
        "한글은 소리 글자다".encode().decode("latin-1"),
        "뷁".encode("cp949").decode("latin-1"),
    ]
    return texts


def _cleared(text: str) -> str:
    return "".join(
        c for c in text if not 0xAC00 <= ord(c) < 0xD7C0 and not 0xD800 <= ord(c) < 0xE000
    )
