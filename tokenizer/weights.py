"""How much each word counts: sources brought nearer to each other, and the rarest words left out.

In: the merged counts of all sources. Out: words and their weights [words], int64, for `bpe.learn`.

The decision: what is judged is the mean over sources, so each should weigh the same, but the one page
of a tiny source must not say as much as gigabytes. `balance` 0.25 measured as well as 0, and 1.1 to 1.5
points better than counts as they are (README.md, "Quality", has the tables). Words seen once are learned
from too: none of them becomes a token, but together they show how words are built that nobody has seen,
worth 0.3 points at +32k and 0.7 on sources of other kinds. Their number grows with the corpus without
end, and learning takes 200 bytes a word: `lowest_count` therefore keeps the `MOST_WORDS` commonest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer.counts import read_counts_by_part, sizes_of

MOST_WORDS = 2_000_000
"""Words to learn from, at most: 0.4 GB of learning. 145 MB of text have 1.1 million."""

_HIGHEST = 1 << 16


def balanced(
    counts: pa.Table, balance: float, min_count: int = 1
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Weigh the sources: words, sorted, and their weights [words], int64.

    A source of n words in all counts as n^balance, scaled so that the largest keeps its counts:
    factor = (n_largest / n)^(1 − balance). Words that occur fewer than min_count times, unweighted,
    are left out.
    """
    if counts.num_rows == 0:
        return [], np.zeros(0, np.int64)
    sources = counts.column("source").combine_chunks().dictionary_encode()
    index = sources.indices.to_numpy()
    count = counts.column("count").to_numpy()
    known = sizes_of(counts)
    sizes = np.array([known[name] for name in sources.dictionary.to_pylist()], np.float64)
    factor = (sizes.max() / sizes) ** (1 - balance)
    weight = np.rint(count * factor[index]).astype(np.int64)
    table = pa.table({"word": counts.column("word"), "count": count, "weight": weight})
    table = table.group_by("word", use_threads=False).aggregate(
        [("count", "sum"), ("weight", "sum")]
    )
    table = table.filter(pc.greater_equal(table.column("count_sum"), min_count))
    table = table.sort_by("word")
    return table.column("word").to_pylist(), table.column("weight_sum").to_numpy().astype(np.int64)


def lowest_count(merged: Path, most: int = MOST_WORDS) -> int:
    """The smallest count such that at most `most` words of a merged file occur as often, or oftener.

    At most 65,536: a corpus with more than `most` words above that is past any use of rare ones.
    """
    words_with = np.zeros(_HIGHEST + 1, np.int64)
    for table in read_counts_by_part(merged):
        sums = table.group_by("word", use_threads=False).aggregate([("count", "sum")])
        often = np.minimum(sums["count_sum"].to_numpy(), _HIGHEST)
        words_with += np.bincount(often, minlength=_HIGHEST + 1)
    at_least = np.cumsum(words_with[::-1])[::-1]
    few_enough = np.flatnonzero(at_least[1:] <= most)
    return int(few_enough[0]) + 1 if len(few_enough) else _HIGHEST
