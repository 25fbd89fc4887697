"""Every key of a config: its type, unit, default and one line of help.

This is the only place a key is defined. `load.py` checks files and overrides against it, the JSON
schema that editors complete from is generated from it, and `malmoi init` and `malmoi explain` print
it. A key marked `runtime()` changes how a stage runs and never what it writes, so changing it does
not make a finished stage run again.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from configs.banding import fitting, proposed, recall_curve

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMbBtT]?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)[bB]?")


def _count(value: Any) -> Any:
    """`0.5B` → 500,000,000 (K, M, B, T are powers of a thousand)."""
    if isinstance(value, str):
        match = _COUNT.fullmatch(value.strip().replace("_", "").replace(",", ""))
        if match is None:
            raise ValueError(
                "is not a count; write a whole number, or one with K, M, B or T (0.5B)"
            )
        scale = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}[match[2].lower()]
        return round(float(match[1]) * scale)
    if isinstance(value, bool):
        raise ValueError("is not a count; write a whole number, or one with K, M, B or T (0.5B)")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _size(value: Any) -> Any:
    """`64MB` → 64,000,000 bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip().replace("_", ""))
        if match is None:
            raise ValueError("is not a size; write bytes, or a number with KB, MB, GB or TB (64MB)")
        scale = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}[match[2].lower()]
        return round(float(match[1]) * scale)
    return value


class InputPath:
    """Marks a string as a path (or glob) that load.py resolves.

    A relative path in a file is taken from that file's folder, one in a `key=value` override from
    the working directory. With `optional=True` the string may be a name instead ("llama3", a hub
    id), and is left alone unless such a path exists.
    """

    def __init__(self, *, optional: bool = False) -> None:
        self.optional = optional


def runtime(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes how a stage runs but never what it writes."""
    return Field(
        default, description=description, json_schema_extra={"affects_output": False}, **limits
    )


Count = Annotated[
    int,
    BeforeValidator(
        _count,
        json_schema_input_type=int | Annotated[str, Field(pattern=r"^[0-9][0-9._,]*[kKmMbBtT]?$")],
    ),
]
Size = Annotated[
    int,
    BeforeValidator(
        _size,
        json_schema_input_type=int
        | Annotated[str, Field(pattern=r"^[0-9][0-9._]*[kKmMgGtT]?[bB]?$")],
    ),
]
PathGlob = Annotated[str, InputPath()]
PathOrName = Annotated[str, InputPath(optional=True)]
Auto = Literal["auto"]
AtLeastOne = Annotated[int, Field(ge=1)]
NewTokens = Annotated[Count, Field(ge=0, le=1_000_000)]
BatchTokens = Annotated[Count, Field(ge=16)]
EpochLimit = Annotated[float, Field(gt=0)]


class Words:
    """Marks a string that has a form of its own with the words for that form in a message."""

    def __init__(self, words: str) -> None:
        self.words = words


Length = (
    Annotated[float, Field(ge=0, le=1)]
    | Annotated[
        str,
        Field(pattern=r"^\d[\d_]* steps$|^\d[\d._]*[kKmMbBtT]? tokens$"),
        Words("an amount (200 steps, 0.5B tokens)"),
    ]
)


class Section(BaseModel):
    """A mapping of the config: unknown keys are errors, values are never changed afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


# ── dedup ───────────────────────────────────────────────────────────────────────────────────────


class Near(Section):
    """Near-duplicate removal: MinHash bands propose, the exact Jaccard similarity decides."""

    threshold: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity at or above which a document goes"
    )
    shingle: int = Field(5, ge=1, le=32, description="length of a shingle, in characters")
    permutations: int = Field(128, ge=4, le=1024, multiple_of=4, description="hashes per signature")
    bands: AtLeastOne | Auto = Field(
        25,
        description="bands of the signature; more find more pairs. auto takes bands and rows that "
        "datasketch proposes for the threshold",
    )
    rows: int = Field(5, ge=1, description="hashes in a band; more rows propose fewer pairs")
    mode: Literal["remove", "annotate"] = Field(
        "remove",
        description="annotate keeps near copies and writes cluster_id and cluster_size on all of "
        "them; exact copies go in either mode",
    )

    @model_validator(mode="before")
    @classmethod
    def _propose(cls, values: Any) -> Any:
        """Put numbers where `bands: auto` stands, so that a resolved config says them."""
        if not isinstance(values, dict) or values.get("bands") != "auto":
            return values
        if "rows" in values:
            raise ValueError("bands: auto proposes the rows too; leave rows out, or give both")
        threshold = values.get("threshold", cls.model_fields["threshold"].default)
        permutations = values.get("permutations", cls.model_fields["permutations"].default)
        if not isinstance(threshold, int | float) or not 0 < threshold <= 1:
            return values
        if not isinstance(permutations, int) or not 4 <= permutations <= 1024:
            return values
        bands, rows = proposed(float(threshold), permutations)
        return {**values, "bands": bands, "rows": rows}

    @model_validator(mode="after")
    def _fits(self) -> Near:
        if self.bands == "auto" or self.bands * self.rows <= self.permutations:
            return self
        pairs = "; ".join(
            f"{bands} × {rows} (finds {recall_curve(self.threshold, bands, rows)})"
            for bands, rows in fitting(self.bands, self.rows, self.permutations)
        )
        raise ValueError(
            f"bands × rows = {self.bands * self.rows} is more than permutations = "
            f"{self.permutations}; the nearest that fit, and the share of the pairs of a "
            f"similarity they find: {pairs}"
        )

    @property
    def banding(self) -> tuple[int, int]:
        """(bands, rows)."""
        assert self.bands != "auto"
        return self.bands, self.rows


class Filters(Section):
    """Limits of the quality filters; a document outside any of them goes, with that reason.

    Ratios are shares of the document's prose: code, tables, markup and addresses are not judged.
    """

    min_characters: int = Field(10, ge=0, description="fewest characters, spaces not counted")
    max_characters: Count = Field(5_000_000, ge=1, description="most characters")
    min_hangul: float = Field(
        0.2,
        ge=0,
        le=1,
        description="least share of Hangul among the letters (0 for other languages)",
    )
    min_syllables: int = Field(
        6, ge=0, description="fewest Hangul syllables in the prose of a Korean document"
    )
    min_language: float = Field(
        0.3,
        ge=0,
        le=1,
        description="least share of the text the language model gives to the source's language",
    )
    mean_word: tuple[float, float] = Field(
        (1.2, 100.0), description="least and most mean length of a word (eojeol), in characters"
    )
    max_symbols: float = Field(
        0.50,
        ge=0,
        le=1,
        description="most symbols (neither letter, digit, space nor ordinary punctuation) per character",
    )
    max_digits: float = Field(0.40, ge=0, le=1, description="most digits per character")
    max_duplicate_lines: float = Field(
        0.45, ge=0, le=1, description="most characters in lines that repeat an earlier line"
    )
    max_repeated_words: float = Field(
        0.40,
        ge=0,
        le=1,
        description="most characters in one sequence of three words that comes three times or more",
    )
    max_broken: float = Field(
        0.01,
        ge=0,
        le=1,
        description="most characters that are mojibake (U+FFFD, 占쏙옙, Latin-1 runs of CP949)",
    )
    max_spam: float = Field(
        0.04,
        ge=0,
        le=1,
        description="most characters in spam phrases, where three or more different ones occur",
    )
    boilerplate: bool = Field(
        True, description="cut lines such as 무단전재 및 재배포 금지 or 공유하기 from the text"
    )


FilterPreset = Literal["korean_web", "english_web", "none"]

SourceFormat = Literal[
    "auto", "jsonl", "json", "parquet", "csv", "xlsx", "html", "text", "warc", "hwp", "hwpx", "wiki",
    "nikl", "kakao", "hub", "chat", "parallel", "preference",
]  # fmt: skip


class Source(Section):
    """One named input: where it lies, what form it has, and where it departs from the defaults."""

    name: str = Field(
        description="name used in mixtures, reports and ids",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
    )
    paths: list[PathGlob] = Field(min_length=1, description="files, folders or globs (** works)")
    format: SourceFormat = Field(
        "auto", description="form of the files; auto goes by name, then by content"
    )
    language: Literal["ko", "en", "any"] = Field(
        "ko", description="language the text should be in; any switches the language filters off"
    )
    encoding: str = Field(
        "auto", description="character set; auto tries header, meta tag, UTF-8, then CP949"
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="which field holds text, id, url, title, ko, en, messages, prompt, chosen or "
        "rejected (dotted for nested ones, [] for every item of a list); records: the list in a JSON "
        "file whose items are the records",
    )
    licence: str = Field("", description="licence of the texts; travels into the model card")
    quality: float = Field(
        1.0, ge=0, description="of two duplicates the one from the source of higher quality stays"
    )
    filters: FilterPreset | Filters | None = Field(
        None,
        description="filters of this source; default: dedup.filters for text, none for chat and parallel",
    )
    pii: Literal["mask", "drop", "keep"] | None = Field(
        None, description="personal data of this source; default: dedup.pii"
    )
    near: Near | Literal["none"] | None = Field(
        None,
        description="none keeps near copies of this source; default: dedup.near for text, none for chat",
    )


class Dedup(Section):
    """Raw web text → clean, unique documents."""

    sources: list[Source] = Field(default_factory=list, description="the inputs, in order")
    filters: FilterPreset | Filters = Field(
        "korean_web", description="quality filters: a preset, a mapping of limits, or none"
    )
    pii: Literal["mask", "drop", "keep"] = Field(
        "mask", description="personal data: mask it in place, drop the document, or keep it"
    )
    near: Near | Literal["none"] = Field(
        default_factory=Near, description="near-duplicate removal, or none for exact copies only"
    )
    decontaminate: list[PathGlob] = Field(
        default_factory=list,
        description="evaluation files (JSONL, TSV, text) whose text must not be trained on",
    )
    against: list[PathGlob] = Field(
        default_factory=list,
        description="folders of earlier runs: what equals or is near to a document kept there goes",
    )
    heldout: float = Field(
        0.005, ge=0, lt=1, description="share of the duplicate clusters kept for evaluation"
    )
    custom_filters: list[str] = Field(
        default_factory=list,
        description="your own filters, each as package.module:function; see dedup/text/custom.py",
    )
    keep_removed_text: bool = Field(
        True, description="store the text of removed documents in the audit trail"
    )
    shard: Size = Field(
        "64MB", ge=1000, description="input bytes in one task, and so in one output file"
    )  # type: ignore[assignment]
    max_record: Size = Field(
        "256MB",
        ge=1000,
        le=2**31 - 1,
        description="longest record or page that is read; a longer one is kept apart, in failed/",
    )  # type: ignore[assignment]
    engine: Literal["local", "ray"] = runtime(
        "local", "what runs the tasks: processes of this machine, or a Ray cluster (extra cluster)"
    )
    address: str = runtime(
        "auto",
        "Ray cluster to use (host:6379, ray://host:10001); auto finds this machine's or starts one",
    )
    workers: AtLeastOne | Auto = runtime("auto", "processes; auto takes one per core")
    on_disk: bool | Auto = runtime(
        "auto",
        "hold what is held per document in mapped files, not in memory, while copies are sought; "
        "auto does so from 20 million documents on",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Dedup:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources named twice: {', '.join(twice)}; give each its own name")
        return self


# ── tokenizer ───────────────────────────────────────────────────────────────────────────────────


class Tokenizer(Section):
    """Documents → a Llama-3 tokenizer that knows Korean."""

    base: PathOrName = Field(
        "llama3",
        description="tokenizer to extend: llama3 (from the extra), a folder, a file or a hub id",
    )
    new_tokens: NewTokens | Auto = Field(
        32_000,
        description="Korean tokens to add; 0 writes the base unchanged, auto takes the best of the "
        "size curve: fewest FLOPs per character, each token seen often enough",
    )
    algorithm: Literal["bpe"] = Field("bpe", description="bpe goes on with the base's own merges")
    documents: list[PathGlob] = Field(
        default_factory=list, description="a corpus of one's own; default: this run's documents"
    )
    balance: float = Field(
        0.25,
        ge=0,
        le=1,
        description="weight of a source ∝ (its size)^balance; 1 counts as it is, 0 makes all equal",
    )
    min_count: AtLeastOne | Auto = Field(
        "auto",
        description="words seen fewer times are not learned from; auto takes 1, or as much as leaves "
        "the commonest 2,000,000",
    )
    counts: list[PathGlob] = Field(
        default_factory=list,
        description="counts.parquet of other corpora, counted with the same base's regex, to add",
    )
    max_words: AtLeastOne | None = Field(
        None,
        description="most distinct words to hold while counting, the rarest are dropped; null counts "
        "exactly and writes to disk what does not fit",
    )
    keep_counts: bool = Field(
        False, description="keep counts.parquet, to merge it with another corpus's later"
    )
    engine: Literal["local", "ray"] = runtime(
        "local", "what counts: processes of this machine, or a Ray cluster (extra cluster)"
    )
    address: str = runtime(
        "auto",
        "Ray cluster to use (host:6379, ray://host:10001); auto finds this machine's or starts one",
    )
    workers: AtLeastOne | Auto = runtime("auto", "processes; auto takes one per core")


# ── pretrain ────────────────────────────────────────────────────────────────────────────────────


class Checkpoint(Section):
    """When the training state is saved, and how many saves are kept."""

    every_steps: int = runtime(500, "optimizer steps between two saves", ge=1)
    keep: int = runtime(3, "newest checkpoints kept", ge=1)
    keep_every: int | None = runtime(
        None, "keep also every checkpoint whose step is a multiple of this", ge=1
    )
    keep_best: str | None = runtime(
        None,
        "keep also the checkpoint with the fewest held-out bits per byte of this source or language "
        "(ko); it is measured at every save",
    )
    upload: PathGlob | None = runtime(
        None, "copy each checkpoint, in the background, to s3://…, another fsspec address or a path"
    )


class Guard(Section):
    """What happens when the loss or the gradient's norm jumps; what is left out is recorded."""

    spike: Literal["off", "warn", "skip", "rollback"] = runtime(
        "warn",
        "warn says so; skip drops the step's update; rollback returns to a checkpoint before it and "
        "leaves out the data that led there",
    )
    deviations: float = runtime(
        10.0,
        "how far above the median of the last steps is a jump, in robust standard deviations of the "
        "logarithm (at least 2 % of a loss, 10 % of a norm)",
        gt=0,
    )
    window: int = runtime(128, "steps the median and the deviation are taken over", ge=16)
    rewind: int = runtime(
        8, "steps before the jump whose sequences a rollback leaves out with its own", ge=0
    )
    most: int = runtime(10, "jumps acted upon in a phase before the run ends", ge=1)


class Forgetting(Section):
    """How far held-out text of another language may get worse while the model learns Korean."""

    source: str | list[str] = runtime(
        "en", "a language or a source, or several, that must not get worse"
    )
    limit: float = runtime(
        0.03, "rise of its bits per byte over the start of the run, as a share (0.03)", gt=0
    )
    action: Literal["warn", "stop"] = runtime(
        "warn", "warn says so and goes on; stop saves a checkpoint and ends with status 2"
    )

    @property
    def names(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else self.source


class Evaluate(Section):
    """Bits per byte on held-out text, measured while training goes on."""

    every_steps: int = Field(200, ge=1, description="optimizer steps between two evaluations")
    sequences: int = Field(
        32, ge=1, description="most held-out sequences per source in one evaluation"
    )
    forgetting: Forgetting | None = runtime(None, "the alarm for forgetting; left out: none")


class Optimizer(Section):
    """AdamW."""

    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the two moments")
    eps: float = Field(1e-8, gt=0, description="added to the denominator")
    weight_decay: float = Field(
        0.1, ge=0, description="decoupled weight decay; embeddings and norms have none"
    )
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 for no limit")


class Schedule(Section):
    """Learning rate over a phase, as a share of the phase's lr.

    A length is a share of the phase's steps (0.03), or an amount (200 steps, 0.5B tokens).
    """

    kind: Literal["cosine", "linear", "constant", "wsd", "infinite"] = Field(
        "cosine",
        description="shape after the warm-up; wsd stays flat, then falls; infinite falls to constant, "
        "stays there, then falls",
    )
    warmup: Length = Field(0.03, description="length of the warm-up, from start to 1")
    start: float = Field(
        0.0, ge=0, le=1, description="learning rate before the warm-up, as a share of lr"
    )
    cooldown: Length = Field(
        0.6, description="length of the fall to constant after the warm-up (infinite)"
    )
    constant: float = Field(
        0.55, gt=0, le=1, description="level of the flat part, as a share of lr (infinite)"
    )
    decay: Length = Field(
        0.2, description="length of the fall at the end (wsd, infinite); 0 for none, to fork from"
    )
    final: float = Field(0.1, ge=0, le=1, description="learning rate at the end, as a share of lr")

    @model_validator(mode="after")
    def _lengths(self) -> Schedule:
        used = {"warmup": self.warmup}
        if self.kind == "infinite":
            used["cooldown"] = self.cooldown
        if self.kind in ("wsd", "infinite"):
            used["decay"] = self.decay
        shares = [length for length in used.values() if isinstance(length, float)]
        if sum(shares) > 1 + 1e-9:
            raise ValueError(
                f"{', '.join(used)}: sum to {sum(shares):g} of the phase; make it 1 or less"
            )
        if self.kind == "infinite" and not self.final and self.decay != 0:
            raise ValueError("final: is 0, and infinite falls by a factor; give at least 0.001")
        return self


class Lora(Section):
    """Low-rank adapters beside frozen matrices (Hu et al. 2021), for phases that train lora."""

    rank: int = Field(64, ge=1, description="rank of an adapter")
    alpha: float = Field(
        128.0, gt=0, description="an adapter's product is multiplied by alpha / rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before an adapter")
    targets: list[str] | Auto = Field(
        "auto",
        description="matrices that get one, by the last part of their name (q_proj); auto takes all "
        "of the layers",
    )


LayerRange = Annotated[
    str,
    Field(pattern=r"^layers\.(\d+(-\d+)?|(first|last)-[1-9]\d*)$"),
    Words("layers by number, from 0 (layers.7, layers.0-7, layers.first-8, layers.last-8)"),
]
TrainGroup = (
    Literal["embed", "embed.new_rows", "head", "head.new_rows", "layers", "norms", "lora"]
    | LayerRange
)


class GrowingBatch(Section):
    """A batch that grows in stairs, multiples of the first one, of equal tokens each."""

    start: Count = Field(ge=16, description="tokens in the first optimizer step (1M)")
    end: Count = Field(ge=16, description="tokens in a step from there on (4M)")
    over: Count = Field(ge=1, description="tokens of the phase over which it grows (10B)")

    @model_validator(mode="after")
    def _grows(self) -> GrowingBatch:
        if self.end <= self.start:
            raise ValueError(f"end: {self.end:,} is not above start, {self.start:,}")
        return self


class Pairs(Section):
    """How Korean–English pairs are trained: both orders and both directions, epoch by epoch."""

    translate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share that stands in a template of a translation; the others are the two texts "
        "behind one another. In a chat phase all are translations that a user asks for",
    )


class Phase(Section):
    """One stretch of training; the optimizer is rebuilt at its start."""

    name: str = Field(
        description="name in logs and metrics", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
    )
    objective: Literal["pretrain", "chat", "preference"] = Field(
        "pretrain",
        description="pretrain: loss on every token; chat: on the assistant's tokens only; preference: "
        "the chosen of two answers over the rejected one (DPO, extra align), after all other phases",
    )
    train: Literal["all"] | list[TrainGroup] = Field(
        "all",
        description="what learns: all, or a list of parameter groups, layers (layers.0-7) or lora",
    )
    tokens: Count | None = Field(
        None, ge=1, description="tokens to train on (0.5B); or give epochs"
    )
    epochs: float | None = Field(
        None, gt=0, description="passes over the text of the mixture's sources; or give tokens"
    )
    lr: float = Field(2e-5, gt=0, description="highest learning rate")
    schedule: Schedule = Field(default_factory=Schedule, description="learning rate over the phase")
    mixture: dict[str, float] = Field(
        min_length=1, description="share of the sequences from each source"
    )
    sequence_length: int | None = Field(
        None, ge=16, description="default: pretrain.sequence_length"
    )
    global_batch_tokens: BatchTokens | GrowingBatch | None = Field(
        None,
        description="default: pretrain.global_batch_tokens; may grow: {start: 1M, end: 4M, over: 10B}",
    )
    max_epochs: EpochLimit | dict[str, EpochLimit] | None = runtime(
        None,
        "most passes over a source in this phase, of all or by source ({ko: 4}); more is "
        "refused. Left out: a warning above 4",
    )
    beta: float | None = Field(
        None,
        gt=0,
        description="how closely a preference phase keeps to the model it began with: larger is closer; "
        "default there: 0.1",
    )

    @model_validator(mode="after")
    def _preference_by_its_own_keys(self) -> Phase:
        if self.objective != "preference":
            if self.beta is not None:
                raise ValueError("beta: belongs to a phase of objective preference; leave it out")
            return self
        if self.epochs is None:
            raise ValueError(
                "epochs: a preference phase is measured in passes over its pairs; give them"
            )
        if self.train != "all":
            raise ValueError("train: a preference phase trains all of the model; leave it out")
        if isinstance(self.global_batch_tokens, GrowingBatch):
            raise ValueError(
                "global_batch_tokens: does not grow in a preference phase; give one number"
            )
        if self.max_epochs is not None:
            raise ValueError(
                "max_epochs: a preference phase is as long as its epochs; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _length_and_shares(self) -> Phase:
        if (self.tokens is None) == (self.epochs is None):
            raise ValueError("give either tokens or epochs")
        if isinstance(self.train, list):
            if not self.train:
                raise ValueError("train: is an empty list; name what learns, or write all")
            whole = [name for name in self.train if name.split(".")[0] == "layers"]
            if "lora" in self.train and whole:
                raise ValueError(
                    f"train: lora stands beside frozen layers, and {whole[0]} trains them; keep one"
                )
        if any(weight < 0 for weight in self.mixture.values()) or not sum(self.mixture.values()):
            raise ValueError("mixture: every share must be 0 or more and their sum above 0")
        if abs(sum(self.mixture.values()) - 1) > 1e-6:
            raise ValueError(f"mixture: shares sum to {sum(self.mixture.values()):g}, not to 1")
        return self


RowStart = Literal["subtokens", "first", "mean", "random", "given"]


class NewRows(Section):
    """How the embedding rows of new tokens start."""

    input: RowStart = Field(
        "subtokens",
        description="input rows: mean of the token's base subtokens, the first of them, mean of all "
        "rows, random, or given (input_vectors)",
    )
    output: RowStart = Field(
        "first",
        description="output rows, likewise, where the head is a matrix of its own (given: "
        "output_vectors); mean is best before any training, first after 200 steps",
    )
    input_vectors: PathGlob | None = Field(
        None, description=".npy or .safetensors with input rows by token or id, for input: given"
    )
    output_vectors: PathGlob | None = Field(
        None, description=".npy or .safetensors with output rows by token or id, for output: given"
    )
    multiple: int = Field(64, ge=1, description="rows are padded to a multiple of this")

    @model_validator(mode="after")
    def _given_with_its_file(self) -> NewRows:
        for side, how, path in (
            ("input", self.input, self.input_vectors),
            ("output", self.output, self.output_vectors),
        ):
            if (how == "given") != (path is not None):
                raise ValueError(
                    f"{side}: given and {side}_vectors (the file) go together; set both or neither"
                )
        return self


class Pretrain(Section):
    """Documents + tokenizer + base model → checkpoint."""

    base: PathOrName | dict[str, Any] = Field(
        description="model to continue from: a folder, a hub id, or Hugging Face config fields for random weights"
    )
    start_from: PathGlob | None = Field(
        None,
        description="fork: go on from another run's checkpoint (its run folder, or one step-… folder) "
        "with its optimizer; phases before and up to that step must be the same",
    )
    documents: list[PathGlob] = Field(
        default_factory=list, description="a corpus of one's own; default: this run's documents"
    )
    replay: list[PathGlob] = Field(
        default_factory=list,
        description="more documents, beside those: an earlier run's, or files of one's own; a mixture "
        "names their sources (of a plain file: its name)",
    )
    pairs: Pairs = Field(default_factory=Pairs, description="Korean–English pairs")
    tokenizer: PathOrName | None = Field(
        None, description="a tokenizer of one's own; default: this run's"
    )
    sequence_length: int = Field(512, ge=16, description="tokens in a training sequence")
    global_batch_tokens: BatchTokens | GrowingBatch = Field(
        8192, description="tokens in one optimizer step; may grow: {start: 1M, end: 4M, over: 10B}"
    )
    micro_batch: int = runtime(1, "sequences one process takes through the model at a time", ge=1)
    zero_stage: Literal[0, 1, 2, 3] = runtime(
        2, "what ZeRO shards: 1 optimizer, 2 + gradients, 3 + weights"
    )
    processes: AtLeastOne | Auto = runtime(
        "auto", "ranks on this machine; auto: one per GPU, 1 without"
    )
    threads: AtLeastOne | Auto = runtime("auto", "CPU threads per rank; auto divides the cores")
    sequence_parallel: int = runtime(
        1,
        "ranks that share each sequence (Ulysses), for long context: divides the key heads, "
        "processes and sequence_length",
        ge=1,
    )
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="type of weights and activations; auto: bf16 where the device has it"
    )
    loss: Literal["auto", "logits", "chunked"] = runtime(
        "auto", "chunked never holds all logits (less memory); auto decides by device and dtype"
    )
    z_loss: float = Field(
        0.0, ge=0, description="weight of the squared log of softmax's sum in the loss; 0 for none"
    )
    offload: Literal["none", "optimizer", "all"] = runtime(
        "none", "what lies in the CPU's memory: the optimizer, or the weights too (ZeRO 3)"
    )
    activation_checkpointing: bool = runtime(False, "recompute activations in the backward pass")
    max_restarts: int = runtime(3, "restarts of failed ranks before the run gives up", ge=0)
    hang_seconds: Annotated[float, Field(gt=0)] | Auto = runtime(
        "auto",
        "seconds without a step after which ranks are taken to hang, and restarted; auto: as long as "
        "20 steps, and at least two minutes",
    )
    new_rows: NewRows = Field(default_factory=NewRows, description="start of the new tokens' rows")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="AdamW")
    lora: Lora = Field(default_factory=Lora, description="adapters, where a phase trains lora")
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="saves")
    guard: Guard = Field(default_factory=Guard, description="jumps of loss and gradient")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="held-out bits per byte")
    phases: list[Phase] = Field(min_length=1, description="the whole training, in order")

    @property
    def token_phases(self) -> list[Phase]:
        """The phases that read token shards, all before those of preference."""
        return [phase for phase in self.phases if phase.objective != "preference"]

    @property
    def preference_phases(self) -> list[Phase]:
        """The last phases, on pairs of answers."""
        return [phase for phase in self.phases if phase.objective == "preference"]

    @model_validator(mode="after")
    def _preference_last(self) -> Pretrain:
        kinds = [phase.objective for phase in self.phases]
        first = kinds.index("preference") if "preference" in kinds else len(kinds)
        behind = [phase for phase in self.phases[first:] if phase.objective != "preference"]
        if behind:
            raise ValueError(
                f"phases: {behind[0].name} (objective {behind[0].objective}) stands behind "
                f"{self.phases[first].name}, a preference phase; put preference phases last"
            )
        return self

    @model_validator(mode="after")
    def _offload_with_its_stage(self) -> Pretrain:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload: {self.offload} needs zero_stage {least}{' or more' * (least < 3)}"
            )
        return self

    @model_validator(mode="after")
    def _one_sequence_at_a_time_where_it_is_shared(self) -> Pretrain:
        if self.sequence_parallel > 1 and self.micro_batch > 1:
            raise ValueError(
                f"micro_batch: {self.micro_batch} sequences at a time, of which each is shared by "
                f"{self.sequence_parallel} ranks; write micro_batch 1, or leave sequence_parallel out"
            )
        return self


# ── chat, tracking, the whole ───────────────────────────────────────────────────────────────────


class Chat(Section):
    """How the model answers at the end of `malmoi run`, and by default in `malmoi chat`."""

    system: str = Field("", description="system prompt; empty for none")
    prompts: list[str] = Field(
        default_factory=list,
        description="answered when a run ends, by a new process that loads the model",
    )
    max_new_tokens: int = Field(256, ge=1, description="longest reply, in tokens")
    temperature: float = Field(0.7, ge=0, description="0 takes the likeliest token")
    top_p: float = Field(
        0.9, gt=0, le=1, description="nucleus: smallest set of tokens of this probability"
    )


class Tracking(Section):
    """MLflow: a mirror of metrics.jsonl and lineage.json, which are the truth."""

    mlflow: bool = Field(
        True,
        description="mirror the run into MLflow (run folder's mlflow.db, or MLFLOW_TRACKING_URI)",
    )
    experiment: str = Field("malmoi", description="MLflow experiment")


class Config(Section):
    """A whole run: from raw text to a model that answers."""

    schema_version: Literal[1] = Field(1, description="version of this format")
    name: str = Field(description="name of the run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    dir: str | None = runtime(None, "run folder; default: runs/<name> in the working directory")
    seed: int = Field(17, ge=0, lt=2**63, description="seed of everything random")
    dedup: Dedup | None = Field(None, description="raw text → clean, unique documents")
    tokenizer: Tokenizer | None = Field(None, description="documents → extended tokenizer")
    pretrain: Pretrain | None = Field(None, description="documents + tokenizer → checkpoint")
    chat: Chat = runtime(Chat(), "how the model answers")
    tracking: Tracking = runtime(Tracking(), "MLflow")

    @model_validator(mode="after")
    def _mixtures_name_sources(self) -> Config:
        own = self.pretrain and not (self.pretrain.documents or self.pretrain.replay)
        if own and self.pretrain and self.dedup and self.dedup.sources:
            wrong: list[str] = []
            known = {source.name for source in self.dedup.sources}
            for index, phase in enumerate(self.pretrain.phases):
                wrong += [
                    f"pretrain.phases.{index}.mixture.{name}: no source has this name; "
                    f"dedup.sources has {', '.join(sorted(known))}"
                    for name in sorted(set(phase.mixture) - known)
                ]
            if wrong:
                raise ValueError("\n".join(wrong))
        return self
