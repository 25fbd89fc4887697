"""The keys of `tokenizer`: the base, how many tokens it gets and what they are learned from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.schema.values import (
    AtLeastOne,
    Auto,
    NewTokens,
    PathGlob,
    PathOrName,
    Section,
    runtime,
)


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
