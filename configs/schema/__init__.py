"""Every key of a config: its type, unit, default and one line of help.

This is the only place a key is defined. `load.py` checks files and overrides against it, the JSON
schema that editors complete from is generated from it, and `malmoi init` and `malmoi explain` print
it. A key marked `runtime()` changes how a stage runs and never what it writes, so changing it does
not make a finished stage run again.
"""

from __future__ import annotations

from configs.schema.config import Config
from configs.schema.dedup import Dedup, Filters, Near, Source
from configs.schema.phases import GrowingBatch, Lora, Phase, Schedule, TrainGroup
from configs.schema.pretrain import (
    Checkpoint,
    Evaluate,
    Forgetting,
    Guard,
    NewRows,
    Optimizer,
    Pretrain,
    RowStart,
)
from configs.schema.tokenizer import Tokenizer
from configs.schema.values import AtLeastOne, Auto, InputPath, PathGlob, Section, Words

__all__ = [
    "AtLeastOne",
    "Auto",
    "Checkpoint",
    "Config",
    "Dedup",
    "Evaluate",
    "Filters",
    "Forgetting",
    "GrowingBatch",
    "Guard",
    "InputPath",
    "Lora",
    "Near",
    "NewRows",
    "Optimizer",
    "PathGlob",
    "Phase",
    "Pretrain",
    "RowStart",
    "Schedule",
    "Section",
    "Source",
    "Tokenizer",
    "TrainGroup",
    "Words",
]
