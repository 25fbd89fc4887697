"""Pairs of answers as token ids: documents of kind `preference` → `choices.arrow`.

In: documents whose segments are a prompt's turns with `chosen` and `rejected` last, and the tokenizer.
Out, in the stage's `preference/` folder: one Arrow file with a row a pair (prompt, chosen and rejected
ids), in the order of the input, and `choices.json`, which says what it was made of.

The decision: pairs are rendered here, by `tokenizer.chat` as dialogues are, and TRL is given ids. Left to
TRL, which applies the chat template to text, an answer that says `<|eot_id|>` would end its turn. The
file is mapped, not read, so that a million pairs cost a rank no memory. A pair that is longer than the
phase's sequences is left out and counted, not cut: an answer without its end is another answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from configs.errors import InputError
from configs.files import atomic, read_json, write_json
from configs.progress import Log, Progress
from configs.schema import Config
from dedup.documents import read_documents
from pretrain.data.encode import Encoder
from pretrain.data.order import Order
from pretrain.preference.turns import pairs_of_step, turns

VERSION = 1
FILE, RECORD = "choices.arrow", "choices.json"
HELDOUT = 512
"""Most held-out pairs of a source that are judged: half a percent of accuracy is 2 or 3 of them."""

_IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("prompt_ids", _IDS),
        pa.field("chosen_ids", _IDS),
        pa.field("rejected_ids", _IDS),
    ]
)
ROWS = 1024  # encoded and written at a time


def wanted_sources(config: Config) -> list[str]:
    """The sources that a preference phase reads."""
    assert config.pretrain is not None
    mixtures = [phase.mixture for phase in config.pretrain.preference_phases]
    return sorted({name for mixture in mixtures for name, share in mixture.items() if share > 0})


def write_choices(
    config: Config,
    documents: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerFast,
    tokens_digest: str,
    folder: Path,
    log: Log,
) -> None:
    """Encode the pairs of the phases' sources into `folder`, unless they are there.

    tokens_digest: of the token shards' manifest, which names every input file by its content and the
    tokenizer. Raises InputError where a source holds no pairs, or other documents.
    """
    sources = wanted_sources(config)
    key = f"{VERSION}/{tokens_digest}/{'/'.join(sources)}"
    path, record = folder / FILE, folder / RECORD
    if path.is_file() and record.is_file() and read_json(record).get("key") == key:
        return
    folder.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)  # the pairs it tells of are about to go
    counted: Counter[tuple[str, str]] = Counter()
    others: dict[str, str] = {}
    digest = hashlib.sha256()
    log(Progress("pretrain", "pairs", 0, None, "pairs"))
    with (
        atomic(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, SCHEMA) as writer,
    ):
        for rows in _encoded(documents, sources, Encoder.of(tokenizer), others):
            counted.update((row["source"], row["split"]) for row in rows)
            for row in rows:
                for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
                    digest.update(np.array(row[name], np.int32).tobytes() + b"/")
            writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
            log(Progress("pretrain", "pairs", sum(counted.values()), None, "pairs"))
    _check_sources(config, counted, others)
    found = {name: _splits(counted, name) for name in sources}
    write_json(record, {"key": key, "digest": digest.hexdigest(), "sources": found})


def _splits(counted: Counter[tuple[str, str]], source: str) -> dict[str, int]:
    return {split: counted[source, split] for split in ("train", "heldout")}


def _check_sources(
    config: Config, counted: Counter[tuple[str, str]], others: dict[str, str]
) -> None:
    """Raise InputError with each source of a preference phase that has no pair to train on."""
    assert config.pretrain is not None
    known = ", ".join(sorted({source for source, _ in counted})) or "no source"
    mistakes = []
    for number, phase in enumerate(config.pretrain.phases):
        for name, share in phase.mixture.items():
            if phase.objective != "preference" or share <= 0 or counted[name, "train"]:
                continue
            where = f"pretrain.phases.{number}.mixture.{name}"
            what = f"holds {others[name]}, not preferences" if name in others else "has no pair"
            mistakes.append(
                f"{where}: {what}; a preference phase needs chosen and rejected answers "
                f"(format preference), which {known} has"
            )
    if mistakes:
        raise InputError(mistakes)


def _encoded(
    documents: Sequence[str | Path],
    sources: Sequence[str],
    encoder: Encoder,
    others: dict[str, str],
) -> Iterator[list[dict[str, Any]]]:
    """Rows of `SCHEMA`; `others` gets the kind of what else such a source holds."""
    columns = ("id", "kind", "source", "split", "segments")
    for batch in read_documents(documents, sources=sources, columns=columns, batch_rows=ROWS):
        rows = batch.to_pylist()
        for row in rows:
            if row["kind"] != "preference":
                others.setdefault(row["source"], row["kind"])
        pairs = [row for row in rows if row["kind"] == "preference"]
        if pairs:
            yield [_row(row, ids) for row, ids in zip(pairs, _ids(pairs, encoder), strict=True)]


def _row(row: dict[str, Any], ids: tuple[list[int], list[int], list[int]]) -> dict[str, Any]:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    known = {name: row[name] for name in ("id", "source", "split")}
    return known | dict(zip(names, ids, strict=True))


def _ids(
    rows: Sequence[dict[str, Any]], encoder: Encoder
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) of each pair; the prompt ends where the assistant begins to speak."""
    talks: list[list[dict[str, str]]] = []
    for row in rows:
        segments = row["segments"] or []
        if [segment["role"] for segment in segments[-2:]] != ["chosen", "rejected"]:
            raise InputError(
                f"the pair {row['id']} of {row['source']} lacks an answer; a document of kind preference "
                "has the prompt's turns and then segments with the roles chosen and rejected"
            )
        answers = [{"role": "assistant", "text": segment["text"]} for segment in segments[-2:]]
        talks += [[*segments[:-2], answer] for answer in answers]
    encoded = encoder.dialogues(talks)
    assert encoded.mask is not None
    for pair in range(len(rows)):
        prompts, said = [], []
        for at in (2 * pair, 2 * pair + 1):
            low, high = int(encoded.starts[at]), int(encoded.starts[at + 1]) - 1  # without EOS
            mask = encoded.mask[low:high]
            # the prompt may hold turns of the assistant: the answer is the last run of the mask
            start = int(np.flatnonzero(mask == 0)[-1]) + 1
            prompts.append(encoded.ids[low : low + start].tolist())
            said.append(encoded.ids[low + start : high].tolist())
        assert prompts[0] == prompts[1]
        yield prompts[0], said[0], said[1]


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Choices:
    """The pairs of a stage, mapped. digest: of all their ids."""

    table: pa.Table
    digest: str

    @classmethod
    def open(cls, folder: Path) -> Choices:
        """Raises InputError where the file is missing or cut off."""
        try:
            digest = str(read_json(folder / RECORD)["digest"])
            table = pa.ipc.open_stream(pa.memory_map(str(folder / FILE))).read_all()
        except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
            raise InputError(
                f"{folder / FILE}: cannot be read ({error}); remove the folder {folder} and run again"
            ) from error
        return cls(table, digest)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of the longer of a pair's two dialogues: int64 [pairs]."""
        prompt, chosen, rejected = (
            self._counts(name) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        return prompt + np.maximum(chosen, rejected)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of both dialogues of a pair: int64 [pairs]."""
        prompt, chosen, rejected = (
            self._counts(name) for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        )
        return 2 * prompt + chosen + rejected

    def _counts(self, name: str) -> NDArray[np.int64]:
        import pyarrow.compute as pc

        counted = pc.list_value_length(self.table[name]).to_numpy()
        return np.asarray(counted, np.int64)

    def rows(self, source: str, split: str, longest: int) -> NDArray[np.int64]:
        """Numbers of a source's pairs that fit `longest` tokens."""
        return np.flatnonzero(self._of(source, split) & (self.lengths <= longest))

    def too_long(self, source: str, split: str, longest: int) -> int:
        return int((self._of(source, split) & (self.lengths > longest)).sum())

    def _of(self, source: str, split: str) -> NDArray[np.bool_]:
        import pyarrow.compute as pc

        same = pc.and_(pc.equal(self.table["source"], source), pc.equal(self.table["split"], split))
        return np.asarray(same.to_numpy(), np.bool_)


@dataclass(frozen=True)
class Division:
    """How a phase's pairs make steps.

    rows: the pair of each place, a multiple of `step` (int64). step: pairs of an optimizer step =
    micro_batch × accumulation × ranks. heldout: pairs that are judged. too_long: pairs to train on that
    were left out. epochs: passes over each source.
    """

    rows: NDArray[np.int64]
    micro_batch: int
    accumulation: int
    step: int
    heldout: NDArray[np.int64]
    too_long: int
    epochs: dict[str, float]

    @property
    def steps(self) -> int:
        return len(self.rows) // self.step


def divide(config: Config, choices: Choices, number: int, world_size: int) -> Division:
    """The pairs of phase `number`, in the order of the run's seed.

    A step takes `global_batch_tokens` of sequences, two a pair; what does not fill a last step is left
    out, and a phase with fewer pairs than a step makes one of them. Raises InputError where a source
    has no pair that fits the sequences, or there are fewer pairs than ranks.
    """
    pretrain = config.pretrain
    assert pretrain is not None
    phase = pretrain.phases[number]
    assert phase.epochs is not None
    longest = phase.sequence_length or pretrain.sequence_length
    sources = [name for name, share in phase.mixture.items() if share > 0]
    found = {name: choices.rows(name, "train", longest) for name in sources}
    long = {name: choices.too_long(name, "train", longest) for name in sources}
    empty = [
        f"pretrain.phases.{number}.mixture.{name}: all {long[name]:,} pairs are longer than "
        f"{longest:,} tokens; give the phase a longer sequence_length"
        for name in sources
        if not len(found[name])
    ]
    if empty:
        raise InputError(empty)
    total = max(1, round(phase.epochs * sum(map(len, found.values()))))
    micro, accumulation = turns(pretrain.micro_batch, pairs_of_step(pretrain, phase), world_size)
    if total < micro * accumulation * world_size:
        micro, accumulation = turns(pretrain.micro_batch, total, world_size)
    step = micro * accumulation * world_size
    if total < step:
        raise InputError(
            f"pretrain.phases.{number}: {total} pairs are fewer than {world_size} ranks; give more "
            "pairs or epochs, or fewer processes"
        )
    total -= total % step
    judged = [choices.rows(name, "heldout", longest)[:HELDOUT] for name in sources]
    heldout = np.concatenate(judged)
    rows = places(config, choices, number, total)
    epochs = _order(config, number, found).epochs(total)
    return Division(rows, micro, accumulation, step, heldout, sum(long.values()), epochs)


def places(config: Config, choices: Choices, number: int, total: int) -> NDArray[np.int64]:
    """The pair of each of the first `total` places of phase `number`, by its row: int64 [total]."""
    pretrain = config.pretrain
    assert pretrain is not None
    phase = pretrain.phases[number]
    longest = phase.sequence_length or pretrain.sequence_length
    sources = [name for name, share in phase.mixture.items() if share > 0]
    found = {name: choices.rows(name, "train", longest) for name in sources}
    order = _order(config, number, found)
    made = map(order, range(total))
    return np.array([found[place.source][place.index] for place in made], np.int64)


def _order(config: Config, number: int, found: dict[str, NDArray[np.int64]]) -> Order:
    assert config.pretrain is not None
    phase = config.pretrain.phases[number]
    sizes = {name: len(rows) for name, rows in found.items()}
    return Order(config.seed, f"{number}/{phase.name}", phase.mixture, sizes)
