"""The keys of `pretrain`: base, batch, memory, checkpoints, guards, and the phases in their order."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from configs.schema.phases import GrowingBatch, Lora, Pairs, Phase
from configs.schema.values import (
    AtLeastOne,
    Auto,
    BatchTokens,
    PathGlob,
    PathOrName,
    Section,
    runtime,
)


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
