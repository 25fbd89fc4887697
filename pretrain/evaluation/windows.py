"""Documents cut into windows and packed: what a model is judged on.

In: documents as token ids. Out: rows of one length, with positions that restart at each window (no
document sees another) and targets only where a prediction counts. Windows are lm-eval's rolling ones:
every token is predicted once; a document longer than the window is read in windows of full length,
whose last one reaches back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.data.batches import IGNORED, Batch
from pretrain.data.packing import PIECE, pack


@dataclass(frozen=True)
class Judged:
    """A held-out document. ids: BOS and text, without EOS; said: which of them count (None: all)."""

    ids: NDArray[np.int64]
    bytes: int
    said: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Row:
    """One sequence of windows: int64 [length] each."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]


def windows(length: int, sequence_length: int) -> list[tuple[int, int, int]]:
    """(start, stop, judged) of the inputs that predict tokens 1 … length − 1 of a document.

    Inputs start … stop − 1 predict the token after each; the last `judged` of them are counted.
    """
    found, done = [], 0
    while done < length - 1:
        judged = min(sequence_length, length - 1 - done)
        stop = done + judged
        found.append((max(0, stop - sequence_length) if done else 0, stop, judged))
        done += judged
    return found


def rows(documents: Sequence[Judged], sequence_length: int, filler: int) -> list[Row]:
    """The documents' windows, packed without sight of one another."""
    pieces, judged = [], []
    for number, document in enumerate(documents):
        for start, stop, count in windows(len(document.ids), sequence_length):
            pieces.append((number, start, stop - start))
            judged.append(count)
    table = np.array(pieces, PIECE)
    counts = {
        (int(p["document"]), int(p["start"]), int(p["length"])): count
        for p, count in zip(table, judged, strict=True)
    }
    plan = pack(table, sequence_length)
    made = []
    for index in range(len(plan)):
        row = Row(
            np.full(sequence_length, filler, np.int64),
            np.arange(sequence_length),
            np.full(sequence_length, IGNORED, np.int64),
        )
        at = 0
        for number, start, length in plan[index].tolist():
            document, end = documents[number], at + length
            targets = document.ids[start + 1 : start + length + 1].copy()
            targets[: length - counts[number, start, length]] = IGNORED
            if document.said is not None:
                targets[~document.said[start + 1 : start + length + 1]] = IGNORED
            row.ids[at:end] = document.ids[start : start + length]
            row.targets[at:end] = targets
            row.positions[at:end] = np.arange(length)
            at = end
        row.positions[at:] = np.arange(sequence_length - at)
        made.append(row)
    return made


def batched(made: Sequence[Row], size: int, length: int, filler: int) -> Batch:
    """Rows as a micro-batch of `size`, filled up with rows that judge nothing."""
    empty = Row(
        np.full(length, filler, np.int64), np.arange(length), np.full(length, IGNORED, np.int64)
    )
    full = [*made, *[empty] * (size - len(made))]
    columns = (
        [row.ids for row in full],
        [row.positions for row in full],
        [row.targets for row in full],
    )
    return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))
