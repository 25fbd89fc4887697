"""TRL's DPO over pairs that are ids already, on the same DeepSpeed engine as every other phase.

In: a model's folder, the division of a phase, the reference's log probabilities. Out: a trainer whose
steps are TRL's (Rafailov et al. 2023, loss "sigmoid"). What is replaced of TRL: the order of data (ours, a
function of the seed), AdamW and the learning rate (the same functions as in other phases), and where the
reference's log probabilities come from: a file of the run, computed once before the first step. So one
model is held in memory, not two, and a resume asks the model that it began with, not the one it has.

This module imports TRL (extra align) and so seconds of others: it is imported where a phase begins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from configs.errors import InputError
from configs.schema import Config, Phase
from pretrain.preference.choices import Choices, Division
from pretrain.schedule import learning_rate_factor
from pretrain.zero import Ranks, adamw, deepspeed_config

BETA = 0.1
_REPLACED = (
    "_prepare_dataset",
    "_precompute_ref_logps",
    "_get_train_sampler",
    "compute_ref_log_probs",
)


def trl_version() -> str:
    return version("trl")


def check_trl() -> None:
    """Raise InputError where this TRL has no longer what is replaced here."""
    gone = [name for name in _REPLACED if not inspect.isfunction(getattr(DPOTrainer, name, None))]
    if gone:
        raise InputError(
            f"trl {trl_version()}: its DPOTrainer has no {gone[0]} any more, which the preference phase "
            "builds on; install another: pip install 'trl>=1.16,<1.17'"
        )


class Collator(DataCollatorForPreference):
    """TRL's padding, with what the reference gives each pair: `reference` [pairs, 2], NaN where unknown."""

    reference: NDArray[np.float32]

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        known = self.reference[[example["pair"] for example in examples]]
        batch["ref_chosen_logps"] = torch.tensor(known[:, 0])
        batch["ref_rejected_logps"] = torch.tensor(known[:, 1])
        return batch


class Listener(Protocol):
    """What follows a trainer's steps; arguments as transformers' callbacks have them."""

    def on_substep_end(self, args: Any, state: Any, control: Any) -> None: ...
    def on_step_end(self, args: Any, state: Any, control: Any) -> None: ...
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None) -> None: ...
    def on_save(self, args: Any, state: Any, control: Any) -> None: ...


class Told(TrainerCallback):
    """Tells a listener, which so need not import a trainer's callbacks (four seconds)."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def on_substep_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.listener.on_substep_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.listener.on_step_end(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        self.listener.on_log(args, state, control, logs)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.listener.on_save(args, state, control)


class PreferenceTrainer(DPOTrainer):
    """TRL's trainer with this run's data order, optimizer and learning rate.

    alive: told, on every rank, after each forward pass outside a step.
    """

    def __init__(
        self, config: Config, phase: Phase, choices: Choices, division: Division, **given: Any
    ) -> None:
        self.run, self.phase, self.choices, self.division = config, phase, choices, division
        self.alive: Callable[[], None] = lambda: None
        super().__init__(**given)

    def _prepare_dataset(self, dataset: Any, *given: Any, **more: Any) -> Any:
        return dataset  # it holds ids

    def _precompute_ref_logps(self, dataset: Any, *given: Any, **more: Any) -> Any:
        return dataset  # the collator brings them

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def create_optimizer(self, model: Any = None) -> Any:
        assert self.run.pretrain is not None
        learning = list(self.model.parameters())
        self.optimizer = adamw(learning, self.model, self.run.pretrain.optimizer, self.phase.lr)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        steps, schedule = self.division.steps, self.phase.schedule
        tokens = max(1, int(self.choices.tokens[self.division.rows].sum()) // steps)

        def factor(step: int) -> float:
            return learning_rate_factor(schedule, min(step, steps - 1), steps, tokens)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def create_model_card(self, *given: Any, **more: Any) -> None:
        """None: a run writes its own."""

    def log_probabilities(
        self, model: Any, pairs: NDArray[np.int64], ranks: Ranks
    ) -> NDArray[np.float32]:
        """log p of (chosen, rejected) for each of `pairs` by its number: float32 [pairs, 2].

        Every rank calls it, and every rank makes the same number of forward passes (ZeRO 3 gathers
        weights in them).
        """
        micro, count = self.division.micro_batch, len(pairs)
        turns = -(-count // (micro * ranks.world_size))
        own = np.full((count, 2), np.nan, np.float32)
        was = model.training
        model.eval()
        for turn in range(turns):
            first = (turn * ranks.world_size + ranks.rank) * micro
            places = [min(at, count - 1) for at in range(first, first + micro)]
            batch = self.data_collator([self.row(int(pairs[at])) for at in places])
            inputs = {name: value.to(ranks.device) for name, value in batch.items()}
            found = self.compute_ref_log_probs(model, inputs)
            own[places] = torch.stack(list(found), 1).float().cpu().numpy()
            self.alive()
        model.train(was)
        if ranks.world_size == 1:
            return own
        everybody: list[Any] = [None] * ranks.world_size
        dist.all_gather_object(everybody, own)
        return np.asarray(np.nanmax(np.stack(everybody), 0), np.float32)

    def row(self, pair: int) -> dict[str, Any]:
        """A pair by its number in the file."""
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        one = self.choices.table.slice(pair, 1)
        return {name: one[name][0].as_py() for name in names} | {"pair": pair}


def make_trainer(
    config: Config,
    phase: Phase,
    weights: Path,
    tokenizer: PreTrainedTokenizerFast,
    choices: Choices,
    division: Division,
    ranks: Ranks,
    dtype: torch.dtype,
    output: Path,
    listener: Listener,
) -> PreferenceTrainer:
    """A trainer of this phase on this rank; its model is the one in `weights`."""
    pretrain = config.pretrain
    assert pretrain is not None
    check_trl()
    settings = deepspeed_config(
        pretrain,
        micro_batch=division.micro_batch,
        accumulation=division.accumulation,
        world_size=ranks.world_size,
        dtype=dtype,
    )
    arguments = DPOConfig(
        output_dir=str(output),
        deepspeed=settings,
        use_cpu=ranks.device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        beta=phase.beta or BETA,
        per_device_train_batch_size=division.micro_batch,
        gradient_accumulation_steps=division.accumulation,
        max_grad_norm=pretrain.optimizer.clip,
        max_steps=division.steps,
        learning_rate=phase.lr,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=pretrain.checkpoint.every_steps,  # the listener decides
        save_total_limit=None,  # checkpoints are removed when the next one is whole
        report_to="none",
        gradient_checkpointing=pretrain.activation_checkpointing,
        precompute_ref_log_probs=True,
        max_length=None,
        remove_unused_columns=False,
        dataloader_pin_memory=ranks.device.type == "cuda",
        disable_tqdm=True,
        seed=config.seed % 2**32,
    )
    from pretrain.engine import attention

    # behind the arguments: DeepSpeed shards weights as they are read only once it was told to (ZeRO 3)
    model = AutoModelForCausalLM.from_pretrained(
        str(weights), dtype=dtype, attn_implementation=attention(ranks.device)
    )
    pad = tokenizer.pad_token_id
    collator = Collator(tokenizer.eos_token_id if pad is None else pad)
    collator.reference = np.full((choices.table.num_rows, 2), np.nan, np.float32)
    numbers = list(range(choices.table.num_rows))
    table = choices.table.drop_columns(["id", "source", "split"])
    data = Dataset(table.append_column("pair", [numbers])).select(
        division.rows, keep_in_memory=True
    )
    trainer = PreferenceTrainer(
        config, phase, choices, division,
        model=model, args=arguments, data_collator=collator, train_dataset=data,
        processing_class=tokenizer, callbacks=[Told(listener)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer
