"""A whole run: its stages, how its model answers, where it is tracked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.dedup import Dedup
from configs.schema.pretrain import Pretrain
from configs.schema.tokenizer import Tokenizer
from configs.schema.values import Section, runtime


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
