"""The schema → what DeepSpeed is told: its JSON, the optimizer, and the process group.

In: `config.pretrain` and the division of a step. Out: a complete DeepSpeed configuration (nothing is
"auto"; `malmoi plan` prints it), an AdamW over the parameters that learn, and ranks that can talk.

ZeRO (Rajbhandari et al. 2020) stage 1 shards the optimizer's state, 2 also the gradients, 3 also the
weights. On a CPU no compiler is needed: DeepSpeed's shared-memory collectives would be compiled at
first use (58–123 s) and are switched off, and torch's own fused AdamW is passed in, which DeepSpeed
calls "untested". It is the only optimizer: DeepSpeed has Muon, but what it is worth when training goes
on from a model that AdamW made has not been measured here, and what is not measured is no setting.
DeepSpeed takes seconds to import, so it is imported inside functions.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from configs.errors import InputError
from configs.schema import Optimizer, Pretrain

BUCKET = 50_000_000  # elements reduced in one collective


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of weights and activations. auto: bf16 where the device computes in it, else fp32.

    A CPU without AVX-512 BF16 or AMX emulates bf16 at a third of the speed of fp32.

    Raises InputError where bf16 is asked of a GPU that has none.
    """
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("pretrain.dtype: this GPU has no bf16; write fp32 or auto")
    if name != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = any(abilities.get(ability, False) for ability in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if fast else torch.float32


def deepspeed_config(
    pretrain: Pretrain,
    *,
    micro_batch: int,
    accumulation: int,
    world_size: int,
    dtype: torch.dtype,
    universal: bool = False,
    on_gpu: bool | None = None,
) -> dict[str, Any]:
    """The DeepSpeed JSON of a phase: the same text on every rank.

    universal: load a checkpoint that was converted because the world size changed. on_gpu: None asks
    this machine.
    """
    settings: dict[str, Any] = {
        "train_batch_size": micro_batch * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": pretrain.optimizer.clip,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {
            "stage": pretrain.zero_stage,
            "overlap_comm": torch.cuda.is_available() if on_gpu is None else on_gpu,
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "checkpoint": {"load_universal": universal},
    }
    if pretrain.offload != "none":
        place = {"device": "cpu", "pin_memory": settings["zero_optimization"]["overlap_comm"]}
        settings["zero_optimization"]["offload_optimizer"] = place
        settings["zero_force_ds_cpu_optimizer"] = (
            False  # torch's fused AdamW runs on a CPU as it is
        )
        if pretrain.offload == "all":
            settings["zero_optimization"]["offload_param"] = dict(place)
    if pretrain.zero_stage == 3:
        settings["zero_optimization"] |= {
            "stage3_gather_16bit_weights_on_model_save": True,
            "stage3_prefetch_bucket_size": BUCKET,
            "stage3_param_persistence_threshold": 100_000,
        }
    return settings


def adamw(
    parameters: Sequence[Any], model: Any, settings: Optimizer, lr: float
) -> torch.optim.Optimizer:
    """AdamW over what learns: matrices of the layers decay, embeddings, norms and biases do not."""
    tables = [
        table
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
        for table in module.parameters()  # the matrix, and its block of new rows
    ]
    decayed: list[Any] = []
    plain: list[Any] = []
    for parameter in parameters:
        shape = getattr(parameter, "ds_shape", parameter.shape)
        is_table = any(parameter is table for table in tables)
        (plain if len(shape) < 2 or is_table else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


@dataclass(frozen=True)
class Ranks:
    """This process among the others."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Sums over all ranks, in float64."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return list(tensor.tolist())

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        dist.barrier()


def quiet_deepspeed() -> None:
    """Tell DeepSpeed that there is no GPU, where there is none, before it looks and warns.

    transformers imports it by itself whenever a model is saved.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


@contextmanager
def _without_mlflow() -> Iterator[None]:
    """While DeepSpeed is imported: its autotuner, unused here, would import MLflow, half of its time."""
    if "mlflow" in sys.modules:
        yield
        return
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # what import takes for "is not here"
    try:
        yield
    finally:
        del sys.modules["mlflow"]


def _without_compiling_muon() -> None:
    """Import DeepSpeed's Muon, as every ZeRO engine does, with its kernels left as plain functions.

    They are decorated with torch.compile, which loads all of inductor: three seconds a rank for an
    optimizer that no setting here chooses. Where DeepSpeed has moved them, it imports them itself.
    """
    with suppress(ImportError, AttributeError):
        from deepspeed.runtime import compiler

        decorator, plain = compiler.compile, compiler.dummy_decorator
        compiler.compile = lambda: plain
        try:
            import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
        finally:
            compiler.compile = decorator


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the ranks that torchrun started, or be the only one.

    torchrun's ranks leave the group at the end; without that they would end in SIGABRT. A process on
    its own keeps it until it exits, for DeepSpeed keeps references to it: a notebook may train twice.
    So does one that is in a group already, which is then its caller's to leave.
    """
    with_cuda = torch.cuda.is_available()
    quiet_deepspeed()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    alone, joined = "RANK" not in os.environ, dist.is_initialized()
    if alone:
        os.environ.update(dict(zip(names, ("0", "1", "0", "1"), strict=True)))
    rank, world_size, local_rank, local_world_size = (int(os.environ[name]) for name in names)
    device = torch.device("cuda", local_rank) if with_cuda else torch.device("cpu")
    if with_cuda:
        torch.cuda.set_device(device)
    backend = "nccl" if with_cuda else "gloo"
    stores = torch._C._distributed_c10d
    try:
        if not joined:
            if alone:
                own = stores.HashStore()
                dist.init_process_group(backend, store=own, rank=0, world_size=1)
                atexit.register(_leave)
            else:
                store = stores.PrefixStore(_attempt(), next(rendezvous("env://"))[0])
                dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
        with _without_mlflow():
            import deepspeed
            import deepspeed.ops

        _without_compiling_muon()
        if not with_cuda:  # none is used: to ask which could be, DeepSpeed runs a compiler
            deepspeed.ops.__compatible_ops__ = {}
        deepspeed.init_distributed(dist_backend=backend, verbose=False)
        yield Ranks(rank, world_size, local_rank, local_world_size, device)
    finally:
        if alone:
            for name in names:
                os.environ.pop(name, None)
        elif not joined:
            _leave()


def _attempt() -> str:
    """A name for this start of the ranks in torchrun's store, which outlives them.

    Without it a restarted rank may read the address that a dead one has left there: it then fails to
    connect, or waits without end.
    Restarts are counted by each machine for itself, so that several machines need a new store each time.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "False":
        return "attempt"  # the store is of this attempt alone (several machines)
    return "attempt-" + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
