r"""Letter, number, space or other: what the regex engine of `tokenizers` takes each character for.

Out: a table of one byte for each of the 1,114,112 code points. The engine itself is asked, so the
table has its Unicode version and its idea of white space, whichever version is installed. Planes 4 to
13 (unassigned) and 15 and 16 (private use) hold neither letters, numbers nor spaces in any version:
leaving them out makes it 0.1 s, once per process.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, pre_tokenizers

OTHER, LETTER, NUMBER, SPACE, BREAK = 0, 1, 2, 3, 4
r"""Values of the table: [^\s\p{L}\p{N}], \p{L}, \p{N}, \s without breaks, and \r or \n."""

_ASKED = ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xF0000))
_PART = 8192  # characters in a question: a longer one takes more time for each


@functools.cache
def character_classes() -> npt.NDArray[np.uint8]:
    """Class of every code point, uint8 [0x110000]; surrogates are OTHER."""
    # inverted and removed: what does not match is taken out, and the matches stay
    runs = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}+|\s+"), behavior="removed", invert=True)
    letter = pre_tokenizers.Split(Regex(r"\p{L}"), behavior="removed", invert=True)
    number = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="removed", invert=True)
    classes = np.full(0x110000, OTHER, np.uint8)
    for first, last in _ASKED:
        for start in range(first, last, _PART):
            part = "".join(map(chr, range(start, min(start + _PART, last))))
            for run, (begin, end) in runs.pre_tokenize_str(part):
                if letter.pre_tokenize_str(run[0]):
                    value = LETTER
                else:
                    value = NUMBER if number.pre_tokenize_str(run[0]) else SPACE
                classes[start + begin : start + end] = value
    classes[[ord("\r"), ord("\n")]] = BREAK
    classes.flags.writeable = False
    return classes
