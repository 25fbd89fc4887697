"""Which share of a text is in the language its source should be in.

In: texts. Out: a share in 0..1 per text. For Korean the count of Hangul decides first and costs
nothing: a text whose letters are mostly Hangul is Korean. Everything else goes to pycld2 (Google's
CLD2, the model is in the wheel) with its first 4 kB, which also sees through an English page that
says lang="ko". Where CLD2 cannot tell (a few words), the share of the script is the answer.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pycld2
from numpy.typing import NDArray

from dedup.text.measures import Measures, measure

FIRST_BYTES = 4096
CERTAIN = 0.3
"""Share of Hangul among the letters from which a text is Korean without asking the model.

Of 1,800 pages with a share between 0.2 and 0.5 the model called none foreign."""


def language_share(
    texts: pa.Array,
    language: str,
    measures: Measures | None = None,
    beginnings: dict[int, str] | None = None,
) -> NDArray[np.float32]:
    """Share of each text in `language` ("ko" or "en"), float32 [texts]; "any" gives ones.

    `measures` saves counting again where the caller has them; `beginnings` has, by row, what the model
    shall see instead of the text (of rows without one the text). Sources: R. Sites, "Compact Language
    Detector 2" (2013).
    """
    if language == "any":
        return np.ones(len(texts), np.float32)
    counted = measures if measures is not None else measure(texts)
    letters = np.maximum(counted.letters, 1)
    own = counted.hangul + counted.jamo if language == "ko" else counted.latin
    script = own / letters
    shares = script.astype(np.float32)
    if language == "ko":
        shares[script >= CERTAIN] = 1.0
        ask = np.flatnonzero((script < CERTAIN) & (counted.letters > 0))
    else:
        shares[script < 0.5] = 0.0  # not in Latin letters, so not English
        ask = np.flatnonzero((script >= 0.5) & (counted.letters > 0))
    for row in ask.tolist():
        shown = beginnings.get(row) if beginnings else None
        found = _detect(texts[row].as_py() if shown is None else shown, language)
        if found is not None:
            shares[row] = found
    return shares


def _detect(text: str, language: str) -> float | None:
    """CLD2's share for the language, None where it recognises nothing."""
    start = text.encode("utf-8")[:FIRST_BYTES].decode("utf-8", "ignore")
    printable = start.replace("\n", " ")
    if not printable.isprintable():  # CLD2 refuses controls and what is unassigned
        printable = "".join(
            character if character.isprintable() else " " for character in printable
        )
    try:
        _, _, details = pycld2.detect(printable, bestEffort=True)
    except pycld2.error:
        return None
    known = [(code, percent) for _, code, percent, _ in details if code != "un"]
    if not known:
        return None
    return sum(percent for code, percent in known if code == language) / 100
