"""The keys of `pretrain.phases`: what learns, on what, how long, at which rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schema.values import (
    Auto,
    BatchTokens,
    Count,
    EpochLimit,
    Length,
    Section,
    Words,
    runtime,
)


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
