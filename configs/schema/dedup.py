"""The keys of `dedup`: where raw text is read, what is dropped from it, what counts as a copy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from configs.banding import fitting, proposed, recall_curve
from configs.schema.values import AtLeastOne, Auto, Count, PathGlob, Section, Size, runtime


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
